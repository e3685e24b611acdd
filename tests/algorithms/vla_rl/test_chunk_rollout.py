"""What is stored of chunks whose episodes end anywhere inside them, against a walk through every single action."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from RoboRenForce.algorithms.vla_rl import VLAPPO
from RoboRenForce.algorithms.vla_rl.chunk_rollout import ChunkRollout
from RoboRenForce.algorithms.vla_rl.sample_store import SampleStore
from RoboRenForce.buffer.transition import Transition
from RoboRenForce.envs import EnvSpec
from RoboRenForce.envs.spec import ActionSpec
from RoboRenForce.utils.errors import UserError
from tensordict import TensorDict
from torch import Tensor

pytestmark = pytest.mark.oracle

ROWS, STEPS, CHUNK, GAMMA, LAM = 6, 12, 4, 0.9, 0.7
SPEC = EnvSpec("Fake", ROWS, {"x": (1,)}, ActionSpec("continuous", 2, chunk=CHUNK), 30, ("success",))


def random_steps(generator: torch.Generator, width: int) -> list[tuple[Transition, Tensor]]:
    """Steps in which any action may be an episode's last one and any row may wait, and who acted."""
    empty, steps = TensorDict({}, batch_size=[ROWS]), []
    for number in range(STEPS):
        mask = torch.rand(ROWS, generator=generator) < 0.8
        done = (torch.rand(ROWS, generator=generator) < 0.3) & mask
        time_outs = done & (torch.rand(ROWS, generator=generator) < 0.5)
        executed = torch.where(done, torch.randint(1, CHUNK + 1, (ROWS,), generator=generator), CHUNK) * mask
        rewards = torch.randn(ROWS, CHUNK, generator=generator)
        rewards[torch.arange(CHUNK) >= executed.unsqueeze(1)] = 0.0
        rows = mask.nonzero().squeeze(1)
        record = {
            "rows": rows,
            "prefix/tag": (100 * number + rows).float().unsqueeze(1),
            "value": torch.randn(len(rows), width, generator=generator),
        }
        transition = Transition(
            obs=empty,
            action=torch.zeros(ROWS, CHUNK, 2),
            reward=rewards.sum(1),
            terminated=done & ~time_outs,
            time_outs=time_outs,
            done=done.long(),
            next_obs=None,
            reset_obs=empty,
            record=record,
            success=done & ~time_outs,
            executed_steps=executed,
            chunk_rewards=rewards,
        )
        steps.append((transition, mask))
    return steps


def stored(steps: list[tuple[Transition, Tensor]], width: int, **options: Any) -> ChunkRollout:
    store = SampleStore(STEPS * ROWS, torch.device("cpu"))
    rollout = ChunkRollout(SPEC, STEPS, store, value_width=width, **options)
    for transition, mask in steps:
        rollout.add(transition, mask)
        rows = transition.time_outs
        rollout.bootstrap[rollout.step - 1] = torch.where(rows, 5.0 + torch.arange(ROWS), 0.0)
    return rollout


def learner(level: str) -> Any:
    cfg = SimpleNamespace(gamma=GAMMA, lam=LAM, reward_level=level)
    return SimpleNamespace(cfg=cfg, device=torch.device("cpu"))


def test_decisions_are_those_of_rows_that_acted_in_the_order_of_the_samples() -> None:
    rollout = stored(random_steps(torch.Generator().manual_seed(0), 1), 1)
    tags = torch.arange(STEPS).unsqueeze(1) * 100 + torch.arange(ROWS)
    found = rollout.store.take(torch.arange(rollout.store.count))["prefix/tag"]
    assert found.squeeze(1).tolist() == rollout.decisions(tags).tolist()
    assert rollout.store.count == int(rollout.mask.sum()) < STEPS * ROWS


def walk(rollout: ChunkRollout, row: int, by_action: bool) -> list[dict[str, Any]]:
    """The row's life as a list of steps (actions or chunks), each with discount, reward, value, end."""
    life = []
    for t in range(STEPS):
        if not rollout.mask[t, row]:
            continue
        count = int(rollout.executed[t, row])
        parts = [[action] for action in range(count)] if by_action else [list(range(count))]
        for part in parts:
            last = bool(rollout.done[t, row]) and part[-1] == count - 1
            reward = sum(GAMMA**k * float(rollout.rewards[t, row, action]) for k, action in enumerate(part))
            if last:
                reward += GAMMA ** len(part) * float(rollout.bootstrap[t, row])
            value = float(rollout.values[t, row, part[0] if by_action else 0])
            life.append({"at": (t, part[0]), "n": len(part), "reward": reward, "value": value, "end": last})
    return life


@pytest.mark.parametrize("level", ["chunk", "action"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_advantages_are_those_of_a_walk_through_every_action(level: str, seed: int) -> None:
    by_action, width = level == "action", CHUNK if level == "action" else 1
    rollout = stored(random_steps(torch.Generator().manual_seed(seed), width), width)
    last = torch.arange(1.0, ROWS + 1)
    estimate: Any = VLAPPO._over_actions if by_action else VLAPPO._over_chunks
    advantage, returns, mask = estimate(learner(level), rollout, last)
    expected = torch.zeros_like(advantage)
    for row in range(ROWS):
        life = walk(rollout, row, by_action)
        for start, entry in enumerate(life):
            total, weight = 0.0, 1.0
            for index in range(start, len(life)):
                step = life[index]
                following = float(last[row]) if index + 1 == len(life) else life[index + 1]["value"]
                discount = 0.0 if step["end"] else GAMMA ** step["n"]
                total += weight * (step["reward"] + discount * following - step["value"])
                weight *= LAM * discount
                if step["end"]:
                    break
            t, action = entry["at"]
            expected[t, row, action if by_action else 0] = total
    assert torch.allclose(advantage, expected, atol=1e-4)
    assert torch.allclose((returns - advantage)[mask], rollout.values[:STEPS][mask], atol=1e-5)
    assert int(mask.sum()) == int(rollout.executed.sum() if by_action else rollout.mask.sum())


def test_step_penalty_and_relative_reward_touch_executed_actions_only() -> None:
    steps = random_steps(torch.Generator().manual_seed(3), 1)
    rollout = stored(steps, 1, reward_coef=2.0, step_penalty=0.5)
    plain = stored(steps, 1)
    executed = torch.arange(CHUNK) < plain.executed.unsqueeze(2)
    assert torch.allclose(rollout.rewards, 2.0 * plain.rewards - 0.5 * executed)
    relative = stored(steps, 1, relative_reward=True)
    for row in range(ROWS):
        before, expected = 0.0, []
        for t in range(STEPS):
            for action in range(int(plain.executed[t, row])):
                expected.append(float(plain.rewards[t, row, action]) - before)
                before = float(plain.rewards[t, row, action])
            before = 0.0 if plain.done[t, row] else before
        assert torch.allclose(relative.rewards[:, row][executed[:, row]], torch.tensor(expected), atol=1e-5)


def test_a_rollout_refuses_one_step_too_many() -> None:
    steps = random_steps(torch.Generator().manual_seed(4), 1)
    rollout = stored(steps, 1)
    with pytest.raises(UserError, match="at most 12 steps, got one more"):
        rollout.add(*steps[0])
