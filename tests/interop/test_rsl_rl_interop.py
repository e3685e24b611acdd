"""Our learner inside rsl_rl's own runner: same result, same checkpoints, and weights that move both ways."""

import copy

import pytest
import torch
from RoboRenForce import components, networks
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.interop.rsl_rl_checkpoint import (
    load_rsl_rl_checkpoint,
    load_rsl_rl_model,
    rsl_rl_model_state,
    save_rsl_rl_checkpoint,
)
from RoboRenForce.utils.errors import CheckpointError

pytestmark = pytest.mark.contract

rsl_runners = pytest.importorskip("rsl_rl.runners", reason="rsl-rl-lib is not installed")

MODEL = {"class_name": "rsl_rl.models:MLPModel", "hidden_dims": [16, 8], "activation": "elu", "obs_normalization": True}
GAUSSIAN = {"class_name": "rsl_rl.modules.distribution:GaussianDistribution", "init_std": 0.5}


RNN = {"class_name": "rsl_rl.models:RNNModel", "rnn_hidden_dim": 8}
RND = {
    "num_outputs": 4,
    "predictor_hidden_dims": [16],
    "target_hidden_dims": [12],
    "weight": 5.0,
    "state_normalization": True,
    "reward_normalization": True,
    "weight_schedule": {"mode": "linear", "initial_step": 4, "final_step": 20, "final_value": 0.01},
}
HETEROSCEDASTIC = "rsl_rl.modules.distribution:HeteroscedasticGaussianDistribution"
OURS, THEIRS = "RoboRenForce.interop.rsl_rl:PPO", "rsl_rl.algorithms:PPO"


def make_runner(class_name: str, log_dir=None, *, model=None, gaussian=None, runner=None, **algorithm):
    env = ScriptedEnvCfg(num_envs=8, seed=1).build()
    cfg = {
        "num_steps_per_env": 8,
        "save_interval": 1,
        "obs_groups": {"actor": ["policy"], "critic": ["critic"]},
        "algorithm": {"class_name": class_name, "num_mini_batches": 2, **copy.deepcopy(algorithm)},
        "actor": copy.deepcopy(MODEL) | (model or {}) | {"distribution_cfg": GAUSSIAN | (gaussian or {})},
        "critic": copy.deepcopy(MODEL) | (model or {}),
        "logger": "tensorboard",
    } | (runner or {})
    torch.manual_seed(0)
    return rsl_runners.OnPolicyRunner(env, cfg, None if log_dir is None else str(log_dir), "cpu")


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"model": RNN | {"rnn_type": "gru"}},
        {"model": RNN | {"rnn_type": "lstm"}},
        {"gaussian": {"std_type": "log", "init_std": 0.6, "std_range": (0.1, 0.55)}},
        {"gaussian": {"learn_std": False}},
    ],
    ids=["mlp", "gru", "lstm", "log_std", "fixed_std"],
)
def test_one_iteration_equals_rsl_rl(options):
    theirs, ours = make_runner(THEIRS, **options), make_runner(OURS, **options)
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
    assert again.alg.learner.optimizer.steps.item() == theirs.alg.optimizer.state_dict()["state"][0]["step"].item() + 10


def test_unknown_options_are_refused():
    with pytest.raises(ValueError, match="'no_such_option'"):
        make_runner("RoboRenForce.interop.rsl_rl:PPO", no_such_option=1)
    with pytest.raises(ValueError, match="Adam"):
        make_runner("RoboRenForce.interop.rsl_rl:PPO", optimizer="sgd")


def newest(folder):
    return str(max(folder.glob("model_*.pt"), key=lambda path: int(path.stem.removeprefix("model_"))))


def bare(state):
    """A state without what rsl_rl's RND does not save of itself."""
    return {name: value for name, value in state.items() if name != "rnd_progress"}


