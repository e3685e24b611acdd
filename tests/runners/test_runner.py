"""The runner: order of calls, statistics against plain re-computation, callbacks, NaN, signals, ignorance."""

from __future__ import annotations

import ast
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import RoboRenForce.runners
import torch
from RoboRenForce import runners
from RoboRenForce.algorithms import ActOut
from RoboRenForce.configclass import configclass
from RoboRenForce.envs.scripted_env import ScriptedEnv, ScriptedEnvCfg
from RoboRenForce.runners.metrics import to_host
from RoboRenForce.runners.nan_guard import NanGuard
from RoboRenForce.runners.statistics import EnvLog, EpisodeStatistics
from RoboRenForce.runners.stop_request import StopRequest
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.distributed import DistributedContext
from RoboRenForce.utils.errors import NonFiniteError
from RoboRenForce.utils.logging import read_metrics
from RoboRenForce.utils.run_dir import RunDir
from small_runs import BadEnv, CountingAlgorithm, CountingCfg, NoPolicyCfg, counting_cfg, ppo_cfg, scripted
from stepping import stepped
from tensordict import TensorDict

pytestmark = pytest.mark.contract

CPU = torch.device("cpu")


# ------------------------------------------------------------------------------------------------------- the loop


def test_every_iteration_acts_and_records_each_step_and_then_updates() -> None:
    runner = counting_cfg(num_steps_per_env=2, max_iterations=2).build(env=scripted())
    runner.learn()
    assert runner.algorithm.calls == (["act", "process_env_step"] * 2 + ["update"]) * 2


def test_the_algorithm_sees_every_observation_in_order() -> None:
    runner = counting_cfg(num_steps_per_env=4).build(env=scripted(num_envs=1, seed=7, script=[["terminated@3"]]))
    runner.learn(1)
    # Columns: start (100 * seed + episode), step of the episode, sum of actions.
    expected = [[700.0, 0.0], [700.0, 1.0], [700.0, 2.0], [701.0, 0.0]]
    assert [seen[0, :2].tolist() for seen in runner.algorithm.seen] == expected


def test_books_are_kept_before_the_tensors_of_a_step_are_written_again() -> None:
    """They wait for the next step; the contract lets environments reuse everything but observations at it."""
    rewards, actions, finals = [], [], []

    class Reusing(ScriptedEnv):
        kept: dict[str, Any] | None = None

        def step(self, actions_: torch.Tensor) -> Any:
            obs, reward, done, extras = super().step(actions_)
            new = {"reward": reward, "done": done, "final": extras["final_observations"]}
            self.kept = self.kept or {name: value.clone() for name, value in new.items()}
            for name, value in new.items():
                self.kept[name].copy_(value)
            rewards.append(reward.clone()), actions.append(actions_.clone()), finals.append(new["final"].clone())
            return obs, self.kept["reward"], self.kept["done"], {**extras, "final_observations": self.kept["final"]}

    env = Reusing(ScriptedEnvCfg(num_envs=2, script=[["time_out@3"], ["terminated@5"]]))
    runner: Any = ppo_cfg(num_steps_per_env=7).build(env=env)
    action = torch.zeros(2, *env.spec.action.shape)
    act = runner.algorithm.act

    def act_in_place(obs: Any) -> ActOut:
        out = act(obs)
        return ActOut(action.copy_(out.action), out.record)

    runner.algorithm.act = act_in_place
    obs = env.get_observations()
    for _ in range(7):
        obs = runner.step(obs)
    runner.log_step()
    assert torch.equal(runner.algorithm.stored_steps(7)["action"], torch.stack(actions))
    watched = {0: actions, 1: rewards, 4: [final["policy"] for final in finals]}
    for column, values in watched.items():
        ranges = torch.stack([torch.stack([value.min(), value.max()]) for value in values])
        assert torch.equal(runner.nan_guard._range[:, column], ranges)
    returns, count = runner.statistics.collect()["Train/mean_reward"]
    first = torch.stack(rewards)  # episodes that ended: 3 and 3 steps of environment 0, 5 of environment 1
    assert count == 3
    assert float(returns) == pytest.approx(float(first[:6, 0].sum() + first[:5, 1].sum()), rel=1e-5)


def test_the_algorithm_is_told_about_the_run() -> None:
    cfg = counting_cfg(num_steps_per_env=5, max_iterations=7, obs_groups={"actor": ["policy"]})
    context = cfg.build(env=scripted(num_envs=3)).algorithm.context
    assert (context.rollout_steps, context.max_updates, context.spec.num_envs) == (5, 7, 3)
    assert context.obs_groups == {"actor": ["policy"]}


