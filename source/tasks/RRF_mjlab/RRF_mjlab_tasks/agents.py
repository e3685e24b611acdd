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


def _cnn(options: Mapping[str, Any], task: str) -> networks.CNNCfg:
    """rsl_rl's CNN options; where it pools by a spatial softmax, ours flattens."""
    return networks.CNNCfg(
        channels=list(options["output_channels"]),
        kernel_sizes=list(options["kernel_size"]),
        strides=list(options.get("stride", [1] * len(options["output_channels"]))),
        activation=options.get("activation", "elu").upper(),
        features=128,
    )
