"""What happens with another mjlab: the fast step is behind one face that sees it, and a script says what changed."""

from __future__ import annotations

import ast
import logging
import re
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("mjlab")

import mjlab
from RRF_mjlab_tasks import fast_step
from RRF_mjlab_tasks.fast_step import changes, mjlab_version
from RRF_mjlab_tasks.mjlab_env import MJLabVecEnv

pytestmark = [pytest.mark.contract, pytest.mark.sim_mjlab]

SITE = Path(mjlab.__file__).parents[1]
ROOT = Path(__file__).parents[3]
PACKAGE = Path(fast_step.__file__).parent
OWN_TESTS = {f"test_mjlab_{name}.py" for name in ("fast_step", "physics_branches", "tracking_step", "version")}
REWARDS = "mjlab.managers.reward_manager:RewardManager"


def imports_of(file):
    """Module and name of every `from ... import ...`, module alone of every `import ...`."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            yield from (("." * node.level + (node.module or ""), alias.name) for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)


def test_nothing_else_reaches_inside_the_fast_step():
    files = [file for folder in ("source", "scripts", "tests", "benchmarks") for file in (ROOT / folder).rglob("*.py")]
    outside = [file for file in files if PACKAGE not in file.parents and file.name not in OWN_TESTS]
    found = {
        (file.name, module, name)
        for file in outside
        if "fast_step" in file.read_text(encoding="utf-8")
        for module, name in imports_of(file)
        if "fast_step" in module and not (module.endswith("fast_step") and name in {*fast_step.__all__, "FastStep"})
    }
    assert found == set()
    assert any(file.name == "mjlab_env.py" for file in outside)


def test_the_groups_of_the_fast_step_know_only_those_below():
    above = {"capture": "masked|physics|program|step", "physics": "masked|capture|program|step"}
    above["masked"] = "physics|program|step"
    for group, names in above.items():
        files = list((PACKAGE / group).glob("*.py"))
        assert files
        for file in files:
            wrong = [module for module, _ in imports_of(file) if re.match(rf"\.\.({names})\b", module)]
            assert wrong == [], file.name


def test_another_mjlab_steps_plainly_and_says_why(monkeypatch, caplog):
    monkeypatch.setitem(mjlab_version.FINGERPRINTS, REWARDS, "another")
    cfg = SimpleNamespace(env_graph="auto", final_observations=True)
    env = SimpleNamespace(
        cfg=cfg,
        device=SimpleNamespace(type="cuda"),
        env=SimpleNamespace(cfg=SimpleNamespace(auto_reset=True)),
        spec=SimpleNamespace(task="Task"),
        _rows_are_separate=lambda: False,
    )
    with caplog.at_level(logging.WARNING):
        assert MJLabVecEnv._make_fast_step(env) is None
    assert "Task steps as mjlab does" in caplog.text
    assert "changed RewardManager" in caplog.text
    assert env.env.cfg.auto_reset is False
    cfg.env_graph = "on"
    with pytest.raises(fast_step.CannotCaptureError, match="RewardManager"):
        MJLabVecEnv._make_fast_step(env)


def test_a_name_that_is_gone_counts_as_changed(monkeypatch):
    for path in ("mjlab.managers.gone:Manager", REWARDS + ".gone"):
        monkeypatch.setitem(mjlab_version.FINGERPRINTS, path, "1")
        assert mjlab_version.changed_functions([path, REWARDS]) == [path]


def test_sources_are_read_from_files_as_python_sees_them():
    installed = changes.Sources(SITE)
    for path in mjlab_version.FINGERPRINTS:
        assert installed.source(path) == mjlab_version.installed_source(path) != "", path


def edit(file, before, after):
    text = file.read_text(encoding="utf-8")
    assert before in text
    file.write_text(text.replace(before, after), encoding="utf-8")


@pytest.fixture
def edited(tmp_path):
    """A copy of the installed mjlab with one function, one field and one comment changed, and a class moved."""
    (tmp_path / "mjlab-9.7.1.dist-info").mkdir()
    for package in ("mjlab", "mujoco_warp"):
        shutil.copytree(
            SITE / package,
            tmp_path / package,
            ignore=lambda folder, names: [
                name for name in names if not (name.endswith(".py") or Path(folder, name).is_dir())
            ],
        )
    copy = tmp_path / "mjlab"
    edit(copy / "envs/mdp/curriculums.py", "def _apply_stages(", "def _apply_stages(\n  extra,")
    edit(copy / "utils/buffers/circular_buffer.py", "_num_pushes", "_push_count")
    edit(copy / "utils/buffers/circular_buffer.py", '"""History in chron', '"""Frames in chron')
    edit(copy / "sensor/sensor_context.py", "  def prepare(self", "  # A comment.\n  def prepare(self")
    edit(copy / "sensor/sensor_context.py", "  def finalize(self", "  def finish(self")
    edit(copy / "entity/entity.py", "  def reset(", "  def set_back(")
    shutil.copy(copy / "managers/reward_manager.py", copy / "rewards.py")
    edit(copy / "managers/reward_manager.py", "class RewardManager", "class Rewards")
    delays = copy / "utils/buffers/delay_buffer.py"
    edit(delays, '"""Delay buffer for', '"""A delay buffer for')  # outside of what is mirrored
    edit(delays, "  def __init__(", "  # Another comment.\n  def __init__(")
    return tmp_path


def test_the_report_says_what_changed_and_what_to_paste(edited, capsys):
    assert changes.main([str(SITE), str(edited)]) == 1
    text = capsys.readouterr().out
    assert "-> 9.7.1" in text
    assert "OLD is not the version" not in text
    assert f"6 of {len(mjlab_version.FINGERPRINTS)} functions and classes differ." in text

    # A diff of each function, and where a class went.
    assert "--- old/mjlab.envs.mdp.curriculums:_apply_stages" in text
    assert "\n+  extra," in text
    assert f"{REWARDS} is gone; now defined: mjlab.rewards:RewardManager" in text
    assert "mjlab.entity.entity:Entity.reset is gone; now defined: nowhere" in text
    assert "mjlab.utils.buffers.delay_buffer:DelayBuffer: comments and docstrings only" in text
    assert "circular_buffer:CircularBuffer: comments" not in text

    # New and removed fields and methods, with who uses what is gone.
    fields = re.search(r"CircularBuffer  (.*)", text)[1]
    assert fields == "+_push_count -_num_pushes (named in masked/buffers.py)"
    assert "+set_back() -reset()" in text
    names = text.partition("NEW has nowhere:")[2].partition("Fingerprints")[0]
    assert re.search(r"masked/buffers.py  .*_num_pushes", names)

    # The pasted lines are what the copy is known by.
    pasted = dict(re.findall(r'^    "(.+)": "(\w+)",$', text, re.MULTILINE))
    assert 'KNOWN_MINOR = "9.7."' in text
    assert set(pasted) == {
        "mjlab.envs.mdp.curriculums:_apply_stages",
        "mjlab.utils.buffers.circular_buffer:CircularBuffer",
        "mjlab.utils.buffers.delay_buffer:DelayBuffer",
    }
    sources = changes.Sources(edited)
    assert all(mjlab_version.fingerprint(sources.source(path)) == value for path, value in pasted.items())


def test_the_report_on_the_same_version_is_empty(capsys):
    assert changes.main([str(SITE), str(SITE)]) == 0
    text = capsys.readouterr().out
    assert f"0 of {len(mjlab_version.FINGERPRINTS)} functions and classes differ." in text
    assert text.count("(none)") == 3


def test_a_version_without_mujoco_warp_is_compared_in_mjlab_alone(tmp_path, capsys):
    (tmp_path / "mjlab").symlink_to(SITE / "mjlab")
    assert changes.main([str(SITE), str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "mujoco_warp is not in both folders" in text
    assert f"0 of {len(mjlab_version.MIRRORED)} functions and classes differ." in text
    assert text.count("(none)") == 3


def test_a_folder_without_mjlab_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        changes.main([str(SITE), str(tmp_path)])
    assert "there is no mjlab in" in capsys.readouterr().err
