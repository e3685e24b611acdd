"""rsl_rl's own runner drives our environments, without an adapter in between."""

from __future__ import annotations

import pytest
import torch

rsl_runners = pytest.importorskip("rsl_rl.runners")
pytest.importorskip("mujoco")

from RoboRenForce.envs import GroupVecCfg, ScriptedEnvCfg  # noqa: E402
from RRF_gym_tasks import GymEnvCfg  # noqa: E402

pytestmark = pytest.mark.contract

STEPS = 8


def train_cfg(**algorithm):
    model = {
        "class_name": "rsl_rl.models:MLPModel",
        "hidden_dims": [16],
        "activation": "elu",
        "obs_normalization": True,
    }
    gaussian = {"class_name": "rsl_rl.modules.distribution:GaussianDistribution", "init_std": 0.5}
    return {
        "num_steps_per_env": STEPS,
        "save_interval": 100,
        "algorithm": {"class_name": "rsl_rl.algorithms:PPO", "rnd_cfg": None, "symmetry_cfg": None, **algorithm},
        "actor": {**model, "distribution_cfg": gaussian},
        "critic": dict(model),
        "obs_groups": {"actor": ["policy"], "critic": ["policy"]},
        "logger": "tensorboard",
    }


@pytest.mark.parametrize("env_id", ["HalfCheetah-v5", "Pendulum-v1"])
def test_two_iterations_change_the_policy(env_id):
    env = GymEnvCfg(env_id=env_id, num_envs=4).build()
    runner = rsl_runners.OnPolicyRunner(env, train_cfg(), log_dir=None, device="cpu")
    before = [parameter.clone() for parameter in runner.alg.actor.parameters()]
    runner.learn(2, init_at_random_ep_len=True)
    assert runner.current_learning_iteration == 1
    assert all((old != new).any() for old, new in zip(before, runner.alg.actor.parameters(), strict=True))


def test_intrinsic_rewards_find_the_length_of_a_step():
    env = GymEnvCfg(env_id="Pendulum-v1", num_envs=4).build()
    rnd = {"weight": 1.0, "num_outputs": 2, "predictor_hidden_dims": [8], "target_hidden_dims": [8]}
    cfg = train_cfg(rnd_cfg=rnd)
    cfg["obs_groups"]["rnd_state"] = ["policy"]
    runner = rsl_runners.OnPolicyRunner(env, cfg, log_dir=None, device="cpu")
    assert runner.alg.rnd.initial_weight == pytest.approx(1.0 * 0.05)  # rsl_rl scales by the 0.05 s of a Pendulum step


@pytest.mark.parametrize(
    "build",
    [
        lambda: ScriptedEnvCfg(num_envs=4, script=[["terminated@3", "time_out@5"]], extras=[]).build(),
        lambda: GroupVecCfg(num_blocks=2).build(ScriptedEnvCfg(num_envs=4).build()),
        lambda: GymEnvCfg(env_id="Hopper-v5", num_envs=4).build(),
    ],
    ids=["scripted", "blocks", "gym"],
)
def test_it_stores_the_observations_that_it_acted_on(build):
    """rsl_rl keeps a reference over the next step and copies afterwards: it must not be overwritten until then."""
    env, twin = build(), build()
    runner = rsl_runners.OnPolicyRunner(env, train_cfg(), log_dir=None, device="cpu")
    storage = runner.alg.storage
    stored = []
    clear = storage.clear

    def keep():
        stored.append((storage.observations["policy"].clone(), storage.actions.clone(), storage.dones.clone()))
        clear()

    storage.clear = keep
    runner.learn(1)
    observations, actions, dones = stored[0]
    obs = twin.get_observations()
    for step in range(STEPS):
        assert torch.equal(observations[step], obs["policy"])
        obs, _, done, _ = twin.step(actions[step])
        assert torch.equal(dones[step].squeeze(-1).long(), done)
