"""The offline tasks have the settings that their pages and papers state: each is written down here a second time."""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import pytest
from RoboRenForce import components
from RoboRenForce.utils.registry import load_task

pytest.importorskip("RRF_d4rl_tasks")
pytest.importorskip("RRF_gym_tasks")

from RRF_d4rl_tasks.scores import NormalizedScoreCfg

pytestmark = pytest.mark.contract

ROBOTS: dict[str, Any] = {
    "max_iterations": 1000,
    "updates_per_iteration": 1000,
    "eval_interval": 10,
    "dataset.max_episode_length": 1000,
    "dataset.reward_mode": "none",
    "algorithm.batch_size": 256,
    "algorithm.gamma": 0.99,
    "policy.actor_cfg.backbone_cfg.layer_norm": False,
    "policy.actor_cfg.backbone_cfg.init": "default",
}
CLASSIC: dict[str, Any] = ROBOTS | {
    "max_iterations": 20,
    "eval_interval": 1,
    "dataset.max_episode_length": 200,
    "policy.actor_cfg.backbone_cfg.hidden_features": [64, 64],
}
CRITICS: dict[str, Any] = {
    "policy.critic_cfg.num_q": 2,
    "policy.critic_cfg.backbone_cfg.init": "default",
    "algorithm.tau": 0.005,
}
VALUES = CRITICS | {"algorithm.gamma": 0.95, "algorithm.tau": 0.02, "algorithm.actor_learning_rate": 1e-3}
VALUES |= {"algorithm.critic_learning_rate": 1e-3, "policy.critic_cfg.backbone_cfg.hidden_features": [64, 64]}
TD3 = {"algorithm.policy_delay": 2, "algorithm.target_noise": 0.2, "algorithm.target_noise_clip": 0.5}


def hidden(*sizes: int) -> dict[str, Any]:
    """Of actor and critics."""
    return {f"policy.{part}_cfg.backbone_cfg.hidden_features": list(sizes) for part in ("actor", "critic")}


def rates(actor: float, critic: float) -> dict[str, Any]:
    return {"algorithm.actor_learning_rate": actor, "algorithm.critic_learning_rate": critic}


def rebrac(actor_penalty: float, critic_penalty: float) -> dict[str, Any]:
    return {
        **(ROBOTS | CRITICS | TD3 | hidden(256, 256, 256) | rates(1e-3, 1e-3)),
        "algorithm.batch_size": 1024,
        "algorithm.policy_value": "min",
        "algorithm.actor_penalty": actor_penalty,
        "algorithm.critic_penalty": critic_penalty,
        "policy.critic_cfg.backbone_cfg.layer_norm": True,
        "policy.actor_cfg.normalizer_cfg": None,
        "policy.critic_cfg.normalizer_cfg": None,
    }


IQL = {"algorithm.expectile": 0.7, "algorithm.max_weight": 100.0, "algorithm.actor_final_learning_rate": 0.0}
IQL |= {"dataset.reward_mode": "normalize_by_return_range", "dataset.return_range": 1000.0}
IQL |= {"policy.actor_cfg.use_log_std": True}
NORM = {"policy.critic_cfg.backbone_cfg.layer_norm": True}
PLAIN = {"policy.critic_cfg.backbone_cfg.layer_norm": False}

SETTINGS: dict[str, dict[str, Any]] = {
    "HalfCheetah-BC": ROBOTS
    | {"algorithm.learning_rate": 3e-4, "policy.actor_cfg.backbone_cfg.hidden_features": [256, 256]},
    "HalfCheetah-IQL": ROBOTS
    | CRITICS
    | IQL
    | PLAIN
    | hidden(256, 256)
    | rates(3e-4, 3e-4)
    | {"algorithm.beta": 3.0, "policy.value_cfg.backbone_cfg.hidden_features": [256, 256]},
    "HalfCheetah-CQL": ROBOTS
    | CRITICS
    | PLAIN
    | hidden(256, 256, 256)
    | rates(3e-5, 3e-4)
    | {
        "algorithm.conservative_weight": 10.0,
        "algorithm.num_actions": 10,
        "algorithm.conservative_temperature": 1.0,
        "algorithm.backup_entropy": False,
        "algorithm.target_gap": None,
        "policy.actor_cfg.backbone_cfg.init": "orthogonal",
        "policy.critic_cfg.backbone_cfg.init": "orthogonal",
    },
    "HalfCheetah-TD3BC": ROBOTS
    | CRITICS
    | TD3
    | PLAIN
    | hidden(256, 256)
    | rates(3e-4, 3e-4)
    | {"algorithm.alpha": 2.5, "algorithm.policy_value": "first"},
    "HalfCheetah-ReBRAC": rebrac(0.001, 0.01),
    "Hopper-ReBRAC": rebrac(0.01, 0.01),
    "Walker2d-ReBRAC": rebrac(0.05, 0.1),
    "Pendulum-BC": CLASSIC | {"algorithm.learning_rate": 1e-3},
    "Pendulum-IQL": CLASSIC
    | VALUES
    | IQL
    | NORM
    | {"algorithm.beta": 10.0, "policy.value_cfg.backbone_cfg.layer_norm": True},
    "Pendulum-CQL": CLASSIC | VALUES | PLAIN | {"algorithm.conservative_weight": 5.0, "algorithm.num_actions": 4},
    "Pendulum-TD3BC": CLASSIC | VALUES | NORM | {"algorithm.alpha": 3.5},
    "Pendulum-ReBRAC": CLASSIC
    | VALUES
    | NORM
    | {"algorithm.actor_penalty": 0.3, "algorithm.critic_penalty": 0.01, "algorithm.batch_size": 256},
}
ENVS = {"HalfCheetah": "HalfCheetah-v5", "Hopper": "Hopper-v5", "Walker2d": "Walker2d-v5", "Pendulum": "Pendulum-v1"}


@pytest.mark.parametrize("name", SETTINGS)
def test_a_task_has_the_settings_that_are_written_down(name: str) -> None:
    task = load_task(f"RoboRenForce-D4RL-{name}")
    cfg, words = task.runner_cfg, name.split("-")
    found = {path: attrgetter(path)(cfg) for path in SETTINGS[name]}
    assert found == SETTINGS[name]
    assert any(isinstance(callback, NormalizedScoreCfg) for callback in cfg.callbacks)
    assert task.env_cfg.env_id == ENVS[words[0]]
    source = "pendulum/mixed-v0" if words[0] == "Pendulum" else f"mujoco/{words[0].lower()}/medium-v0"
    assert cfg.dataset.source == source
    if "policy.actor_cfg.normalizer_cfg" not in SETTINGS[name]:
        assert isinstance(cfg.policy.actor_cfg.normalizer_cfg, components.EmpiricalNormalizerCfg)
    if words[1] == "IQL":
        assert cfg.policy.actor_cfg.backbone_cfg.activations[-1] == [("Tanh", {})]
    if words[1] == "CQL":
        assert isinstance(cfg.policy.actor_cfg, components.TanhGaussianActorCfg)


@pytest.mark.parametrize("algorithm", ["BC", "IQL", "CQL", "TD3BC"])
def test_robots_differ_in_their_data_and_environment_only(algorithm: str) -> None:
    parts = []
    for robot in ("HalfCheetah", "Hopper", "Walker2d"):
        cfg = load_task(f"RoboRenForce-D4RL-{robot}-{algorithm}").runner_cfg.to_dict()
        assert robot.lower() in cfg["dataset"].pop("source")
        parts.append(cfg)
    assert parts[0] == parts[1] == parts[2]
