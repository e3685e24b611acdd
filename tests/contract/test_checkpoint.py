"""Checkpoints survive crashes, refuse what is not theirs in one sentence, and hold nothing but data."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce.envs.scripted_env import ScriptedEnv, ScriptedEnvCfg
from RoboRenForce.utils import checkpoint as module
from RoboRenForce.utils.checkpoint import as_plain, load_checkpoint, prune_checkpoints, save_checkpoint
from RoboRenForce.utils.console import setup_logging
from RoboRenForce.utils.errors import CheckpointError, SpecMismatch, UserError
from RoboRenForce.utils.logging import read_metrics
from RoboRenForce.utils.run_dir import RunDir, create_run_dir, find_runs, resolve_checkpoint
from small_runs import check_same, counting_cfg, ppo_cfg, scripted


def content(value: float = 1.0) -> dict[str, Any]:
    return {"weights": {"w": torch.full((50, 50), value)}, "counts": [1, 2.5, None, "a"], "pair": (1, torch.tensor(2))}


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "model_1.pt", content())
    loaded = load_checkpoint(tmp_path / "model_1.pt")
    check_same({key: loaded[key] for key in content()}, content())


def test_a_checkpoint_loads_with_weights_only(tmp_path: Path) -> None:
    runner = ppo_cfg().build(env=scripted(), log_dir=tmp_path)
    runner.learn(1)
    data = torch.load(tmp_path / "model_1.pt", weights_only=True)
    assert {"task", "spec", "config", "versions", "iteration", "algorithm", "runner", "local", "format"} <= data.keys()
    assert data["iteration"] == 1 and data["config"]["agent"]["algorithm"]["gamma"] == 0.99
    assert {"python", "numpy", "torch", "cuda"} == data["local"][0]["rng"].keys()


@pytest.mark.parametrize("bad", [np.float64(1.0), np.zeros(2), {1, 2}, object(), len])
def test_what_is_not_plain_is_refused_by_its_place(tmp_path: Path, bad: Any) -> None:
    with pytest.raises(TypeError, match=r"checkpoint\.outer\.list\[1\] is a "):
        save_checkpoint(tmp_path / "model_1.pt", {"outer": {"list": [0, bad]}})
    assert list(tmp_path.iterdir()) == []


def test_containers_are_copied_to_plain_ones() -> None:
    from collections import OrderedDict

    plain = as_plain(OrderedDict(a=torch.nn.Parameter(torch.ones(1))))
    assert type(plain) is dict and not plain["a"].requires_grad


# ------------------------------------------------------------------------------------------------------- crashes


def test_a_crash_while_writing_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model_1.pt"
    save_checkpoint(path, content(1.0))

    def half(data: Any, file: Any) -> None:
        file.write(b"half of a checkpoint")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module.torch, "save", half)
    with pytest.raises(CheckpointError, match="No space left on device"):
        save_checkpoint(path, content(2.0))
    monkeypatch.undo()
    assert float(load_checkpoint(path)["weights"]["w"][0, 0]) == 1.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["model_1.pt"]


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model_1.pt"
    save_checkpoint(path, content(1.0))
    code = """
import os, sys, torch
from RoboRenForce.utils import checkpoint
real = torch.save
def killed(data, file):
    real(data, file)
    file.flush()
    os._exit(9)  # like SIGKILL: no handler, no finally
checkpoint.torch.save = killed
checkpoint.save_checkpoint(sys.argv[1], {"weights": {"w": torch.zeros(50, 50)}})
"""
    assert subprocess.run([sys.executable, "-c", code, str(path)]).returncode == 9
    assert len(list(tmp_path.iterdir())) == 2  # the partial file is there, and in nobody's way
    assert float(load_checkpoint(path)["weights"]["w"][0, 0]) == 1.0
    assert list(RunDir(tmp_path).checkpoints()) == [1]


def truncated(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF  # inside the weights: the archive's directory stays whole
    path.write_bytes(bytes(data))


def empty(path: Path) -> None:
    path.write_bytes(b"")


def a_picture(path: Path) -> None:
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + os.urandom(500))


def of_rsl_rl(path: Path) -> None:
    torch.save({"actor_state_dict": {}, "critic_state_dict": {}, "iter": 3, "infos": None}, path)


def with_code(path: Path) -> None:
    torch.save({"format": module.FORMAT, "version": 1, "f": os.getcwd}, path)


def from_the_future(path: Path) -> None:
    torch.save({"format": module.FORMAT, "version": module.VERSION + 1}, path)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (truncated, "is truncated or not a checkpoint"),
        (empty, "is truncated or not a checkpoint"),
        (a_picture, "is truncated or not a checkpoint"),
        (damaged, "is damaged: its entry '.*' fails the checksum"),
        (of_rsl_rl, r"is not a checkpoint of RoboRenForce \(it holds actor_state_dict, critic_state_dict"),
        (with_code, "is not a checkpoint of RoboRenForce"),
        (from_the_future, "install a newer one"),
    ],
)
def test_broken_and_foreign_files_are_refused_and_the_previous_one_is_named(
    tmp_path: Path, spoil: Callable[[Path], None], sentence: str
) -> None:
    counting_cfg(max_iterations=4, save_interval=2).build(env=scripted(), log_dir=tmp_path).learn()
    newest = tmp_path / "model_4.pt"
    save_checkpoint(newest, content())  # large enough that its middle is weights
    spoil(newest)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_checkpoint(resolve_checkpoint(tmp_path))
    assert f"The newest usable checkpoint beside it is '{tmp_path / 'model_2.pt'}'." in str(caught.value)
    assert "\n" not in str(caught.value)
    runner = counting_cfg().build(env=scripted())
    runner.load(tmp_path / "model_2.pt")
    assert runner.iteration == 2


def test_where_nothing_is_usable_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(tmp_path / "model_1.pt")
    assert str(caught.value) == f"There is no checkpoint '{tmp_path / 'model_1.pt'}'."


# -------------------------------------------------------------------------------------------------- another robot


def test_the_checkpoint_of_another_robot_is_refused_with_what_differs(tmp_path: Path) -> None:
    path = ppo_cfg().build(env=scripted()).save(tmp_path / "a.pt")
    other = ppo_cfg().build(env=scripted(action_dim=3), task="Other-Robot")
    before = [p.detach().clone() for p in other.policy().parameters()]
    with pytest.raises(SpecMismatch) as caught:
        other.load(path)
    assert "was trained on 'Scripted' and does not fit 'Other-Robot'" in str(caught.value)
    assert "actions are continuous of size 3 here and continuous of size 2 there" in str(caught.value)
    assert "Use --task Scripted" in str(caught.value)
    assert all(torch.equal(a, b) for a, b in zip(before, other.policy().parameters(), strict=True))


def test_a_checkpoint_of_another_network_is_refused(tmp_path: Path) -> None:
    from RoboRenForce import networks

    path = ppo_cfg().build(env=scripted()).save(tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="does not fit this algorithm and policy"):
        ppo_cfg(networks.MLPCfg(hidden_features=[16])).build(env=scripted()).load(path)


def test_another_number_of_environments_is_fine(tmp_path: Path) -> None:
    first = ppo_cfg().build(env=scripted(num_envs=4), log_dir=tmp_path)
    first.learn(2)
    second = ppo_cfg(max_iterations=3).build(env=scripted(num_envs=6))
    second.load(tmp_path / "model_2.pt")
    check_same([p.detach() for p in second.policy().parameters()], [p.detach() for p in first.policy().parameters()])
    second.learn()
    assert (second.iteration, second.steps) == (3, 2 * 4 * 8 + 6 * 8)


class Unrestorable(ScriptedEnv):
    """A simulator whose state can't be saved."""

    def state_dict(self) -> dict[str, Any]:
        return {}


