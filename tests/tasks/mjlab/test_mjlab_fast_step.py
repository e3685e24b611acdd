"""The fast step of MJLab against mjlab's own: the same numbers, resets included, without chance in the tasks.

On the CPU the stages of the fast step run eagerly; what a GPU captures is the same code.
"""

from __future__ import annotations

import copy
import dataclasses
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("mjlab")

from fixed_mjlab import CARTPOLE, G1, GO1, LIFT, build, differences, fixed_cfg
from mjlab.managers.curriculum_manager import CurriculumTermCfg
from mjlab.managers.event_manager import EventTermCfg
from mjlab.managers.observation_manager import ObservationManager
from mjlab.managers.reward_manager import RewardTermCfg
from mjlab.sensor import RayCastSensor
from mjlab.tasks.velocity.mdp import terrain_utils
from mjlab.tasks.velocity.mdp.velocity_command import UniformVelocityCommand, UniformVelocityCommandCfg
from mjlab.utils.buffers import CircularBuffer, DelayBuffer
from RRF_mjlab_tasks.env_state import EnvState
from RRF_mjlab_tasks.fast_step import CannotCaptureError, make_fast_step, mjlab_version
from RRF_mjlab_tasks.fast_step.capture.addresses import StableTensors
from RRF_mjlab_tasks.fast_step.capture.host_reads import HostReadGuard
from RRF_mjlab_tasks.fast_step.capture.host_values import HostValues
from RRF_mjlab_tasks.fast_step.errors import HostReadError, NotMaskableError
from RRF_mjlab_tasks.fast_step.masked import host_free, terrain_normals
from RRF_mjlab_tasks.fast_step.masked.buffers import adopt_buffers, first_delayed_rows, reset_delay_rows, reset_rows
from RRF_mjlab_tasks.fast_step.masked.commands import VelocityRows
from RRF_mjlab_tasks.fast_step.masked.rows import MaskedWrites, RowCaller

pytestmark = [pytest.mark.contract, pytest.mark.sim_mjlab]

ENVS = 7


def make_fast(env, final=True):
    return make_fast_step(env, final_observations=final, capture=False)


def actions_of(env, steps, scale=2.0):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(steps, env.num_envs, env.action_manager.total_action_dim, generator=generator) * scale


def assert_same_steps(plain, fast, actions, compare_log=True):
    """Step both and compare everything after each step; returns how many episodes ended."""
    ended = 0
    for index, action in enumerate(actions):
        obs, _, terminated, time_outs, extras = plain.step(action)
        fast(action)
        found = differences(plain, obs, fast.env, fast.observations)
        assert not found, f"step {index}: {'; '.join(found)}"
        assert torch.equal(fast.done, terminated | time_outs)
        if compare_log:
            log = fast.log()
            for name, value in extras["log"].items():
                assert torch.allclose(torch.as_tensor(log[name]).float(), torch.as_tensor(value).float(), atol=1e-4), (
                    name
                )
        ended += int((terminated | time_outs).sum())
    return ended


MORE_ROBOTS = [pytest.param(*case, marks=pytest.mark.long) for case in ((GO1, False), (G1, True), (LIFT, True))]
"""Each compiles the kernels of its scene for a minute or two, and steps through the stages that the Go1 has."""


@pytest.mark.parametrize(("task", "final"), [(GO1, True), (CARTPOLE, True), (CARTPOLE, False), *MORE_ROBOTS])
def test_steps_equal_mjlabs(task, final):
    cfg = fixed_cfg(task, ENVS)
    plain, env = build(copy.deepcopy(cfg)), build(cfg)
    fast = make_fast(env, final)
    assert fast.fallbacks == []
    steps = 60 if task == CARTPOLE else 30
    assert assert_same_steps(plain, fast, actions_of(plain, steps)) >= 2


