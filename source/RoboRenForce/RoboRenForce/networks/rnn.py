"""GRU and LSTM with episode boundaries inside a sequence."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Range, configclass
from .activation import MOST_FEATURES
from .mlp import MLPCfg
from .network import Network, NetworkCfg, RecurrentNetwork


class RNN(RecurrentNetwork):
    """GRU or LSTM followed by a head; see `RecurrentNetwork` for the calling convention.

    The state is `(num_layers, N, hidden_size)` for a GRU and `(num_layers, N, 2 * hidden_size)` for an LSTM: hidden
    and cell state concatenated. Parameters have the names, shapes and initialization of `nn.GRU` and `nn.LSTM`.
    """

    def __init__(self, cfg: RNNCfg, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.cfg = cfg
        # The library's module is not kept: torch.compile refuses to look into one, and its parameters are all we need.
        library = (nn.GRU if cfg.cell == "gru" else nn.LSTM)(in_features, cfg.hidden_size, cfg.num_layers)
        for name, parameter in library.named_parameters():
            self.register_parameter(name, parameter)
        head_cfg = MLPCfg(hidden_features=[]) if cfg.head_cfg is None else cfg.head_cfg
        self.head: Network = head_cfg.build(cfg.hidden_size + (in_features if cfg.shortcut else 0), out_features)

    @override
    def state_shape(self, num_envs: int) -> tuple[int, int, int]:
        width = self.cfg.hidden_size * (2 if self.cfg.cell == "lstm" else 1)
        return self.cfg.num_layers, num_envs, width

    def forward(self, x: Tensor, state: Tensor, starts: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the output `(N, out)` or `(T, N, out)` for `x` `(N, in)` or `(T, N, in)`, and the last state."""
        memory, state = self._over_time(self._run, x, state, starts)
        return self.head(torch.cat([memory, x], dim=-1) if self.cfg.shortcut else memory), state

    def _run(self, x: Tensor, state: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        # Where looking at `starts` costs nothing, stretches without a start in any row run as one library call;
        # elsewhere (the host must not wait for the device, and a compiled graph must not depend on data) every step
        # is masked.
        if x.device.type == "cpu" and not torch.compiler.is_compiling():
            return run_stretches(self._library_call, x, state, starts)
        return self._run_cells(x, state, starts)

    def _weights(self) -> list[list[Tensor]]:
        names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        return [[self.get_parameter(f"{name}_l{layer}") for name in names] for layer in range(self.cfg.num_layers)]

    def _library_call(self, x: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        weights = [weight for layer in self._weights() for weight in layer]
        options = (True, self.cfg.num_layers, 0.0, self.training, False, False)  # biases, layers, dropout, ...
        if self.cfg.cell == "gru":
            return torch.gru(x, state, weights, *options)
        y, hidden, cell = torch.lstm(x, [part.contiguous() for part in state.chunk(2, -1)], weights, *options)
        return y, torch.cat([hidden, cell], dim=-1)

    def _run_cells(self, x: Tensor, state: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        layers = self._weights()
        outputs = []
        for t in range(x.shape[0]):
            if starts is not None:
                state = _reset(state, starts[t])
            y, states = x[t], []
            for layer, weights in enumerate(layers):
                if self.cfg.cell == "gru":
                    y = torch.gru_cell(y, state[layer], *weights)
                    states.append(y)
                else:
                    y, cell = torch.lstm_cell(y, state[layer].chunk(2, -1), *weights)
                    states.append(torch.cat([y, cell], dim=-1))
            state = torch.stack(states)
            outputs.append(y)
        return torch.stack(outputs), state


@configclass
class RNNCfg(NetworkCfg):
    """Configuration of an `RNN`."""

    class_type: type = RNN
    cell: Literal["gru", "lstm"] = "gru"
    """Kind of recurrent cell."""
    hidden_size: Annotated[int, Range(ge=1, le=MOST_FEATURES)] = 256
    """Width of the recurrent state."""
    num_layers: Annotated[int, Range(ge=1, le=1024)] = 1
    """Number of recurrent layers."""
    head_cfg: MLPCfg | None = None
    """Network from the recurrent state to the output; None for a linear layer."""
    shortcut: bool = False
    """True to concatenate the input to the RNN output, so that the recurrent state only has to carry the past."""


def run_stretches(
    run: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], x: Tensor, state: Tensor, starts: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Call `run(x, state) -> (outputs, state)` once for each stretch of steps in which no row starts an episode.

    Args:
        run: Function of consecutive steps `(t, N, in)` and the state before them.
        x: Inputs `(T, N, in)`.
        state: `(L, N, S)`; its rows are zeroed where they start.
        starts: bool `(T, N)` on the host, None for nowhere.

    Returns:
        The outputs of all steps, and the last state.
    """
    cuts = [] if starts is None else starts.any(1).nonzero().flatten().tolist()
    outputs = []
    for begin, end in pairwise([*sorted({0, *cuts}), x.shape[0]]):
        if starts is not None:
            state = _reset(state, starts[begin])
        y, state = run(x[begin:end], state)
        outputs.append(y)
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs)), state


def _reset(state: Tensor, starts: Tensor) -> Tensor:
    """Zero the rows of `state` `(L, N, S)` where `starts` `(N,)` is True."""
    return state.masked_fill(starts.view(1, -1, 1), 0.0)