def test_learn_goes_on_to_max_iterations_or_for_as_many_as_asked() -> None:
    runner = counting_cfg(max_iterations=3).build(env=scripted())
    runner.learn(2)
    assert runner.iteration == 2
    runner.learn()
    assert runner.iteration == 3
    runner.learn(4)
    assert runner.iteration == 7


def test_first_episodes_start_at_random_ages_only_if_asked() -> None:
    env = scripted(num_envs=64, max_episode_length=1000, script=[["time_out@1000"]])
    counting_cfg(num_steps_per_env=1, init_at_random_ep_len=False).build(env=env).learn(1)
    assert env.episode_length_buf.tolist() == [1] * 64
    env.reset()
    counting_cfg(num_steps_per_env=1, init_at_random_ep_len=True).build(env=env).learn(1)
    ages = env.episode_length_buf.float()
    runner = counting_cfg(num_steps_per_env=1, init_at_random_ep_len=True).build(env=env)
    runner.learn(1)
    before = env.episode_length_buf
    runner.learn(1)  # episodes go on, they do not get new ages
    going_on = before < 999
    assert torch.equal(env.episode_length_buf[going_on], before[going_on] + 1)
    assert 300 < ages.mean() < 700 and len(set(ages.tolist())) > 50


def test_weights_depend_on_the_seed_alone() -> None:
    def weights(seed: int) -> list[torch.Tensor]:
        torch.rand(seed + 3)  # what was drawn before does not matter
        return [p.detach().clone() for p in ppo_cfg(seed=seed).build(env=scripted()).policy().parameters()]

    assert all(torch.equal(a, b) for a, b in zip(weights(1), weights(1), strict=True))
    assert not torch.equal(weights(1)[-1], weights(2)[-1]) or not torch.equal(weights(1)[0], weights(2)[0])


class WarmUp(CountingAlgorithm):
    """Learns nothing from its first two steps."""

    def update(self) -> dict[str, torch.Tensor]:
        learned = super().update()
        return learned if len(self.rewards) > 2 else {}


class OneStepRunner(runners.EnvRunner):
    """The loop of off-policy learning: one step, then an update that may have nothing to do yet."""

    def learn(self, num_iterations: int | None = None) -> None:
        with self.session(num_iterations):
            obs = self.env.get_observations()
            while self.should_continue():
                self.timer.start()
                out = self.algorithm.act(obs)
                transition = stepped(obs, out, *self.env.step(out.action))
                self.algorithm.process_env_step(transition)
                obs = transition.reset_obs
                self.timer.lap("collection")
                self.end_iteration(self.algorithm.update(), env_steps=self.env.num_envs)


@configclass
class OneStepCfg(runners.EnvRunnerCfg):
    class_type: type = OneStepRunner


def test_another_kind_of_loop_fits_on_the_same_base(tmp_path: Path) -> None:
    cfg = OneStepCfg(policy=NoPolicyCfg(), algorithm=CountingCfg(class_type=WarmUp), logger=[], report=False)
    cfg.replace(max_iterations=5, save_interval=5).build(env=scripted(num_envs=2), log_dir=tmp_path).learn()
    assert read_metrics(tmp_path / "metrics.jsonl")["Loss/mean"][0] == [3, 4, 5]
    assert load_checkpoint(tmp_path / "model_5.pt")["runner"]["steps"] == 10


# ----------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize(("num_envs", "window", "probability"), [(3, 10, 0.2), (40, 16, 0.5), (200, 100, 0.9)])
def test_means_of_the_last_episodes_equal_a_plain_list(num_envs: int, window: int, probability: float) -> None:
    generator = torch.Generator().manual_seed(1)
    statistics = EpisodeStatistics(num_envs, 5, CPU, success=True, window=window)
    running = [[0.0, 0.0] for _ in range(num_envs)]
    episodes: list[tuple[float, float, float]] = []
    for _ in range(6):
        for _ in range(5):
            reward = torch.randn(num_envs, generator=generator)
            done = (torch.rand(num_envs, generator=generator) < probability).long()
            success = torch.rand(num_envs, generator=generator) < 0.3
            statistics.record(reward, done, success)
            for i in range(num_envs):
                running[i] = [running[i][0] + float(reward[i]), running[i][1] + 1]
                if done[i]:
                    episodes.append((*running[i], float(success[i])))
                    running[i] = [0.0, 0.0]
        last = episodes[-window:]
        means, _ = to_host({}, statistics.collect(), {}, DistributedContext(), CPU)
        for column, tag in enumerate(("Train/mean_reward", "Train/mean_episode_length", "Train/success_rate")):
            assert means[tag] == pytest.approx(sum(row[column] for row in last) / len(last), rel=1e-5, abs=1e-6)


