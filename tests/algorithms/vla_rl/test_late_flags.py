"""What the host asks of the device while episodes are collected: nothing that the device has not long known."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from cloned_tabletop import clone, reach_cfg, small_policy
from RoboRenForce.algorithms.vla_rl import GRPOCfg, VLAPPOCfg
from RoboRenForce.algorithms.vla_rl.host_flags import HostFlags
from RoboRenForce.algorithms.vla_rl.waves import Waves
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.envs import GroupVecCfg
from RoboRenForce.runners import VLAGRPORunnerCfg, VLAPPORunnerCfg
from torch.utils._python_dispatch import TorchDispatchMode

CPU = torch.device("cpu")
HEAD = RegressionHeadCfg(chunk_size=4, std=0.3)
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "unique", "equal.default")
"""Parts of names of operators whose result, or its size, the host has to know."""


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(clone(HEAD, tmp_path_factory.mktemp("cloned"), episodes=8, steps=5))


def runner(algorithm: Any, num_envs: int = 8, **env: Any) -> Any:
    grpo = isinstance(algorithm, GRPOCfg)
    env_cfg = reach_cfg(num_envs, seed=7, **({"reward": "dense", "max_episode_length": 10} | env))
    env_cfg.groups = GroupVecCfg(group_size=4) if grpo else None
    fields: dict[str, Any] = {} if grpo else {"num_steps_per_env": 6}
    cfg_type = VLAGRPORunnerCfg if grpo else VLAPPORunnerCfg
    cfg = cfg_type(policy=small_policy(HEAD), algorithm=algorithm, logger=[], report=False, **fields)
    return cfg.build(env=env_cfg.build())


def be_late(run: Any) -> None:
    """As on a GPU."""
    waves = run.learner.waves
    run.learner.waves = Waves(len(waves.running), CPU, max_steps=waves._max_steps, late=True)


class Waits(TorchDispatchMode):
    """Collects what the host would wait for, if tensors were on a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.rows = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in WAITS) or (
            "index.Tensor" in str(func) and any(t is not None and t.dtype == torch.bool for t in args[1])
        ):
            self.found.append(str(func))
        return func(*args, **(kwargs or {}))


@contextmanager
def watched(run: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Waits]:
    """Watch acting and storing; `HostFlags.rows` may wait, for what was sent a step before."""
    waits, learner = Waits(), run.learner
    rows = HostFlags.rows

    def late_rows(flags: HostFlags) -> Any:
        before = len(waits.found)
        result = rows(flags)
        del waits.found[before:]
        waits.rows += 1
        return result

    def within(function: Any) -> Any:
        def call(*args: Any) -> Any:
            with waits:
                return function(*args)

        return call

    monkeypatch.setattr(HostFlags, "rows", late_rows)
    # On a CPU unknown texts are asked for at once.
    monkeypatch.setattr(learner.model.preprocessing.instructions, "require_known", lambda: None)
    monkeypatch.setattr(learner, "act", within(learner.act))
    monkeypatch.setattr(learner, "process_env_step", within(learner.process_env_step))
    yield waits


@pytest.mark.contract
@pytest.mark.parametrize("kind", [GRPOCfg, VLAPPOCfg])
def test_a_decision_waits_for_nothing_but_flags_of_the_step_before(
    kind: Any, cloned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runner(kind(init_from=cloned))
    if kind is GRPOCfg:
        be_late(run)
    run.learn(1)  # what is checked once
    with watched(run, monkeypatch) as waits:
        run.learn(1)
    assert not waits.found, waits.found
    assert 0 < waits.rows <= run.learner.rollout.num_steps


@pytest.mark.oracle
def test_values_of_cut_episodes_are_those_of_their_last_observations(cloned: str) -> None:
    run = runner(VLAPPOCfg(init_from=cloned))
    learner, wanted = run.learner, {}
    with torch.no_grad():  # it begins with zeros
        for parameter in learner.value.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    process, targets = learner.process_env_step, learner.targets

    def watch(transition: Any) -> None:
        step = learner.rollout.step
        for row in transition.time_outs.nonzero().squeeze(1).tolist():
            seen = {name: transition.next_obs[name][row : row + 1].clone() for name in learner.collector.groups}
            with torch.no_grad():
                wanted[step, row] = float(learner.value(learner.model.encode(seen)).flatten()[0])
        process(transition)

    found: list[torch.Tensor] = []

    def look(rollout: Any) -> Any:
        result = targets(rollout)
        found.append(rollout.bootstrap.clone())
        return result

    learner.process_env_step, learner.targets = watch, look
    run.learn(1)
    (bootstrap,) = found
    assert len(wanted) >= 8 and int((bootstrap != 0).sum()) == len(wanted)
    for (step, row), value in wanted.items():
        assert float(bootstrap[step, row]) == pytest.approx(value, abs=1e-5)


@pytest.mark.oracle
def test_rows_that_act_once_more_are_in_no_sum(cloned: str) -> None:
    """The update finds the decisions of running episodes, and their features, whatever is stored between them."""
    run = runner(GRPOCfg(init_from=cloned), num_envs=16, max_episode_length=16)
    be_late(run)
    learner, seen = run.learner, []
    process, targets = learner.process_env_step, learner.targets

    def watch(transition: Any) -> None:
        running = learner.waves.running.clone()
        seen.append(transition.obs["proprio"][running].clone())
        if learner.rollout.step == 1:
            transition.done[:3] = 1  # some succeed
        process(transition)

    learner.process_env_step = watch
    kept: list[Any] = []

    def look(rollout: Any) -> Any:
        decisions = int(rollout.mask[: rollout.step].sum())
        stored = rollout.store.count
        samples = rollout.store.take(torch.arange(decisions))
        kept.append((decisions, stored, samples))
        return targets(rollout)

    learner.targets = look
    run.learn(1)
    ((decisions, stored, samples),) = kept
    expected = torch.cat(seen)
    assert stored > decisions == len(expected)
    state = learner.model.preprocessing.state(expected)
    torch.testing.assert_close(samples["prefix/state"], state)
    assert run.metrics["rollout/num_samples"] == decisions and abs(run.metrics["actor/ratio"] - 1) < 0.2


@pytest.mark.oracle
@pytest.mark.parametrize("late", [False, True])
def test_waves_end_with_their_last_episode(late: bool) -> None:
    """Late: one step after it, or at once where the longest episode has ended."""
    for ends, steps in (([1, 2, 2], 3 if late else 2), ([1, 4, 2], 4)):
        waves = Waves(3, CPU, max_steps=4, late=late)
        for _ in range(2):
            taken = 0
            while not waves.is_over:
                taken += 1
                waves.end_step(torch.tensor([int(taken == end) for end in ends]))
                assert waves.running.tolist() == [taken < end for end in ends]
            assert taken == steps
            waves.next_wave()
