"""AMP tasks and the tracking task of mjlab, with made-up motions."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch

pytest.importorskip("mjlab")

from RoboRenForce.buffer.motion import MotionDatasetCfg, read_motion
from RoboRenForce.utils.errors import UserError
from RoboRenForce.utils.registry import load_task
from RRF_mjlab_tasks.motion.files import write_motion
from RRF_mjlab_tasks.motion.gaits import GAITS, Robot, make_gait
from RRF_mjlab_tasks.motion.recorded import record, recording_cfg

pytestmark = [pytest.mark.contract, pytest.mark.sim_mjlab]


@pytest.fixture(scope="module")
def motions(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder: Path = tmp_path_factory.mktemp("motions")
    for robot in GAITS:
        write_motion(folder / f"{robot}.npz", make_gait(robot, seconds=2.0))
    return {robot: str(folder / f"{robot}.npz") for robot in GAITS}


@pytest.mark.parametrize(("robot", "speed", "height"), [("Go1", 0.5, 0.29), ("G1", 0.65, 0.76)])
def test_gaits_walk_forwards_on_the_ground(motions: dict[str, str], robot: Robot, speed: float, height: float) -> None:
    frames = read_motion(motions[robot], 0.02)
    assert float(frames.root_lin_vel[:, 0].mean()) == pytest.approx(speed, abs=0.15)
    assert float(frames.root_lin_vel[:, 1].mean()) == pytest.approx(0.0, abs=0.02)
    assert (frames.root_pos[:, 2] - height).abs().max() < 0.05
    assert frames.joint_vel.abs().max() < 10.0


def go1(motions: dict[str, str], **options: Any) -> Any:
    task = load_task("RoboRenForce-MJLab-Go1Flat-AMPPPO")
    task.runner_cfg.algorithm.reward_terms[0].expert.files = [motions["Go1"]]
    task.env_cfg = task.env_cfg.replace(motions=[motions["Go1"]], num_envs=6, device="cpu", **options)
    return task


def distance(style: torch.Tensor, expert: torch.Tensor) -> torch.Tensor:
    """Distance `(N,)` to the nearest frame."""
    return (style.unsqueeze(1) - expert).abs().amax(-1).amin(-1)


@pytest.mark.parametrize("env_graph", ["off", "on"])
def test_episodes_start_in_frames_of_the_motion(motions: dict[str, str], env_graph: str) -> None:
    """With the features that the discriminator sees of the motion; rows that go on are left alone."""
    task = go1(motions, motion_share=1.0, env_graph=env_graph)
    style = read_motion(motions["Go1"], 0.02).style().float()
    env = task.env_cfg.build()
    obs, _ = env.reset(seed=1)
    assert distance(obs["amp"], style).max() < 1e-4
    env.episode_length_buf = torch.tensor([env.max_episode_length - 1] * 3 + [0] * 3)
    obs, _, done, extras = env.step(torch.zeros(6, 12))
    assert done.tolist() == [1, 1, 1, 0, 0, 0]
    away = distance(obs["amp"], style)
    assert away[:3].max() < 1e-4
    assert away[3:].min() > 0.1
    assert distance(extras["final_observations"]["amp"][:3], style).min() > 0.1
    env.close()


def test_a_share_of_episodes_starts_as_in_the_task(motions: dict[str, str]) -> None:
    env = go1(motions, motion_share=0.0, env_graph="off").env_cfg.build()
    obs, _ = env.reset(seed=1)
    joints = obs["amp"][:, 10:22]
    assert torch.equal(joints, joints[:1].expand_as(joints))
    assert distance(obs["amp"], read_motion(motions["Go1"], 0.02).style().float()).min() > 0.1
    env.close()


def test_amp_trains(motions: dict[str, str]) -> None:
    task = go1(motions)
    cfg = task.runner_cfg.replace(logger=[], report=False, num_steps_per_env=8)
    runner = cfg.build(env=task.env_cfg.build(), device="cpu")
    runner.learn(1)
    term = runner.algorithm.reward_terms[0]
    assert term.expert.shape[1] == 2 * (10 + 2 * 12)
    # Files that name their joints are sorted into the robot's order, which is that of the observations.
    assert term.cfg.expert.joint_names == list(runner.env.unwrapped.scene["robot"].joint_names)
    assert float(term.optimizer.steps) == cfg.algorithm.num_learning_epochs * cfg.algorithm.num_mini_batches
    runner.env.close()


def test_the_motion_of_a_policy_is_what_the_simulator_did(tmp_path: Path) -> None:
    """One that never learned hardly moves, and stands; one that pushes falls, which is no motion."""
    task = load_task("RoboRenForce-MJLab-Go1Flat-PPO")
    env = recording_cfg(task.env_cfg, (0.5, -0.1, 0.2)).replace(device="cpu").build()
    policy = task.runner_cfg.replace(logger=[]).build(env=env, device="cpu").policy()
    write_motion(tmp_path / "own.npz", record(env, policy, seconds=0.4))
    motion = dict(np.load(tmp_path / "own.npz"))
    data = env.unwrapped.scene["robot"].data
    assert data.joint_pos.shape[1] == motion["joint_pos"].shape[1] == 12
    np.testing.assert_allclose(motion["joint_pos"][-1], data.joint_pos[0].numpy(), atol=1e-5)
    np.testing.assert_allclose(motion["root_quat"][-1], data.root_link_quat_w[0].numpy(), atol=1e-5)
    offset = motion["body_pos_w"][-1] - data.body_link_pos_w[0].numpy()
    np.testing.assert_allclose(offset, np.broadcast_to(offset[0], offset.shape), atol=1e-4)
    np.testing.assert_allclose(motion["body_lin_vel_w"][-2], data.body_link_lin_vel_w[0].numpy(), atol=0.05)
    command = env.unwrapped.command_manager.get_command("twist")
    assert command[0].tolist() == pytest.approx([0.5, -0.1, 0.2])
    assert len(read_motion(tmp_path / "own.npz", 0.02)) == 20

    class Pushes:
        deterministic = True

        def reset(self, done: torch.Tensor | None = None) -> None:
            pass

        def __call__(self, obs: Any) -> torch.Tensor:
            return torch.tensor([[6.0, -6.0] * 6])

    with pytest.raises(UserError, match="The robot fell after"):
        record(env, cast(Any, Pushes()), seconds=5.0)
    env.close()


def test_the_g1_has_the_features_of_its_motion(motions: dict[str, str]) -> None:
    """J = 29, and unitree's order of the joints is mjlab's."""
    task = load_task("RoboRenForce-MJLab-G1Flat-AMPPPO")
    env = task.env_cfg.replace(motions=[motions["G1"]], motion_share=1.0, num_envs=2, device="cpu").build()
    obs, _ = env.reset(seed=1)
    data = MotionDatasetCfg(files=[motions["G1"]]).build()
    assert obs["amp"].shape == (2, 68)
    assert distance(obs["amp"], data.obs["amp"]).max() < 1e-4
    env.close()


def test_the_tracking_task_trains_with_a_made_up_motion(motions: dict[str, str]) -> None:
    """Through mjlab's own MotionCommand: the robot is near the motion for the first steps."""
    task = load_task("Mjlab-Tracking-Flat-Unitree-G1")
    env_cfg = task.env_cfg.replace(motion_file=motions["G1"], num_envs=2, device="cpu")
    runner = task.runner_cfg.replace(logger=[], report=False, num_steps_per_env=8).build(
        env=env_cfg.build(), device="cpu"
    )
    runner.learn(1)
    term = runner.env.unwrapped.command_manager.get_term("motion")
    assert np.isfinite(float(term.metrics["error_joint_pos"].mean()))
    assert float(term.metrics["error_anchor_pos"].mean()) < 0.5
    runner.env.close()
