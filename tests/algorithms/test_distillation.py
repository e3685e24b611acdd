"""Distillation: whose labels, of which observations, in which order, and with which gradients."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from imitation_cases import STEPS, built, collect, saved_teacher
from RoboRenForce import algorithms, components, networks, runners
from RoboRenForce.algorithms import RunContext, Transition
from RoboRenForce.algorithms.functional.imitation_loss import imitation_loss
from RoboRenForce.components.distributions import Categorical, DiagGaussian
from RoboRenForce.components.teacher import TeacherLabels
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs import GroupVecCfg
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.interop.rsl_rl_checkpoint import save_rsl_rl_checkpoint
from RoboRenForce.interop.rsl_rl_teacher import RslRlTeacherCfg
from RoboRenForce.utils.errors import CheckpointError, SpecMismatch
from small_runs import check_same, ppo_cfg, scripted

pytestmark = pytest.mark.oracle

PRIVILEGED = {"actor": ["critic"], "critic": ["critic"]}


def cfg(**options: Any) -> algorithms.DistillationCfg:
    return algorithms.DistillationCfg(**{"gradient_length": 3, "learning_rate": 1e-2, **options})


# --- the teacher -----------------------------------------------------------------------------------------------------


def test_labels_are_the_modes_of_the_teacher_at_its_own_observations(tmp_path: Path) -> None:
    teacher = saved_teacher(tmp_path, scripted(), obs_groups=PRIVILEGED)
    env = scripted()
    learner = built(cfg(), env, components.TeacherCfg(checkpoint=str(tmp_path)))
    assert learner.student.groups == ("policy",) and learner.schema.fields.keys().isdisjoint({"obs/critic"})
    for t, step in enumerate(collect(learner, env)):
        expected = teacher.algorithm.actor({"critic": step.obs["critic"]})[0].mode
        torch.testing.assert_close(learner.buffer.rows["teacher_action"][t], expected)
    loaded = learner.teacher.loaded()
    assert not loaded.training and not any(p.requires_grad for p in loaded.parameters())
    before = deepcopy(loaded.state_dict())
    learner.train()
    learner.update()
    check_same(dict(loaded.state_dict()), dict(before))  # weights and statistics alike
    assert not any(name.startswith("teacher") for name in learner.state_dict()["networks"])


def test_a_recurrent_teacher_forgets_where_an_episode_ended(tmp_path: Path) -> None:
    saved = saved_teacher(tmp_path, scripted(), networks.RNNCfg(hidden_size=4))
    env = scripted()
    learner, state = built(cfg(), env, components.TeacherCfg(checkpoint=str(tmp_path))), None
    start, actor = torch.ones(4, dtype=torch.bool), saved.algorithm.actor
    ended = 0
    for _ in range(2):
        for t, step in enumerate(collect(learner, env)):
            distribution, state = actor({"policy": step.obs["policy"]}, state, start)
            torch.testing.assert_close(learner.buffer.rows["teacher_action"][t], distribution.mode)
            start, ended = step.done != 0, ended + int(step.done.sum())
        learner.update()
    assert ended > 0


def test_a_recurrent_teacher_begins_anew_after_a_row_has_waited_for_its_group(tmp_path: Path) -> None:
    saved = saved_teacher(tmp_path, scripted(), networks.RNNCfg(hidden_size=4))
    obs, nobody = scripted().get_observations(), torch.zeros(4)
    labels = TeacherLabels(components.TeacherCfg(checkpoint=str(tmp_path)), scripted().spec, torch.device("cpu"))
    first = labels.label(obs)
    torch.testing.assert_close(first, saved.algorithm.actor({"policy": obs["policy"]}, torch.zeros(1, 4, 4))[0].mode)
    labels.end_step(torch.tensor([1.0, 0.0, 0.0, 0.0]), torch.ones(4, dtype=torch.bool))
    labels.label(obs)
    labels.end_step(nobody, torch.tensor([False, True, True, True]))
    after = labels.label(obs)
    torch.testing.assert_close(after[0], first[0])
    assert not torch.allclose(after[1:], first[1:])


def test_a_teacher_that_learned_in_blocks_is_its_leader(tmp_path: Path) -> None:
    blocks = ScriptedEnvCfg(num_envs=4, groups=GroupVecCfg(num_blocks=2, observe_blocks=True))
    policy = algorithms.sapg_policy(ppo_cfg().policy, 3)
    run = runners.SAPGOnPolicyRunnerCfg.extending(
        ppo_cfg(), policy=policy, algorithm=algorithms.SAPGPPOCfg(num_mini_batches=2)
    )
    saved = run.build(env=blocks.build(), log_dir=tmp_path)
    saved.learn(1)
    env = scripted()
    teacher = components.TeacherCfg(checkpoint=str(tmp_path)).build(spec=env.spec)
    obs = env.get_observations()
    torch.testing.assert_close(teacher(obs)[0], saved.policy()(obs))


def test_a_checkpoint_of_rsl_rl_teaches_the_same(tmp_path: Path) -> None:
    saved = saved_teacher(tmp_path / "ours", scripted())
    pack = saved.algorithm.networks
    save_rsl_rl_checkpoint(tmp_path / "model_9.pt", pack, {}, 9)
    env = scripted()
    same = RslRlTeacherCfg(
        checkpoint=str(tmp_path / "model_9.pt"), actor_cfg=saved.cfg.policy.actor_cfg, reads=["policy"]
    )
    learner = built(cfg(), env, same)
    step = collect(learner, env)[0]
    expected = saved.algorithm.actor({"policy": step.obs["policy"]})[0].mode
    torch.testing.assert_close(learner.buffer.rows["teacher_action"][0], expected)
    with pytest.raises(CheckpointError, match="is no rsl_rl 5 checkpoint"):
        RslRlTeacherCfg(checkpoint=str(tmp_path / "ours/model_1.pt")).build(spec=env.spec)


def test_a_teacher_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    env = scripted()
    learner = built(cfg(), env, components.TeacherCfg())
    with pytest.raises(ConfigError, match=r"policy\.teacher_cfg\.checkpoint=PATH"):
        collect(learner, env)
    saved_teacher(tmp_path, scripted(), obs_groups=PRIVILEGED)
    other = components.TeacherCfg(checkpoint=str(tmp_path), groups={"critic": "policy"})
    with pytest.raises(SpecMismatch, match=r"reads 'critic' .* name the group that holds it"):
        collect(built(cfg(), env, other), env)
    # A student that is only played needs no teacher.
    assert learner.policy()(env.get_observations()).shape == (4, *env.spec.action.shape)


# --- the loss and its gradients --------------------------------------------------------------------------------------


def test_the_distances_are_what_they_say() -> None:
    mean, label = torch.tensor([[0.0, 2.0], [1.0, 1.0]]), torch.tensor([[0.5, 0.0], [1.0, 0.0]])
    normal = DiagGaussian(mean, torch.tensor([1.0, 1.0]))
    assert imitation_loss(normal, label, "mse").tolist() == [(0.25 + 4.0) / 2, 0.5]
    assert imitation_loss(normal, label, "huber").tolist() == [(0.125 + 1.5) / 2, 0.25]
    torch.testing.assert_close(imitation_loss(normal, label, "nll"), -normal.log_prob(label))
    choice = Categorical(torch.tensor([[0.0, 1.0]]))
    assert float(imitation_loss(choice, torch.tensor([1]), "nll")) == pytest.approx(0.313262, abs=1e-6)
    with pytest.raises(ValueError, match="use loss='nll'"):
        imitation_loss(choice, torch.tensor([1]), "mse")


def unrolled(learner: Any, steps: list[Any], state: Any, first: int, last: int) -> tuple[torch.Tensor, Any]:
    """Mean error of the steps `first` to `last`, one by one, and the state after them."""
    errors = []
    for t in range(first, last):
        start = learner.buffer.rows["start"][t]
        distribution, state = learner.student({"policy": steps[t].obs["policy"]}, state, start)
        errors.append((distribution.mode - learner.buffer.rows["teacher_action"][t]).square().mean(-1))
    return torch.stack(errors).mean(), state


def test_gradients_are_those_of_truncated_sequences_from_the_state_of_the_rollout(tmp_path: Path) -> None:
    """8 steps in parts of 3: gradients of 0-2, 3-5 and the rest 6-7, each from the detached state before it."""
    saved_teacher(tmp_path, scripted(), obs_groups=PRIVILEGED)
    env = scripted()
    # Steps so small that the weights stay as they are.
    learner = built(cfg(learning_rate=1e-12), env, components.TeacherCfg(checkpoint=str(tmp_path)))
    collect(learner, env)
    learner.update()
    state = learner.collector.state.clone()
    assert state.abs().sum() > 0  # the next rollout begins in the middle of episodes
    steps = collect(learner, env)
    assert any(step.done.any() for step in steps)
    expected = []
    for first, last in ((0, 3), (3, 6), (6, STEPS)):
        loss, after = unrolled(learner, steps, state, first, last)
        expected.append((loss.detach(), torch.autograd.grad(loss, learner.optimizer.params)))
        state = after.detach()
    found = []
    original = learner.optimizer.backward

    def backward(loss: torch.Tensor) -> None:
        original(loss)
        grads = learner.optimizer._views_of(learner.optimizer._grad)
        found.append((loss.detach(), tuple(grad.clone() for grad in grads)))

    learner.optimizer.backward = backward
    learner._learn()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_every_pass_begins_with_the_state_of_the_rollout(tmp_path: Path) -> None:
    saved_teacher(tmp_path, scripted())
    env = scripted()
    options = {"learning_rate": 1e-12, "num_learning_epochs": 2, "num_mini_batches": 2}
    learner = built(cfg(**options), env, components.TeacherCfg(checkpoint=str(tmp_path)))
    collect(learner, env)
    learner.update()
    collect(learner, env)
    found = []
    original = learner.loss
    learner.loss = lambda batch, state: (found.append(original(batch, state)), found[-1])[1]
    learner._learn()
    losses = [float(loss) for loss, _ in found]
    assert len(losses) == 2 * 2 * 3 and losses[:6] == pytest.approx(losses[6:], rel=1e-5)


def test_a_student_may_read_images(tmp_path: Path) -> None:
    saved_teacher(tmp_path, scripted(), obs_groups=PRIVILEGED)
    env = ScriptedEnvCfg(num_envs=4).build()
    spec, shape = env.spec, (16, 16, 3)
    groups = {**spec.obs_groups, "camera": shape}
    seen = replace(spec, obs_groups=groups, obs_dtypes={"camera": "uint8"})
    cnn = networks.CNNCfg(channels=[4], kernel_sizes=[4], strides=[2], features=8)
    student = components.StateIndStdActorCfg(
        backbone_cfg=networks.MLPCfg(hidden_features=[8]), cnn_cfg=cnn, init_std=0.1, learn_std=False
    )
    policy = components.StudentTeacherCfg(
        student_cfg=student, teacher_cfg=components.TeacherCfg(checkpoint=str(tmp_path))
    )
    context = RunContext(seen, torch.device("cpu"), STEPS, 10, {"actor": ["camera"]})
    learner: Any = cfg(num_learning_epochs=20).build(policy=policy, context=context)

    def look(obs: Any) -> Any:
        picture = (obs["critic"][:, :1] * 40).clamp(0, 255).to(torch.uint8).view(-1, 1, 1, 1).expand(-1, *shape)
        return obs.clone().set("camera", picture)

    obs = look(env.get_observations())
    losses = []
    for _ in range(3):
        for _ in range(STEPS):
            out = learner.act(obs)
            after, reward, done, extras = env.step(out.action)
            extras = {**extras, "final_observations": look(extras["final_observations"])}
            step = Transition.of_step(obs, out.action, out.record, (look(after), reward, done, extras))
            learner.process_env_step(step)
            obs = look(after)
        losses.append(float(learner.update()["Loss/imitation"]))
    assert losses[-1] < losses[0]


# --- DAgger ----------------------------------------------------------------------------------------------------------


def test_beta_is_the_share_of_the_teachers_actions_and_follows_its_schedule(tmp_path: Path) -> None:
    saved_teacher(tmp_path, scripted(num_envs=64))
    teacher = components.TeacherCfg(checkpoint=str(tmp_path))
    env = scripted(num_envs=64)
    learner = built(cfg(beta=0.5, beta_decay=0.5, final_beta=0.1), env, teacher)
    steps = collect(learner, env)
    taught = [(step.action == step.record["teacher_action"]).all(-1).float().mean() for step in steps]
    assert float(torch.stack(taught).mean()) == pytest.approx(0.5, abs=0.1)
    betas = [float(learner.update()["Policy/beta"])]
    for _ in range(3):
        collect(learner, env)
        betas.append(float(learner.update()["Policy/beta"]))
    assert betas == pytest.approx([0.5, 0.25, 0.125, 0.1])
    linear = built(cfg(beta=1.0, beta_schedule="linear", beta_updates=4), env, teacher)
    step = collect(linear, env)[0]
    torch.testing.assert_close(step.action, step.record["teacher_action"])
    found = [float(linear.update()["Policy/beta"])]
    for _ in range(5):
        collect(linear, env)
        found.append(float(linear.update()["Policy/beta"]))
    assert found == pytest.approx([1.0, 0.75, 0.5, 0.25, 0.0, 0.0])
    with pytest.raises(ConfigError, match="above beta"):
        cfg(final_beta=0.5).validate()


def test_the_learning_rate_goes_down_over_the_run(tmp_path: Path) -> None:
    saved_teacher(tmp_path, scripted())
    env = scripted()
    learner = built(
        cfg(schedule="linear", learning_rate=1e-2, min_lr=5e-3), env, components.TeacherCfg(checkpoint=str(tmp_path))
    )
    found = []
    for _ in range(3):  # of ten
        collect(learner, env)
        found.append(float(learner.update()["Loss/learning_rate"]))
    assert found == pytest.approx([1e-2, 9.5e-3, 9e-3])
    with pytest.raises(ConfigError, match="above learning_rate"):
        cfg(schedule="linear", min_lr=1.0).validate()


@pytest.mark.parametrize("beta", [0.0, 0.5])
def test_a_resumed_run_goes_on_bit_for_bit(tmp_path: Path, beta: float) -> None:
    saved_teacher(tmp_path / "teacher", scripted(), networks.RNNCfg(hidden_size=4))
    policy = components.StudentTeacherCfg(
        student_cfg=components.StateIndStdActorCfg(
            backbone_cfg=networks.RNNCfg(hidden_size=4), init_std=0.1, learn_std=False
        ),
        teacher_cfg=components.TeacherCfg(checkpoint=str(tmp_path / "teacher")),
    )
    run = ppo_cfg(policy=policy, algorithm=cfg(beta=beta), max_iterations=6, save_interval=3)
    straight = run.build(env=scripted(), log_dir=tmp_path / "straight")
    straight.learn()
    resumed = run.build(env=scripted(), log_dir=tmp_path / "resumed")
    resumed.load(tmp_path / "straight/model_3.pt")
    resumed.learn()
    check_same(resumed.algorithm.state_dict(), straight.algorithm.state_dict())


# --- as a regularizer ------------------------------------------------------------------------------------------------


def test_the_distance_to_a_teacher_is_a_term_of_ppo(tmp_path: Path) -> None:
    saved_teacher(tmp_path, scripted(), obs_groups={"actor": ["critic"], "critic": ["critic"]})
    term = algorithms.TeacherDistanceCfg(
        teacher_cfg=components.TeacherCfg(checkpoint=str(tmp_path)), groups=["critic"], weight=0.3
    )
    sets = {"actor": ["policy"], "critic": ["policy"]}
    both = []
    for terms in ([], [term.replace(weight=0.0)], [term]):
        algorithm = algorithms.PPOCfg(num_learning_epochs=2, num_mini_batches=2, loss_terms=terms)
        runner = ppo_cfg(algorithm=algorithm, obs_groups=sets).build(env=scripted())
        runner.learn(2)
        both.append((runner.algorithm, runner.metrics))
    (plain, _), (without, _), (learner, metrics) = both
    check_same(without.state_dict(), plain.state_dict())
    assert metrics["Loss/teacher"] > 0
    batch = learner.buffer.flat(torch.arange(32))
    teacher = learner.loss_terms[0].teacher
    distance = (learner.actor(batch.obs)[0].mode - teacher(batch.obs)[0]).square().mean()
    torch.testing.assert_close(learner.loss_terms[0].loss(learner.actor, learner.critic, batch, 32), 0.3 * distance)
    wrong = algorithms.PPOCfg(num_mini_batches=2, loss_terms=[term.replace(groups=["policy"])])
    with pytest.raises(
        ConfigError, match=r"reads 'critic', which is not stored: name it in TeacherDistanceCfg\.groups"
    ):
        ppo_cfg(algorithm=wrong, obs_groups=sets).build(env=scripted()).learn(1)
