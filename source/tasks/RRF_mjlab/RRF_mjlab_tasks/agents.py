"""Conversion of mjlab's own training configurations to ours.

mjlab keeps one rsl_rl configuration per task; reading it trains every task, third-party ones included, with the numbers
that its authors chose. As in rsl_rl, time-outs bootstrap with the value before the step, and one permutation serves all
epochs.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any

from RoboRenForce import algorithms, components, networks, runners
from RoboRenForce.interop.rsl_rl_options import activation_from_rsl_rl, ppo_cfg_from_rsl_rl
from RoboRenForce.utils.errors import ConfigError, UserError

MODELS = ("MLPModel", "RNNModel", "CNNModel", "SpatialSoftmaxCNNModel")
"""Models of rsl_rl and mjlab that have a counterpart."""


def runner_cfg_from_mjlab(rl_cfg: Any, task: str) -> runners.OnPolicyRunnerCfg:
    """Return our runner's configuration for mjlab's (rsl_rl's) of a task.

    Args:
        rl_cfg: `RslRlOnPolicyRunnerCfg` of the task.
        task: Its id, for messages.
    """
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
        algorithm=_algorithm(rl_cfg.algorithm, task),
    )


def _algorithm(algorithm: Any, task: str) -> algorithms.PPOCfg:
    options = asdict(algorithm)
    del options["class_name"]
    if options.pop("share_cnn_encoders", False):
        raise UserError(f"{task} shares the CNN of actor and critic (share_cnn_encoders), which ours do not.")
    for name in ("rnd_cfg", "symmetry_cfg"):  # they need the environment, which is not built yet
        if options.pop(name, None):
            raise UserError(f"{task} sets {name}; give ours with --config (algorithm.reward_terms, .loss_terms).")
    if options["optimizer"].lower() != "adam":
        raise UserError(f"{task} trains with {options['optimizer']}; RoboRenForce's PPO has Adam only.")
    try:
        cfg = ppo_cfg_from_rsl_rl(options, parity="rsl_rl_5_5")  # the release with all options
    except ConfigError as error:
        raise UserError(f"{task}: {error}") from error
    return cfg.replace(parity="none", shuffle="once", time_out_bootstrap="current")


def _actor(model: Any, task: str) -> components.StateIndStdActorCfg:
    distribution = dict(model.distribution_cfg or {})
    name = distribution.pop("class_name", "GaussianDistribution").rpartition(":")[2]
    if name != "GaussianDistribution":
        raise UserError(f"{task} uses rsl_rl's {name}; give it a policy of ours with --config (policy.actor_cfg).")
    _refuse_unknown(distribution, ("init_std", "std_range", "std_type", "learn_std"), f"{task}: {name}")
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
    """Return backbone, normalizer and CNN of an rsl_rl model."""
    if (name := model.class_name.replace(":", ".").rpartition(".")[2]) not in MODELS:
        raise UserError(f"{task} has the model {name}; give it a policy of ours with --config (policy.actor_cfg).")
    backbone: networks.NetworkCfg = networks.MLPCfg(
        hidden_features=list(model.hidden_dims), activations=activation_from_rsl_rl(model.activation).upper()
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


CNN_OPTIONS = ("output_channels", "kernel_size", "stride", "padding", "activation", "global_pool")
CNN_OPTIONS += ("spatial_softmax", "spatial_softmax_temperature", "dilation", "norm", "max_pool", "flatten")
"""rsl_rl's and mjlab's options of a CNN; what of them ours lacks is refused below."""

_POOLINGS = {"none": "flatten", "avg": "average", "max": "max"}
"""rsl_rl's `global_pool` -> ours."""


def _cnn(options: Mapping[str, Any], task: str) -> networks.CNNCfg | dict[str, networks.CNNCfg]:
    """Return rsl_rl's CNN options, or those of each image group; the output is an input of the MLP.

    Raises:
        UserError: Our CNN does not have an option.
    """
    if all(isinstance(value, Mapping) for value in options.values()):
        return {group: _one_cnn(value, task) for group, value in options.items()}
    return _one_cnn(options, task)


def _one_cnn(options: Mapping[str, Any], task: str) -> networks.CNNCfg:
    _refuse_unknown(options, CNN_OPTIONS, f"{task}: its CNN")
    channels = list(options["output_channels"])

    def per_layer(name: str, default: Any) -> list[Any]:
        value = options.get(name, default)
        return list(value) if isinstance(value, (list, tuple)) else [value] * len(channels)

    for name, plain in (("dilation", 1), ("norm", "none"), ("max_pool", False), ("flatten", True)):
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
        activation=activation_from_rsl_rl(options.get("activation", "elu")).upper(),
        pooling="spatial_softmax" if options.get("spatial_softmax") else _POOLINGS[options.get("global_pool", "none")],
        softmax_temperature=options.get("spatial_softmax_temperature", 1.0),
        features=None,
    )


def _refuse_unknown(options: Mapping[str, Any], known: Iterable[str], subject: str) -> None:
    if unknown := sorted(set(options) - set(known)):
        raise UserError(f"{subject} has the options {unknown}, which have no counterpart here: remove them.")
