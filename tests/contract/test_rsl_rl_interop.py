"""Our learner inside rsl_rl's own runner: same result, same checkpoints, and weights that move both ways."""

import copy

import pytest
import torch
from RoboRenForce import components, networks
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.interop.rsl_rl_checkpoint import load_rsl_rl_checkpoint, rsl_rl_model_state, save_rsl_rl_checkpoint
from RoboRenForce.utils.errors import CheckpointError

rsl_runners = pytest.importorskip("rsl_rl.runners", reason="rsl-rl-lib is not installed")

MODEL = {"class_name": "rsl_rl.models:MLPModel", "hidden_dims": [16, 8], "activation": "elu", "obs_normalization": True}
GAUSSIAN = {"class_name": "rsl_rl.modules.distribution:GaussianDistribution", "init_std": 0.5}


def make_runner(class_name: str, log_dir=None, **algorithm):
    env = ScriptedEnvCfg(num_envs=8, seed=1).build()
    cfg = {
        "num_steps_per_env": 8,
        "save_interval": 1,
        "obs_groups": {"actor": ["policy"], "critic": ["critic"]},
        "algorithm": {"class_name": class_name, "num_mini_batches": 2, **algorithm},
        "actor": copy.deepcopy(MODEL) | {"distribution_cfg": dict(GAUSSIAN)},
        "critic": copy.deepcopy(MODEL),
        "logger": "tensorboard",
    }
    torch.manual_seed(0)
    return rsl_runners.OnPolicyRunner(env, cfg, None if log_dir is None else str(log_dir), "cpu")


def test_one_iteration_equals_rsl_rl():
    theirs, ours = make_runner("rsl_rl.algorithms:PPO"), make_runner("RoboRenForce.interop.rsl_rl:PPO")
    for runner in (theirs, ours):
        torch.manual_seed(1)
        runner.learn(1)
    expected, found = theirs.alg.save(), ours.alg.save()
    assert set(found) == set(expected)
    for model in ("actor_state_dict", "critic_state_dict"):
        assert list(found[model]) == list(expected[model])
        for name, value in expected[model].items():
            torch.testing.assert_close(
                found[model][name], value, rtol=1e-4, atol=2e-6, msg=lambda t, n=name: f"{n}: {t}"
            )
    assert ours.alg.learning_rate == pytest.approx(theirs.alg.learning_rate, rel=1e-6)


def test_a_checkpoint_of_ours_continues_in_rsl_rl_and_back(tmp_path):
    ours = make_runner("RoboRenForce.interop.rsl_rl:PPO", tmp_path)
    ours.learn(2)
    path = str(sorted(tmp_path.glob("model_*.pt"))[-1])
    theirs = make_runner("rsl_rl.algorithms:PPO", tmp_path / "theirs")
    theirs.load(path)
    obs = theirs.env.get_observations()
    torch.testing.assert_close(theirs.get_inference_policy()(obs), ours.get_inference_policy()(obs))
    theirs.learn(1)
    path = str(sorted((tmp_path / "theirs").glob("model_*.pt"))[-1])
    again = make_runner("RoboRenForce.interop.rsl_rl:PPO", tmp_path / "again")
    again.load(path)
    assert again.alg.learning_rate == pytest.approx(theirs.alg.learning_rate)
    again.learn(1)
    assert again.alg.learner.optimizer.step.item() == theirs.alg.optimizer.state_dict()["state"][0]["step"].item() + 10


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="'no_such_option'"):
        make_runner("RoboRenForce.interop.rsl_rl:PPO", no_such_option=1)
    with pytest.raises(ValueError, match="Adam"):
        make_runner("RoboRenForce.interop.rsl_rl:PPO", optimizer="sgd")


def make_networks(hidden: list[int]) -> components.ActorCriticPackCfg:
    def mlp() -> networks.MLPCfg:
        return networks.MLPCfg(hidden_features=hidden, activations="ELU")

    cfg = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=mlp(), init_std=0.5),
        critic_cfg=components.VNetworkCfg(backbone_cfg=mlp()),
    )
    spec = ScriptedEnvCfg(num_envs=8).build().spec
    return cfg.build(spec=spec, obs_groups={"actor": ["policy"], "critic": ["critic"]})


def test_rsl_rl_weights_act_the_same_in_our_networks(tmp_path):
    theirs = make_runner("rsl_rl.algorithms:PPO", tmp_path)
    theirs.learn(1)
    path = sorted(tmp_path.glob("model_*.pt"))[-1]
    ours = make_networks([16, 8])
    load_rsl_rl_checkpoint(path, ours)
    obs = theirs.env.get_observations()
    torch.testing.assert_close(ours.actor(obs)[0].mode, theirs.get_inference_policy()(obs), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ours.critic(obs)[0], theirs.alg.critic(obs).squeeze(-1), rtol=1e-5, atol=1e-6)
    for name, value in theirs.alg.actor.state_dict().items():
        torch.testing.assert_close(rsl_rl_model_state(ours.actor)[name], value, msg=name)
    save_rsl_rl_checkpoint(tmp_path / "back.pt", ours, theirs.alg.optimizer.state_dict(), iteration=3)
    fresh = make_runner("rsl_rl.algorithms:PPO", tmp_path / "fresh")
    fresh.load(str(tmp_path / "back.pt"))
    torch.testing.assert_close(fresh.get_inference_policy()(obs), theirs.get_inference_policy()(obs))


def test_a_checkpoint_of_other_layers_is_refused(tmp_path):
    theirs = make_runner("rsl_rl.algorithms:PPO", tmp_path)
    theirs.learn(1)
    path = sorted(tmp_path.glob("model_*.pt"))[-1]
    with pytest.raises(CheckpointError, match="only there"):
        load_rsl_rl_checkpoint(path, make_networks([16]))
    with pytest.raises(CheckpointError, match=r"\(16, 3\), expected \(32, 3\)"):
        load_rsl_rl_checkpoint(path, make_networks([32, 8]))
