"""Learners that save directories although nothing of them is sharded, as those of VLA RL do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from RoboRenForce.algorithms import PPO
from RoboRenForce.runners.saved_run import read_run
from RoboRenForce.utils.checkpoint import load_checkpoint, save_checkpoint
from RoboRenForce.utils.errors import CheckpointError
from RoboRenForce.utils.run_dir import RunDir
from small_runs import check_same, ppo_cfg, scripted

pytestmark = pytest.mark.contract


@pytest.fixture
def directories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PPO, "saves_directories", True)


@pytest.mark.usefixtures("directories")
def test_resume_from_a_directory_is_exact(tmp_path: Path) -> None:
    cfg = ppo_cfg(max_iterations=6, save_interval=1, keep_checkpoints=2)
    cfg.build(env=scripted(), log_dir=tmp_path / "straight").learn()
    halves = RunDir(tmp_path / "halves")
    cfg.build(env=scripted(), log_dir=halves.root).learn(3)
    assert [path.name for path in halves.checkpoints().values()][-2:] == ["global_step_2", "global_step_3"]
    saved = read_run(halves.root / "global_step_3")
    assert not saved.holds_shards
    torch.rand(7)
    resumed = cfg.build(env=scripted(), log_dir=halves.root)
    resumed.restore(saved)
    resumed.learn()
    straight, again = (load_checkpoint(tmp_path / name / "global_step_6") for name in ("straight", "halves"))
    for part in ("algorithm", "local", "iteration"):
        check_same(straight[part], again[part], part)
    assert halves.pointed("latest") == halves.root / "global_step_6"


@pytest.mark.usefixtures("directories")
def test_what_an_error_interrupts_is_saved_as_a_directory_too(tmp_path: Path) -> None:
    cfg = ppo_cfg(max_iterations=9, save_interval=9)
    runner = cfg.build(env=scripted(), log_dir=tmp_path)
    update, done = runner.algorithm.update, []

    def fails() -> object:
        done.append(1)
        if len(done) == 3:
            raise RuntimeError("broken")
        return update()

    runner.algorithm.update = fails  # pyright: ignore
    with pytest.raises(RuntimeError, match="broken"):
        runner.learn()
    assert read_run(tmp_path / "global_step_2").data["iteration"] == 2


def test_a_damaged_directory_is_refused_and_the_one_before_named(tmp_path: Path) -> None:
    for step in (1, 2):
        save_checkpoint(tmp_path / f"global_step_{step}", {"weights": torch.full((99,), float(step))})
    file = tmp_path / "global_step_2" / "data.pt"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"newest usable checkpoint beside it is '.*global_step_1'"):
        load_checkpoint(tmp_path / "global_step_2")


@pytest.mark.long
def test_one_process_of_a_group_writes_alone(tmp_path: Path) -> None:
    """The other one never calls: a collective call would wait for it until the time-out."""
    code = (
        "import sys, datetime, torch, torch.distributed as dist\n"
        "from RoboRenForce.utils.checkpoint import save_checkpoint\n"
        "rank, folder = int(sys.argv[1]), sys.argv[2]\n"
        "store = dist.FileStore(folder + '/store', 2)\n"
        "dist.init_process_group('gloo', store=store, rank=rank, world_size=2, timeout=datetime.timedelta(0, 60))\n"
        "if rank == 0:\n"
        "    save_checkpoint(folder + '/global_step_1', {'weights': torch.ones(3)}, together=False)\n"
        "    store.set('saved', '1')\n"
        "store.wait(['saved'])\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    ranks = [subprocess.Popen([sys.executable, "-c", code, rank, str(tmp_path)], env=environment) for rank in "01"]
    assert [rank.wait() for rank in ranks] == [0, 0]
    assert load_checkpoint(tmp_path / "global_step_1")["weights"].tolist() == [1, 1, 1]


def test_kills_while_directories_are_written_leave_no_trace(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    worker = Path(__file__).with_name("chaos_worker.py")
    command = [sys.executable, str(worker), str(tmp_path), "4", "3", "directories"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.splitlines()[-1].startswith("4 kills, ")
    assert list(tmp_path.rglob("global_step_*")) and not list(tmp_path.rglob("model_*.pt"))