@pytest.mark.parametrize(
    "options",
    [{"rnd_cfg": RND}, {"gaussian": {"learn_std": False}}, {"model": RNN | {"rnn_type": "lstm"}}],
    ids=["rnd", "fixed_std", "lstm"],
)
def test_whole_checkpoints_are_read_by_either_side(tmp_path, options):
    ours, theirs = make_runner(OURS, tmp_path / "ours", **options), make_runner(THEIRS, tmp_path / "theirs", **options)
    for first, second in ((OURS, THEIRS), (THEIRS, OURS)):
        writer = {OURS: ours, THEIRS: theirs}[first]
        writer.learn(2)
        reader = make_runner(second, tmp_path / "read", **options)
        reader.load(newest(tmp_path / ("ours" if first == OURS else "theirs")))
        torch.testing.assert_close(bare(reader.alg.save()), bare(writer.alg.save()))
        reader.learn(1)
    assert ours.alg.learning_rate == pytest.approx(make_and_load(tmp_path, options).alg.learning_rate)


def make_and_load(tmp_path, options):
    again = make_runner(OURS, tmp_path / "again", **options)
    again.load(newest(tmp_path / "ours"))
    return again


def test_our_checkpoint_continues_the_schedule_of_rnd(tmp_path):
    ours = make_runner(OURS, tmp_path / "ours", rnd_cfg=RND)
    ours.learn(2)
    again = make_and_load(tmp_path, {"rnd_cfg": RND})
    assert again.alg.rnd.weight == ours.alg.rnd.weight == pytest.approx(0.1325)  # 16 of 20 steps from 5 * 0.1 s to 0.01


def test_a_checkpoint_without_rnd_is_refused_where_rnd_is_wanted(tmp_path):
    make_runner(OURS, tmp_path).learn(1)
    with_rnd = make_runner(OURS, rnd_cfg=RND)
    with pytest.raises(CheckpointError, match="rnd_state_dict"):
        with_rnd.load(newest(tmp_path))
    other = make_runner(THEIRS, tmp_path / "other", rnd_cfg=RND | {"num_outputs": 5})
    other.learn(1)
    with pytest.raises(CheckpointError, match=r"'predictor\.2\.weight' is \(5, 16\), expected \(4, 16\)"):
        with_rnd.load(newest(tmp_path / "other"))


def test_rsl_rl_logs_the_bonus(tmp_path):
    ours, theirs = (make_runner(name, tmp_path / name[:3], rnd_cfg=RND) for name in (OURS, THEIRS))
    for part in ("predictor", "target"):
        for mine, other in zip(
            getattr(ours.alg.learner.reward_terms[0], part).parameters(),
            getattr(theirs.alg.rnd, part).parameters(),
            strict=True,
        ):
            mine.data.copy_(other.data)
    for runner in (ours, theirs):
        torch.manual_seed(1)
        runner.learn(1)
    for name in ("irewbuffer", "erewbuffer", "rewbuffer"):
        expected = list(getattr(theirs.logger, name))
        assert expected and list(getattr(ours.logger, name)) == pytest.approx(expected, rel=1e-4)
    assert ours.alg.rnd.weight == pytest.approx(theirs.alg.rnd.weight, rel=1e-5)


def mirror(env, obs, actions):
    if obs is not None:
        obs = torch.cat([obs, obs.apply(torch.neg)])
    return obs, None if actions is None else torch.cat([actions, -actions])


def test_the_mirror_loss_is_logged_as_rsl_rl_does():
    symmetry = {"data_augmentation_func": mirror, "use_mirror_loss": True, "mirror_loss_coeff": 0.25}
    losses = []
    for name in (THEIRS, OURS):
        runner = make_runner(name, symmetry_cfg=symmetry)
        update = runner.alg.update
        runner.alg.update = lambda update=update: losses.append(update()) or losses[-1]
        torch.manual_seed(1)
        runner.learn(1)
    assert losses[1] == pytest.approx(losses[0], rel=1e-4, abs=1e-6)
    augmented = make_runner(OURS, symmetry_cfg={"data_augmentation_func": mirror, "use_data_augmentation": True})
    augmented.learn(1)
    assert "symmetry" not in augmented.alg.update()  # it is not computed, so no zero is logged


def test_statistics_stay_in_the_tensors_that_a_captured_graph_reads():
    runner = make_runner(OURS)
    places = {name: value.data_ptr() for name, value in runner.alg.actor.obs_normalizer.named_buffers()}
    before = {name: value.clone() for name, value in runner.alg.actor.obs_normalizer.named_buffers()}
    runner.learn(1)
    for name, value in runner.alg.actor.obs_normalizer.named_buffers():
        assert value.data_ptr() == places[name] and (value != before[name]).any(), name
    runner.alg.eval_mode()
    count = runner.alg.actor.obs_normalizer.count.clone()
    runner.alg.learner.rollout.update_normalizers(runner.env.get_observations())
    assert runner.alg.actor.obs_normalizer.count == count