@pytest.mark.long
@pytest.mark.parametrize("task", ["Mjlab-Velocity-Rough-Unitree-Go1", "Mjlab-Velocity-Rough-Unitree-G1"])
def test_steps_equal_mjlabs_on_rough_terrain(task):
    cfg = fixed_cfg(task, ENVS, episode_length_s=0.5)
    plain, env = build(copy.deepcopy(cfg)), build(cfg)
    fast = make_fast(env)
    assert fast.fallbacks == []
    assert assert_same_steps(plain, fast, actions_of(plain, 25), compare_log=False) >= 3
    assert torch.equal(plain.scene.terrain.terrain_levels, env.scene.terrain.terrain_levels)


def test_histories_and_delays_equal_mjlabs():
    cfg = fixed_cfg(CARTPOLE, ENVS)
    terms = cfg.observations["actor"].terms
    terms["cart_pos"].history_length = 3
    terms["pole_angle"].delay_min_lag = terms["pole_angle"].delay_max_lag = 2
    terms["pole_vel"] = dataclasses.replace(terms["pole_vel"], history_length=2, delay_min_lag=1, delay_max_lag=1)
    for final in (True, False):
        plain, env = build(copy.deepcopy(cfg)), build(copy.deepcopy(cfg))
        assert assert_same_steps(plain, make_fast(env, final), actions_of(plain, 60)) >= 3


def test_final_observations_are_those_that_mjlab_returns_without_a_reset():
    cfg = fixed_cfg(CARTPOLE, ENVS)
    stopping = build(copy.deepcopy(cfg))
    stopping.cfg.auto_reset = False
    fast = make_fast(build(cfg))
    seen = 0
    for action in actions_of(stopping, 70):
        obs, _, terminated, time_outs, _ = stopping.step(action)
        fast(action)
        done = terminated | time_outs
        for name, value in obs.items():
            assert torch.allclose(fast.final[name][done], value[done], atol=1e-5)
            assert torch.equal(fast.final[name][~done], fast.observations[name][~done])
        if done.any():
            seen += int(done.sum())
            assert not torch.allclose(fast.final["actor"][done], fast.observations["actor"][done])
            stopping.reset(env_ids=done.nonzero().flatten())
    assert seen >= 3


def reads_the_host(env, env_ids):
    if env_ids is not None and float(env.episode_length_buf.float().mean()) > -1.0:
        env.sim.data.qvel[env_ids, 0] = 0.25


def counts_resets(env, env_ids):
    return torch.tensor(float(len(env_ids)))


def reward_with_a_branch(env):
    value = env.action_manager.action.square().sum(1)
    return value * 0.5 if bool((value > 0).any()) else value


def test_terms_that_need_the_host_run_mjlabs_code_between_the_rest():
    cfg = fixed_cfg(CARTPOLE, ENVS)
    cfg.events["mine"] = EventTermCfg(func=reads_the_host, mode="reset")
    cfg.curriculum["mine"] = CurriculumTermCfg(func=counts_resets)
    cfg.rewards["mine"] = RewardTermCfg(func=reward_with_a_branch, weight=-0.1)
    plain, env = build(copy.deepcopy(cfg)), build(cfg)
    fast = make_fast(env)
    assert {stage.name for stage in fast.fallbacks} == {"rewards", "event 'mine'", "curriculum 'mine'"}
    assert "reads a value on the host" in fast.describe()
    assert "test_mjlab_fast_step.py" in fast.describe()
    assert assert_same_steps(plain, fast, actions_of(plain, 60)) >= 3


def test_functions_of_mjlab_that_ask_the_host_are_replaced_only_while_stages_run():
    cfg = fixed_cfg(CARTPOLE, ENVS)
    theirs = [
        (ObservationManager, "_check_and_handle_nans", ObservationManager._check_and_handle_nans),
        (RayCastSensor, "_extract_yaw_rotation", RayCastSensor._extract_yaw_rotation),
        (terrain_utils, "fit_terrain_normal", terrain_utils.fit_terrain_normal),
    ]
    for policy, stages in (("sanitize", set()), ("warn", {"final observations", "observations"})):
        for group in cfg.observations.values():
            group.nan_policy = policy
        plain, env = build(copy.deepcopy(cfg)), build(copy.deepcopy(cfg))
        fast = make_fast(env)
        assert {stage.name for stage in fast.fallbacks} == stages
        assert_same_steps(plain, fast, actions_of(plain, 3))
        assert all(getattr(owner, name) is function for owner, name, function in theirs)


