"""Gaussian policy of several blocks of environments: each block has its own standard deviation."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from typing_extensions import override

from ..configclass import configclass
from ..envs.obs_groups import BLOCK
from ..envs.spec import EnvSpec
from .block_vectors import one_hot_block
from .distributions import DiagGaussian
from .gaussian_actor import StateIndependentStd, StateIndStdActor, StateIndStdActorCfg
from .observation import Observations


class BlockStdActor(StateIndStdActor):
    """Normal distribution whose mean depends on the state and whose std is a learned value of each block."""

    def __init__(self, cfg: BlockStdActorCfg, spec: EnvSpec, groups: Sequence[str]) -> None:
        super().__init__(cfg, spec, groups)
        self.std = BlockStd(cfg, spec.num_blocks, spec.action.dim)

    @override
    def forward(
        self, obs: Observations, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[DiagGaussian, Tensor | None]:
        output, state = self.evaluate(obs, state, starts)
        block = obs.get(BLOCK, None)
        return (self.distribution(output) if block is None else DiagGaussian(output, self.std.of(block))), state


class BlockStd(StateIndependentStd):
    """Learnable std per block and action dimension; `() -> (A,)` is the leader's."""

    def __init__(self, cfg: BlockStdActorCfg, num_blocks: int, dim: int) -> None:
        super().__init__(cfg, dim, cfg.use_log_std, cfg.learn_std)
        table = self.param.detach().expand(num_blocks, dim).clone()
        self.param = nn.Parameter(table, requires_grad=cfg.learn_std)

    @override
    def forward(self) -> Tensor:
        return super().forward()[0]

    def of(self, block: Tensor) -> Tensor:
        """Return the std `(..., A)` of each row, in full precision also under autocast."""
        table = super().forward()
        return (one_hot_block(block, table).unsqueeze(-1) * table).sum(-2)


@configclass
class BlockStdActorCfg(StateIndStdActorCfg):
    """Configuration of a `BlockStdActor`."""

    class_type: type = BlockStdActor