def test_intrinsic_rewards_read_the_groups_that_rsl_rl_would_choose():
    with pytest.warns(UserWarning, match="rnd_state"):
        runner = make_runner(OURS, rnd_cfg=RND, runner={"obs_groups": {"actor": ["critic"], "critic": ["critic"]}})
    assert runner.alg.learner.reward_terms[0].groups == ["policy"]


def test_the_compile_mode_and_the_configuration_of_the_runner():
    runner = make_runner(OURS)
    assert runner.cfg["actor"]["distribution_cfg"]["class_name"] == GAUSSIAN["class_name"]  # nothing is taken out
    with pytest.raises(ValueError, match="torch_compile_mode"):
        make_runner(OURS, runner={"torch_compile_mode": "max-autotune-no-cudagraphs"})


class OtherForward(pytest.importorskip("rsl_rl.models").MLPModel):
    def forward(self, *args, **kwargs):
        return super().forward(*args, **kwargs) * 2


class OtherLatent(pytest.importorskip("rsl_rl.models").RNNModel):
    def get_latent(self, *args, **kwargs):
        return super().get_latent(*args, **kwargs) * 2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"gaussian": {"class_name": HETEROSCEDASTIC}}, "HeteroscedasticGaussianDistribution"),
        ({"model": {"class_name": OtherForward}}, "OtherForward"),
        ({"model": {"class_name": OtherLatent}}, "OtherLatent"),
    ],
)
def test_models_that_compute_something_else_are_refused(options, sentence):
    with pytest.raises(ValueError, match=sentence):
        make_runner(OURS, **options)


def make_networks(hidden: list[int], actor=components.StateIndStdActorCfg, backbone=None, **actor_options):
    def mlp() -> networks.MLPCfg:
        return networks.MLPCfg(hidden_features=hidden, activations="ELU")

    cfg = components.ActorCriticPackCfg(
        actor_cfg=actor(backbone_cfg=backbone or mlp(), init_std=0.5, **actor_options),
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


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"actor": components.StateDepStdActorCfg}, "the distribution of StateDepStdActor"),
        ({"backbone": networks.MLPCfg(hidden_features=[16, 8], layer_norm=True)}, r"backbone\.layers\.1\.weight"),
        ({"backbone": networks.RNNCfg(hidden_size=8, shortcut=True)}, "shortcut"),
        ({"backbone": networks.MLPCfg(hidden_features=[8], activations="PReLU")}, r"backbone\.layers\.1\.weight"),
        ({"normalizer_cfg": components.EmpiricalNormalizerCfg(clip=5.0)}, "EmpiricalNormalizer with other settings"),
        ({"normalizer_cfg": components.EmpiricalNormalizerCfg(eps=1e-4)}, "EmpiricalNormalizer with other settings"),
    ],
)
def test_networks_that_would_act_otherwise_in_rsl_rl_are_refused(tmp_path, options, part):
    ours = make_networks([16, 8], **options)
    with pytest.raises(CheckpointError, match=part):
        save_rsl_rl_checkpoint(tmp_path / "model.pt", ours, {}, iteration=0)
    assert not (tmp_path / "model.pt").exists()
    with pytest.raises(CheckpointError, match=part):
        load_rsl_rl_model(rsl_rl_model_state(make_networks([16, 8]).actor), ours.actor)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_weights_move_both_ways(tmp_path, cell):
    theirs = make_runner(THEIRS, tmp_path, model=RNN | {"rnn_type": cell})
    theirs.learn(1)
    head = networks.MLPCfg(hidden_features=[16, 8], activations="ELU")
    ours = make_networks([16, 8], backbone=networks.RNNCfg(cell=cell, hidden_size=8, num_layers=1, head_cfg=head))
    load_rsl_rl_model(theirs.alg.actor.state_dict(), ours.actor)
    obs, policy, state = theirs.env.get_observations(), theirs.get_inference_policy(), None
    policy.reset()
    for _ in range(3):
        distribution, state = ours.actor(obs, state)
        torch.testing.assert_close(distribution.mode, policy(obs), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(rsl_rl_model_state(ours.actor), dict(theirs.alg.actor.state_dict()))
