"""Playing on purpose: what is no number is an error, both modes are what they say, time in videos is real."""

from __future__ import annotations

import json
from argparse import Namespace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from RoboRenForce import runners
from RoboRenForce.algorithms import Policy
from RoboRenForce.envs.scripted_env import ScriptedEnv, ScriptedEnvCfg
from RoboRenForce.envs.spec import EnvSpec
from RoboRenForce.runners import filming, play_run
from RoboRenForce.runners.evaluation import Stopped, measure
from RoboRenForce.runners.saved_run import SavedRun
from RoboRenForce.utils.errors import EnvContractError, NonFiniteError, UserError
from RoboRenForce.utils.report import write_report
from RoboRenForce.utils.run_dir import RunDir, write_yaml
from RoboRenForce.utils.user_errors import user_errors
from small_runs import ZeroPolicy, scripted
from tensordict import TensorDict
from torch import Tensor

pytestmark = pytest.mark.contract


class Bad(ScriptedEnv):
    """Environment 1 returns something bad at every step from its `at`-th on."""

    def __init__(self, where: str, value: float = torch.nan, at: int = 1) -> None:
        self.where, self.value, self.at, self.count = where, value, at, 0
        super().__init__(ScriptedEnvCfg(num_envs=2, script=[["time_out@2"], ["time_out@3"]]))

    def step(self, actions: Tensor) -> Any:
        obs, reward, done, extras = super().step(actions)
        self.count += 1
        if self.count >= self.at:
            {"reward": reward, "obs": obs["policy"][:, 0]}[self.where][1] = self.value
        return obs, reward, done, extras

    def measurements(self) -> dict[str, dict[str, Tensor]]:
        return {"velocity_error": {"linear": torch.tensor([0.0, self.value])}}


class Copying(ZeroPolicy):
    """Acts what it sees."""

    def forward(self, obs: TensorDict) -> Tensor:
        return obs["policy"][:, :2]


class Diverged(ZeroPolicy):
    """Acts NaN in environment 1 after `good` steps."""

    good = 4

    def forward(self, obs: TensorDict) -> Tensor:
        self.good -= 1
        action = super().forward(obs)
        action[1] = 0.0 if self.good >= 0 else torch.nan
        return action


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_a_return_that_is_no_number_is_refused(value: float) -> None:
    # Steps 1 to 3 are the first episode of environment 1, the fifth is in its second one.
    with pytest.raises(NonFiniteError, match=f"Episode 2 of environment 1 of Scripted has the return {value}: check"):
        runners.evaluate(Bad("reward", value, at=5), ZeroPolicy((2,)), 4)
    assert runners.evaluate(Bad("reward", value, at=5), ZeroPolicy((2,)), 2).returns == [2.0, 3.0]


def test_actions_that_are_no_numbers_are_refused_before_they_are_played() -> None:
    env = scripted(num_envs=2, script=[["time_out@2"], ["time_out@3"]])
    expected = (
        r"The policy chose NaN or infinity for environment 1 of Scripted in its episode 2 "
        r"\(though its observations are finite\): take another checkpoint"
    )
    with pytest.raises(NonFiniteError, match=expected):
        runners.evaluate(env, Diverged((2,)), 6)
    assert env.get_observations()["policy"][:, 1].tolist() == [0.0, 1.0]  # after four steps


def test_an_environment_whose_observations_are_no_numbers_is_blamed_itself(tmp_path: Path) -> None:
    expected = r"environment 1 of Scripted in its episode 1 \(its observations \['policy'\] are not finite\): check the"
    with pytest.raises(NonFiniteError, match=expected):
        runners.evaluate(Bad("obs"), Copying((2,)), 4)
    with pytest.raises(NonFiniteError, match=expected):
        measure(Bad("obs"), Copying((2,)), 4)
    with pytest.raises(NonFiniteError, match=expected):
        runners.record_video(Bad("obs"), Copying((2,)), tmp_path / "a.mp4", steps=4)
    assert list(tmp_path.iterdir()) == []


def test_what_is_measured_has_to_be_a_number() -> None:
    with pytest.raises(NonFiniteError, match=r"Scripted measured velocity_error.linear as nan within 4 steps"):
        measure(Bad("reward"), ZeroPolicy((2,)), 4)


class First(ZeroPolicy):
    """Chooses action 1 of a discrete space."""

    def forward(self, obs: TensorDict) -> Tensor:
        return torch.ones(obs.batch_size, dtype=torch.int64)


def test_discrete_actions_have_no_dimension_of_their_own(tmp_path: Path) -> None:
    env = scripted(num_envs=2, action_kind="discrete", script=[["time_out@2"]])
    assert runners.evaluate(env, First(()), 2).returns == [4.0, 4.0]
    assert runners.record_video(env, First(()), tmp_path / "a.mp4", steps=3) == 3