def test_before_the_first_episode_ends_there_is_no_mean() -> None:
    statistics = EpisodeStatistics(2, 1, CPU)
    statistics.record(torch.ones(2), torch.zeros(2).long())
    assert to_host({}, statistics.collect(), {}, DistributedContext(), CPU)[0] == {}


def test_parts_of_episodes_are_not_counted() -> None:
    statistics = EpisodeStatistics(3, 4, CPU)
    statistics.restart(ages=torch.tensor([0, 2, 3]))
    for done in ([0, 1, 1], [1, 0, 0], [0, 0, 1], [0, 0, 0]):
        statistics.record(torch.ones(3), torch.tensor(done))
    means, _ = to_host({}, statistics.collect(), {}, DistributedContext(), CPU)
    # Environment 0 finished 2 steps, environment 2 its second episode of 2 steps; the two first parts do not count.
    assert means == {"Train/mean_reward": 2.0, "Train/mean_episode_length": 2.0}


def test_returns_of_a_scripted_run_are_those_worked_out_by_hand(tmp_path: Path) -> None:
    # Zero actions: reward 1 per step. Episodes of 3 and 5 steps alternate: after 8 steps both are over everywhere.
    counting_cfg(num_steps_per_env=8).build(env=scripted(), log_dir=tmp_path).learn(1)
    series = read_metrics(tmp_path / "metrics.jsonl")
    assert series["Train/mean_reward"][1] == [4.0]
    assert series["Train/mean_episode_length"][1] == [4.0]
    assert series["Train/total_steps"][1] == [32.0]
    assert series["Loss/mean"][1] == [1.0]
    assert series["Policy/updates"][1] == [1.0]


def test_environment_logs_are_averaged_over_the_steps_that_have_them() -> None:
    log, reused = EnvLog(), torch.tensor(1.0)
    log.record({"speed": reused, "Curriculum/level": 2.0})
    reused.fill_(5.0)  # the environment reuses its tensor
    log.record({"speed": reused, "Curriculum/level": 4.0})
    log.record({"speed": torch.tensor(torch.nan), "Curriculum/level": float("nan")})
    log.record({})
    log.record({"count": torch.tensor(3), "speed": torch.tensor(9.0)})
    ratios, numbers = log.collect()
    found, _ = to_host({}, {}, ratios, DistributedContext(), CPU)
    assert found == {"Episode/speed": 5.0, "Episode/count": 3.0}
    assert numbers == {"Curriculum/level": 3.0}
    assert log.collect() == ({}, {})


# ------------------------------------------------------------------------------------------------------------ NaN


@pytest.mark.parametrize(("where", "bad"), [("reward", [1]), ("obs", [2])])
def test_nan_from_the_environment_dumps_and_stops_before_learning(tmp_path: Path, where: str, bad: list[int]) -> None:
    env = BadEnv(ScriptedEnvCfg(num_envs=4))
    env.where = where
    runner = counting_cfg().build(env=env, log_dir=tmp_path)
    with pytest.raises(NonFiniteError, match=r"returned NaN or infinity in iteration 2 \(environments \[") as caught:
        runner.learn()
    assert runner.algorithm.calls.count("update") == 1
    dump = torch.load(tmp_path / "nan_dump_2_rank0.pt", weights_only=True)
    assert str(tmp_path / "nan_dump_2_rank0.pt") in str(caught.value)
    assert dump["bad_environments"] == bad
    assert dump["first_bad_step"] == 0 and not dump["action_is_bad"]
    assert dump["rollout"]["obs/policy"][1:3, 0].tolist() == [[1.0, 2.0, 0.0], [1.0, 3.0, 0.0]]
    assert dump["env"]["steps"].shape == (4,) and dump["algorithm"]["updates"] == 1


