"""Recurrent belief over a hidden state, updated by fast observations at every step and by slow ones when they arrive.

    b-  = update_fast(b, fast observation)                   at every step: predict
    b   = update_slow(b-, slow observation)                  where a slow observation arrived, else b-: correct

as the time and measurement updates of a Kalman filter. An update is a gated recurrent unit, or a residual MLP, b + f(b,
o): the deterministic belief flow. A density conditioned on b is the belief itself, p(x | b), of a hidden state x or of
the next observation; both are trained together by whoever has a target, see `algorithms/loss_terms/belief.py`. No
target is ever a belief of the network's own: constants would fulfill it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Range, configclass
from .activation import MOST_FEATURES
from .density import ConditionalDensity, ConditionalDensityCfg
from .mlp import MLPCfg
from .network import Network, NetworkCfg, RecurrentNetwork
from .rnn import run_stretches


class BeliefNetwork(RecurrentNetwork):
    """Belief encoder followed by a head; see the module, and `RecurrentNetwork` for the calling convention.

    The state is the belief, `(1, N, size)`. The head reads belief and input side by side.
    """

    fast_columns: Tensor
    slow_columns: Tensor

    def __init__(self, cfg: BeliefNetworkCfg, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.cfg = cfg
        used = {*cfg.slow_columns, *([] if cfg.arrival_column is None else [cfg.arrival_column])}
        if used and max(used) >= in_features:
            raise ValueError(f"Column {max(used)} is none of the {in_features} inputs of the belief network.")
        fast = [column for column in range(in_features) if column not in used]
        self.register_buffer("fast_columns", torch.tensor(fast, dtype=torch.int64), persistent=False)
        self.register_buffer("slow_columns", torch.tensor(cfg.slow_columns, dtype=torch.int64), persistent=False)
        self.fast_update = _build_update(cfg, len(fast))
        self.slow_update = _build_update(cfg, len(cfg.slow_columns)) if cfg.slow_columns else None
        self.head: Network = cfg.head_cfg.build(cfg.size + in_features, out_features)
        self.density: ConditionalDensity | None = None
        """Belief given `beliefs` and `condition_features` further numbers; None: nobody asks for it."""
        if cfg.density is not None:
            self.density = cfg.density.build(cfg.size + cfg.condition_features, cfg.target_features)

    @override
    def state_shape(self, num_envs: int) -> tuple[int, int, int]:
        return 1, num_envs, self.cfg.size

    def forward(self, x: Tensor, state: Tensor, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the output `(N, out)` or `(T, N, out)` for `x` `(N, in)` or `(T, N, in)`, and the last state."""
        belief, state = self.beliefs(x, state, starts)
        read = belief.detach() if self.cfg.stop_gradient else belief
        return self.head(torch.cat([read, x], dim=-1)), state

    def beliefs(self, x: Tensor, state: Tensor, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the belief after each input, `(N, size)` or `(T, N, size)`, and the last state."""
        return self._over_time(self._run, x, state, starts)

    def _run(self, x: Tensor, state: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        fast = x.index_select(-1, self.fast_columns)
        # As in `RNN`: where looking at `starts` costs nothing, stretches without a start run as one library call.
        is_plain = isinstance(self.fast_update, nn.GRUCell) and self.slow_update is None
        if is_plain and x.device.type == "cpu" and not torch.compiler.is_compiling():
            return run_stretches(self._library_call, fast, state, starts)
        slow, arrived = x.index_select(-1, self.slow_columns), None
        if self.cfg.arrival_column is not None:
            arrived = x[..., self.cfg.arrival_column, None] >= 0.0
        belief, found = state[0], []
        for t in range(x.shape[0]):
            if starts is not None:
                belief = belief.masked_fill(starts[t].unsqueeze(-1), 0.0)
            belief = self.fast_update(fast[t], belief)
            if self.slow_update is not None:
                corrected = self.slow_update(slow[t], belief)
                belief = corrected if arrived is None else torch.where(arrived[t], corrected, belief)
            found.append(belief)
        return torch.stack(found), belief.unsqueeze(0)

    def _library_call(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        weights: list[Tensor] = [*self.fast_update.parameters()]
        return torch.gru(x, state, weights, True, 1, 0.0, self.training, False, False)


class ResidualUpdate(nn.Module):
    """`update(x, belief) -> belief + f(belief, x)`, the deterministic belief flow; f starts near 0."""

    def __init__(self, in_features: int, size: int, hidden: int) -> None:
        super().__init__()
        cfg = MLPCfg(hidden_features=[hidden, hidden], activations="SiLU", output_gain=0.1)
        self.network: Network = cfg.build(size + in_features, size)

    def forward(self, x: Tensor, belief: Tensor) -> Tensor:
        """Return the next belief `(N, size)`."""
        return belief + self.network(torch.cat([belief, x], dim=-1))


@configclass
class BeliefNetworkCfg(NetworkCfg):
    """Configuration of a `BeliefNetwork`. Columns are those of its input; all others are fast observations."""

    class_type: type = BeliefNetwork
    size: Annotated[int, Range(ge=1, le=MOST_FEATURES)] = 64
    """Width of the belief."""
    update: Literal["gru", "residual"] = "gru"
    """Kind of both updates: a gated recurrent unit, or belief + MLP."""
    residual_hidden: Annotated[int, Range(ge=1, le=MOST_FEATURES)] = 64
    """Width of both hidden layers of a residual update."""
    slow_columns: list[int] = []
    """Inputs that are slow observations."""
    arrival_column: int | None = None
    """Input that is 1 where slow observations arrived and -1 elsewhere; None: they arrive at every step.

    Only its sign is read, which a running normalization keeps as soon as both have occurred."""
    head_cfg: MLPCfg = MLPCfg(hidden_features=[])
    """Network from belief and input to the output."""
    stop_gradient: bool = False
    """True to learn the belief from its own targets alone, not from what is made of it."""
    density: ConditionalDensityCfg | None = None
    """Belief as a density (`GaussianDensityCfg`, `FlowDensityCfg`), or None."""
    target_groups: list[str] = []
    """Names of what the density is of, for whoever trains it."""
    target_is_next: bool = False
    """True if it is of their next values, given an action beside the belief; False: of their values now."""
    target_features: Annotated[int, Range(ge=1)] = 1
    """Width of what the density is of."""
    condition_features: Annotated[int, Range(ge=0)] = 0
    """Width of what the density depends on beside the belief: an action."""

    def check(self) -> Iterable[str]:
        """Check the columns."""
        if any(column < 0 for column in self.slow_columns) or len({*self.slow_columns}) < len(self.slow_columns):
            yield f"slow_columns: {self.slow_columns} are no different indices from 0 on"
        if self.arrival_column is not None and (self.arrival_column < 0 or self.arrival_column in self.slow_columns):
            yield f"arrival_column: {self.arrival_column} has to be an input beside slow_columns={self.slow_columns}"
        if self.arrival_column is not None and not self.slow_columns:
            yield "arrival_column: nothing arrives without slow_columns"


def _build_update(cfg: BeliefNetworkCfg, in_features: int) -> nn.Module:
    if cfg.update == "residual":
        return ResidualUpdate(in_features, cfg.size, cfg.residual_hidden)
    return nn.GRUCell(in_features, cfg.size)
