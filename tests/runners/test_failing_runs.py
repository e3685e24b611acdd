"""Whatever fails beside or inside training, what was trained is kept."""

from __future__ import annotations

import errno
import json
import logging
import os
import random
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce import algorithms, networks, runners
from RoboRenForce.cli import main
from RoboRenForce.configclass import configclass
from RoboRenForce.envs.scripted_env import ScriptedEnv, ScriptedEnvCfg
from RoboRenForce.runners import writing
from RoboRenForce.runners.saved_run import load_run
from RoboRenForce.utils import checkpoint as checkpoint_module
from RoboRenForce.utils import run_dir as run_dir_module
from RoboRenForce.utils.errors import (
    CheckpointError,
    DivergedError,
    EnvContractError,
    NonFiniteError,
    RunDirectoryError,
    UserError,
)
from RoboRenForce.utils.run_dir import RunDir
from small_runs import CountingAlgorithm, CountingCfg, counting_cfg, ppo_cfg, scripted

pytestmark = pytest.mark.contract


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's temporary folder of these tests."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    """The warnings and errors so far."""
    monkeypatch.setattr(logging.getLogger("RoboRenForce"), "propagate", True)
    return lambda: [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


class Act(runners.Callback):
    """Does `todo[iteration]` after an iteration."""

    todo: dict[int, Callable[[], Any]] = {}

    def after_iteration(self, runner: runners.Trainer, metrics: dict[str, float]) -> None:
        self.todo.get(runner.iteration, lambda: None)()


@configclass
class ActCfg(runners.CallbackCfg):
    class_type: type = Act


def run(root: Path, todo: dict[int, Callable[[], Any]], **changes: Any) -> runners.Trainer:
    """A run of six iterations with a checkpoint after each; `todo` happens in between."""
    Act.todo = todo
    options: dict[str, Any] = {"max_iterations": 6, "save_interval": 1, "callbacks": [ActCfg()]}
    runner = counting_cfg(**(options | changes)).build(env=scripted(), log_dir=root / "run")
    runner.learn()
    return runner


def lines(root: Path) -> list[int]:
    return [json.loads(line)["iteration"] for line in (root / "run" / "metrics.jsonl").read_text().splitlines()]


def only_files_of_a_run(root: Path) -> bool:
    names = {path.name for path in (root / "run").rglob("*")}
    return not any(name.endswith((".partial", ".aside")) or name == ".lock" for name in names)


# ------------------------------------------------------------------------------------------------- writes that fail


def full(*_: Any, **__: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def full_for_torch(data: Any, file: Any) -> None:
    file.write(b"half of a checkpoint")
    raise RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0\nbacktrace")


def refuse(*_: Any, **__: Any) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


FAULTS: dict[str, tuple[Any, str, Any]] = {
    "torch.save": (checkpoint_module.torch, "save", full),
    "torch's own error": (checkpoint_module.torch, "save", full_for_torch),
    "fsync": (run_dir_module.os, "fsync", full),
    "replace": (run_dir_module.os, "replace", refuse),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_checkpoint_that_fails_is_tried_again_after_the_next_iteration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, said: Callable[[], list[str]]
) -> None:
    module, function, fault = FAULTS[name]
    todo = {3: lambda: monkeypatch.setattr(module, function, fault), 5: lambda: monkeypatch.undo()}
    monkeypatch.setattr(tempfile, "tempdir", None)
    run(tmp_path, todo, save_interval=2, max_iterations=7)
    run_dir = RunDir(tmp_path / "run")
    # That of 4 failed, and so did that of 5; pruning kept the newest one and the best.
    assert list(run_dir.checkpoints()) == [2, 6, 7]
    assert lines(tmp_path) == [1, 2, 3, 4, 5, 6, 7] and only_files_of_a_run(tmp_path)
    (warning,) = (text for text in said() if "model_" in text and "can't be written" in text)
    assert "earlier checkpoints are untouched. It is tried again after every iteration; the run goes on." in warning


@pytest.mark.parametrize("name", FAULTS)
def test_at_the_end_it_goes_to_another_folder_and_is_resumed_from_there(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    elsewhere: Path,
    name: str,
    said: Callable[[], list[str]],
) -> None:
    module, function, fault = FAULTS[name]
    real = getattr(module, function)
    inside = str(tmp_path / "run")

    def failing(*args: Any) -> Any:
        # torch.save gets an open file, fsync its number, replace two paths.
        path = {"save": lambda: args[1].name, "fsync": lambda: os.readlink(f"/proc/self/fd/{args[0]}")}
        found = str(path.get(function, lambda: args[0])())
        return fault(*args) if found.startswith(inside) else real(*args)

    runner = run(tmp_path, {2: lambda: monkeypatch.setattr(module, function, failing)})
    assert list(RunDir(tmp_path / "run").checkpoints()) == [2]  # pruned to make room, but the newest stays
    (saved,) = elsewhere.rglob("*.pt")
    assert runner.saved_elsewhere == saved and any(f"--resume {saved}" in text for text in said())
    resumed = counting_cfg(max_iterations=7).build(env=scripted())
    resumed.load(saved)
    assert resumed.iteration == 6 and float(resumed.algorithm.updates) == 6
    assert lines(tmp_path) == [1, 2, 3, 4, 5, 6] and only_files_of_a_run(tmp_path)


def test_where_nothing_can_be_written_the_run_fails_and_says_what_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(CheckpointError, match="Neither can the temporary nor the current folder") as caught:
        run(tmp_path, {2: lambda: monkeypatch.setattr(checkpoint_module.torch, "save", full)})
    assert "No space left on device" in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_system_that_fills_up_costs_nothing(tmp_path: Path, elsewhere: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:  # writes beyond the limit fail as on a full disk, for the metrics in the middle of a line
        runner = run(
            tmp_path,
            {
                2: lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (500, before[1])),
                5: lambda: resource.setrlimit(resource.RLIMIT_FSIZE, before),
            },
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert runner.saved_elsewhere is None
    assert list(RunDir(tmp_path / "run").checkpoints()) == [2, 6]
    assert lines(tmp_path) == [1, 2, 3, 4, 5, 6] and only_files_of_a_run(tmp_path)


def test_a_deleted_run_directory_is_made_again(tmp_path: Path) -> None:
    run(tmp_path, {4: lambda: shutil.rmtree(tmp_path / "run")})
    assert list(RunDir(tmp_path / "run").checkpoints()) == [5, 6]
    assert lines(tmp_path)[-2:] == [5, 6] and RunDir(tmp_path / "run").pointed("latest") is not None


@pytest.mark.parametrize("name", ["latest", "best", "metrics.jsonl"])
def test_side_files_that_fail_do_not_end_the_run(tmp_path: Path, name: str, said: Callable[[], list[str]]) -> None:
    def block() -> None:
        (tmp_path / "run" / name).unlink()
        (tmp_path / "run" / name).mkdir()

    script = [["terminated@1"] * 9 + ["terminated@8"] * 1000]  # returns rise, so that every iteration is the best
    Act.todo = {2: block}
    cfg = counting_cfg(max_iterations=6, save_interval=1, callbacks=[ActCfg()])
    cfg.build(env=scripted(script=script), log_dir=tmp_path / "run").learn()
    assert list(RunDir(tmp_path / "run").checkpoints())[-1] == 6
    assert any(name in text and "the run goes on" in text for text in said())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_becomes_read_only(tmp_path: Path, elsewhere: Path) -> None:
    try:
        runner = run(tmp_path, {2: lambda: (tmp_path / "run").chmod(0o500)})
    finally:
        (tmp_path / "run").chmod(0o700)
    assert runner.saved_elsewhere is not None and load_run(runner.saved_elsewhere)["iteration"] == 6


def test_a_directory_that_cannot_be_written_at_the_start_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_dir_module.os, "replace", refuse)
    with pytest.raises(RunDirectoryError, match=r"run' can't be written \(Permission denied\); choose another one"):
        run(tmp_path, {})


def test_the_command_ends_with_0_and_says_where_the_checkpoint_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], elsewhere: Path
) -> None:
    pytest.importorskip("RRF_gym_tasks")
    monkeypatch.chdir(tmp_path)
    write = checkpoint_module.torch.save

    def full_there(data: Any, file: Any) -> None:
        full() if "logs" in Path(file.name).parts else write(data, file)

    small = ["env.num_envs=2", "num_steps_per_env=8", "logger=[]", "report=false"]
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_module.torch, "save", full_there)
        main(["train", "--task", "RoboRenForce-Gym-CartPole-PPO", *small, "--max_iterations", "2"])
    (saved,) = elsewhere.rglob("*.pt")
    printed = capsys.readouterr().out
    assert (
        "Training is done." in printed and f"train --resume {saved.relative_to(tmp_path)} --max_iterations N" in printed
    )
    main(["train", "--resume", str(saved), "--max_iterations", "3"])
    roots = sorted((tmp_path / "logs" / "RFRL" / "RoboRenForce-Gym-CartPole-PPO").iterdir())
    assert [list(RunDir(root).checkpoints()) for root in roots] == [[], [3]]  # a new directory, not the temporary one


