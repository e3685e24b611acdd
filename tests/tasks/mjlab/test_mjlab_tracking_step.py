"""mjlab's tracking task in the fast step against its own step; both take the likeliest bin and the middle of ranges."""

from __future__ import annotations

import copy

import pytest
import torch

pytest.importorskip("mjlab")

from fixed_mjlab import TRACKING, build, differences, fixed_cfg
from mjlab.tasks.tracking.mdp import commands as theirs
from RRF_mjlab_tasks.fast_step import make_fast_step
from RRF_mjlab_tasks.fast_step.masked import motion_command
from RRF_mjlab_tasks.motion.files import write_motion
from RRF_mjlab_tasks.motion.gaits import make_gait

pytestmark = [pytest.mark.contract, pytest.mark.sim_mjlab]

ENVS = 6
STATE = ("time_steps", "bin_failed_count", "body_pos_relative_w", "body_quat_relative_w", "command_counter")


@pytest.fixture(scope="module")
def motion(tmp_path_factory):
    path = tmp_path_factory.mktemp("motions") / "walk.npz"
    write_motion(path, make_gait("G1", seconds=3.0))
    return str(path)


@pytest.fixture
def without_chance(monkeypatch):
    """Both sample the likeliest bin, and the middle of every range."""

    def middle(lower, upper, size, device):
        return torch.zeros(size, device=device) + 0.5 * (torch.as_tensor(lower) + torch.as_tensor(upper))

    monkeypatch.setattr(torch, "multinomial", lambda weights, count, replacement: weights.argmax().expand(count))
    monkeypatch.setattr(motion_command, "_draw_bins", lambda weights, count: weights.argmax().expand(count))
    for module in (theirs, motion_command):
        monkeypatch.setattr(module, "sample_uniform", middle)


def both(motion, mode):
    """Two environments in the same state, with rows that fail, time out and reach the end of the motion."""
    cfg = fixed_cfg(TRACKING, ENVS, episode_length_s=0.6)
    command = cfg.commands["motion"]
    command.motion_file, command.sampling_mode, command.adaptive_alpha = motion, mode, 0.3
    command.resampling_time_range = (0.45, 0.45)
    made = build(copy.deepcopy(cfg)), build(cfg)
    for env in made:
        last = env.command_manager.get_term("motion").motion.time_step_total - 1
        frames = torch.tensor([3, 50, last - 2, last - 4, 90, 120])
        env.command_manager.get_term("motion").reset_to_frame(torch.arange(ENVS), frames)
        env.sim.forward()
        env.command_manager.get_term("motion").update_relative_body_poses()
        env.episode_length_buf[2] = env.max_episode_length - 3  # it times out where the motion ends
    return made


LONG = [pytest.param(*case, marks=pytest.mark.long) for case in (("adaptive", False), ("start", False))]


@pytest.mark.parametrize(("mode", "final"), [("adaptive", True), *LONG])
def test_tracking_steps_equal_mjlabs(motion, without_chance, mode, final):
    plain, env = both(motion, mode)
    fast = make_fast_step(env, final_observations=final, capture=False)
    assert fast.fallbacks == []
    expected, got = (e.command_manager.get_term("motion") for e in (plain, env))
    generator = torch.Generator().manual_seed(0)
    failed = wrapped = both_ends = 0
    for index in range(30):
        action = torch.randn(ENVS, 29, generator=generator) * 3.0
        last = expected.motion.time_step_total - 1
        ends, following = expected.time_steps == last, (expected.time_steps + 1).clamp(max=last)
        obs, _, terminated, time_outs, extras = plain.step(action)
        fast(action)
        done = terminated | time_outs
        wrapped += int((ends & ~done).sum())
        failed += int(terminated.sum())
        both_ends += int((ends & done).sum())
        found = differences(plain, obs, env, fast.observations)
        assert not found, f"step {index}: {'; '.join(found)}"
        if final:  # no row has gone to another frame before its last observation
            assert torch.equal(fast.final["critic"][done, :29], expected.motion.joint_pos[following[done]])
        for name in STATE:
            assert torch.allclose(getattr(got, name), getattr(expected, name), atol=1e-6), f"step {index}: {name}"
        for name, value in extras["log"].items():
            assert torch.allclose(torch.as_tensor(fast.log()[name]).float(), torch.as_tensor(value).float(), atol=1e-4)
    assert min(failed, wrapped, both_ends) >= 1
    assert mode == "start" or int((expected.bin_failed_count > 1e-4).sum()) >= 2
