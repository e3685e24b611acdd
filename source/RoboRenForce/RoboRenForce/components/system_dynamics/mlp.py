"""Ensemble of probabilistic MLPs (PETS; Chua et al. 2018, arXiv 1805.12114)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from typing_extensions import override

from ...configclass import configclass
from ...envs.spec import EnvSpec
from ...networks.ensemble import EnsembleLinear, EnsembleMLP
from ...networks.mlp import MLPCfg
from .system_dynamics import Memory, Steps, SystemDynamics, SystemDynamicsCfg


class SystemDynamicsMLP(SystemDynamics):
    """`E` independent MLPs from (s, a) to the distribution of (s' - s, r), as one batched network."""

    cfg: SystemDynamicsMLPCfg

    def __init__(self, cfg: SystemDynamicsMLPCfg, *, spec: EnvSpec, groups: Sequence[str]) -> None:
        super().__init__(cfg, spec=spec, groups=groups)
        self.network = EnsembleMLP(cfg.backbone_cfg, cfg.num_members, self.num_inputs, self.num_outputs)
        _initialize(self.network)

    @override
    def outputs(self, inputs: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        return self.network(inputs), memory

    @override
    def loss(self, steps: Steps) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of steps `(E, B)`, a batch of its own for each member.

        It is a sum over the members, so the learning rate of one does not depend on how many there are.
        """
        output = self.network.forward_members(self.standardized_inputs(steps.state, steps.action))
        losses = self.step_losses(output, steps)
        total = torch.stack([loss.mean(1).sum() for loss in losses.values()]).sum()
        metrics = {f"Loss/{name}": loss.detach().mean() for name, loss in losses.items()}
        return total + self.cfg.bounds_weight * self.bounds.penalty(), metrics

    @override
    @torch.no_grad()
    def errors(self, steps: Steps) -> Tensor:
        """Return the one-step errors over steps `(B,)`."""
        return self.squared_errors(self.network(self.standardized_inputs(steps.state, steps.action)), steps).mean(1)


@torch.no_grad()
def _initialize(network: EnsembleMLP) -> None:
    """Draw weights as the paper's code does: normal with std 1 / (2 sqrt(fan in)), cut at two stds; biases are zero."""
    for layer in network.modules():
        if isinstance(layer, EnsembleLinear):
            std = 0.5 * layer.weight.shape[1] ** -0.5
            nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
            layer.bias.zero_()


@configclass
class SystemDynamicsMLPCfg(SystemDynamicsCfg):
    """Configuration of a `SystemDynamicsMLP`; sizes are those of MBPO's published code."""

    class_type: type = SystemDynamicsMLP
    num_elites = 5
    backbone_cfg: MLPCfg = MLPCfg(hidden_features=[200, 200, 200, 200], activations="SiLU")
    """Network of each member."""
