"""Diffusion steering (DSRL, arXiv 2506.15799): the start noise of a frozen flow is the action that is learned."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, cast

from torch import Tensor
from typing_extensions import override

from ...components.action_heads import FlowHead
from ...components.vla_policy import VLAPolicy, VLAPolicyCfg
from ...configclass import ConfigError, Range, configclass
from ...networks.vlm import Prefix
from ..algorithm import RunContext
from ..off_policy.sac import SAC, SACCfg
from .latent_actions import LatentActions, LatentActionsCfg
from .vla_sac import VLASAC, VLASACCfg


class StartNoise(LatentActions):
    """chunk = ODE of the frozen flow from the noise `bound * latent`.

    Whatever is chosen, the chunk is one that the policy might have sampled: it can't leave what the demonstrations
    taught, and can't do what they never showed.
    """

    cfg: StartNoiseCfg

    def __init__(self, cfg: StartNoiseCfg, policy: VLAPolicy, executed: int) -> None:
        super().__init__(cfg, policy, executed)
        if not isinstance(policy.head, FlowHead):
            raise ConfigError(
                f"DSRL steers the start noise of a flow, and the policy has a {type(policy.head).__name__}, which "
                "has none: take a policy with a FlowHeadCfg, or VLASACCfg, which works for every head."
            )
        self.head = policy.head
        self.dim = self.action_dim * (1 if cfg.repeat else policy.chunk_size)

    def noise(self, latent: Tensor) -> Tensor:
        """Turn latent actions into start noise `(B, H, A)`."""
        noise = (self.cfg.bound * latent).unflatten(1, (-1, self.action_dim))
        return noise.expand(-1, self.head.cfg.chunk_size, -1)

    @override
    def chunk(self, latent: Tensor, prefix: Prefix, context: Tensor) -> Tensor:
        return self.head.sample(prefix, self.noise(latent))[:, : self.executed]

    @override
    def latent(self, chunk: Tensor, context: Tensor) -> Tensor:
        raise ConfigError(
            "Demonstrations hold actions and no noise, which is what DSRL learns: leave algorithm.demonstrations "
            "empty, or take VLASACCfg."
        )


@configclass
class StartNoiseCfg(LatentActionsCfg):
    """Configuration of `StartNoise`."""

    class_type: type = StartNoise
    bound: Annotated[float, Range(gt=0, le=10)] = 1.5
    """Largest noise: that which the flow has learned from is rarely above 2 or 3, and far out it knows nothing."""
    repeat: bool = False
    """True for one noise vector `(A,)` that all actions of a chunk start from: fewer dimensions for long chunks."""


class DSRL(VLASAC):
    """`VLASAC` over start noise."""

    cfg: DSRLCfg

    def __init__(self, cfg: DSRLCfg, *, policy: VLAPolicyCfg, context: RunContext) -> None:
        super().__init__(cfg, policy=policy, context=context)
        if cfg.aliased:
            from .noise_alias import NoiseAlias  # it builds on this module

            sac = cast(SAC, self.learner)  # `check` refuses others
            sac.critic_source = NoiseAlias(sac, self.features, cfg.networks.critic_cfg)


@configclass
class DSRLCfg(VLASACCfg):
    """Configuration of `DSRL`: `VLASACCfg` in the noise space of a policy with a flow head."""

    class_type: type = DSRL
    actions: LatentActionsCfg = StartNoiseCfg()
    aliased: bool = False
    """True for critics of chunks, from which those of noise learn (DSRL-NA, see `noise_alias`)."""

    def check(self) -> Iterable[str]:
        """Sentences on a learner without critics of this kind."""
        yield from super().check()
        if self.aliased and not isinstance(self.learner, SACCfg):
            yield f"aliased: a {type(self.learner).__name__} has no critics to replace; set learner=SACCfg(...)"
