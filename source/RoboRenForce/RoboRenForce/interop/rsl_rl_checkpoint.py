"""rsl_rl 5 checkpoints into our actor-critic and back.

rsl_rl's model state maps one to one: `mlp.{2k}` is our k-th linear layer, `rnn.rnn` our recurrent cell,
`obs_normalizer` our running statistics, `distribution.std_param` (or `log_std_param`) our standard deviation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..components.actor_critic import ActorCriticPack
from ..components.gaussian_actor import StateIndStdActor
from ..components.normalizer import EmpiricalNormalizer
from ..components.observation import ObservationNetwork
from ..networks.rnn import RNN
from ..utils.errors import CheckpointError


def load_rsl_rl_checkpoint(path: str | Path, networks: ActorCriticPack) -> None:
    """Copy the weights and statistics of an rsl_rl `model_*.pt` into `networks`.

    Raises:
        CheckpointError: the file is no rsl_rl 5 checkpoint or its layers have other sizes.
    """
    # rsl_rl stores only tensors and plain numbers, so the safe loader reads its files.
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    missing = {"actor_state_dict", "critic_state_dict"} - set(checkpoint)
    if missing:
        raise CheckpointError(
            f"'{path}' is no rsl_rl 5 checkpoint: {sorted(missing)} missing, found {sorted(checkpoint)}."
        )
    for name, network in (("actor", networks.actor), ("critic", networks.critic)):
        load_rsl_rl_model(checkpoint[f"{name}_state_dict"], network, source=f"{path}:{name}")


def load_rsl_rl_model(state: Mapping[str, Tensor], network: ObservationNetwork, source: str = "the state") -> None:
    """Copy one rsl_rl model's `state_dict` into an actor or critic of ours with the same architecture."""
    targets = _tensors(network)
    known = set(targets) | {"obs_normalizer._std"}
    if set(state) - known or set(targets) - set(state):
        raise CheckpointError(
            f"{source} does not fit: only there {sorted(set(state) - known)}, "
            f"only here {sorted(set(targets) - set(state))}. "
            "Build the network with the same layers, std type and normalization."
        )
    with torch.no_grad():
        for name, target in targets.items():
            value = state[name].view(target.shape) if state[name].numel() == target.numel() else None
            if value is None:
                raise CheckpointError(
                    f"{source}: '{name}' is {tuple(state[name].shape)}, expected {tuple(target.shape)}."
                )
            target.copy_(value)
    if isinstance(network.normalizer, EmpiricalNormalizer):
        network.normalizer.refresh()


def rsl_rl_model_state(network: ObservationNetwork) -> dict[str, Tensor]:
    """The `state_dict` that rsl_rl's model of the same architecture would have."""
    state: dict[str, Tensor] = {}
    for name, tensor in _tensors(network).items():
        if name == "obs_normalizer.count":
            state[name] = tensor.to(torch.long)
        elif name.startswith("obs_normalizer"):
            state[name] = tensor.to(torch.get_default_dtype()).unsqueeze(0)
        else:
            state[name] = tensor.detach().clone()
    if network.normalizer is not None:
        state["obs_normalizer._std"] = state["obs_normalizer._var"].sqrt()
    return state


def save_rsl_rl_checkpoint(
    path: str | Path, networks: ActorCriticPack, optimizer: Mapping[str, Any], iteration: int
) -> None:
    """Write a checkpoint that rsl_rl's runner loads; `optimizer` is the state of Adam over actor, then critic."""
    torch.save(
        {
            "actor_state_dict": rsl_rl_model_state(networks.actor),
            "critic_state_dict": rsl_rl_model_state(networks.critic),
            "optimizer_state_dict": dict(optimizer),
            "iter": iteration,
            "infos": None,
        },
        path,
    )


def _tensors(network: ObservationNetwork) -> dict[str, Tensor]:
    """Our tensors under rsl_rl's names."""
    named: dict[str, Tensor] = {}
    linear = [module for module in network.backbone.modules() if isinstance(module, nn.Linear)]
    for index, layer in enumerate(linear):
        named[f"mlp.{2 * index}.weight"], named[f"mlp.{2 * index}.bias"] = layer.weight, layer.bias
    if isinstance(network.backbone, RNN):
        named |= {f"rnn.rnn.{name}": value for name, value in network.backbone.named_parameters(recurse=False)}
    if isinstance(network.normalizer, EmpiricalNormalizer):
        moments = network.normalizer.moments
        named |= {
            "obs_normalizer._mean": moments.mean,
            "obs_normalizer._var": moments.var,
            "obs_normalizer.count": moments.count,
        }
    if isinstance(network, StateIndStdActor):
        named["distribution.log_std_param" if network.std.use_log_std else "distribution.std_param"] = network.std.param
    return named