def test_building_the_fast_step_leaves_no_trace():
    env = build(fixed_cfg(GO1, ENVS))
    before, random_state = EnvState(env).save(), torch.get_rng_state()
    del random_state
    make_fast(env)
    after = EnvState(env).save()
    for group in ("physics", "model", "terms"):
        for name, value in before[group].items():
            assert torch.equal(value, after[group][name]), name
    assert before["counters"] == after["counters"]


def test_a_restored_environment_goes_on_identically():
    env = build(fixed_cfg(GO1, ENVS, episode_length_s=0.4))
    fast = make_fast(env)
    actions = actions_of(env, 24)
    for action in actions[:10]:
        fast(action)
    state = EnvState(env).save()
    going_on = [[fast(action), fast.observations["critic"].clone(), env.reward_buf.clone()] for action in actions[10:]]
    EnvState(env).load(state)
    env.sim.forward()
    env.sim.sense()
    for action, (_, obs, rewards) in zip(actions[10:], going_on, strict=True):
        fast(action)
        assert torch.equal(fast.observations["critic"], obs)
        assert torch.equal(env.reward_buf, rewards)


def test_plain_steps_and_resets_in_between_are_seen():
    cfg = fixed_cfg(GO1, ENVS)
    plain, env = build(copy.deepcopy(cfg)), build(cfg)
    fast = make_fast(env)
    actions = actions_of(plain, 12)
    assert_same_steps(plain, fast, actions[:4])
    plain.step(actions[4])
    env.step(actions[4])
    assert_same_steps(plain, fast, actions[5:8])
    plain.reset()
    env.reset()
    assert_same_steps(plain, fast, actions[8:])


def test_the_log_says_nothing_in_steps_without_an_end():
    env = build(fixed_cfg(CARTPOLE, ENVS, episode_length_s=10.0))
    env.episode_length_buf.zero_()
    fast = make_fast(env)
    fast(actions_of(env, 1)[0])
    log = fast.log()
    assert torch.isnan(log["Episode_Reward/smooth_reward"])
    assert torch.isnan(log["Episode_Termination/time_out"])


def test_a_changed_weight_asks_for_a_new_capture():
    env = build(fixed_cfg(GO1, 2))
    values = HostValues(env)
    values.changed()
    assert not values.changed()
    env.reward_manager.get_term_cfg("upright").weight = 0.25
    assert values.changed()
    env.command_manager.get_term("twist").cfg.ranges.lin_vel_x = (-2.0, 3.0)
    assert values.changed()
    assert not values.changed()


def test_recorders_and_manual_resets_are_refused():
    env = build(fixed_cfg(CARTPOLE, 2))
    env.cfg.auto_reset = False
    with pytest.raises(CannotCaptureError, match="auto_reset"):
        make_fast(env)


def test_an_unknown_mjlab_is_refused(monkeypatch):
    assert mjlab_version.refusal() == ""
    name = "mjlab.managers.reward_manager:RewardManager"
    monkeypatch.setitem(mjlab_version.FINGERPRINTS, name, "another")
    assert "RewardManager" in mjlab_version.refusal()
    monkeypatch.setattr(mjlab_version, "KNOWN_MINOR", "0.9.")
    assert "0.9." in mjlab_version.refusal()


