"""The runner on a GPU: nothing of ours waits for the host, numbers are those of the CPU, and a resume is exact."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce import algorithms
from RoboRenForce.algorithms import ActOut, Transition
from RoboRenForce.envs.scripted_env import ScriptedEnv
from RoboRenForce.runners.metrics import to_host
from RoboRenForce.runners.nan_guard import NanGuard
from RoboRenForce.runners.statistics import EnvLog, EpisodeStatistics
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.distributed import DistributedContext
from RoboRenForce.utils.export import export_policy
from RoboRenForce.utils.timing import PhaseTimer
from small_runs import check_same, ppo_cfg, scripted
from stepping import stepped
from tensordict import TensorDict

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DEVICE = torch.device("cuda:0")


@contextmanager
def no_syncs() -> Iterator[None]:
    """Anything that waits for the device raises."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def make(**changes: Any) -> Any:
    algorithm = algorithms.PPOCfg(num_learning_epochs=2, num_mini_batches=2, cuda_graph="off", compile="off")
    cfg = ppo_cfg(**({"algorithm": algorithm} | changes))
    return lambda log_dir=None: cfg.build(env=scripted(num_envs=64, device="cuda:0"), device=DEVICE, log_dir=log_dir)


def steps(device: torch.device, num: int) -> list[tuple[Transition, dict[str, torch.Tensor]]]:
    generator = torch.Generator().manual_seed(0)
    made = []
    for _ in range(num):
        obs = TensorDict({"policy": torch.randn(64, 3, generator=generator)}, batch_size=[64]).to(device)
        done = (torch.rand(64, generator=generator) < 0.4).long().to(device)
        log = {"speed": torch.rand((), generator=generator).to(device)}
        out, reward = ActOut(torch.zeros(64, 2, device=device)), torch.randn(64, generator=generator).to(device)
        made.append((stepped(obs, out, obs, reward, done, {}), log))
    return made


def test_statistics_and_guard_do_not_wait_and_agree_with_the_cpu() -> None:
    found = []
    spec = scripted(num_envs=64, extras=[]).spec
    spec = type(spec).from_dict(spec.to_dict() | {"obs_groups": {"policy": [3]}})
    for device in (torch.device("cpu"), DEVICE):
        statistics, log, guard = EpisodeStatistics(64, 10, device), EnvLog(), NanGuard(spec, 10, device)
        taken = steps(device, 10)
        torch.cuda.synchronize()
        with no_syncs():
            for step, logged_values in taken:
                statistics.record(step.reward, step.done)
                log.record(logged_values)
                guard.watch(step)
            ratios, (logged, _) = statistics.collect(), log.collect()
        found.append(to_host({}, ratios, logged, DistributedContext(), device)[0])
        assert not guard.tripped()
    assert found[0] == pytest.approx(found[1], rel=1e-5) and len(found[0]) == 3


def test_logs_may_lie_on_two_devices() -> None:
    log = EnvLog()
    for value in (1.0, 3.0):
        log.record({"here": torch.tensor(value), "there": torch.tensor(10 * value, device=DEVICE), "number": value})
    logged, numbers = log.collect()
    assert to_host({}, {}, logged, DistributedContext(), DEVICE)[0] == {"Episode/here": 2.0, "Episode/there": 20.0}
    assert numbers == {"Episode/number": 2.0}


def test_the_guard_keeps_the_first_bad_step() -> None:
    spec = scripted(num_envs=64, extras=[]).spec
    spec = type(spec).from_dict(spec.to_dict() | {"obs_groups": {"policy": [3]}})
    guard, taken = NanGuard(spec, 6, DEVICE), steps(DEVICE, 6)
    taken[3][0].reward[7] = torch.nan
    with no_syncs():
        for step, _ in taken:
            guard.watch(step)
    assert guard.tripped()
    stored = {"obs/policy": torch.stack([step.obs["policy"] for step, _ in taken])}
    report = guard.report(stored | {"reward": torch.stack([step.reward for step, _ in taken])})
    assert (report["first_bad_step"], report["bad_environments"]) == (3, [7])
    assert torch.equal(report["rollout"]["obs/policy"][3], taken[3][0].obs["policy"])


def test_a_whole_iteration_does_not_wait_for_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    runner = make()()
    runner.learn(3)
    # The scripted environment is no simulator: only our side of the loop is watched.
    plain = ScriptedEnv.step

    def step(self: ScriptedEnv, actions: torch.Tensor) -> Any:
        torch.cuda.set_sync_debug_mode("default")
        try:
            return plain(self, actions)
        finally:
            torch.cuda.set_sync_debug_mode("error")

    monkeypatch.setattr(ScriptedEnv, "step", step)
    obs = runner.env.get_observations()
    torch.cuda.synchronize()
    with no_syncs():
        for _ in range(runner.rollout_steps):
            obs = runner.step(obs)
        learned = runner.algorithm.update()
        runner.log_step()
        means = runner.statistics.collect()
    assert float(learned["Loss/entropy"]) > 0 and float(means["Train/mean_episode_length"][1]) == 100


def test_phases_are_timed_by_events() -> None:
    timer = PhaseTimer(DEVICE)
    matrix = torch.randn(4096, 4096, device=DEVICE)
    (matrix @ matrix).sum().item()
    with no_syncs():
        timer.start()
        for _ in range(50):
            matrix @ matrix
        timer.lap("long")
        matrix @ matrix
        timer.lap("short")
    durations = timer.durations()
    assert durations["long"] > 10 * durations["short"] > 0


def test_resume_is_exact(tmp_path: Path) -> None:
    build = make(max_iterations=8, save_interval=8)
    build(tmp_path / "straight").learn()
    build(tmp_path / "halves").learn(4)
    resumed = build(tmp_path / "halves")
    resumed.load(tmp_path / "halves" / "model_4.pt")
    resumed.learn()
    one, two = (load_checkpoint(tmp_path / name / "model_8.pt") for name in ("straight", "halves"))
    for part in ("algorithm", "local"):
        check_same(one[part], two[part], part)


def test_a_checkpoint_of_the_gpu_plays_and_exports_on_the_cpu(tmp_path: Path) -> None:
    runner = make()(tmp_path)
    runner.learn(2)
    export_policy(runner.policy().exportable(), tmp_path / "exported")
    there = ppo_cfg().build(env=scripted(num_envs=3), spec=runner.env.spec)
    there.load(tmp_path / "model_2.pt", resume=False)
    obs = there.env.get_observations()
    torch.testing.assert_close(
        there.policy()(obs),
        runner.policy()(obs.to(DEVICE)).cpu(),
        atol=1e-3,
        rtol=1e-3,  # TensorFloat-32 there
    )
