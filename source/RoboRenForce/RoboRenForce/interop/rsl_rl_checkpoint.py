"""Conversion of rsl_rl 5 checkpoints to our actor-critic and back.

rsl_rl's model state maps one to one: `mlp.{2k}` is our k-th linear layer, `rnn.rnn` our recurrent cell,
`obs_normalizer` our running statistics, `distribution.std_param` (or `log_std_param`) our standard deviation. A network
of ours with more than that is refused: it would compute something else in rsl_rl.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..algorithms.reward_terms import RND
from ..components.actor import Actor
from ..components.actor_critic import ActorCriticPack
from ..components.gaussian_actor import StateIndStdActor
from ..components.normalizer import EmpiricalNormalizer, Normalizer
from ..components.observation import ObservationNetwork
from ..components.optimizer import FlatAdam, load_per_parameter_state, per_parameter_state
from ..networks.mlp import MLP
from ..networks.rnn import RNN
from ..utils.errors import CheckpointError

RSL_RL_EPS = 1e-2
"""Constant that rsl_rl adds to the standard deviation in divisions."""


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
    _copy(state, _tensors(network), source)
    _refresh(network.normalizer)


def rsl_rl_model_state(network: ObservationNetwork) -> dict[str, Tensor]:
    """Return the `state_dict` of rsl_rl's model of the same architecture."""
    return _as_rsl_rl(_tensors(network))


def rsl_rl_optimizer_state(step: FlatAdam, parameters: Sequence[nn.Parameter]) -> dict[str, Any]:
    """Return the state of torch's Adam over all `parameters` of a learner, of which `step` may train only some."""
    state = per_parameter_state(step)
    first: dict[nn.Parameter, int] = {}
    for index, parameter in enumerate(parameters):
        first.setdefault(parameter, index)
    (group,) = state["param_groups"]
    return {
        "state": {first[parameter]: state["state"][index] for index, parameter in enumerate(step.params)},
        "param_groups": [group | {"params": [first[parameter] for parameter in parameters]}],
    }


def rsl_rl_rnd_state(term: RND) -> dict[str, Any]:
    """Return the RND part of rsl_rl's checkpoint, and the progress that rsl_rl does not store."""
    progress = {name: term.state_dict()[name] for name in ("steps", "discounted")}
    return {
        "rnd_state_dict": _as_rsl_rl(_rnd_tensors(term)),
        "rnd_optimizer_state_dict": per_parameter_state(term.optimizer),
        "rnd_progress": progress,
    }


def load_rsl_rl_rnd(checkpoint: Mapping[str, Any], term: RND) -> None:
    """Restore RND from a checkpoint of rsl_rl, whose weight schedule begins anew, or of our drop-in.

    Raises:
        CheckpointError: the checkpoint has no RND, or another one.
    """
    if missing := {"rnd_state_dict", "rnd_optimizer_state_dict"} - set(checkpoint):
        raise CheckpointError(
            f"The checkpoint holds no RND of rsl_rl: {sorted(missing)} missing. Load it without, load_cfg['rnd']=False."
        )
    _copy(checkpoint["rnd_state_dict"], _rnd_tensors(term), "rnd_state_dict")
    for normalizer in (term.state_normalizer, term.reward_normalizer):
        _refresh(normalizer)
    load_per_parameter_state(term.optimizer, checkpoint["rnd_optimizer_state_dict"])
    term.load_progress(checkpoint.get("rnd_progress", {"steps": torch.zeros(()), "discounted": torch.zeros(0)}))


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


def _copy(state: Mapping[str, Tensor], targets: Mapping[str, Tensor], source: str) -> None:
    """Overwrite `targets` by the tensors of the same names; `_std` follows from `_var`."""
    given = {name for name in state if not name.endswith("._std")}
    if given != set(targets):
        raise CheckpointError(
            f"{source} does not fit: only there {sorted(given - set(targets))}, only here "
            f"{sorted(set(targets) - given)}. Build the network with the same layers, std type and normalization."
        )
    with torch.no_grad():
        for name, target in targets.items():
            if state[name].numel() != target.numel():
                raise CheckpointError(
                    f"{source}: '{name}' is {tuple(state[name].shape)}, expected {tuple(target.shape)}."
                )
            target.copy_(state[name].view(target.shape))