def test_a_policy_that_acts_nan_is_blamed_itself() -> None:
    spec = scripted(num_envs=2).spec
    guard = NanGuard(spec, 3, CPU)
    obs = TensorDict({"policy": torch.zeros(2, 3), "critic": torch.zeros(2, 4)}, batch_size=[2])
    extras = {"final_observations": obs}
    step = stepped(obs, ActOut(torch.zeros(2, 2)), obs, torch.zeros(2), torch.zeros(2).long(), extras)
    for _ in range(3):
        guard.watch(step)
    assert not guard.tripped()
    bad_action = ActOut(torch.tensor([[0.0, 0.0], [torch.nan, 0.0]]))
    bad = stepped(obs, bad_action, obs, torch.tensor([0.0, torch.inf]), torch.zeros(2).long(), extras)
    taken = [step, bad, step]
    for one in taken:
        guard.watch(one)
    assert guard.tripped()
    report = guard.report({"action": torch.stack([one.action for one in taken])})
    assert (report["first_bad_step"], report["bad_environments"], report["action_is_bad"]) == (1, [1], True)


@pytest.mark.parametrize(("value", "bad"), [(1e9, False), (-1e9, False), (1.1e10, True), (-1e30, True)])
def test_what_no_simulator_can_mean_counts_as_infinite(value: float, bad: bool) -> None:
    guard = NanGuard(scripted(num_envs=2).spec, 1, CPU)
    obs = TensorDict({"policy": torch.zeros(2, 3), "critic": torch.zeros(2, 4)}, batch_size=[2])
    obs["critic"][1, 2] = value
    out, extras = ActOut(torch.zeros(2, 2)), {"final_observations": obs}
    guard.watch(stepped(obs, out, obs, torch.zeros(2), torch.zeros(2).long(), extras))
    assert guard.tripped() == bad
    assert not bad or guard.report({})["bad_environments"] == [1]


def test_a_bad_last_observation_is_seen() -> None:
    spec = scripted(num_envs=2).spec
    guard = NanGuard(spec, 1, CPU)
    obs = TensorDict({"policy": torch.zeros(2, 3), "critic": torch.zeros(2, 4)}, batch_size=[2])
    final = obs.clone()
    final["policy"][1, 2] = torch.nan
    out, extras = ActOut(torch.zeros(2, 2)), {"final_observations": final}
    guard.watch(stepped(obs, out, obs, torch.zeros(2), torch.ones(2).long(), extras))
    assert guard.tripped() and guard.report({})["bad_environments"] == [1]


def test_nan_in_a_loss_stops_the_run_and_names_it() -> None:
    class Diverging(CountingAlgorithm):
        def update(self, data: Any = None) -> dict[str, torch.Tensor]:
            return {"value": torch.tensor(torch.nan)}

    cfg = counting_cfg()
    cfg.algorithm.class_type = Diverging
    with pytest.raises(NonFiniteError, match="Loss/value is nan; lower the learning rate"):
        cfg.build(env=scripted()).learn()


def test_nan_checks_can_be_turned_off() -> None:
    runner = counting_cfg(check_for_nan=False).build(env=BadEnv(ScriptedEnvCfg(num_envs=4)))
    runner.learn()
    assert runner.iteration == 3


# ------------------------------------------------------------------------------------------- callbacks and files


class Diary(runners.Callback):
    entries: list[Any] = []

    def on_start(self, runner: runners.Trainer) -> None:
        self.entries.append("start")

    def after_iteration(self, runner: runners.Trainer, metrics: dict[str, float]) -> None:
        self.entries.append((runner.iteration, metrics["Loss/mean"]))

    def on_end(self, runner: runners.Trainer) -> None:
        self.entries.append("end")


@configclass
class DiaryCfg(runners.CallbackCfg):
    class_type: type = Diary


def test_callbacks_of_the_configuration_are_called(tmp_path: Path) -> None:
    Diary.entries = []
    counting_cfg(callbacks=[DiaryCfg()]).build(env=scripted()).learn()
    assert Diary.entries == ["start", (1, 1.0), (2, 1.0), (3, 1.0), "end"]


class AddTwice(runners.Callback):
    def after_iteration(self, runner: runners.Trainer, metrics: dict[str, float]) -> None:
        metrics["Eval/twice"] = 2.0 * metrics["Eval/mean_reward"]


@configclass
class AddTwiceCfg(runners.CallbackCfg):
    class_type: type = AddTwice


def test_what_a_callback_makes_of_the_evaluation_is_logged(tmp_path: Path) -> None:
    cfg = counting_cfg(callbacks=[AddTwiceCfg()], eval_interval=1, max_iterations=1)
    cfg.build(env=scripted(), eval_env=scripted(), log_dir=tmp_path).learn()
    (line,) = [json.loads(text) for text in RunDir(tmp_path).metrics.read_text().splitlines()]
    assert line["Eval/twice"] == 2.0 * line["Eval/mean_reward"] != 0.0


