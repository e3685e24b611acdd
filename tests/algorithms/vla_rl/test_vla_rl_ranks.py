"""Several processes with environments of their own learn one policy from all of them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from cloned_tabletop import clone, reach_cfg, small_policy
from forked import be_rank, free_port
from RoboRenForce.algorithms import RunContext
from RoboRenForce.algorithms.vla_rl import GRPOCfg, ReinforcePPCfg, VLAPPOCfg
from RoboRenForce.algorithms.vla_rl.equal_rewards import EqualRewards
from RoboRenForce.buffer import Transition
from RoboRenForce.components import OptimizerCfg
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_value import ValueHeadCfg
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs import GroupVecCfg
from RoboRenForce.networks import MLPCfg
from RoboRenForce.runners import VLAGRPORunnerCfg, VLAPPORunnerCfg
from RoboRenForce.utils.distributed import DistributedContext
from RoboRenForce.utils.parallelize import ParallelCfg
from torch.multiprocessing.spawn import start_processes

HEAD = RegressionHeadCfg(chunk_size=4, std=0.3)
ENVS, GROUP, STEPS = 8, 4, 4
KINDS: dict[str, Any] = {"grpo": GRPOCfg, "ppo": VLAPPOCfg, "reinforce": ReinforcePPCfg}


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clone(HEAD, tmp_path_factory.mktemp("cloned"), episodes=8, steps=5)


def options(name: str, cloned: Path, **fields: Any) -> Any:
    # Plain gradient descent shows the size of a gradient, by which Adam divides.
    defaults: dict[str, Any] = {"optimizer": OptimizerCfg(kind="sgd", learning_rate=0.05), "gamma": 0.95}
    defaults |= {"value": ValueHeadCfg(network=MLPCfg(hidden_features=[16]))} if name == "ppo" else {}
    return KINDS[name](init_from=str(cloned), **(defaults | {"num_mini_batches": 1, "num_learning_epochs": 2} | fields))


def environment(name: str, num_envs: int = ENVS, seed: int = 7, **fields: Any) -> Any:
    cfg = reach_cfg(num_envs, seed=seed, reward="dense", max_episode_length=10, **fields)
    cfg.groups = GroupVecCfg(group_size=GROUP) if name == "grpo" else None
    return cfg.build()


def in_two_processes(folder: Path, work: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What `work(rank, *arguments)` returns in each of two processes as torchrun starts them."""
    start_processes(_process, (free_port(), folder, work, arguments), nprocs=2, start_method="fork")
    return [torch.load(folder / f"found_{rank}.pt") for rank in range(2)]