def test_negative_returns_have_a_mean_and_a_deviation() -> None:
    class Falling(ScriptedEnv):
        def step(self, actions: Tensor) -> Any:
            obs, _, done, extras = super().step(actions)
            return obs, torch.tensor([-1.0, -3.0, 0.5]), done, extras

    env = Falling(ScriptedEnvCfg(num_envs=3, script=[["time_out@2"], ["time_out@4"], ["time_out@8"]]))
    result = runners.evaluate(env, ZeroPolicy((2,)), 4)
    assert result.returns == [-2.0, -2.0, -12.0, 4.0]
    assert (result.mean, result.mean_length) == (-3.0, 4.0)
    assert result.std == pytest.approx(torch.tensor(result.returns).std(unbiased=False).item())


def test_it_is_asked_before_every_step_whether_to_go_on(tmp_path: Path) -> None:
    env, asked = scripted(num_envs=1), iter([False, False, True])
    with pytest.raises(Stopped):
        runners.evaluate(env, ZeroPolicy((2,)), 1, should_stop=lambda: next(asked))
    assert env.get_observations()["policy"][0, 1] == 2
    asked = iter([False, False, True])
    with pytest.raises(Stopped):
        runners.record_video(env, ZeroPolicy((2,)), tmp_path / "a.mp4", steps=9, should_stop=lambda: next(asked))
    assert list(tmp_path.iterdir()) == []


def test_max_steps_is_the_last_step_that_counts() -> None:
    env = scripted(num_envs=1, script=[["time_out@5"]])
    assert runners.evaluate(env, ZeroPolicy((2,)), 2, max_steps=10).n == 2
    with pytest.raises(EnvContractError, match="did not finish 2 episodes within 9 steps"):
        runners.evaluate(env, ZeroPolicy((2,)), 2, max_steps=9)


# ------------------------------------------------------------------------------------------------------------- play


def played(folder: Path, env: ScriptedEnv, policy: Policy, **args: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """What `PlayRun.evaluate` returns and writes."""
    arguments = Namespace(**{"stochastic": False, "episodes": 4, "steps": 3, "overrides": [], **args})
    task: Any = SimpleNamespace(id="Task", env_cfg=ScriptedEnvCfg(num_envs=1, seed=9))
    saved = SavedRun(folder / "model_3.pt", {})
    run = play_run.PlayRun(task, torch.device("cpu"), saved, RunDir(folder), arguments)
    run.env = env
    runner: Any = SimpleNamespace(policy=lambda: policy)
    results = run.evaluate(runner)
    return results, json.loads(RunDir(folder).evaluation.read_text())


def test_both_modes_are_played_printed_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # A step has the reward 1, and 2 x 0.5 more where actions are sampled; episodes have 2 and 3 steps.
    env = scripted(num_envs=2, script=[["time_out@2"], ["time_out@3"]])
    policy = ZeroPolicy((2,))
    policy.deterministic = False
    results, written = played(tmp_path, env, policy)
    assert {mode: result.mean for mode, result in results.items()} == {"deterministic": 2.5, "sampled": 5.0}
    assert written["deterministic"] == results["deterministic"].to_dict() and written["sampled"]["mean"] == 5.0
    assert (written["checkpoint"], written["task"], written["seed"]) == ("model_3.pt", "Task", 9)
    printed = capsys.readouterr().out
    assert "deterministic mean 2.5" in printed and "sampled       mean 5.0" in printed
    assert int(env.get_observations()["policy"][0, 0]) // 100 == 9  # the seed of the configuration
    assert policy.deterministic is False  # as it was


def test_a_policy_with_one_way_to_act_plays_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class OneWay(ZeroPolicy):
        has_samples = False

    results, written = played(tmp_path, scripted(num_envs=2), OneWay((2,)))
    assert list(results) == ["deterministic"] and "sampled" not in written
    assert "no samples beside its mode" in capsys.readouterr().out
    assert list(played(tmp_path, scripted(num_envs=2), OneWay((2,)), stochastic=True)[0]) == ["sampled"]


def test_stochastic_plays_samples_only(tmp_path: Path) -> None:
    results, written = played(tmp_path, scripted(num_envs=2), ZeroPolicy((2,)), stochastic=True)
    assert list(results) == ["sampled"] and "deterministic" not in written


def test_a_play_with_overrides_keeps_the_plain_one(tmp_path: Path) -> None:
    def play(length: int, *overrides: str, **args: Any) -> dict[str, Any]:
        env = scripted(num_envs=2, script=[[f"time_out@{length}"]])
        return played(tmp_path, env, ZeroPolicy((2,)), overrides=list(overrides), **args)[1]

    plain = play(2)
    assert plain["overrides"] == [] and "others" not in plain
    exchanged = play(3, "env.exchange=block")
    assert exchanged["deterministic"]["mean"] == 3.0, "the last play lies where it always lay"
    assert exchanged["overrides"] == ["env.exchange=block"] and exchanged["others"] == {"Task": plain}
    assert play(4, "env.exchange=block")["others"] == {"Task": plain}, "the last of its kind is kept"
    cut = play(5, execution="rtc")
    assert cut["overrides"] == ["execution=rtc"] and list(cut["others"]) == ["Task", "Task env.exchange=block"]

    write_yaml(RunDir(tmp_path).params("run"), {"task": "Task"})
    page = write_report(RunDir(tmp_path)).read_text()
    titles = [f"<h2>Evaluation in {name}</h2>" for name in ("Task", "Task execution=rtc", "Task env.exchange=block")]
    places = [page.index(title) for title in titles]
    assert places == sorted(places), "the plain play comes first"
    assert "<b>2 ± 0</b><span>deterministic return, n = 4</span>" in page
    assert play(6).keys() == plain.keys() | {"others"}
    assert len(json.loads(RunDir(tmp_path).evaluation.read_text())["others"]) == 2


def test_without_a_plain_play_the_report_says_so(tmp_path: Path) -> None:
    played(tmp_path, scripted(num_envs=2), ZeroPolicy((2,)), overrides=["env.exchange=block"])
    assert "return, n = 4, with overrides" in write_report(RunDir(tmp_path)).read_text()


def test_mean_nan_is_an_error_and_nothing_is_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="1"), user_errors():
        played(tmp_path, Bad("reward"), ZeroPolicy((2,)))
    told = capsys.readouterr()
    assert told.err.startswith("Error: Episode 1 of environment 1 of Scripted has the return nan")
    assert "nan" not in told.out and not RunDir(tmp_path).evaluation.exists()


