"""Exported policies with the adapter's conversions, as metadata or inside the graph."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from ..envs.simulator_interface import ActionInterface, SimulatorInterface, Units
from ..utils.export import Exportable


def for_simulator(policy: Exportable, interface: SimulatorInterface, actions: Units = "policy") -> Exportable:
    """Complete an exported policy with all that a receiver without this framework needs.

    Args:
        policy: From `Policy.exportable()`.
        interface: From `VecEnv.simulator_interface()` of its environment.
        actions: `policy`: the file outputs the policy's own actions, and its metadata holds the clipping, scale and
            offset that lead to the simulator's. `simulator`: the file outputs the simulator's actions.
    """
    known = policy.metadata or {}
    observations = [
        {**entry, **interface.observations.get(entry["group"], {})} for entry in known.get("observations", [])
    ]
    metadata = {
        **known,
        "observations": observations,
        "action": interface.action.to_metadata(actions),
        "simulator": dict(interface.simulator),
    }
    module = policy.module if actions == "policy" else _SimulatorActions(policy.module, interface.action)
    return replace(policy, module=module.eval(), metadata=metadata)


class _SimulatorActions(nn.Module):
    """Policy that outputs the simulator's actions; its recurrent state is unchanged."""

    clip_low: Tensor
    clip_high: Tensor
    scale: Tensor
    offset: Tensor
    low: Tensor
    high: Tensor

    def __init__(self, policy: nn.Module, action: ActionInterface) -> None:
        super().__init__()
        self.policy, self.action = policy, action
        for name in ("clip_low", "clip_high", "scale", "offset", "low", "high"):
            self.register_buffer(name, torch.tensor(getattr(action, name)))

    def forward(self, *inputs: Tensor) -> Tensor | tuple[Tensor, ...]:
        returned = self.policy(*inputs)
        if isinstance(returned, Tensor):
            return self._converted(returned)
        actions, *rest = returned
        return (self._converted(actions), *rest)

    def _converted(self, actions: Tensor) -> Tensor:
        if self.action.kind == "discrete":
            return actions + self.action.start
        unit = torch.minimum(torch.maximum(actions, self.clip_low), self.clip_high)
        return torch.minimum(torch.maximum(unit * self.scale + self.offset, self.low), self.high)