def random_faults(seed: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on, every third call that changes something below `root` fails."""
    generator = random.Random(seed)

    def sometimes(function: Callable[..., Any], *errors: int) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            mode = args[1] if len(args) > 1 and function is open else options.get("mode", "r")
            below = any(str(arg).startswith(str(root)) for arg in args if isinstance(arg, str | Path))
            changes = function is not open or "r" not in str(mode)
            if below and changes and generator.random() < 1 / 3:
                number = generator.choice(errors)
                raise OSError(number, os.strerror(number))
            return function(*args, **options)

        return call

    for target, name in (("builtins", "open"), ("os", "replace"), ("os", "unlink"), ("os", "mkdir")):
        function = getattr(__import__(target), name)
        wrapped = sometimes(function, errno.ENOSPC, errno.EACCES, errno.EROFS, errno.EIO, errno.EDQUOT, errno.ENOENT)
        monkeypatch.setattr(f"{target}.{name}", wrapped)


def check_failing_writes(seed: int, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        runner = run(root, {1: lambda: random_faults(seed, root / "run", patch)}, max_iterations=8, keep_checkpoints=2)
    run_dir = RunDir(root / "run")
    last = runner.saved_elsewhere or run_dir.checkpoint(8)
    saved = load_run(last)
    assert saved["iteration"] == 8 and float(saved["algorithm"]["updates"]) == 8
    for path in run_dir.checkpoints().values():
        load_run(path)  # every other one is whole as well
    assert lines(root) == list(range(1, 1 + lines(root)[-1]))


@pytest.mark.parametrize("seed", range(6))
def test_random_writes_that_fail_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    check_failing_writes(seed, tmp_path, monkeypatch)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(6, 56))
def test_fifty_more_random_writes_that_fail_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    check_failing_writes(seed, tmp_path, monkeypatch)


# --------------------------------------------------------------------------------------------- loops that do not end


class Failing(ScriptedEnv):
    """Raises `error` at its 10th step: the second of the third iteration."""

    error: BaseException = ValueError("the robot fell off the table")

    def __init__(self, cfg: ScriptedEnvCfg) -> None:
        super().__init__(cfg)
        self.count = 0

    def step(self, actions: torch.Tensor) -> Any:
        self.count += 1
        if self.count == 10:
            raise self.error
        return super().step(actions)

    def state_dict(self) -> dict[str, Any]:
        raise RuntimeError("the simulator is gone")


def fail(root: Path, error: BaseException, env: ScriptedEnv | None = None, **changes: Any) -> runners.Trainer:
    env = env or Failing(ScriptedEnvCfg(num_envs=4))
    env.error = error  # type: ignore[attr-defined]
    return counting_cfg(max_iterations=50, save_interval=50, **changes).build(env=env, log_dir=root)


@pytest.mark.parametrize("error", [ValueError("it fell"), MemoryError(), KeyboardInterrupt(), AssertionError("odd")])
def test_an_error_saves_the_last_finished_iteration_and_says_where_it_was(
    tmp_path: Path, error: BaseException, said: Callable[[], list[str]]
) -> None:
    with pytest.raises(type(error)):
        fail(tmp_path, error).learn()
    stopped, saved = said()
    assert stopped.startswith(
        f"Scripted stopped in its environment, in iteration 3, step 2 of 4 ({type(error).__name__}"
    )
    assert saved == f"Iteration 2, the last finished one, is saved in '{tmp_path / 'model_2.pt'}'."
    data = load_run(tmp_path / "model_2.pt")
    assert data["iteration"] == 2 and data["runner"]["steps"] == 2 * 4 * 4
    assert data["interrupted"] == "in its environment, in iteration 3, step 2 of 4"
    resumed = counting_cfg(max_iterations=5).build(env=scripted(), log_dir=tmp_path)
    resumed.load(tmp_path / "model_2.pt")
    resumed.learn()
    assert resumed.steps == 5 * 16 and float(resumed.algorithm.updates) == 5
    assert [json.loads(line)["iteration"] for line in (tmp_path / "metrics.jsonl").open()] == [1, 2, 3, 4, 5]
    assert not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("code", [0, 3, None])
def test_an_environment_that_exits_does_not_look_like_a_finished_training(tmp_path: Path, code: int | None) -> None:
    with pytest.raises(EnvContractError, match=rf"ended the process \(SystemExit: {code}\) in its environment"):
        fail(tmp_path, SystemExit(code)).learn()
    assert load_run(tmp_path / "model_2.pt")["iteration"] == 2


def test_a_callback_may_exit_and_its_iteration_is_saved_whole(tmp_path: Path) -> None:
    def leave() -> None:
        raise SystemExit(0)

    with pytest.raises(SystemExit):
        run(tmp_path, {3: leave}, save_interval=50)
    data = load_run(tmp_path / "run" / "model_3.pt")
    assert data["interrupted"] is None and data["local"][0]["env"]  # between two iterations: nothing is lost
    resumed = counting_cfg(max_iterations=4).build(env=scripted(), log_dir=tmp_path / "run")
    resumed.load(tmp_path / "run" / "model_3.pt")
    resumed.learn()
    assert lines(tmp_path) == [1, 2, 3, 4]  # the line of 3 was not written before the exit


def test_before_the_first_iteration_is_finished_there_is_nothing_to_save(tmp_path: Path) -> None:
    env = Failing(ScriptedEnvCfg(num_envs=4))
    env.count = 8
    with pytest.raises(ValueError, match="it fell"):
        fail(tmp_path, ValueError("it fell"), env).learn()
    assert not RunDir(tmp_path).checkpoints()


def test_the_error_is_shown_even_if_saving_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(CountingAlgorithm, "state_dict", lambda self: 1 / 0)
    with pytest.raises(ValueError, match="it fell"):
        fail(tmp_path, ValueError("it fell")).learn()
    assert said()[-1] == "Iteration 2 can't be saved: division by zero"


def test_after_an_error_a_full_disk_is_left_for_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: Path
) -> None:
    write = writing.save_checkpoint

    def full_there(path: Path, data: Any, **options: Any) -> None:
        if Path(path).parent == tmp_path:
            raise CheckpointError(f"'{path}' can't be written.")
        write(path, data, **options)

    monkeypatch.setattr(writing, "save_checkpoint", full_there)
    with pytest.raises(ValueError, match="it fell"):
        fail(tmp_path, ValueError("it fell")).learn()
    (saved,) = elsewhere.rglob("*.pt")
    assert load_run(saved)["iteration"] == 2


def test_another_process_that_fails_alone_does_not_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], list[str]]
) -> None:
    monkeypatch.setattr(runners.Trainer, "is_main", property(lambda self: False))
    with pytest.raises(ValueError, match="it fell"):
        fail(tmp_path, ValueError("it fell")).learn()
    assert not RunDir(tmp_path).checkpoints() and "leaves saving to the main process" in said()[-1]


class BadObservation(ScriptedEnv):
    """Returns NaN in step 11, which a recurrent policy sees in step 12."""

    count = 0

    def step(self, actions: torch.Tensor) -> Any:
        obs, *rest = super().step(actions)
        self.count += 1
        if self.count == 11:
            obs["policy"][1, 0] = torch.nan
        return (obs, *rest)


def test_nan_from_the_environment_costs_no_finished_iteration(tmp_path: Path) -> None:
    cfg = ppo_cfg(networks.RNNCfg(hidden_size=4), num_steps_per_env=4, max_iterations=50, save_interval=50)
    with pytest.raises(NonFiniteError, match="in iteration 3"):
        cfg.build(env=BadObservation(ScriptedEnvCfg(num_envs=4)), log_dir=tmp_path).learn()
    resumed = cfg.build(env=scripted(), log_dir=tmp_path)
    resumed.load(tmp_path / "model_2.pt")
    resumed.learn(1)
    assert checkpoint_module.first_nan(resumed.algorithm.state_dict()) is None


class Diverging(CountingAlgorithm):
    """Is NaN from the fourth update on."""

    def update(self) -> dict[str, torch.Tensor]:
        learned = super().update()
        if self.updates == 4:
            self.updates.fill_(torch.nan)
        return {**learned, "value": self.updates.clone()}


def test_a_learner_that_is_nan_replaces_no_good_checkpoint(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    cfg = counting_cfg(max_iterations=6, save_interval=3, check_for_nan=False)
    cfg.algorithm.class_type = Diverging
    cfg.build(env=scripted(), log_dir=tmp_path).learn()
    assert list(RunDir(tmp_path).checkpoints()) == [3]
    assert any("the learner holds NaN in updates" in text for text in said())


class Huge(CountingAlgorithm):
    """Has finite parameters from the fourth update on, and no finite loss."""

    def update(self) -> dict[str, torch.Tensor]:
        learned = super().update()
        if self.updates == 4:
            self.updates.fill_(1e30)
        return {**learned, "value": self.updates**2}


@pytest.mark.parametrize("kind", [Diverging, Huge])
def test_a_learner_that_diverged_replaces_no_good_checkpoint_and_says_so_once(
    tmp_path: Path, kind: type[CountingAlgorithm], said: Callable[[], list[str]]
) -> None:
    cfg = counting_cfg(max_iterations=6, save_interval=3)
    cfg.algorithm.class_type = kind
    with pytest.raises(DivergedError, match=r"in iteration 4, which is not saved: Loss/value is (nan|inf);") as caught:
        cfg.build(env=scripted(), log_dir=tmp_path).learn()
    assert str(caught.value).endswith(f"(the newest checkpoint is '{tmp_path / 'model_3.pt'}').")
    assert list(RunDir(tmp_path).checkpoints()) == [3] and not said()


class ActsNaN(CountingAlgorithm):
    """Acts NaN after its fourth update."""

    def act(self, obs: Any) -> algorithms.ActOut:
        out = super().act(obs)
        return out if self.updates < 4 else algorithms.ActOut(out.action + torch.nan)


def test_a_learner_that_acts_nan_replaces_no_good_checkpoint(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    cfg = counting_cfg(max_iterations=6, save_interval=3)
    cfg.algorithm.class_type = ActsNaN
    with pytest.raises(DivergedError, match="The policy chose NaN or infinite actions in iteration 5"):
        cfg.build(env=scripted(), log_dir=tmp_path).learn()
    assert list(RunDir(tmp_path).checkpoints()) == [3] and not said()


def test_the_sentence_of_an_error_is_left_to_who_shows_it(tmp_path: Path, said: Callable[[], list[str]]) -> None:
    with pytest.raises(UserError, match="out of paint"):
        fail(tmp_path, UserError("The simulator is out of paint: buy some.")).learn()
    assert said()[0] == "Scripted stopped in its environment, in iteration 3, step 2 of 4."


# ------------------------------------------------------------------------------------------------------------ signals


@pytest.fixture
def ordinary_signals() -> Iterator[None]:
    """Whatever the parent of the tests ignores (nohup, background), signals are handled here."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    before = {number: signal.signal(number, signal.default_int_handler) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


class Impatient(CountingAlgorithm):
    """Gets two signals in its third update."""

    signals = (signal.SIGINT, signal.SIGINT)

    def update(self) -> dict[str, torch.Tensor]:
        if int(self.updates) == 2:
            for number in self.signals:
                signal.raise_signal(number)
        return super().update()


@pytest.mark.parametrize(
    ("first", "second", "error"),
    [
        (signal.SIGINT, signal.SIGINT, KeyboardInterrupt),
        (signal.SIGUSR1, signal.SIGTERM, SystemExit),
        (signal.SIGTERM, signal.SIGINT, KeyboardInterrupt),
    ],
)
@pytest.mark.usefixtures("ordinary_signals")
def test_a_second_signal_saves_the_last_finished_iteration_before_it_leaves(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: signal.Signals,
    second: signal.Signals,
    error: type[BaseException],
) -> None:
    monkeypatch.setattr(Impatient, "signals", (first, second))
    cfg = counting_cfg(max_iterations=50, save_interval=50, algorithm=CountingCfg(class_type=Impatient))
    runner = cfg.build(env=scripted(), log_dir=tmp_path)
    with pytest.raises(error) as caught:
        runner.learn()
    assert error is KeyboardInterrupt or caught.value.code == 128 + second  # type: ignore[attr-defined]
    data = load_run(tmp_path / "model_2.pt")
    assert data["interrupted"] == "in the middle of an update, in iteration 3, step 4 of 4"
    assert runner.stop.signal == first
