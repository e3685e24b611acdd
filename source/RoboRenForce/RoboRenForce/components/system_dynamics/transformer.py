"""Causal transformer over recorded steps, trained on its own predictions.

One token per step holds (s_t, a_t); the output at token t is the distribution of (s_{t+1}, r_t). A window has H steps
of history and N - 1 more, in which the model reads states that it predicted itself (Li et al. 2025, arXiv 2501.10100):

    s_0 a_0 ... s_{H-1} a_{H-1} | s^_H a_H ... s^_{H+N-2} a_{H+N-2}          L = mean_{t < H} l_t
    ------- recorded ---------- | -- predicted, recorded actions --              + mean_{k < N-1} alpha^{k+1} l_{H+k}

Gradients flow through the N steps. The ensemble is E linear heads on one trunk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import torch
from torch import Tensor
from typing_extensions import override

from ...configclass import Range, configclass
from ...envs.spec import EnvSpec
from ...networks.transformer import Transformer, TransformerCfg
from .system_dynamics import Memory, Steps, SystemDynamics, SystemDynamicsCfg


class SystemDynamicsTransformer(SystemDynamics):
    """Transformer whose memory is the cache of keys and values of the last steps, `(N, L, S)`."""

    cfg: SystemDynamicsTransformerCfg
    sees_history = True

    def __init__(self, cfg: SystemDynamicsTransformerCfg, *, spec: EnvSpec, groups: Sequence[str]) -> None:
        super().__init__(cfg, spec=spec, groups=groups)
        self.network: Transformer = cfg.backbone_cfg.build(self.num_inputs, cfg.num_members * self.num_outputs)

    @override
    def memory(self, num_rows: int) -> Memory:
        return {"cache": self.network.initial_state(num_rows).transpose(0, 1)}

    @override
    def outputs(self, inputs: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        output, cache = self.network(inputs, memory["cache"].transpose(0, 1).contiguous())
        return self._members(output), {"cache": cache.transpose(0, 1)}

    @override
    @torch.no_grad()
    def remember(self, states: Tensor, actions: Tensor, starts: Tensor, begins: Tensor) -> Memory:
        inputs = self.standardized_inputs(states, actions)
        _, cache = self.network(inputs, self.network.initial_state(states.shape[1]), starts)
        return {"cache": cache.transpose(0, 1) * ~begins.view(-1, 1, 1)}

    @override
    def loss(self, steps: Steps) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of windows `(T, B)` with T = H + N - 1."""
        cfg, history = self.cfg, self.cfg.history
        valid = torch.ones_like(steps.reward) if steps.valid is None else steps.valid
        step = torch.arange(1, len(steps.reward) - history + 1, device=valid.device)
        # Recorded and predicted inputs count the same, however many there are of each.
        sections = [(slice(0, history), valid[:history])]
        if cfg.forecast > 1:
            sections.append((slice(history, None), valid[history:] * (cfg.decay**step).unsqueeze(1)))
        total, metrics = cfg.bounds_weight * self.bounds.penalty(), {}
        for name, loss in self.step_losses(self.forecast(steps), steps).items():
            means = [(loss[:, rows] * weight).sum() / weight.sum().clamp(min=1.0) for rows, weight in sections]
            total = total + torch.stack(means).sum()
            metrics[f"Loss/{name}"] = means[-1].detach() / cfg.num_members
        return total, metrics

    def forecast(self, steps: Steps, *, deterministic: bool = False) -> Tensor:
        """Return the outputs `(E, T, B, O)`: at recorded states for the history, from then on at predicted ones."""
        history, rows = self.cfg.history, steps.state.shape[1]
        member = torch.arange(rows, device=steps.state.device) % self.cfg.num_members
        inputs = self.standardized_inputs(steps.state[:history], steps.action[:history])
        output, cache = self.network(inputs, self.network.initial_state(rows))
        outputs, last, state = [self._members(output)], output[-1], steps.state[history - 1]
        for k in range(history, len(steps.state)):
            # Each row follows one head: the mean over heads is smoother than any future.
            chosen = self._members(last).gather(0, member.view(1, -1, 1).expand(1, -1, self.num_outputs)).squeeze(0)
            state, _ = self.successor(state, chosen, deterministic=deterministic, soft_contacts=True)
            state = self.with_held(state, steps.state[k])
            last, cache = self.network(self.standardized_inputs(state, steps.action[k]), cache)
            outputs.append(self._members(last).unsqueeze(1))
        return torch.cat(outputs, dim=1)

    @override
    @torch.no_grad()
    def errors(self, steps: Steps) -> Tensor:
        """Return the errors of open-loop predictions in windows `(T, B)`; those of one step say little about them."""
        errors = self.squared_errors(self.forecast(steps, deterministic=True), steps)
        valid = torch.ones_like(steps.reward) if steps.valid is None else steps.valid
        return (errors * valid).sum((1, 2)) / valid.sum().clamp(min=1.0)

    def _members(self, output: Tensor) -> Tensor:
        """Return `(E, ..., O)` of the trunk's output `(..., E * O)`."""
        return output.unflatten(-1, (self.cfg.num_members, self.num_outputs)).movedim(-2, 0)


@configclass
class SystemDynamicsTransformerCfg(SystemDynamicsCfg):
    """Configuration of a `SystemDynamicsTransformer`."""

    class_type: type = SystemDynamicsTransformer
    num_members = 1
    nll_beta = 0.5
    backbone_cfg: TransformerCfg = TransformerCfg(dim=256, num_layers=4, num_heads=8, window=32)
    """Trunk; `window` is the number of steps that a layer sees."""
    history: Annotated[int, Range(ge=1)] = 32
    """H, recorded steps of a window, and of the history from which imagined episodes start."""
    forecast: Annotated[int, Range(ge=1)] = 8
    """N, steps that are predicted from the end of the history; 1: never on own predictions."""
    decay: Annotated[float, Range(gt=0, le=1)] = 1.0
    """alpha, weight of a step ahead."""

    @property
    def length(self) -> int:
        """Number of steps of a window."""
        return self.history + self.forecast - 1
