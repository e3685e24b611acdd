"""LiftColor: the contract, language and cameras agree with the simulator, success is the target's, rows start alike."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

# Compiled kernels are kept between runs of the tests; the first run compiles for some minutes.
os.environ.setdefault("WARP_CACHE_PATH", str(Path.home() / ".cache" / "warp"))
os.environ.setdefault("MJLAB_WARP_QUIET", "1")

import pytest
import torch

pytest.importorskip("mjlab")

from RoboRenForce.envs import GroupVecCfg
from RoboRenForce.envs.action_chunk import step_chunk
from RoboRenForce.envs.check_vec_env import check_vec_env
from RoboRenForce.runners import evaluate
from RoboRenForce.runners.checkpoint_task import task_of_checkpoint
from RoboRenForce.runners.playing import build_player
from RoboRenForce.runners.saved_run import read_run
from RoboRenForce.utils.errors import ConfigError
from RoboRenForce.utils.registry import load_task
from RRF_mjlab_tasks import lift_color
from RRF_mjlab_tasks.lift_color import terms
from RRF_mjlab_tasks.lift_color.env_cfg import LiftColorEnvCfg
from RRF_mjlab_tasks.lift_color.tasks import lift_color_tasks, teacher_cfg, vla_cfg
from RRF_mjlab_tasks.rows import Rows

pytestmark = pytest.mark.sim_mjlab

COLORS = ("red", "green", "blue")
QUICK = {"num_envs": 4, "device": "cpu", "mjlab": {"decimation": 1}}
"""Short steps of 5 ms."""
NO_ACTION = torch.zeros(4, 7)


def seen_cfg(**changes: Any) -> LiftColorEnvCfg:
    return vla_cfg().replace(**({"image_size": 32, "multi_modal": None, **QUICK} | changes))


@pytest.fixture(scope="module")
def env() -> Iterator[Any]:
    env = seen_cfg().build()
    yield env
    env.close()


def put(env: Any, color: str, position: Sequence[float]) -> None:
    """Let the cube of a colour float at a place in all rows."""
    cube, count = env.env.scene[color], env.num_envs
    pose = torch.tensor([*position, 1.0, 0.0, 0.0, 0.0]).repeat(count, 1)
    cube.write_root_link_pose_to_sim(pose)
    cube.write_root_link_velocity_to_sim(torch.zeros(count, 6))


def targets(env: Any) -> list[str]:
    return [COLORS[index] for index in env.env.command_manager.get_term(terms.COMMAND).target.tolist()]


@pytest.mark.parametrize("algorithm", ["PPO", "BC", "SFT"])
def test_the_ids_have_an_environment_and_a_way_to_train(algorithm: str) -> None:
    task = load_task(f"RoboRenForce-MJLab-LiftColor-{algorithm}")
    assert f"RoboRenForce-MJLab-LiftColor-{algorithm}" in lift_color_tasks()
    if algorithm != "PPO":
        task.apply_overrides(["dataset.data_root=data/recorded"])
        assert task.env_cfg.multi_modal.chunk_size <= task.runner_cfg.policy.head.chunk_size
    task.validate()


@pytest.mark.long
def test_the_teacher_of_the_package_lifts_the_cube_that_is_asked_for() -> None:
    """It is a checkpoint without critic, optimizer and simulator: 0.8 MB, to record with."""
    saved = read_run(Path(lift_color.__file__).parent / "teacher.pt")
    runner_cfg = task_of_checkpoint(saved.data, trust=False, task=None).runner_cfg
    env = teacher_cfg().replace(num_envs=16, device="cpu", noise=False, end_on_success=True).build()
    runner = build_player(runner_cfg, saved.spec, env, "cpu")
    runner.restore(saved, resume=False)
    result = evaluate(env, runner.policy(), 16, deterministic=True, seed=1)
    env.close()
    assert result.success_rate is not None and result.success_rate >= 0.8


def test_wrong_options_are_named() -> None:
    cfg = LiftColorEnvCfg(colors=["red", "red"], templates=["lift it"])
    with pytest.raises(ConfigError, match=r"two or more different(.|\n)*no single"):
        cfg.validate()


def test_colours_to_ask_for_are_those_of_the_cubes() -> None:
    with pytest.raises(ConfigError, match=r"targets: got \['pink'\], expected some of"):
        LiftColorEnvCfg(targets=["pink"]).validate()
    with pytest.raises(ConfigError, match="targets"):
        LiftColorEnvCfg(targets=[]).validate()


@pytest.mark.parametrize("env_graph", ["off", "on"])
def test_cameras_language_held_rows_and_equal_starts_keep_the_contract(env_graph: str) -> None:
    env = seen_cfg(image_size=16, episode_length_s=0.1, targets=["green"], env_graph=env_graph).build()
    assert set(targets(env)) == {"green"}
    assert set(env.spec.capabilities) == {"step_rows", "reset_rows"}
    check_vec_env(env, num_steps=25)
    env.close()


def test_rows_that_are_reset_together_start_as_each_does_alone() -> None:
    env: Any = seen_cfg(image_size=16, num_envs=4).build()
    together = env.reset_rows(torch.arange(4), [7, 8, 7, 9])[0]["actor"].clone()
    assert torch.equal(together[0], together[2]) and not torch.equal(together[0], together[1])
    for row, seed in ((0, 9), (3, 8)):
        alone = env.reset_rows(torch.tensor([row]), [seed])[0]["actor"][row]
        torch.testing.assert_close(alone, together[{8: 1, 9: 3}[seed]])
    assert env._rows._drawn_by_row
    env.close()


def test_rows_still_start_by_their_seeds_where_a_term_draws_for_all_at_once(
    env: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    reset_idx = env.env._reset_idx

    def reset_with_permutation(env_ids: torch.Tensor) -> None:
        torch.randperm(8)
        reset_idx(env_ids)

    monkeypatch.setattr(env.env, "_reset_idx", reset_with_permutation)
    rows, everyone = Rows(env.env), torch.arange(4)
    rows.reset(everyone, [7, 8, 7, 9])
    together = rows.observe_reset(everyone)["actor"].clone()
    assert torch.equal(together[0], together[2]) and not torch.equal(together[0], together[1])
    rows.reset(everyone[3:], [8])
    torch.testing.assert_close(rows.observe_reset(everyone[3:])["actor"][3], together[1])
    assert [record.levelname for record in caplog.records if "one by one" in record.message] == ["WARNING"]


@pytest.mark.parametrize("env_graph", ["off", "on"])
@pytest.mark.parametrize("group_size", [1, 2])
def test_a_chunk_renders_what_is_seen_after_it(group_size: int, env_graph: str) -> None:
    """Rows begin new episodes inside a chunk; rendering every step must show the same, and final images too."""
    groups = GroupVecCfg(group_size=group_size) if group_size > 1 else None
    found = []
    for has_images in (False, True):
        cfg = seen_cfg(image_size=16, num_envs=4, episode_length_s=0.03, groups=groups, env_graph=env_graph)
        env: Any = cfg.build()
        env.reset(seed=3)
        env.unwrapped.episode_length_buf = torch.tensor([0, 1, 2, 4])  # they end at different times
        torch.manual_seed(0)
        chunks = [step_chunk(env, torch.randn(4, 4, 7).clamp(-1, 1), None, has_images=has_images) for _ in range(4)]
        found.append([(obs.clone(), dones, extras["final_observations"].clone()) for obs, _, dones, extras in chunks])
        env.close()
    for (drawn, dones, final), (obs, same, last) in zip(*found, strict=True):
        assert torch.equal(dones, same)
        for name, image in drawn.items():
            assert torch.equal(image, obs[name]), name
            if group_size == 1:
                assert torch.equal(final[name][dones.bool()], last[name][dones.bool()]), name
    assert any(dones.any() for _, dones, _ in found[0])


def test_the_fast_step_holds_rows_as_the_plain_one_does() -> None:
    """Every number of the state, the observations and the rewards, with other rows held in every step."""
    envs = [seen_cfg(image_size=16, num_envs=5, env_graph=graph).build() for graph in ("off", "on")]
    draw = torch.Generator().manual_seed(0)
    for env in envs:
        assert "step_rows" in env.spec.capabilities
        env.reset(seed=5)
    for number in range(12):
        actions = torch.randn(5, 7, generator=draw)
        active = torch.rand(5, generator=draw) < 0.6
        results = [env.step_rows(actions, active, draw=number % 4 == 3) for env in envs]
        for plain, fast in zip(*results, strict=True):
            if torch.is_tensor(plain):
                torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-6)
        for name, expected in results[0][0].items():
            if expected.dtype != torch.uint8 or number % 4 == 3:
                torch.testing.assert_close(results[1][0][name], expected, rtol=1e-4, atol=1e-4, msg=name)
        states = [Rows(env.env).save() for env in envs]
        for name, expected in states[0].items():
            if "sensor" not in name and expected.is_floating_point():
                torch.testing.assert_close(states[1][name], expected, rtol=1e-4, atol=1e-4, msg=name)
        assert torch.equal(envs[0].episode_length_buf, envs[1].episode_length_buf)
    for env in envs:
        env.close()


def test_the_teacher_steps_on_the_fast_step() -> None:
    cfg = teacher_cfg().replace(**QUICK, env_graph="on", episode_length_s=0.05)
    env: Any = cfg.build()
    assert not env._fast.fallbacks
    assert not env.spec.capabilities
    with pytest.raises(ValueError, match="can't hold rows"):
        env._fast(NO_ACTION, torch.ones(4, dtype=torch.bool))
    check_vec_env(env, num_steps=15, exact_final_observations=False)
    env.close()


def test_text_command_and_teacher_mean_the_same_cube(env: Any) -> None:
    obs, extras = env.reset(seed=5)
    assert len(set(targets(env))) > 1
    critic = obs["critic"]
    for row, (color, text) in enumerate(zip(targets(env), extras["instruction"], strict=True)):
        assert color in text and sum(other in text.split() for other in COLORS) == 1
        assert extras["command"][row].argmax() == COLORS.index(color)
        place = env.env.scene[color].data.root_link_pos_w[row]
        torch.testing.assert_close(critic[row, 16:19] + critic[row, 23:26], place)  # grasp point + way to the target
    assert set(extras["instruction"]) <= set(env.instruction_table.values())
    assert len(env.instruction_table) == len(COLORS) * len(env.cfg.templates)


def test_an_exchanged_instruction_leaves_the_scene(env: Any) -> None:
    obs, _ = env.reset(seed=5)
    asked = targets(env)
    term = env.env.command_manager.get_term(terms.COMMAND)
    term.cfg.exchange = 1
    other, _ = env.reset(seed=5)
    term.cfg.exchange = 0
    assert all(a != b for a, b in zip(asked, targets(env), strict=True))
    assert torch.equal(obs["front"], other["front"]) and not torch.equal(obs["actor"], other["actor"])


def test_cubes_start_apart(env: Any) -> None:
    for seed in range(8):
        env.reset(seed=seed)
        places = env.env.command_manager.get_term(terms.COMMAND).positions()
        apart = (places.unsqueeze(1) - places.unsqueeze(2)).norm(dim=-1) + torch.eye(3)
        assert apart.min() >= 0.075 - 1e-6


def test_every_cube_is_seen_in_its_colour(env: Any) -> None:
    env.reset(seed=1)
    for index, color in enumerate(COLORS):
        put(env, color, (0.3, 0.12 * (index - 1), 0.02))
    front = env.step(NO_ACTION)[0]["front"].float()
    for index, color in enumerate(COLORS):
        others = [other for other in range(3) if other != index]
        mine = front[..., index] - front[..., others].amax(-1) > 40
        columns = mine[0].any(0).nonzero().flatten().float()
        assert columns.numel(), f"no {color} pixel"
        # the camera looks at the robot: its left is the image's right
        assert (columns.mean() - 16).sign() == index - 1 or (index == 1 and (columns.mean() - 16).abs() < 3)


def test_lifting_the_target_is_success_and_another_cube_is_not(env: Any) -> None:
    env.reset(seed=5)
    asked = targets(env)
    for _ in range(env.cfg.hold_steps + 2):
        put(env, "red", (0.3, 0.0, 0.3))
        _, _, dones, extras = env.step(NO_ACTION)
        if dones.any():
            ended = dones.bool()
            assert torch.equal(ended & extras["success"], ended & torch.tensor([color == "red" for color in asked]))
            assert bool(extras["terminated"][ended].all())
            break
    else:
        pytest.fail("nothing ended")


def test_rewards_grow_on_the_way(env: Any) -> None:
    """Far, between the open fingers, lifted there, and held at the goal."""
    names = env.spec.reward_terms
    place = env.reset(seed=5)[0]["critic"][0, 16:19].tolist()
    found = []
    for position in ([0.3, 0.15, 0.02], place):
        env.reset(seed=5)
        for color in COLORS:
            put(env, color, position)
        values = env.step(NO_ACTION)[3]["reward_terms"][0]
        found.append(dict(zip(names, values.tolist(), strict=True)))
    far, near = found
    assert near["reach"] > 3 * far["reach"] and near["lift"] > 0.1 * near["reach"] > far["lift"]
    assert far["at_goal"] == 0


def test_a_hand_that_rolls_over_gains_nothing() -> None:
    """Half a turn about x points the site's z axis down; less of it leaves the hand tilted."""
    tilt = torch.tensor([0.0, 30.0, 48.0, 60.0, 90.0, 180.0]).deg2rad()
    half, zero = (torch.pi - tilt) / 2, torch.zeros(6)
    quat = torch.stack([torch.cos(half), torch.sin(half), zero, zero], dim=-1)
    robot = SimpleNamespace(data=SimpleNamespace(site_quat_w=quat.unsqueeze(1)))
    site: Any = SimpleNamespace(name="robot", site_ids=[0])
    paid = terms.pointing_down(SimpleNamespace(scene={"robot": robot}), site)
    torch.testing.assert_close(paid, torch.tensor([1.0, 1.0, 0.5, 0.15, 0.0, 0.0]), atol=0.02, rtol=0.0)


def test_members_of_a_group_start_alike_and_chunks_end_exactly() -> None:
    chain = vla_cfg().multi_modal
    assert chain is not None
    chain.chunk_size = 3
    cfg = seen_cfg(episode_length_s=0.02, multi_modal=chain, groups=GroupVecCfg(group_size=2))
    env = cfg.build()
    obs, _ = env.reset(seed=3)
    for name in ("front", "wrist", "proprio", "instruction_id"):
        assert torch.equal(obs[name][0::2], obs[name][1::2])
    assert not torch.equal(obs["front"][0], obs["front"][2])
    actions = torch.randn(2, 3, 7).repeat_interleave(2, 0)
    after, rewards, _, extras = env.step(actions)
    assert torch.equal(after["front"][0::2], after["front"][1::2]) and torch.equal(rewards[0::2], rewards[1::2])
    assert extras["executed_steps"].tolist() == [3] * 4
    _, _, dones, extras = env.step(actions)  # the horizon is 4 steps
    assert dones.tolist() == [1] * 4 and extras["executed_steps"].tolist() == [1] * 4
    assert not extras["chunk_rewards"][:, 1:].any()
    env.close()