def test_results_that_can_t_be_written_are_one_sentence(tmp_path: Path) -> None:
    RunDir(tmp_path).evaluation.mkdir()
    with pytest.raises(UserError, match=r"eval.json' can't be written \(Is a directory\); the results are above"):
        played(tmp_path, scripted(num_envs=2), ZeroPolicy((2,)))
    assert [path.name for path in tmp_path.iterdir()] == ["eval.json"]


# ----------------------------------------------------------------------------------------------------------- videos


class Clocked(ScriptedEnv):
    """Its step takes `step_dt` seconds; a frame is as bright as its step."""

    def __init__(self, step_dt: float | None) -> None:
        super().__init__(ScriptedEnvCfg(num_envs=1, script=[["time_out@1000"]], max_episode_length=0))
        self.spec = EnvSpec.from_dict(self.spec.to_dict() | {"step_dt": step_dt})
        self.acted: list[float] = []

    def step(self, actions: Tensor) -> Any:
        self.acted.append(float(actions[0, 0]))
        return super().step(actions)

    def render(self) -> Any:
        return torch.full((16, 16, 3), 8 * int(self._steps[0]), dtype=torch.uint8).numpy()


@pytest.mark.parametrize(
    ("step_dt", "fps", "shown"),
    [(0.02, 50, range(12)), (0.005, 200 / 3, (0, 3, 6, 9)), (1 / 240, 60, (0, 4, 8)), (None, 30, range(12))],
)
def test_a_video_lasts_as_long_as_what_it_shows(
    tmp_path: Path, step_dt: float | None, fps: float, shown: tuple[int, ...]
) -> None:
    import av

    env = Clocked(step_dt)
    assert runners.record_video(env, ZeroPolicy((2,)), tmp_path / "a.mp4", steps=12) == len(shown)
    with av.open(str(tmp_path / "a.mp4")) as video:
        stream = video.streams.video[0]
        brightness = [round(float(frame.to_ndarray(format="rgb24").mean()) / 8) for frame in video.decode(video=0)]
        assert float(stream.average_rate or 0) == pytest.approx(fps, rel=1e-3)
    assert brightness == list(shown) and len(env.acted) == 12


@pytest.mark.parametrize(("deterministic", "action"), [(True, 0.0), (False, 0.5)])
def test_a_film_shows_the_mode_that_was_asked_for(
    tmp_path: Path, deterministic: bool, action: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    env = Clocked(0.02)
    monkeypatch.setattr(filming, "eval_cfg", lambda *_, **__: SimpleNamespace(build=lambda: env))
    task: Any = SimpleNamespace(env_cfg=SimpleNamespace(seed=4))
    runner: Any = SimpleNamespace(policy=lambda: ZeroPolicy((2,)))
    assert filming.film(task, runner, tmp_path / "a.mp4", steps=3, deterministic=deterministic) == tmp_path / "a.mp4"
    assert env.acted == [action] * 3


@pytest.mark.parametrize(
    "error", [RuntimeError("no display"), OSError(28, "No space left"), AttributeError("'render'")]
)
def test_a_film_that_fails_says_why_and_closes_its_environment(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = []

    class Blind(Clocked):
        def render(self) -> Any:
            raise error

        def close(self) -> None:
            closed.append(True)

    monkeypatch.setattr(filming, "eval_cfg", lambda *_, **__: SimpleNamespace(build=lambda: Blind(None)))
    task: Any = SimpleNamespace(env_cfg=SimpleNamespace(seed=4))
    runner: Any = SimpleNamespace(policy=lambda: ZeroPolicy((2,)))
    assert filming.film(task, runner, tmp_path / "a.mp4", steps=3) is None
    assert closed == [True] and list(tmp_path.iterdir()) == []