def test_checkpoints_are_written_at_the_interval_and_at_the_end(tmp_path: Path) -> None:
    counting_cfg(max_iterations=5).build(env=scripted(), log_dir=tmp_path).learn()
    run = RunDir(tmp_path)
    assert list(run.checkpoints()) == [2, 4, 5]
    assert run.pointed("latest") == tmp_path / "model_5.pt"
    assert sorted(path.name for path in (tmp_path / "params").iterdir()) == ["agent.yaml", "run.yaml"]


def test_old_checkpoints_go_but_the_best_stays(tmp_path: Path) -> None:
    # The mean return falls: later episodes are shorter, so the first checkpoint stays the best.
    script = [["terminated@8"] * 3 + ["terminated@1"] * 1000]
    cfg = counting_cfg(num_steps_per_env=8, max_iterations=12, save_interval=1, keep_checkpoints=2)
    cfg.build(env=scripted(script=script), log_dir=tmp_path).learn()
    run = RunDir(tmp_path)
    assert run.pointed("best") == tmp_path / "model_1.pt"
    assert list(run.checkpoints()) == [1, 11, 12]


def test_evaluation_during_training_leaves_training_alone(tmp_path: Path) -> None:
    def trained(**changes: Any) -> tuple[Any, dict[str, Any]]:
        eval_env = scripted(num_envs=2, seed=9) if changes else None
        runner = ppo_cfg(**changes).build(env=scripted(), eval_env=eval_env, log_dir=tmp_path / str(bool(changes)))
        runner.learn()
        return runner.algorithm.state_dict()["networks"], read_metrics(tmp_path / str(bool(changes)) / "metrics.jsonl")

    plain, _ = trained()
    evaluated, series = trained(eval_interval=2, eval_episodes=3)
    assert all(torch.equal(plain[name], evaluated[name]) for name in plain)
    assert series["Eval/mean_reward"][0] == [2, 4]
    assert series["Eval/mean_episode_length"][1] == pytest.approx([11 / 3] * 2)  # 3, 3 and then 5 steps


class Interrupted(CountingAlgorithm):
    """Gets `number` in its third update."""

    number = signal.SIGINT

    def update(self) -> dict[str, torch.Tensor]:
        if int(self.updates) == 2:
            os.kill(os.getpid(), self.number)
        return super().update()


STOPPING = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGXCPU, signal.SIGQUIT]


@pytest.mark.parametrize("number", STOPPING)
def test_a_signal_saves_at_the_end_of_the_iteration(
    tmp_path: Path, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Interrupted, "number", number)
    cfg = counting_cfg(max_iterations=50, save_interval=50)
    cfg.algorithm.class_type = Interrupted
    inherited = signal.signal(number, signal.SIG_DFL)  # the parent of the tests may ignore it
    try:
        runner = cfg.build(env=scripted(), log_dir=tmp_path)
        runner.learn()
        assert runner.stop.signal == number and runner.iteration == 3
        assert list(RunDir(tmp_path).checkpoints()) == [3]
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, inherited)


@pytest.mark.parametrize("number", STOPPING)
def test_signals_that_are_ignored_stay_ignored(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Interrupted, "number", number)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        runner = counting_cfg(max_iterations=5, algorithm=CountingCfg(class_type=Interrupted)).build(env=scripted())
        runner.learn()
        assert runner.iteration == 5 and runner.stop.signal is None
    finally:
        signal.signal(number, before)


def test_a_time_limit_that_repeats_itself_is_one_signal() -> None:
    inherited = signal.signal(signal.SIGXCPU, signal.SIG_DFL)
    try:
        with StopRequest() as stop:
            for _ in range(3):
                signal.raise_signal(signal.SIGXCPU)
            assert stop.signal == signal.SIGXCPU
    finally:
        signal.signal(signal.SIGXCPU, inherited)


def test_a_handler_that_python_does_not_know_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signal, "getsignal", lambda number: None)  # such as that of faulthandler.register
    with StopRequest() as stop:
        assert stop._previous == {}


class Dies(runners.Callback):
    """Looks which checkpoints there are when something that may fail begins."""

    there: list[list[int]] = []

    def after_iteration(self, runner: runners.Trainer, metrics: dict[str, float]) -> None:
        assert runner.run_dir is not None and "Eval/mean_reward" in metrics
        self.there.append(list(runner.run_dir.checkpoints()))


