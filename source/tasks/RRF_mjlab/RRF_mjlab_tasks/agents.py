"""mjlab's own training configurations as ours.

mjlab keeps one rsl_rl configuration per task; reading it keeps every task, third-party ones included, trained with
the numbers that its authors chose. Like rsl_rl, time-outs bootstrap with the value before the step, and one
permutation serves all epochs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from RoboRenForce import algorithms, components, networks, runners
from RoboRenForce.interop.rsl_rl import SAME_NAME
from RoboRenForce.utils.errors import UserError


def runner_cfg_from_mjlab(rl_cfg: Any, task: str) -> runners.OnPolicyRunnerCfg:
    """Our runner's configuration for mjlab's (rsl_rl's) of a task.

    Args:
        rl_cfg: `RslRlOnPolicyRunnerCfg` of the task.
        task: Its id, for messages.
    """
    algorithm = {name: getattr(rl_cfg.algorithm, name) for name in SAME_NAME}
    if rl_cfg.algorithm.optimizer != "adam":
        raise UserError(f"{task} trains with {rl_cfg.algorithm.optimizer}; RoboRenForce's PPO has Adam only.")
    return runners.OnPolicyRunnerCfg(
        seed=rl_cfg.seed,
        num_steps_per_env=rl_cfg.num_steps_per_env,
        max_iterations=rl_cfg.max_iterations,
        save_interval=rl_cfg.save_interval,
        run_name=rl_cfg.run_name,
        obs_groups={name: list(groups) for name, groups in rl_cfg.obs_groups.items()},
        policy=components.ActorCriticPackCfg(
            actor_cfg=_actor(rl_cfg.actor, task), critic_cfg=components.VNetworkCfg(**_network(rl_cfg.critic, task))
        ),
        algorithm=algorithms.PPOCfg(shuffle="once", time_out_bootstrap="current", **algorithm),
    )


def _actor(model: Any, task: str) -> components.StateIndStdActorCfg:
    distribution = dict(model.distribution_cfg or {})
    name = distribution.pop("class_name", "GaussianDistribution").rpartition(":")[2]
    if name != "GaussianDistribution":
        raise UserError(f"{task} uses rsl_rl's {name}; give it a policy of ours with --config (policy.actor_cfg).")
    low, high = distribution.get("std_range", (1e-6, 1e6))
    return components.StateIndStdActorCfg(
        init_std=distribution.get("init_std", 1.0),
        use_log_std=distribution.get("std_type", "scalar") == "log",
        learn_std=distribution.get("learn_std", True),
        min_std=low,
        max_std=high,
        **_network(model, task),
    )


def _network(model: Any, task: str) -> dict[str, Any]:
    """Backbone, normalizer and CNN of an rsl_rl model."""
    backbone: networks.NetworkCfg = networks.MLPCfg(
        hidden_features=list(model.hidden_dims), activations=model.activation.upper()
    )
    if model.rnn_type is not None:
        backbone = networks.RNNCfg(
            cell=model.rnn_type, hidden_size=model.rnn_hidden_dim, num_layers=model.rnn_num_layers, head_cfg=backbone
        )
    return {
        "backbone_cfg": backbone,
        "normalizer_cfg": components.EmpiricalNormalizerCfg() if model.obs_normalization else None,
        "cnn_cfg": None if model.cnn_cfg is None else _cnn(model.cnn_cfg, task),
    }


_POOLINGS = {"none": "flatten", "avg": "average", "max": "max"}
"""rsl_rl's `global_pool` -> ours."""


def _cnn(options: Mapping[str, Any], task: str) -> networks.CNNCfg | dict[str, networks.CNNCfg]:
    """rsl_rl's CNN options, or those of each image group; what comes out goes straight into the MLP.

    Raises:
        UserError: an option that our CNN does not have.
    """
    if all(isinstance(value, Mapping) for value in options.values()):
        return {group: _one_cnn(value, task) for group, value in options.items()}
    return _one_cnn(options, task)


def _one_cnn(options: Mapping[str, Any], task: str) -> networks.CNNCfg:
    channels = list(options["output_channels"])

    def per_layer(name: str, default: Any) -> list[Any]:
        value = options.get(name, default)
        return list(value) if isinstance(value, (list, tuple)) else [value] * len(channels)

    for name, plain in (("dilation", 1), ("norm", "none"), ("max_pool", False)):
        if any(value != plain for value in per_layer(name, plain)):
            raise UserError(
                f"{task} has a CNN with {name}={options[name]}, which ours does not have; "
                f"give it one of ours with --config (policy.actor_cfg.cnn_cfg, policy.critic_cfg.cnn_cfg)."
            )
    kernels, strides = per_layer("kernel_size", 3), per_layer("stride", 1)
    padding = options.get("padding", "none")
    if padding not in ("none", "zeros"):
        raise UserError(f"{task} pads the images of its CNN with padding='{padding}'; ours pads with zeros or not.")
    # rsl_rl pads so that the stride divides the size of the result; these are its numbers where it divides the image.
    paddings = [
        (kernel - stride + 1) // 2 if padding == "zeros" else 0 for kernel, stride in zip(kernels, strides, strict=True)
    ]
    return networks.CNNCfg(
        layout="chw",
        channels=channels,
        kernel_sizes=kernels,
        strides=strides,
        paddings=[max(size, 0) for size in paddings],
        activation=options.get("activation", "elu").upper(),
        pooling="spatial_softmax" if options.get("spatial_softmax") else _POOLINGS[options.get("global_pool", "none")],
        softmax_temperature=options.get("spatial_softmax_temperature", 1.0),
        features=None,
    )