def test_masked_writes_keep_chosen_rows_only():
    torch.manual_seed(1)
    position, timer = torch.randn(5, 3), torch.randn(5)
    expected_position, expected_timer = position.clone(), timer.clone()
    mask = torch.tensor([True, False, True, False, False])
    chosen = mask.nonzero().flatten()
    expected_position[chosen, 1] = 7.0
    expected_timer[chosen] += 1.0
    with MaskedWrites(mask):
        ids = torch.arange(5)
        position[ids, 1] = 7.0
        timer.add_(1.0)
        scratch = torch.zeros(2)
        scratch += 1.0
    assert torch.equal(position, expected_position)
    assert torch.equal(timer, expected_timer)
    assert torch.equal(scratch, torch.ones(2))


def test_masked_writes_refuse_what_has_no_rows():
    total = torch.zeros(3)
    with pytest.raises(NotMaskableError, match=r"\(3,\)"), MaskedWrites(torch.ones(5, dtype=torch.bool)):
        total += 1.0


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.nonzero(),
        lambda x: x.sum().item(),
        lambda x: x[x > 0],
        lambda x: bool((x > 0).any()),
        lambda x: torch.linalg.eigh(x.outer(x)),
    ],
)
def test_reading_values_on_the_host_is_noticed(function):
    with pytest.raises(HostReadError), HostReadGuard():
        function(torch.arange(4.0))


def test_shifted_buffers_serve_what_circular_ones_do():
    torch.manual_seed(2)
    theirs, ours = (CircularBuffer(max_len=3, batch_size=6, device="cpu") for _ in range(2))
    ours.append(torch.zeros(6, 2))
    theirs.append(torch.zeros(6, 2))
    holder, other = SimpleNamespace(buffer=ours), {"same": ours}
    (ours,) = adopt_buffers({"holder": holder, "other": SimpleNamespace(entries=other)})
    assert holder.buffer is ours
    assert other["same"] is ours
    for _ in range(20):
        data = torch.randn(6, 2)
        ours.append(data)
        theirs.append(data)
        lags = torch.randint(0, 4, (6,))
        assert torch.equal(ours.buffer, theirs.buffer)
        assert torch.equal(ours[lags], theirs[lags])
        mask = torch.rand(6) < 0.3
        reset_rows(ours, mask)
        theirs.reset(mask.nonzero().flatten())
        assert torch.equal(ours.current_length, theirs.current_length)


def test_first_delayed_frame_after_a_reset():
    torch.manual_seed(3)
    theirs, ours = (DelayBuffer(min_lag=2, max_lag=2, batch_size=4, device="cpu") for _ in range(2))
    for _ in range(5):
        data = torch.randn(4, 1)
        for buffer in (theirs, ours):
            buffer.append(data)
            buffer.compute()
    mask, data = torch.tensor([True, False, False, True]), torch.randn(4, 1)
    others = ours.peek()
    reset_delay_rows(ours, mask)
    got = first_delayed_rows(ours, data, mask)
    theirs.reset(mask.nonzero().flatten())
    theirs.append(data)
    assert torch.equal(got[mask], theirs.compute()[mask])
    assert torch.equal(got[~mask], others[~mask])
    assert torch.equal(ours.current_lags, theirs.current_lags)


def test_smallest_eigenvectors_equal_lapacks():
    torch.manual_seed(4)
    points = torch.randn(200, 12, 3) * torch.tensor([1.0, 0.5, 0.01])
    matrix = torch.einsum("bni,bnj->bij", points, points)
    values, vector = terrain_normals.smallest_eigenvector(matrix)
    expected_values, expected_vectors = torch.linalg.eigh(matrix.double())
    assert torch.allclose(values.double(), expected_values, rtol=1e-4, atol=1e-5)
    alignment = (vector.double() * expected_vectors[:, :, 0]).sum(1).abs()
    assert torch.allclose(alignment, torch.ones_like(alignment), atol=1e-6)