@configclass
class DiesCfg(runners.CallbackCfg):
    class_type: type = Dies


def test_a_checkpoint_comes_before_what_may_fail_and_the_best_evaluation_after_it(tmp_path: Path) -> None:
    Dies.there = []
    cfg = counting_cfg(callbacks=[DiesCfg()], eval_interval=1, max_iterations=4, save_interval=2)
    cfg.build(env=scripted(), eval_env=scripted(), log_dir=tmp_path).learn()
    assert Dies.there == [[], [1, 2], [1, 2], [1, 2, 4]]  # that of 1 by its evaluation, which none was better than
    run = RunDir(tmp_path)
    assert run.pointed("best") == run.checkpoint(1) and run.pointed("latest") == run.checkpoint(4)
    assert load_checkpoint(run.checkpoint(4))["runner"]["best_iteration"] == 1


# ----------------------------------------------------------------------------------------------------- evaluation


def test_evaluation_counts_a_fixed_number_of_episodes_of_every_environment() -> None:
    # Environment 0 finishes an episode of 2 steps while environment 1 is in one of 8. The first four episodes that end
    # are all short (mean return 2.0); two of each, which is what counts, have the mean (2 + 2 + 8 + 8) / 4.
    env = scripted(num_envs=2, script=[["terminated@2"], ["terminated@8"]])
    runner = counting_cfg().build(env=env)
    result = runners.evaluate(env, runner.policy(), 4)
    assert (result.mean, result.std, result.n) == (5.0, 3.0, 4)
    assert result.mean_length == 5.0 and sorted(result.returns) == [2.0, 2.0, 8.0, 8.0]


def test_odd_numbers_of_episodes_are_spread_over_the_environments() -> None:
    env = scripted(num_envs=2, script=[["terminated@2"], ["terminated@8"]])
    assert runners.evaluate(env, counting_cfg().build(env=env).policy(), 3).returns == [2.0, 2.0, 8.0]
    assert runners.evaluate(env, counting_cfg().build(env=env).policy(), 1).returns == [2.0]


def test_sampled_evaluation_samples_and_puts_the_mode_back() -> None:
    env = scripted(num_envs=2, action_dim=2, script=[["terminated@4"]])
    policy = counting_cfg().build(env=env).policy()
    result = runners.evaluate(env, policy, 2, deterministic=False)
    assert result.mean == 4 * (1 + 2 * policy.sampled_action)
    assert policy.deterministic


def test_evaluation_reports_success_and_resets_recurrent_state() -> None:
    env = scripted(num_envs=1, extras=["success"], script=[["terminated@2", "time_out@3"]])
    policy = counting_cfg().build(env=env).policy()
    result = runners.evaluate(env, policy, 2, seed=0)
    assert result.success_rate == 0.5
    dones = [int(dones) for dones in policy.resets if dones is not None]
    assert dones == [0, 1, 0, 0, 1]


def test_videos_show_what_the_environment_renders(tmp_path: Path) -> None:
    import av

    env = scripted(num_envs=1, image_shape=[16, 16, 3])
    count = runners.record_video(env, counting_cfg().build(env=env).policy(), tmp_path / "v" / "x.mp4", steps=7)
    with av.open(str(tmp_path / "v" / "x.mp4")) as video:
        frames = [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
        assert video.streams.video[0].average_rate == 10  # step_dt is 0.1 s
    assert count == len(frames) == 7 and frames[0].shape == (16, 16, 3)


# ------------------------------------------------------------------------------------------- what runners don't know


def test_runners_know_no_algorithm_and_inspect_no_types() -> None:
    for path in sorted(Path(RoboRenForce.runners.__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id not in ("isinstance", "hasattr", "issubclass"), f"{path.name}:{node.lineno}"
                assert node.func.id != "getattr" or len(node.args) == 2, f"{path.name}:{node.lineno}"
            if isinstance(node, ast.ImportFrom) and "algorithms" in (node.module or ""):
                assert node.module == "algorithms.algorithm", f"{path.name}:{node.lineno}"
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value) < 60:
                lowered = node.value.lower()
                assert not lowered.startswith("loss/") or lowered == "loss/", f"{path.name}:{node.lineno}"
                assert lowered not in ("ppo", "sac", "mjlab", "mujoco"), f"{path.name}:{node.lineno}"


def test_an_environment_on_another_device_is_refused() -> None:
    with pytest.raises(ValueError, match=r"returns tensors on cpu and the runner learns on meta: give both the same"):
        counting_cfg().build(env=scripted(), device="meta")