def _as_rsl_rl(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return copies in rsl_rl's types and shapes, each `_var` followed by its `_std`."""
    state: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        prefix, _, field = name.rpartition(".")
        if field == "count":
            state[name] = tensor.to(torch.long)
        elif field in ("_mean", "_var"):
            state[name] = tensor.to(torch.get_default_dtype()).unsqueeze(0)
            if field == "_var":
                state[f"{prefix}._std"] = state[name].sqrt()
        else:
            state[name] = tensor.detach().clone()
    return state


def _tensors(network: ObservationNetwork) -> dict[str, Tensor]:
    """Return our tensors under rsl_rl's names.

    Raises:
        CheckpointError: The network has parts that rsl_rl's models do not have.
    """
    named: dict[str, Tensor] = {}
    linear = [module for module in network.backbone.modules() if isinstance(module, nn.Linear)]
    for index, layer in enumerate(linear):
        named[f"mlp.{2 * index}.weight"], named[f"mlp.{2 * index}.bias"] = layer.weight, layer.bias
    if isinstance(network.backbone, RNN):
        named |= {f"rnn.rnn.{name}": value for name, value in network.backbone.named_parameters(recurse=False)}
    named |= _statistics("obs_normalizer", network.normalizer)
    if isinstance(network, StateIndStdActor):
        named["distribution.log_std_param" if network.std.use_log_std else "distribution.std_param"] = network.std.param
    _require_same_function(network, named)
    return named


def _require_same_function(network: ObservationNetwork, named: Mapping[str, Tensor]) -> None:
    """Refuse a network that computes more than `named` covers, and so something else in rsl_rl."""
    known = {id(tensor) for tensor in named.values()}
    extra = [name for name, parameter in network.named_parameters() if id(parameter) not in known]
    if isinstance(network, Actor) and not isinstance(network, StateIndStdActor):
        extra.append(f"the distribution of {type(network).__name__}")
    if not isinstance(network.backbone, (MLP, RNN)):
        extra.append(f"the backbone {type(network.backbone).__name__}")
    elif isinstance(network.backbone, RNN) and network.backbone.cfg.shortcut:
        extra.append("the shortcut around the recurrent cell")
    if extra:
        raise CheckpointError(
            f"{type(network).__name__} has parts that rsl_rl's models lack: {', '.join(extra)}. Use an MLP or RNN "
            "backbone without layer_norm, and StateIndStdActor."
        )


def _rnd_tensors(term: RND) -> dict[str, Tensor]:
    named: dict[str, Tensor] = {}
    for part in ("predictor", "target"):
        linear = [module for module in getattr(term, part).modules() if isinstance(module, nn.Linear)]
        for index, layer in enumerate(linear):
            named[f"{part}.{2 * index}.weight"], named[f"{part}.{2 * index}.bias"] = layer.weight, layer.bias
    named |= _statistics("state_normalizer", term.state_normalizer)
    return named | _statistics("reward_normalizer.emp_norm", term.reward_normalizer)


def _statistics(prefix: str, normalizer: Normalizer | None) -> dict[str, Tensor]:
    """Return the running statistics under rsl_rl's names.

    Raises:
        CheckpointError: The normalizer is not rsl_rl's.
    """
    if normalizer is None or type(normalizer) is Normalizer:
        return {}
    if not (
        isinstance(normalizer, EmpiricalNormalizer) and normalizer.cfg.clip is None and normalizer.cfg.eps == RSL_RL_EPS
    ):
        raise CheckpointError(
            f"rsl_rl normalizes by running statistics with eps={RSL_RL_EPS} and without a clip, here it is a "
            f"{type(normalizer).__name__} with other settings: use EmpiricalNormalizerCfg()."
        )
    moments = normalizer.moments
    return {f"{prefix}._mean": moments.mean, f"{prefix}._var": moments.var, f"{prefix}.count": moments.count}


def _refresh(normalizer: Normalizer | None) -> None:
    if isinstance(normalizer, EmpiricalNormalizer):
        normalizer.refresh()
