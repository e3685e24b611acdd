"""The tabletop environment against the contract, by itself and below the links of the chain."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs import EnvSpec, GroupVecCfg, MultiModalCfg, check_vec_env
from RoboRenForce.utils.registry import list_tasks, load_task
from RRF_tabletop_tasks import TabletopCfg
from RRF_tabletop_tasks.counter_rng import mix, row_keys, seed_keys, uniform
from RRF_tabletop_tasks.dynamics import SPEED, move
from RRF_tabletop_tasks.registration import state_cfg, vla_cfg
from RRF_tabletop_tasks.scene import BLOCK, HOME, PLATE, Scene

pytestmark = pytest.mark.contract

TASKS = ("Place", "Reach", "Fork")


def scene(blocks: list[list[float]], hand: tuple[float, float] = (0.0, 0.0), **changes: Any) -> Scene:
    """One table with blocks (the first is asked for) and a plate at (0.6, 0.6)."""
    count = len(blocks)
    parts: dict[str, Any] = {
        "hand": torch.tensor([hand]),
        "aperture": torch.ones(1),
        "held": torch.full((1,), -1),
        "blocks": torch.tensor([blocks]),
        "plates": torch.tensor([[[0.6, 0.6]]]),
        "posts": torch.zeros(1, 0, 2),
        "block_colour": torch.arange(count).unsqueeze(0),
        "plate_colour": torch.zeros(1, 1, dtype=torch.int64),
        "goal": torch.zeros(1, 2, dtype=torch.int64),
        "sentence": torch.zeros(1, dtype=torch.int64),
    }
    return Scene(**{**parts, **changes})


def acted(start: Scene, *actions: tuple[float, float, float]) -> Scene:
    for action in actions:
        start = move(start, torch.tensor([action]))
    return start


# --- the contract ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", TASKS)
def test_each_task_fulfils_the_contract(task: Any) -> None:
    check_vec_env(TabletopCfg(task=task, num_envs=3, image_size=32, cameras=["front", "wrist"]).build())
    check_vec_env(state_cfg(task, num_envs=3).build())
    check_vec_env(vla_cfg(task, num_envs=3, image_size=32).build())


def test_groups_that_start_together_fulfil_it_below_chunks() -> None:
    env = vla_cfg("Place", num_envs=6, image_size=32, groups=GroupVecCfg(group_size=3)).build()
    check_vec_env(env)
    obs, extras = env.reset(seed=3)
    for name in env.spec.obs_groups:
        groups = obs[name].view(2, 3, -1)
        assert (groups == groups[:, :1]).all()
    assert not torch.equal(obs["front"][0], obs["front"][3])
    assert extras["instruction"][:3] == [extras["instruction"][0]] * 3


def test_every_registered_task_has_a_configuration() -> None:
    found = list_tasks("Tabletop")
    learned = [f"RoboRenForce-Tabletop-{t}-{a}" for t in TASKS for a in ("BC", "SFT", "GRPO", "PPO", "VLAPPO")]
    assert {*learned, *(f"RoboRenForce-Tabletop-Reach-{a}" for a in ("DAgger", "VLASAC", "DSRL"))} <= {*found}
    for task_id in found:
        load_task(task_id).env_cfg.validate()


def test_ppo_is_that_of_pixels_where_none_learns_from_numbers() -> None:
    for name in TASKS:
        tasks = [load_task(f"RoboRenForce-Tabletop-{name}-{kind}") for kind in ("PPO", "VLAPPO")]
        short, vla = ((task.env_cfg.to_dict(), task.runner_cfg.to_dict()) for task in tasks)
        assert (short == vla) == (name != "Reach")


def test_a_run_depends_on_the_seed_alone() -> None:
    envs = [TabletopCfg(num_envs=4, image_size=32, seed=7).build() for _ in range(2)]
    actions = torch.rand(70, 4, 3) * 2 - 1  # beyond the horizon
    for action in actions:
        first, second = (env.step(action) for env in envs)
        assert all(torch.equal(first[0][name], second[0][name]) for name in envs[0].spec.obs_groups)
        assert first[3]["instruction"] == second[3]["instruction"]
    assert not torch.equal(envs[0].reset(seed=8)[0]["front"], envs[1].reset(seed=7)[0]["front"])


def test_a_row_starts_by_its_seed_wherever_it_is() -> None:
    env = TabletopCfg(num_envs=4, image_size=32).build()
    obs, extras = env.reset_rows(torch.tensor([3, 1]), [5, 5])
    assert torch.equal(obs["front"][1], obs["front"][3]) and extras["instruction"][1] == extras["instruction"][3]
    larger = TabletopCfg(num_envs=9, image_size=32, seed=99).build()
    again, _ = larger.reset_rows(torch.tensor([8]), [5])
    assert torch.equal(again["front"][8], obs["front"][1])


def test_random_numbers_are_those_of_splitmix64_and_uniform() -> None:
    # First two outputs of SplitMix64 seeded with 0: its state then is k times the golden gamma.
    golden = -7046029254386353131
    state = torch.tensor([golden, golden * 2 % 2**64 - (2**64 if golden * 2 % 2**64 >= 2**63 else 0)])
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]
    assert [value % 2**64 for value in mix(state).tolist()] == expected
    drawn = uniform(row_keys(1, 2000, torch.device("cpu")), torch.zeros(2000, dtype=torch.int64), 16)
    assert drawn.min() >= 0 and drawn.max() < 1
    assert drawn.mean().item() == pytest.approx(0.5, abs=0.01) and drawn.var().item() == pytest.approx(1 / 12, abs=2e-3)
    assert len(drawn.unique()) > 31_900
    correlation = torch.corrcoef(drawn.T) - torch.eye(16)
    assert correlation.abs().max() < 0.1
    assert seed_keys([2**63, -1], torch.device("cpu")).dtype == torch.int64


def test_held_rows_and_undrawn_steps_inside_chunks() -> None:
    env = TabletopCfg(num_envs=2, image_size=32, max_episode_length=5).build()
    before = env.reset(seed=1)[0].clone()
    active = torch.tensor([True, False])
    obs, *_ = env.step_rows(torch.ones(2, 3), active, draw=False)
    assert torch.equal(obs["front"], before["front"])  # not drawn anew
    assert torch.equal(obs["robot"][1], before["robot"][1]) and not torch.equal(obs["robot"][0], before["robot"][0])
    still = torch.tensor([[0.0, 0.0, 1.0]] * 2)
    drawn = env.step_rows(still, torch.tensor([False, False]))[0]
    assert not torch.equal(drawn["front"][0], before["front"][0]) and torch.equal(drawn["front"][1], before["front"][1])
    env.episode_length_buf = torch.tensor([4, 0])
    obs, _, dones, extras = env.step_rows(still, active, draw=False)
    assert dones.tolist() == [1, 0]  # rows that end get exact images even so
    shown = TabletopCfg(num_envs=2, image_size=32).build()
    shown.load_state_dict(env.state_dict())
    assert torch.equal(shown.get_observations()["front"][0], obs["front"][0])
    assert torch.equal(extras["final_observations"]["front"][0], drawn["front"][0])


# --- dynamics --------------------------------------------------------------------------------------------------------


def test_the_hand_moves_at_most_so_far_and_stays_on_the_table() -> None:
    moved = acted(scene([[0.5, 0.5]]), (1.0, -0.5, 1.0))
    torch.testing.assert_close(moved.hand, torch.tensor([[SPEED, -SPEED / 2]]))
    assert acted(scene([[0.5, 0.5]]), *[(1.0, 0.0, 1.0)] * 20).hand[0, 0] == 1.0


def test_a_block_goes_with_closed_fingers_and_stays_where_they_open() -> None:
    start = scene([[0.1, 0.0], [0.5, 0.5]])
    held = acted(start, *[(0.0, 0.0, -1.0)] * 3)
    assert held.held.item() == 0 and held.aperture.item() == pytest.approx(0.0)
    carried = acted(held, *[(-1.0, 0.0, -1.0)] * 2)
    torch.testing.assert_close(carried.blocks[0], torch.tensor([[-2 * SPEED, 0.0], [0.5, 0.5]]))
    released = acted(carried, *[(0.0, 0.0, 1.0)] * 3, (1.0, 0.0, 1.0))
    assert released.held.item() == -1
    torch.testing.assert_close(released.blocks[0, 0], torch.tensor([-2 * SPEED, 0.0]))


def test_fingers_that_close_beside_a_block_catch_nothing() -> None:
    start = scene([[0.2, 0.0]])
    assert acted(start, *[(0.0, 0.0, -1.0)] * 3).held.item() == -1
    # Nor does a hand that is closed already and moves over a block.
    assert acted(start, *[(0.0, 0.0, -1.0)] * 3, (1.0, 0.0, -1.0), (0.3, 0.0, -1.0)).held.item() == -1


def test_a_block_dropped_on_another_pushes_it_aside() -> None:
    start = scene([[0.0, 0.0], [0.05, 0.02]], held=torch.tensor([0]), aperture=torch.zeros(1))
    dropped = acted(start, *[(0.0, 0.0, 1.0)] * 3)
    torch.testing.assert_close(dropped.blocks[0, 0], torch.zeros(2))
    assert (dropped.blocks[0, 1]).norm() >= 2 * BLOCK


def test_success_failure_and_rewards() -> None:
    env = TabletopCfg(num_envs=1, image_size=32, task="Place").build()
    env.scene = scene([[0.6, 0.62]], (0.6, 0.62), held=torch.tensor([0]), aperture=torch.full((1,), 1 / 3))
    _, reward, dones, extras = env.step(torch.tensor([[0.0, 0.0, -1.0]]))
    assert not dones.item() and not extras["success"].item()  # it is not let go
    env.scene = scene([[0.6, 0.62]], (0.6, 0.62), held=torch.tensor([0]), aperture=torch.full((1,), 1 / 3))
    _, reward, dones, extras = env.step(torch.tensor([[0.0, 0.0, 1.0]]))
    assert dones.item() and extras["success"].item() and extras["terminated"].item()
    assert reward.item() == pytest.approx(extras["reward_terms"].sum().item()) and extras["reward_terms"][0, 0] == 1

    fork = TabletopCfg(num_envs=1, image_size=32, task="Fork", reward="sparse").build()
    rewards = []
    for _ in range(10):
        _, reward, dones, extras = fork.step(torch.tensor([[0.0, 1.0, 1.0]]))
        rewards.append(reward.item())
        if dones.item():
            break
    assert rewards[-1] == -1 and set(rewards[:-1]) == {0.0} and extras["terminated"].item()
    assert not extras["success"].item()


def test_progress_is_a_potential() -> None:
    """There and back again earns nothing."""
    env = TabletopCfg(num_envs=1, image_size=32, task="Place").build()
    env.scene = scene([[0.6, 0.0]])
    rewards = [env.step(torch.tensor([[x, 0.0, 1.0]]))[1].item() for x in (1.0, 1.0, -1.0, -1.0)]
    assert rewards[0] > 0.1 and sum(rewards) == pytest.approx(0.0, abs=1e-6)


def test_objects_never_touch_and_nothing_is_done_at_the_start() -> None:
    env = state_cfg("Place", num_envs=2000).build()
    things = torch.cat([env.scene.blocks, env.scene.plates], dim=1)
    distance = torch.cdist(things, things) + 9.0 * torch.eye(things.shape[1])
    assert distance.min() > BLOCK + PLATE
    assert not env._goal.is_done(env.scene).any()
    away = (things - torch.tensor(HOME)).norm(dim=2)
    assert away.min() > BLOCK


# --- bad input -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"colours": ["red", "bleu", "green"]}, "there is no 'bleu': did you mean 'blue'"),
        ({"colours": ["red", "blue"]}, "must be 3 or more different ones"),
        ({"held_out": [["red", "pink"]]}, "is no pair (block, plate) of the colours"),
        ({"task": "Fork", "num_blocks": 2}, "Fork has one block behind its post, got 2"),
        ({"task": "Reach", "num_plates": 1}, "Reach has no plates"),
        ({"num_templates": 9}, "Place has 4 sentences, got 9"),
        ({"task": "Fork", "exchange": "block"}, "there is only one block"),
        ({"task": "Reach", "pairs": "held_out"}, "Reach has no pairs of colours to hold out"),
        ({"cameras": ["top"]}, "cameras"),
        (
            {"cameras": ["front", "wrist"], "multi_modal": MultiModalCfg(images={"front": "front"})},
            "set multi_modal.images='{front: front, wrist: wrist}' too",
        ),
        (
            {"cameras": ["wrist"], "multi_modal": MultiModalCfg(images={"front": "front"})},
            "['wrist'] are drawn and multi_modal.images reads ['front']",
        ),
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        TabletopCfg(**options).build()
    assert sentence.lower() in str(error.value).lower()


def test_actions_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"got actions of shape \(2, 4\), expected \(2, 3\)"):
        TabletopCfg(num_envs=2, image_size=32).build().step(torch.zeros(2, 4))


def test_the_spec_survives_a_checkpoint() -> None:
    spec = TabletopCfg(num_envs=2, image_size=32).build().spec
    assert EnvSpec.from_dict(spec.to_dict()) == spec and spec.step_dt == 0.1
