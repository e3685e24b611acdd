"""Configuration input that would cost everything, or that nobody could read: one sentence each, and at once."""

from __future__ import annotations

import io
import math
import runpy
import sys
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import pytest
from RoboRenForce import algorithms
from RoboRenForce.cli import main
from RoboRenForce.configclass import Cfg, ConfigError, Range, apply_overrides, configclass, yaml_text
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.runners import TrainerCfg
from RoboRenForce.utils import registry, user_errors
from RoboRenForce.utils.console import Display, Progress, make_printable, say
from RoboRenForce.utils.errors import UserError
from RRF_gym_tasks import EnvPoolCfg, GymEnvCfg
from small_runs import ppo_cfg, scripted

pytestmark = pytest.mark.contract


@configclass
class NumbersCfg(Cfg):
    number: float = 1.0
    maybe: float | None = None
    endless: Annotated[float, Range(gt=0, le=math.inf)] = 1.0
    many: list[float] = []
    whole: int = 1
    anything: Any = None


# ------------------------------------------------------------------------------------------------------ size and depth


def bomb(levels: int = 9) -> str:
    lines = ["x0: &x0 [a, a, a, a, a, a, a, a, a]"]
    lines += [f"x{n}: &x{n} [{', '.join([f'*x{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "anything:\n" + "\n".join(f"  {line}" for line in lines) + "\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (bomb(), "more than 100000 values .* once its anchors are written out"),
        ("anything: &a [*a]\n", "nested in itself"),
        ("anything: &a {b: {c: *a}}\n", "nested in itself"),
        ("anything: " + "[" * 5000 + "]" * 5000 + "\n", "nested too deeply"),
        ("anything: " + "{a: " * 100 + "1" + "}" * 100 + "\n", "deeper than 64 levels"),
        ("".join(f"key{n}: 1\n" for n in range(200_000)), "expected a configuration of at most"),
        ("anything: {? !!merge x : {a: 1}}\n", "not valid YAML"),
        (f"whole: {'9' * 5000}\n", "a number that can't be read"),
        ("whole: 09\n", "a number that can't be read"),
        (f"number: 0x{'f' * 5000}\n", "number: got an integer that no float can hold, expected a finite number"),
        (f"number: 1{'0' * 400}\n", "number: got an integer that no float can hold"),
        ("anything: {_set: [[1]]}\n", "remove the mark"),
        ("anything: {_dict: [[[1], 2]]}\n", "remove the mark"),
    ],
    ids=lambda value: value[:24] if isinstance(value, str) else "",
)
def test_a_text_that_costs_everything_is_one_sentence(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        NumbersCfg.from_yaml(text)


def test_repeated_keys_are_found_in_linear_time(monkeypatch: pytest.MonkeyPatch):
    class Key(str):
        compared = 0

        def __eq__(self, other: object) -> bool:
            Key.compared += 1
            return str.__eq__(self, str(other))

        __hash__ = str.__hash__

    monkeypatch.setattr(yaml_text._Loader, "construct_scalar", lambda self, node: Key(node.value))
    loaded = yaml_text.load("".join(f"key{n}: a\n" for n in range(500)))
    assert len(loaded) == 500 and Key.compared < 5000  # every pair: 250,000
    with pytest.raises(ConfigError, match="'key1' appears twice"):
        yaml_text.load("key1: a\nkey2: b\nkey1: c\n")


def test_thousands_of_unknown_fields_are_reported_up_to_a_point():
    with pytest.raises(ConfigError) as caught:
        NumbersCfg.from_yaml("".join(f"key{n}: 1\n" for n in range(3000)))
    assert len(caught.value.problems) < 200


@pytest.mark.parametrize("content", [b"number: \xff\xfe1\n", "number: ü\n".encode("utf-16")])
def test_a_file_that_is_not_utf8_is_one_sentence(tmp_path: Path, content: bytes):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(ConfigError, match=r"x\.yaml is not UTF-8 text .* save it as UTF-8"):
        NumbersCfg.from_yaml(tmp_path / "x.yaml")


def test_a_folder_is_no_configuration_file(tmp_path: Path):
    with pytest.raises(ConfigError, match="can't be read"):
        NumbersCfg.from_yaml(tmp_path)


@pytest.mark.parametrize("text", ["number=1" + "0" * 400, "number=" + "9" * 5000, "anything=" + "[" * 900 + "]" * 900])
def test_the_command_line_has_the_same_bounds(text: str):
    with pytest.raises(ConfigError):
        apply_overrides(NumbersCfg(), [text])


# ------------------------------------------------------------------------------------------------- numbers and bounds


@pytest.mark.parametrize(
    "value", [math.inf, -math.inf, math.nan, 10**400, -(2**20000)], ids=["inf", "-inf", "nan", "1e400", "bits"]
)
@pytest.mark.parametrize("field", ["number", "maybe", "many"])
def test_floats_are_finite(field: str, value: float):
    with pytest.raises(ConfigError, match="expected a finite number") as caught:
        NumbersCfg().replace(**{field: [value] if field == "many" else value}).validate()
    assert caught.value.problems[0].path.startswith(field)


def test_a_range_that_names_infinity_allows_it():
    NumbersCfg(endless=math.inf).validate()
    with pytest.raises(ConfigError):
        NumbersCfg(endless=math.nan).validate()


@pytest.mark.parametrize(
    "cfg",
    [
        GymEnvCfg(env_id="CartPole-v1", num_envs=10**20),
        EnvPoolCfg(env_id="CartPole-v1", num_envs=10**20),
        EnvPoolCfg(env_id="CartPole-v1", num_threads=1_000_000),
        ScriptedEnvCfg(num_envs=10**20),
        ppo_cfg(cpu_threads=100_000),
    ],
    ids=["gym", "envpool", "threads of envpool", "scripted", "threads of torch"],
)
def test_sizes_are_bounded_before_anything_is_allocated(cfg: Cfg):
    with pytest.raises(ConfigError, match=r"(num_envs|num_threads|cpu_threads): got .* expected int >= 1 and <= \d+"):
        cfg.validate()


def test_num_envs_as_a_float_is_refused(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main(["train", "--task", "RoboRenForce-Gym-CartPole-PPO", "--num_envs", "1e20", "--print_config"])
    assert "expected an integer" in capsys.readouterr().err


def test_an_unknown_observation_set_is_refused():
    cfg: TrainerCfg = ppo_cfg(obs_groups={"actr": ["policy"]})
    with pytest.raises(
        ConfigError, match=r"obs_groups\.actr: PPOCfg reads no such observation set; did you mean 'actor'"
    ):
        cfg.build(env=scripted())
    ppo_cfg(obs_groups={"actor": ["policy"], "critic": ["policy"]}).build(env=scripted())
    assert "rnd_state" in algorithms.PPO.obs_sets


# ---------------------------------------------------------------------------------------- what is printed, and commands


def ascii_stream() -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")


def test_text_that_the_terminal_lacks_is_escaped(monkeypatch: pytest.MonkeyPatch):
    out, err = ascii_stream(), ascii_stream()
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    say("run in ü")
    with pytest.raises(SystemExit), user_errors.user_errors():
        raise UserError("no ü")
    display = Display("ü  ·  run", stream=ascii_stream())
    display.start()
    display.update(Progress(1, 1, {"Loss/ü": 1.0}, 1, 1.0, 0.0))
    display.stop()
    for stream in (out, err, display.stream):
        stream.flush()
        assert b"\\xfc" in stream.buffer.getvalue()  # pyright: ignore
    assert make_printable(out).errors == "backslashreplace"


def test_list_matches_anywhere_in_any_case(capsys: pytest.CaptureFixture[str]):
    main(["list", "gym-hOPPer"])
    rows = capsys.readouterr().out.splitlines()
    assert len(rows) > 3 and all("Gym-Hopper" in row for row in rows[1:-1])
    with pytest.raises(SystemExit):
        main(["list", "hoppper"])
    assert "no task with 'hoppper' in its id" in capsys.readouterr().err


SCRIPT = """
import gymnasium as gym
from RoboRenForce.cli import main
from RoboRenForce.configclass import configclass
from RoboRenForce.runners.callbacks import Callback, CallbackCfg
from RoboRenForce.utils.registry import ENV_KEY, RUNNER_KEY
from RRF_gym_tasks import GymEnvCfg
from RRF_gym_tasks.agents import ppo

class Count(Callback): ...

@configclass
class CountCfg(CallbackCfg):
    class_type: type = Count

def runner_cfg():
    return ppo.cartpole().replace(max_iterations=1, num_steps_per_env=4, logger=[], callbacks=[CountCfg()])

entries = {ENV_KEY: GymEnvCfg(env_id="CartPole-v1", num_envs=2), RUNNER_KEY: runner_cfg}
gym.register(id="MyLoco-PPO", entry_point="none:none", disable_env_checker=True, kwargs=entries)
if __name__ == "__main__":
    main(["train", "--task", "MyLoco-PPO"])
    main(["eval", "--episodes", "1"])
"""


def test_a_script_with_its_own_task_and_callback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    """Its run is played by the script, whose name and place the run has, and by nothing else."""
    folder = tmp_path / "a ü"
    folder.mkdir()
    script = folder / "my_loco.py"
    script.write_text(SCRIPT, encoding="utf-8")
    monkeypatch.chdir(folder)
    monkeypatch.setattr(registry, "_finders", [])  # simulators that are asked for an unknown id take long to import
    runpy.run_path(str(script), run_name="__main__")
    del gym.registry["MyLoco-PPO"]
    assert "written to" in capsys.readouterr().out  # the same script finds its callback again
    run = next(folder.glob("logs/RFRL/*/*"))
    stored = (run / "params" / "agent.yaml").read_text(encoding="utf-8")
    assert f"{script}:CountCfg" in stored and "__main__" not in stored
    for command in (["play"], ["train", "--resume"]):
        with pytest.raises(SystemExit):
            main(command)
        printed = capsys.readouterr().err
        assert f"Task MyLoco-PPO is registered by {script}: run `python '{script}' " in printed
        assert "RoboRenForce-Gym" not in printed
    (folder / "x.yaml").write_text(f"callbacks: ['{script}:CountCfg']")
    with pytest.raises(ConfigError, match="a file may not name"):
        TrainerCfg.from_yaml(folder / "x.yaml")
    with pytest.raises(ConfigError, match="known to that script only, which is not running"):
        TrainerCfg.from_yaml(folder / "x.yaml", trust=True)


def test_printed_commands_quote_blanks(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    root = tmp_path / "my runs"
    small = ["--num_envs", "2", "--max_iterations", "1", "num_steps_per_env=4", "logger=[]"]
    main(["train", "--task", "RoboRenForce-Gym-CartPole-PPO", "--log_root", str(root), *small])
    run = next(root.glob("*/*"))
    printed = capsys.readouterr().out
    for start in ("--resume", "--target", "--logdir"):
        assert f"{start} '{run}'" in printed
    assert f"--target &#x27;{run}&#x27;" in (run / "report.html").read_text(encoding="utf-8")