def _process(rank: int, port: int, folder: Path, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    be_rank(rank, port)
    torch.save(work(rank, *arguments), folder / f"found_{rank}.pt")


# ------------------------------------------------------------------------------------- two halves are one whole


def collected(name: str, cloned: Path, fields: dict[str, Any]) -> tuple[Any, list[Transition]]:
    """An environment, and the steps of one rollout in all of its rows."""
    torch.manual_seed(3)
    env = environment(name)
    learner = options(name, cloned, **fields).build(
        policy=small_policy(HEAD), context=context(env.spec, DistributedContext())
    )
    learner.add_instructions(env.instruction_table.values())
    obs, seen = env.get_observations(), []
    while learner.is_collecting:
        out = learner.act(obs)
        returned = env.step(out.action) if name == "ppo" else env.step_rows(out.action, learner.running)
        transition = Transition.of_step(obs, out.action, out.record, returned)
        seen.append(copy.deepcopy(transition))
        learner.process_env_step(transition)
        obs = transition.reset_obs
    return env, seen


def context(spec: Any, distributed: DistributedContext) -> RunContext:
    return RunContext(spec=spec, device=torch.device("cpu"), rollout_steps=STEPS, distributed=distributed)


def of_rows(transition: Transition, rows: slice) -> Transition:
    """A step as a process sees it whose environments are these."""
    acted = transition.record["rows"]
    mine = (acted >= rows.start) & (acted < rows.stop)
    record = {key: value[mine] if value.dim() else value for key, value in transition.record.items()}
    record["rows"] = record["rows"] - rows.start
    fields = {key: value[rows] for key, value in vars(transition).items() if value is not None and key != "record"}
    if transition.group_id is not None:
        fields["group_id"] = fields["group_id"] - fields["group_id"].min()
    return replace(transition, **fields, record=record)


def learned(
    name: str,
    cloned: Path,
    env: Any,
    steps: list[Transition],
    rows: slice,
    distributed: DistributedContext,
    **fields: Any,
) -> dict[str, Any]:
    """Weights and metrics after an update on some rows of a rollout."""
    torch.manual_seed(0)
    spec = replace(env.spec, num_envs=rows.stop - rows.start)
    learner = options(name, cloned, **fields).build(policy=small_policy(HEAD), context=context(spec, distributed))
    learner.add_instructions(env.instruction_table.values())
    for step in steps:
        learner.process_env_step(of_rows(step, rows))
    metrics = learner.update()
    named = learner.plain_module.named_parameters()
    found = {key: parameter.detach().clone() for key, parameter in named if parameter.requires_grad}
    shared = ("actor/grad_norm", "actor/num_steps", "actor/lr")  # others are parts of a mean
    return {"weights": found, "metrics": {key: float(metrics[key]) for key in shared}}


def half(
    rank: int, name: str, cloned: Path, env: Any, steps: list[Transition], fields: dict[str, Any]
) -> dict[str, Any]:
    distributed = DistributedContext.from_environment()
    size = ENVS // 2
    found = learned(name, cloned, env, steps, slice(rank * size, (rank + 1) * size), distributed, **fields)
    distributed.close()
    return found


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo": ("grpo", {}),
    "grpo of episodes that count alike": ("grpo", {"length_normalization": True, "kl_coef": 0.1}),
    "grpo in micro-batches": ("grpo", {"micro_batch_size": 3}),
    "grpo where one process has nothing to learn from": ("grpo", {}),
    "ppo": ("ppo", {}),
    "ppo by actions": ("ppo", {"reward_level": "action", "entropy_coef": 0.01}),
    "ppo that stops": (
        "ppo",
        {"num_learning_epochs": 8, "kl_stop": 1e-2, "optimizer": OptimizerCfg(kind="sgd", learning_rate=1e-3)},
    ),
    "reinforce": ("reinforce", {}),
}


@pytest.mark.oracle
@pytest.mark.parametrize("case", CASES)
def test_two_processes_take_the_steps_of_one_on_all_environments(tmp_path: Path, cloned: Path, case: str) -> None:
    name, fields = CASES[case]
    env, steps = collected(name, cloned, fields)
    if "nothing" in case:
        for step in steps:
            assert step.chunk_rewards is not None
            step.chunk_rewards[:GROUP] = 0.0
    everybody, nobody_else = slice(0, ENVS), DistributedContext()
    alone = learned(name, cloned, env, steps, everybody, nobody_else, **fields)
    shorter = learned(name, cloned, env, steps, everybody, nobody_else, **fields | {"num_learning_epochs": 1})
    for found in in_two_processes(tmp_path, half, name, cloned, env, steps, fields):
        for key, value in alone["weights"].items():
            torch.testing.assert_close(found["weights"][key], value, rtol=0, atol=1e-6)
        for key, value in alone["metrics"].items():
            assert found["metrics"][key] == pytest.approx(value, abs=1e-5), key
    moved = max(float((value - shorter["weights"][key]).abs().max()) for key, value in alone["weights"].items())
    assert moved > 1e-5  # by gradients that are compared
    if "stops" in case:
        assert 1 < alone["metrics"]["actor/num_steps"] < 8


