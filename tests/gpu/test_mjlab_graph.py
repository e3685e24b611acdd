"""The fast step of MJLab on a GPU: captured, without the host, and with the numbers of mjlab's own step.

MuJoCo Warp is not deterministic on a GPU (contacts are found in any order), and a solver that stops after ten
iterations may end elsewhere for another order. So every step starts from the same state, and what is asked is that
the fast step differs from mjlab's as mjlab's differs from itself.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

pytest.importorskip("mjlab")

from fixed_mjlab import G1, GO1, build, fixed_cfg, quantities
from RRF_mjlab_tasks.env_state import EnvState
from RRF_mjlab_tasks.fast_step import make_fast_step
from RRF_mjlab_tasks.lift_color.tasks import vla_cfg
from RRF_mjlab_tasks.rows import Rows

pytestmark = [pytest.mark.gpu, pytest.mark.sim_mjlab]

DEVICE = "cuda:0"
ENVS, STEPS, WARMUP = 512, 30, 5


def rows_that_differ(expected, got) -> torch.Tensor:
    error = (expected.float() - got.float()).abs() / (1.0 + expected.float().abs())
    return (error > 1e-3).flatten(1).any(1) if error.dim() > 1 else error > 1e-3


def load(env, state) -> None:
    EnvState(env).load(state)
    env.sim.forward()
    env.sim.sense()


@pytest.mark.parametrize(("task", "final"), [(GO1, True), (GO1, False), (G1, True)])
def test_captured_steps_equal_mjlabs(task, final):
    cfg = fixed_cfg(task, ENVS)
    plain, again, env = (build(copy.deepcopy(cfg), DEVICE) for _ in range(3))
    fast = make_fast_step(env, final_observations=final, capture=True)
    assert fast.fallbacks == []
    ended, totals, logged = 0, {"fast": {}, "plain": {}}, {}
    for _ in range(STEPS):
        state = EnvState(plain).save()
        for other in (plain, again, env):
            load(other, state)
        action = 1.5 * torch.randn(ENVS, plain.action_manager.total_action_dim, device=DEVICE)
        obs, _, terminated, time_outs, extras = plain.step(action)
        obs_again, *_ = again.step(action)
        fast(action)
        expected = dict(quantities(plain, obs))
        for kind, other, seen in (("fast", env, fast.observations), ("plain", again, obs_again)):
            for name, value in quantities(other, seen):
                rows = rows_that_differ(expected[name], value).sum()
                totals[kind][name] = totals[kind].get(name, 0) + rows
        log = fast.log()
        for name, value in extras["log"].items():
            logged.setdefault(name, []).append((abs(float(log[name]) - float(value)), 1.0 + abs(float(value))))
        ended += int((terminated | time_outs).sum())
    assert fast.captured
    assert ended > (STEPS if task == GO1 else 3)  # a G1 takes longer to fall
    for name, pairs in logged.items():
        # Means over few finished episodes, of numbers of contacts for example: one contact more is not a difference.
        assert sum(error for error, _ in pairs) <= 2e-3 * sum(scale for _, scale in pairs), name
    steps = ENVS * STEPS
    for name, differing in totals["fast"].items():
        # Rewards read contacts, so up to one row in a hundred depends on their order; nothing else may.
        assert differing <= 2 * totals["plain"][name] + 0.01 * steps, f"{name}: {int(differing)} of {steps} rows differ"
    for name in ("terminated", "time-outs", "episode lengths", "actions"):
        assert int(totals["fast"][name]) == 0, name


def test_nothing_waits_for_the_host_and_memory_stays():
    env = build(fixed_cfg(GO1, ENVS), DEVICE)
    fast = make_fast_step(env, final_observations=True, capture=True)
    action = torch.zeros(ENVS, 12, device=DEVICE)
    for _ in range(WARMUP):
        fast(action)
    assert fast.captured
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(5):
            fast(action)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    before = torch.cuda.memory_allocated()
    for _ in range(50):
        fast(action)
    assert torch.cuda.memory_allocated() == before


def test_random_terms_draw_anew_at_every_replay():
    cfg = fixed_cfg(GO1, ENVS)
    cfg.observations["actor"].enable_corruption = True
    env = build(cfg, DEVICE)
    fast = make_fast_step(env, final_observations=True, capture=True)
    action = torch.zeros(ENVS, 12, device=DEVICE)
    noise = []
    for _ in range(WARMUP + 3):
        fast(action)
        clean = env.sim.data.qpos[:, 7:] - env.scene["robot"].data.default_joint_pos
        terms = env.observation_manager._group_obs_term_dim["actor"]
        start = sum(shape[0] for shape in terms[:3])
        noise.append(fast.observations["actor"][:, start : start + 12] - clean)
    assert fast.captured
    assert not torch.allclose(noise[-1], noise[-2], atol=1e-4)
    spread = (noise[-1] - noise[-2]).std()
    # The difference of two uniform draws from [-0.01, 0.01] has the standard deviation 0.02 / sqrt(6); a bias cancels.
    assert abs(float(spread) - 0.02 / 6**0.5) < 1e-3


def test_a_changed_weight_reaches_the_captured_rewards():
    env = build(fixed_cfg(GO1, ENVS, episode_length_s=20.0), DEVICE)
    fast = make_fast_step(env, final_observations=False, capture=True)
    action = torch.zeros(ENVS, 12, device=DEVICE)
    for _ in range(WARMUP):
        fast(action)
    column = env.reward_manager.active_terms.index("upright")
    before = env.reward_manager._step_reward[:, column].mean()
    env.reward_manager.get_term_cfg("upright").weight *= 3.0
    for _ in range(WARMUP):
        fast(action)
    after = env.reward_manager._step_reward[:, column].mean()
    assert fast.captured
    assert 2.5 < float(after / before) < 3.5


def test_captured_steps_leave_held_rows_as_they_were():
    """To the last bit, whatever they are; the others go on, and images are drawn when they are asked for."""
    vec: Any = vla_cfg().replace(num_envs=ENVS, device=DEVICE, env_graph="on", multi_modal=None).build()
    obs, _ = vec.reset(seed=0)
    rows = Rows(vec.env)
    for number in range(4 * WARMUP):
        active = torch.rand(ENVS, device=DEVICE) < 0.5
        before, lengths = rows.save(), vec.episode_length_buf.clone()
        obs = obs.clone()
        after, rewards, dones, _ = vec.step_rows(torch.randn(ENVS, 7, device=DEVICE), active, draw=number % 4 == 3)
        for name, tensor in rows.save().items():
            if name in before and "_step_reward" not in name and "sensor" not in name:
                assert torch.equal(tensor[~active], before[name][~active]), name
        assert torch.equal(vec.episode_length_buf[~active], lengths[~active])
        assert not rewards[~active].any() and not dones[~active].any()
        assert torch.equal(after["actor"][~active], obs["actor"][~active])
        assert not torch.equal(after["actor"][active], obs["actor"][active])
        obs = after
    assert vec._fast.captured and vec._fast.fallbacks == []
    vec.close()
