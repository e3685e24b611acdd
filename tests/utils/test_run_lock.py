"""One process trains in a run directory; the second one is told which."""

from __future__ import annotations

import errno
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from RoboRenForce.cli import main
from RoboRenForce.utils import run_lock
from RoboRenForce.utils.errors import RunLockedError, UserError
from RoboRenForce.utils.run_dir import RunDir, newest_run
from RoboRenForce.utils.run_lock import RunLock
from small_runs import counting_cfg, scripted

pytestmark = pytest.mark.contract

HOLDER = """
import sys
from RoboRenForce.utils.run_lock import RunLock
lock = RunLock(sys.argv[1])
lock.acquire()
print("locked", flush=True)
sys.stdin.read()
"""
SMALL = ["env.num_envs=2", "num_steps_per_env=8", "report=false", "logger=[]"]


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that trains in the directory `run`."""
    (tmp_path / "run").mkdir()
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "run")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert process.stdout is not None and process.stdout.readline() == "locked\n"
    yield process
    process.kill()
    process.communicate()


def test_the_second_process_is_refused_until_the_first_is_killed(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    runner = counting_cfg().build(env=scripted(), log_dir=tmp_path / "run")
    with pytest.raises(RunLockedError) as caught:
        runner.learn()
    sentence = str(caught.value)
    assert re.search(
        rf"is being trained by process {holder.pid} on {socket.gethostname()} since 2\d+-\S+ \S+:", sentence
    )
    assert "\n" not in sentence and not RunDir(tmp_path / "run").metrics.exists()
    holder.kill()
    holder.wait()
    assert (tmp_path / "run" / ".lock").exists()  # a killed process leaves it, and it locks nothing
    runner.learn()
    assert runner.iteration == 3 and not (tmp_path / "run" / ".lock").exists()


@pytest.mark.parametrize(
    "resume", [["--resume"], ["--resume", "logs/RFRL/e/r"], ["--resume", "logs/RFRL/e/r/model_2.pt"]]
)
def test_resume_does_not_join_a_running_run(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    holder: subprocess.Popen[str],
    resume: list[str],
) -> None:
    pytest.importorskip("RRF_gym_tasks")
    monkeypatch.chdir(tmp_path)
    main(["train", "--task", "RoboRenForce-Gym-CartPole-PPO", *SMALL, "--max_iterations", "2"])
    trained = newest_run("logs/RFRL").root
    (tmp_path / "logs" / "RFRL" / "e").mkdir()
    (tmp_path / "run" / "params").mkdir()
    for name in ("model_2.pt", "latest", "params/run.yaml"):
        (tmp_path / "run" / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "run").rename(tmp_path / "logs" / "RFRL" / "e" / "r")
    before = sorted(path.name for path in Path("logs/RFRL").rglob("*"))
    with pytest.raises(SystemExit) as left:
        main(["train", *resume, "--max_iterations", "4"])
    assert left.value.code == 1
    assert f"/logs/RFRL/e/r' is being trained by process {holder.pid}" in capsys.readouterr().err
    assert sorted(path.name for path in Path("logs/RFRL").rglob("*")) == before
    main(["play", "--target", "logs/RFRL/e/r", "--episodes", "1"])  # reading is free
    holder.kill()
    holder.wait()
    main(["train", *resume, "--max_iterations", "4"])
    assert list(RunDir(Path("logs/RFRL/e/r")).checkpoints()) == [2, 4]


def test_deleting_the_lock_file_by_hand_lets_nobody_in(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    (tmp_path / "run" / ".lock").unlink()
    runner = counting_cfg().build(env=scripted(), log_dir=tmp_path / "run")
    with pytest.raises(RunLockedError, match="is being trained by another process, whose lock file was deleted"):
        runner.learn()
    assert not (tmp_path / "run" / ".lock").exists() and not RunDir(tmp_path / "run").metrics.exists()
    holder.kill()
    holder.wait()
    runner.learn()
    assert runner.iteration == 3


def test_its_holder_may_acquire_it_again_and_a_failed_run_of_the_same_process_does_not_block(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    lock.acquire()
    lock.release()
    assert lock.path.exists()
    other = RunLock(tmp_path)
    other.acquire()  # the run that held the first one failed without releasing it
    lock.release()
    assert lock.path.exists()
    other.release()
    other.release()
    assert not lock.path.exists()


def test_a_forked_worker_does_not_keep_it(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    lock.acquire()
    parent, child = socket.socketpair()
    worker = os.fork()
    if not worker:  # a worker of a vectorized environment that outlives its parent
        child.send(b"started")
        child.recv(1)
        os._exit(0)
    assert parent.recv(10) == b"started" and lock._file is not None
    lock._file.close()  # what the death of this process does
    lock._forget()
    RunLock(tmp_path).acquire()
    parent.send(b".")
    os.waitpid(worker, 0)


def test_a_lock_file_that_its_holder_removes_meanwhile_is_not_locked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = RunLock(tmp_path)
    real = lock._lock

    def removed_first(file: object) -> None:
        if lock.path.exists() and not getattr(lock, "late", False):
            lock.late = True  # type: ignore[attr-defined]
            lock.path.unlink()
        real(file)  # type: ignore[arg-type]

    monkeypatch.setattr(lock, "_lock", removed_first)
    lock.acquire()
    assert lock.path.exists() and run_lock._is_same_file(lock._file, lock.path)  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_without_flock_the_run_goes_on_with_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(run_lock.fcntl, "flock", refuse)
    monkeypatch.setattr(logging.getLogger("RoboRenForce"), "propagate", True)
    caplog.set_level(logging.INFO)
    counting_cfg().build(env=scripted(), log_dir=tmp_path).learn()
    assert any("can't be locked" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"one two three four five six"])
def test_a_holder_that_can_not_be_read_is_another_process(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "lock").write_bytes(content)
    with open(tmp_path / "lock", "rb", buffering=0) as file:
        assert run_lock._holder(file) == "another process"  # type: ignore[arg-type]


def test_a_directory_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="can't be written"):
        RunLock(tmp_path / "gone").acquire()