def compared(rank: int) -> list[float]:
    """Whether rewards are equal: within each process only, in all of them, in the only one that has any."""
    distributed = DistributedContext.from_environment()
    equal, found = EqualRewards(torch.device("cpu"), distributed), []
    for reward, acted in ((float(rank), True), (2.0, True), (3.0, rank == 1)):
        equal.add(torch.full((3, 2), reward), torch.full((3, 2), acted))
        found.append(float(equal.metrics()["rollout/rewards_are_equal"]))
        equal.restart()
    distributed.close()
    return found


@pytest.mark.oracle
def test_rewards_are_equal_if_they_are_in_all_processes_together(tmp_path: Path) -> None:
    assert in_two_processes(tmp_path, compared) == [[0.0, 1.0, 1.0]] * 2


# ------------------------------------------------------------------------------------------------- whole runs


def runner(name: str, cloned: Path, rank: int, log_dir: Path | None = None, **fields: Any) -> Any:
    cfg_type = VLAPPORunnerCfg if name == "ppo" else VLAGRPORunnerCfg
    steps: dict[str, Any] = {"num_steps_per_env": STEPS} if name == "ppo" else {}
    settings: dict[str, Any] = {"num_mini_batches": 3, "optimizer": OptimizerCfg(learning_rate=1e-3)}
    cfg = cfg_type(
        policy=small_policy(HEAD),
        algorithm=options(name, cloned, **(settings | fields)),
        logger=[],
        report=False,
        save_interval=2,
        max_iterations=2,
        **steps,
    )
    return cfg.build(env=environment(name, seed=7 + ENVS * rank), log_dir=log_dir)


def whole_run(rank: int, name: str, cloned: Path, folder: Path, fields: dict[str, Any]) -> dict[str, Any]:
    """Two iterations; and one, then another from its checkpoint."""
    run = runner(name, cloned, rank, folder / "run", **fields)
    first = run.env.get_observations()["proprio"].clone()
    run.learn()
    halves = runner(name, cloned, rank, **fields)
    halves.learn(1)
    halves.save(folder / "half.pt")
    resumed = runner(name, cloned, rank, **fields)
    resumed.load(folder / "half.pt")
    resumed.learn(1)
    return {
        "first": first,
        "straight": run.learner.plain_module.state_dict(),
        "resumed": resumed.learner.plain_module.state_dict(),
        "lr": float(run.learner.optimizer.current_lr),
        "metrics": run.metrics,
        "noise": float(torch.rand(())),
        "steps": run.steps,
    }


RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "grpo": ("grpo", {"max_refills": 1, "min_useful_groups": 1.0, "highest_mean": 1.0, "desired_kl": 0.01}),
    "ppo": ("ppo", {"desired_kl": 0.01, "kl_stop": 0.05, "freeze_backbone": False}),
}


@pytest.mark.contract
@pytest.mark.parametrize("case", RUNS)
def test_processes_stay_equal_and_resume(tmp_path: Path, cloned: Path, case: str) -> None:
    name, fields = RUNS[case]
    first, second = in_two_processes(tmp_path, whole_run, name, cloned, tmp_path, fields)
    assert not torch.equal(first["first"], second["first"]) and first["noise"] != second["noise"]
    for key, value in first["straight"].items():
        for other in (second["straight"], first["resumed"], second["resumed"]):
            assert torch.equal(value, other[key]), key
    assert first["lr"] == second["lr"] and first["lr"] != 1e-3
    assert first["steps"] == second["steps"] > 0
    assert first["metrics"]["rollout/num_samples"] == second["metrics"]["rollout/num_samples"]
    files = {path.name for path in (tmp_path / "run").iterdir()}
    assert {"global_step_2", "latest"} <= files and "global_step_1" not in files


@pytest.mark.contract
def test_sharded_policies_are_refused_in_a_sentence(cloned: Path) -> None:
    with pytest.raises(ConfigError, match=r"a sharded policy can't act in every process by itself; use ddp or none"):
        options("grpo", cloned, parallel=ParallelCfg(kind="fsdp")).validate()
