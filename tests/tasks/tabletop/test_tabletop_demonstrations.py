"""Demonstrations of the tabletop tasks by the script, read back; and bad input of that script."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce.cli.demonstration_run import collect_demos_parser, prepare_demonstrations
from RoboRenForce.configclass import UserError
from RoboRenForce.data import LeRobotDatasetCfg
from RoboRenForce.runners.arguments import train_parser
from RoboRenForce.runners.training_run import prepare_training
from RRF_tabletop_tasks.language import COLOURS, default_held_out
from RRF_tabletop_tasks.registration import vla_cfg

pytest.importorskip("pyarrow")
pytest.importorskip("av")
pytestmark = pytest.mark.contract

PLACE = "RoboRenForce-Tabletop-Place-BC"
REACH = "RoboRenForce-Tabletop-Reach"


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def collected(*argv: str) -> Any:
    """The data set that `collect_demos.py` writes with these arguments."""
    args = collect_demos_parser(None).parse([*argv, "--output", "demos"])
    run = prepare_demonstrations(args)
    run.record()
    run.env.close()
    return LeRobotDatasetCfg(data_root="demos").build()


def lengths(data: Any) -> list[int]:
    """Frames of each episode."""
    return data.metadata.episodes.length.tolist()


def test_recorded_pictures_are_those_of_the_environment() -> None:
    data = collected("--task", PLACE, "--num_episodes", "3", "--num_envs", "1", "--images", "--seed", "5")
    env = vla_cfg("Place", num_envs=1, seed=5).build()
    obs, extras = env.reset(seed=5)
    first = data[0]
    assert torch.equal(torch.as_tensor(first["observation.images.front"]), obs["front"][0])
    assert first["task"] == extras["instruction"][0] and first["instruction_id"] == obs["instruction_id"].item()
    torch.testing.assert_close(torch.as_tensor(first["observation.state"]), obs["proprio"][0])
    assert data.metadata.fps == 10 and len(lengths(data)) == 3


def test_no_held_out_pair_is_demonstrated_and_videos_are_near_the_pictures() -> None:
    data = collected("--task", PLACE, "--num_episodes", "12", "--num_envs", "4")
    for block, plate in default_held_out(list(COLOURS)):
        assert not any(f"{block} block" in text and f"{plate} plate" in text for text in data.metadata.tasks.values())
    picture = torch.as_tensor(data[0]["observation.images.front"])
    assert picture.shape == (64, 64, 3) and (picture[0, 0].float() - torch.tensor([92.0, 98.0, 108.0])).abs().max() < 12


def test_a_trained_policy_is_the_expert_though_it_sees_other_things() -> None:
    options = ["--max_iterations", "1", "--num_envs", "4", "num_steps_per_env=8", "report=false", "logger=[]"]
    run = prepare_training(train_parser(None).parse(["--task", f"{REACH}-PPO", *options]))
    runner = run.build_runner(run.build_env())
    runner.learn()
    run.finish(runner)
    checkpoint = str(run.run_dir.root)
    arguments = ["--task", f"{REACH}-BC", "--checkpoint", checkpoint, "--num_episodes", "2", "--include_failures"]
    data = collected(*arguments, "env.max_episode_length=6")
    assert len(lengths(data)) == 2 and max(lengths(data)) <= 6
    args = collect_demos_parser(None).parse(["--task", PLACE, "--checkpoint", checkpoint, "--output", "other"])
    policy = prepare_demonstrations(args).expert
    assert policy(None).shape == (16, 3)  # type: ignore[arg-type]


def test_recording_goes_on_where_it_was_broken_off() -> None:
    arguments = ["--task", f"{REACH}-BC", "--images", "--num_envs", "2"]
    args = collect_demos_parser(None).parse([*arguments, "--num_episodes", "6", "--output", "demos"])
    run = prepare_demonstrations(args)

    class Interrupted(Exception):  # noqa: N818 - what the user does
        pass

    expert, calls = run.expert, []

    class Stopping:
        """The expert until the user interrupts."""

        reset = staticmethod(expert.reset)

        def __call__(self, obs: Any) -> torch.Tensor:
            calls.append(obs)
            if len(calls) > 15:
                raise Interrupted
            return expert(obs)

    run.expert = Stopping()
    with pytest.raises(Interrupted):
        run.record()
    saved = len(lengths(LeRobotDatasetCfg(data_root="demos").build()))
    assert 0 < saved < 6
    assert len(lengths(collected(*arguments, "--num_episodes", "6", "--resume"))) == 6


def test_resume_begins_where_there_is_nothing_and_leaves_what_is_complete() -> None:
    arguments = ["--task", f"{REACH}-BC", "--num_episodes", "2", "--images", "--resume"]
    first = lengths(collected(*arguments))
    assert len(first) == 2 and lengths(collected(*arguments)) == first


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--task", f"{REACH}-PPO"], "gives no cameras, proprio and instructions"),
        (["--task", PLACE, "--num_episodes", "0"], "--num_episodes is 0, expected at least 1"),
        (["--task", PLACE, "--noise", "nan"], "--noise is nan, expected at least 0"),
        (
            ["--task", "RoboRenForce-Gym-InvertedPendulumPixels-PPO"],
            "has no scripted expert: name a trained policy with --checkpoint",
        ),
        (["--task", PLACE, "--checkpoint", "nowhere"], "nowhere"),
        (["--task", "RoboRenForce-Tabletop-Plaice-BC"], "There is no task"),
    ],
)
def test_what_can_not_be_recorded_is_refused_in_a_sentence(arguments: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as error:
        collected(*arguments)
    assert sentence in str(error.value)
    assert not Path("demos").exists()


def test_a_data_set_of_other_cameras_is_not_continued() -> None:
    collected("--task", f"{REACH}-BC", "--num_episodes", "1", "--images")
    with pytest.raises(UserError, match=r"choose another --output"):
        collected("--task", f"{REACH}-BC", "--num_episodes", "2", "--resume")
    with pytest.raises(UserError, match="is not empty"):
        collected("--task", f"{REACH}-BC", "--num_episodes", "2")


def test_an_older_format_is_recorded_and_continued_as_such() -> None:
    arguments = ["--task", f"{REACH}-BC", "--images", "--num_envs", "1"]
    new = collected(*arguments, "--num_episodes", "2")
    expected = new.get_batch(np.arange(len(new)))
    Path("demos").rename("new")
    collected(*arguments, "--num_episodes", "1", "--format", "v2.1")
    old = collected(*arguments, "--num_episodes", "2", "--resume")
    assert (new.metadata.version, old.metadata.version) == ("v3.0", "v2.1") and len(lengths(old)) == 2
    found = old.get_batch(np.arange(lengths(old)[0]))
    for key, values in expected.items():
        assert np.array_equal(values[: lengths(old)[0]], found[key]), key
    with pytest.raises(UserError, match=r"'demos' is LeRobot v2\.1 and --format is v3\.0: leave --format out"):
        collected(*arguments, "--num_episodes", "3", "--resume", "--format", "v3.0")
