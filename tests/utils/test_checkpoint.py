"""Checkpoints survive crashes, refuse what is not theirs in one sentence, and hold nothing but data."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce.cli import main
from RoboRenForce.envs.scripted_env import ScriptedEnv, ScriptedEnvCfg
from RoboRenForce.utils import checkpoint as module
from RoboRenForce.utils.checkpoint import as_plain, load_checkpoint, prune_checkpoints, save_checkpoint
from RoboRenForce.utils.console import setup_logging
from RoboRenForce.utils.errors import CheckpointError, SpecMismatch, UserError
from RoboRenForce.utils.logging import read_metrics
from RoboRenForce.utils.run_dir import RunDir, create_run_dir, find_runs, resolve_checkpoint
from small_runs import check_same, counting_cfg, ppo_cfg, scripted

pytestmark = pytest.mark.contract


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


# ------------------------------------------------------------------------------- whole files with other contents


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a trained run has saved."""
    folder = tmp_path_factory.mktemp("whole")
    ppo_cfg().build(env=scripted(), log_dir=folder).learn(1)
    return load_checkpoint(folder / "model_1.pt")


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where something is in nested data, down to what the runner itself reads."""
    if path:
        yield path
    if isinstance(value, dict) and path[:1] not in [("algorithm",), ("config",), ("versions",)] and len(path) < 4:
        for key in value:
            yield from places(value[key], (*path, key))
    elif isinstance(value, list) and path == ("local",):
        yield from places(value[0], (*path, 0))


WRONG = {"None": None, "text": "x", "number": -3, "list": [], "mapping": {}, "nan": float("nan"), "gone": "gone"}


@pytest.mark.parametrize("name", WRONG)
def test_a_checkpoint_with_anything_missing_or_wrong_is_one_sentence(
    tmp_path: Path, whole: dict[str, Any], name: str
) -> None:
    runner = ppo_cfg().build(env=scripted())
    path, refused = tmp_path / "model_1.pt", 0
    for place in places(whole):
        data = copy.deepcopy(whole)
        inner: Any = data
        for key in place[:-1]:
            inner = inner[key]
        if name == "gone":
            del inner[place[-1]]
        elif type(inner[place[-1]]) is type(WRONG[name]):
            continue  # another value of the same kind: a name, a number
        else:
            inner[place[-1]] = WRONG[name]
        data.pop("format", None) if place == ("format",) and name == "gone" else None
        torch.save(data, path)
        try:
            runner.load(path)
        except (CheckpointError, SpecMismatch) as error:
            refused += 1
            assert str(path) in str(error) and "\n" not in str(error)
        # What is left is what may be absent, or has another value that is possible too.
    assert refused > 15


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data.pop("spec"), "is not a complete checkpoint: spec is missing."),
        (lambda data: data["config"].pop("agent"), "config.agent is missing"),
        (lambda data: data.update(iteration=-1), "iteration is -1, expected int"),
        (lambda data: data.update(iteration=True), "iteration is True, expected int"),
        (lambda data: data["local"].clear(), "local is a list, expected a list of at least one"),
        (lambda data: data["local"][0]["rng"].pop("torch"), r"local\[0\].rng.torch is missing"),
        (lambda data: data["runner"].update(best_score="good"), "runner.best_score is 'good', expected float"),
        (lambda data: data["runner"]["metrics"].update(a=None), "runner.metrics.a is None, expected float"),
        (lambda data: data["spec"].pop("action"), "its spec is none"),
        (lambda data: data.update(version="1"), "version is '1', expected int"),
        (lambda data: data["local"][0]["rng"].update(python=[1, 2, 3]), "does not fit this runner and environment"),
        (
            lambda data: data["local"][0]["env"].clear() or data["local"][0]["env"].update(a=1),
            "does not fit this runner",
        ),
        (lambda data: data["local"][0]["stateful"].clear(), "does not fit this runner and environment"),
        (lambda data: data["algorithm"].clear(), "does not fit this algorithm and policy"),
    ],
)
def test_the_sentence_names_the_part(
    tmp_path: Path, whole: dict[str, Any], change: Callable[[dict[str, Any]], Any], sentence: str
) -> None:
    data = copy.deepcopy(whole)
    change(data)
    torch.save(data, tmp_path / "model_2.pt")
    save_checkpoint(tmp_path / "model_1.pt", whole)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        ppo_cfg().build(env=scripted()).load(tmp_path / "model_2.pt")
    named = f"The newest usable checkpoint beside it is '{tmp_path / 'model_1.pt'}'." in str(caught.value)
    assert named == ("does not fit" not in sentence and "spec is none" not in sentence)


def test_a_checkpoint_of_before_these_fields_still_loads(tmp_path: Path, whole: dict[str, Any]) -> None:
    old = copy.deepcopy(whole)
    del old["interrupted"], old["runner"]["best_iteration"], old["runner"]["metrics"]
    save_checkpoint(tmp_path / "model_1.pt", old)
    runner = ppo_cfg().build(env=scripted(), log_dir=tmp_path)
    runner.load(tmp_path / "model_1.pt")
    runner.learn(1)
    assert runner.iteration == 2


def test_a_pickle_that_fails_in_its_own_way_is_foreign(tmp_path: Path) -> None:
    for content in (b"", b"\x80\x02.", b"\x80\x02X\xff\xff\xff\xff.", b"garbage", b"\x80\x02K\x01R."):
        with zipfile.ZipFile(tmp_path / "model_1.pt", "w") as archive:
            archive.writestr("model_1/data.pkl", content)
            archive.writestr("model_1/version", "3\n")
            archive.writestr("model_1/byteorder", "little")
        with pytest.raises(CheckpointError, match="is not a checkpoint of RoboRenForce"):
            load_checkpoint(tmp_path / "model_1.pt")


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


NOT_A_FOLDER = ["..", ".", "../../x", "a/b", "/tmp", "a\\b", "a\nb", "a\0b", "x/", "\ud800"]


@pytest.mark.parametrize("name", NOT_A_FOLDER)
def test_a_name_stays_inside_its_log_root(tmp_path: Path, name: str) -> None:
    root = tmp_path / "a" / "b" / "logs"
    for names in ((name, ""), ("e", name)):
        with pytest.raises(UserError, match=r"(experiment|run)_name is .* expected the name of one folder") as caught:
            create_run_dir(root, *names)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses_such_a_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("RRF_gym_tasks")
    monkeypatch.chdir(tmp_path)
    for flag in ("--experiment_name", "--run_name"):
        with pytest.raises(SystemExit) as left:
            main(["train", "--task", "RoboRenForce-Gym-CartPole-PPO", flag, "../../x"])
        assert left.value.code == 1
        assert f"Error: {flag[2:]} is '../../x', expected the name of one folder" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["[a]", "*", "?", "**", "a b", "Bär", ".hidden", "..."])
def test_every_folder_name_is_found_again(tmp_path: Path, name: str) -> None:
    runs = [create_run_dir(tmp_path, *names) for names in ((name, ""), ("e", name))]
    for run in runs:
        save_checkpoint(run.checkpoint(1), {})
    assert [run.root for run in find_runs(tmp_path, name)] == [runs[0].root]
    assert {run.root for run in find_runs(tmp_path)} == {run.root for run in runs}
    assert resolve_checkpoint(runs[0].root) == runs[0].checkpoint(1)


def test_a_search_stays_inside_too_and_is_not_stopped_by_one_bad_run(tmp_path: Path) -> None:
    good, bad = (create_run_dir(tmp_path / "logs", name) for name in ("good", "bad"))
    for run in (good, bad):
        save_checkpoint(run.checkpoint(1), {})
    good.params("run").write_text("task: T\n")
    bad.params("run").write_text("- not\n- a mapping\n")
    assert find_runs(tmp_path / "logs" / "good", "..") == []
    assert [run.root for run in find_runs(tmp_path / "logs", task="T")] == [good.root]
    assert find_runs(tmp_path / "nothing") == []


@pytest.mark.parametrize("content", ["", "model_9.pt.partial", "../../secret", "model_x.pt", "a" * 5000, None])
def test_a_pointer_that_names_no_checkpoint_is_none(tmp_path: Path, content: str | None) -> None:
    run = RunDir(tmp_path)
    save_checkpoint(run.checkpoint(3), {})
    if content is None:
        (tmp_path / "latest").write_bytes(b"\xff\xfe")
    else:
        (tmp_path / "latest").write_text(content)
    assert run.pointed("latest") is None
    assert resolve_checkpoint(tmp_path) == run.checkpoint(3)