def test_terrain_normals_equal_mjlabs():
    torch.manual_seed(5)
    points = torch.randn(100, 8, 3) * torch.tensor([1.0, 1.0, 0.02]) + torch.randn(100, 1, 3)
    points[0] = float("nan")
    valid = torch.rand(100, 8) < 0.8
    valid[1] = False
    expected = terrain_utils.fit_terrain_normal(points, valid)
    assert torch.allclose(terrain_normals.fit_terrain_normal(points, valid), expected, atol=1e-5)


def test_yaw_frames_equal_mjlabs_also_where_x_is_vertical():
    torch.manual_seed(6)
    rotation = torch.linalg.qr(torch.randn(50, 3, 3)).Q
    rotation = rotation * torch.linalg.det(rotation).view(-1, 1, 1)
    vertical = torch.tensor([[0.0, -1.0, 0.0], [0.0, 0.0, -1.0], [1.0, 0.0, 0.0]])
    rotation = torch.cat([rotation, vertical.unsqueeze(0)])
    expected = RayCastSensor._extract_yaw_rotation(SimpleNamespace(), rotation)
    assert torch.allclose(host_free.yaw_rotation(SimpleNamespace(), rotation), expected, atol=1e-6)


def test_rebound_tensors_come_home_and_stay_shared():
    term = SimpleNamespace(success=torch.zeros(3), metrics={"success": torch.zeros(3)})
    homes = term.success
    stable = StableTensors({"term": term})
    for value in (1.0, 2.0):
        term.success = torch.full((3,), value)
        term.metrics["success"] = term.success
        stable.stabilize()
        assert term.success is homes
        assert term.metrics["success"] is homes
        assert torch.equal(homes, torch.full((3,), value))


def velocity_term(num_envs):
    ranges = UniformVelocityCommandCfg.Ranges((-1.0, 2.0), (-0.5, 0.5), (-0.7, 0.3), (-3.0, 1.0))
    cfg = UniformVelocityCommandCfg(
        entity_name="robot",
        resampling_time_range=(3.0, 8.0),
        heading_command=True,
        rel_standing_envs=0.1,
        rel_heading_envs=0.3,
        rel_world_envs=0.2,
        rel_forward_envs=0.25,
        ranges=ranges,
    )
    env = SimpleNamespace(num_envs=num_envs, device="cpu", step_dt=0.02, scene={"robot": SimpleNamespace()})
    return UniformVelocityCommand(cfg, env)


def test_masked_commands_are_drawn_from_mjlabs_distribution():
    count = 60_000
    theirs, ours = velocity_term(count), velocity_term(count)
    theirs._resample(torch.arange(count))
    mask = torch.arange(count) % 3 != 0
    rows = RowCaller(SimpleNamespace(num_envs=count, device="cpu"))
    VelocityRows(ours, rows).resample(mask)
    for name in ("vel_command_b", "vel_command_w"):
        value = getattr(ours, name)
        assert torch.equal(value[~mask], torch.zeros_like(value[~mask]))
    levels = torch.linspace(0.02, 0.98, 13)
    pairs = [
        (getattr(ours, name)[:, axis], getattr(theirs, name)[:, axis])
        for name in ("vel_command_b", "vel_command_w")
        for axis in range(3)
    ]
    pairs += [(getattr(ours, name), getattr(theirs, name)) for name in ("heading_target", "time_left")]
    for drawn, expected in pairs:
        assert torch.allclose(drawn[mask].quantile(levels), expected.quantile(levels), atol=0.06)
    for name in ("is_heading_env", "is_standing_env", "is_world_env", "is_forward_env"):
        share, expected = getattr(ours, name)[mask].float().mean(), getattr(theirs, name).float().mean()
        assert abs(share - expected) < 0.01
    assert torch.equal(ours.command_counter, mask.long())
    forward = ours.is_forward_env & mask
    assert torch.equal(ours.vel_command_b[forward, 1:], torch.zeros(int(forward.sum()), 2))
    # Independent draws: being a forward environment says nothing about the heading.
    both = (ours.is_forward_env & ours.is_heading_env)[mask].float().mean()
    assert abs(both - 0.25 * 0.3) < 0.01