def test_where_the_simulator_cannot_be_restored_fresh_episodes_begin(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def env() -> ScriptedEnv:
        return Unrestorable(ScriptedEnvCfg(num_envs=1, script=[["terminated@6"]]))

    # 4 steps with reward 1, then a stop: the running episode is lost, and none may be counted as 4 + 6 steps long.
    counting_cfg(num_steps_per_env=4).build(env=env(), log_dir=tmp_path).learn(1)
    setup_logging()
    resumed = counting_cfg(num_steps_per_env=6).build(env=env(), log_dir=tmp_path)
    resumed.load(tmp_path / "model_1.pt")
    resumed.learn(1)
    assert "can't restore its simulator" in capsys.readouterr().err
    assert read_metrics(tmp_path / "metrics.jsonl")["Train/mean_reward"] == ([2], [6.0])


# -------------------------------------------------------------------------------------------------- run directory


def test_runs_of_one_second_get_directories_of_their_own(tmp_path: Path) -> None:
    roots = {create_run_dir(tmp_path, "e", "name").root for _ in range(3)}
    assert len(roots) == 3 and all(root.parent == tmp_path / "e" and "_name" in root.name for root in roots)


def test_an_unwritable_log_directory_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"can't be written \(Not a directory\); choose another one with --log_root"):
        create_run_dir(tmp_path / "file", "e")


def test_targets_are_resolved(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for iteration in (5, 10, 100):
        save_checkpoint(run.checkpoint(iteration), {})
    run.point("latest", run.checkpoint(10))
    run.point("best", run.checkpoint(5))
    assert resolve_checkpoint(tmp_path) == tmp_path / "model_10.pt"
    assert resolve_checkpoint(tmp_path, "best") == tmp_path / "model_5.pt"
    assert resolve_checkpoint(tmp_path, "100") == tmp_path / "model_100.pt"
    assert resolve_checkpoint(tmp_path / "model_5.pt") == tmp_path / "model_5.pt"
    with pytest.raises(UserError, match="has no checkpoint '7': it holds the iterations 5, 10, 100"):
        resolve_checkpoint(tmp_path, "7")
    with pytest.raises(UserError, match="say latest, best or the number"):
        resolve_checkpoint(tmp_path, "newest")
    with pytest.raises(UserError, match="is neither a run directory nor a checkpoint"):
        resolve_checkpoint(tmp_path / "nothing")


def test_pruning_keeps_the_newest_and_the_named(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    for iteration in range(1, 8):
        save_checkpoint(run.checkpoint(iteration), {})
    run.point("best", run.checkpoint(2))
    run.point("latest", run.checkpoint(7))
    prune_checkpoints(run, None)
    assert list(run.checkpoints()) == [1, 2, 3, 4, 5, 6, 7]
    prune_checkpoints(run, 3)
    assert list(run.checkpoints()) == [2, 5, 6, 7]


def test_the_newest_run_is_the_one_that_was_written_last(tmp_path: Path) -> None:
    roots = [tmp_path / "exp_a" / "2026-01-02", tmp_path / "exp_b" / "2026-01-01", tmp_path / "exp_a" / "empty"]
    for age, root in enumerate(roots):
        root.mkdir(parents=True)
        if root.name != "empty":
            save_checkpoint(root / "model_1.pt", {})
            os.utime(root / "model_1.pt", (1000 + age, 1000 + age))
    assert [run.root for run in find_runs(tmp_path)] == [roots[1], roots[0]]
    assert [run.root for run in find_runs(tmp_path, "exp_a")] == [roots[0]]
