"""Where samples are kept, in which precision references see them, and instructions that nobody has announced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from cloned_tabletop import clone, reach_cfg, small_policy
from RoboRenForce.algorithms.algorithm import RunContext
from RoboRenForce.algorithms.vla_rl import ReinforcePPCfg, VLAPPOCfg
from RoboRenForce.algorithms.vla_rl.sample_store import Place, SampleStore
from RoboRenForce.algorithms.vla_training.supervised_module import Micro
from RoboRenForce.components import OptimizerCfg
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.configclass import UserError
from RoboRenForce.runners import VLAGRPORunnerCfg, VLAPPORunnerCfg
from RoboRenForce.utils.errors import NotEnoughMemory
from RoboRenForce.utils.parallelize import ParallelCfg, recompute
from torch.utils.checkpoint import checkpoint
from vla_cases import OUT_OF_MEMORY

CPU = torch.device("cpu")
HEAD = RegressionHeadCfg(chunk_size=4, std=0.3)


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(clone(HEAD, tmp_path_factory.mktemp("cloned"), episodes=2, steps=1))


@pytest.mark.parametrize("place", ["device", "host"])
def test_samples_are_gathered_as_they_were_added(place: Place) -> None:
    store = SampleStore(8, CPU, place)
    pictures = torch.randint(256, (6, 4, 4, 3), dtype=torch.uint8)
    numbers = torch.randn(6, 2)
    for part in (slice(0, 4), slice(4, 6)):
        store.add({"obs/front": pictures[part], "record/x": numbers[part]})
    index = torch.tensor([5, 0, 5, 3])
    found = store.take(index)
    assert torch.equal(found["obs/front"], pictures[index]) and torch.equal(found["record/x"], numbers[index])
    found["record/x"].zero_()
    assert torch.equal(store.take(index)["record/x"], numbers[index])  # what was taken is the caller's


@pytest.mark.parametrize("features", ["pooled", "queries"])
def test_only_what_the_head_reads_is_stored_and_gradients_stay(tmp_path: Path, features: Any) -> None:
    head = RegressionHeadCfg(chunk_size=4, std=0.3, features=features)
    path = str(clone(head, tmp_path, episodes=2, steps=1))
    found, stored = [], []
    for condenses in (True, False):
        algorithm = VLAPPOCfg(init_from=path, num_mini_batches=2, optimizer=OptimizerCfg(learning_rate=1e-3))
        cfg = VLAPPORunnerCfg(policy=small_policy(head), algorithm=algorithm, logger=[], report=False)
        run = cfg.build(env=reach_cfg(4, max_episode_length=8).build())
        assert run.learner.collector._condenses
        run.learner.collector._condenses = condenses
        run.learn(2)
        found.append(run.learner.plain_module.state_dict())
        stored.append({name: rows.shape[1:] for name, rows in run.learner.rollout.store.rows.items()})
    assert stored[0]["prefix/tokens"][0] == 1 < stored[1]["prefix/tokens"][0]
    assert ("prefix/queries" in stored[0]) == (features == "queries")
    assert all(torch.equal(tensor, found[1][name]) for name, tensor in found[0].items())


def test_a_reference_sees_in_the_precision_of_the_policy(cloned: str) -> None:
    env = reach_cfg(4).build()
    cfg = VLAPPOCfg(init_from=cloned, freeze_backbone=False, kl_coef=0.1, parallel=ParallelCfg(mixed_precision="bf16"))
    learner = cfg.build(policy=small_policy(HEAD), context=RunContext(spec=env.spec, device=CPU))
    obs = {f"obs/{name}": env.get_observations()[name] for name in learner.collector.groups}
    with torch.no_grad(), learner.plain_module.precision():
        mine = learner.plain_module.encode(Micro(obs)).tokens
    theirs = learner.reference.encode(learner.module, obs).tokens
    assert torch.equal(mine, theirs)


def test_an_unknown_instruction_ends_the_update(cloned: str) -> None:
    cfg = VLAGRPORunnerCfg(
        policy=small_policy(HEAD), algorithm=ReinforcePPCfg(init_from=cloned), logger=[], report=False
    )
    run = cfg.build(env=reach_cfg(4, max_episode_length=8).build())
    update, instructions = run.learner.update, run.learner.model.preprocessing.instructions

    def after_a_rollout() -> Any:
        instructions.unknown += 2  # as a GPU counts them, without a wait
        return update()

    run.learner.update = after_a_rollout
    with pytest.raises(UserError, match="2 observations follow an instruction that the policy has not tokenized"):
        run.learn(1)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize(
    ("most", "advice"), [(3, "2 would fit (--num_envs 2)"), (0, "a single one does not fit either")]
)
def test_out_of_memory_while_acting_names_what_fits(
    cloned: str, monkeypatch: pytest.MonkeyPatch, most: int, advice: str, error: RuntimeError
) -> None:
    env = reach_cfg(8).build()
    learner = VLAPPOCfg(init_from=cloned).build(
        policy=small_policy(HEAD), context=RunContext(spec=env.spec, device=CPU)
    )
    obs, encode = env.get_observations(), learner.model.encode
    learner.act(obs)

    def small_memory(seen: Any) -> Any:
        if len(seen["proprio"]) > most:
            raise error
        return encode(seen)

    monkeypatch.setattr(learner.model, "encode", small_memory)
    for calls in (learner.act, learner.collector.values):
        with pytest.raises(NotEnoughMemory, match="Acting in 8 environments at once does not fit") as told:
            calls(obs)
        assert advice in str(told.value) and "algorithm.sample_place=host" in str(told.value)


def test_blocks_are_not_recomputed_where_there_is_no_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    # Reading the state of the generator, as torch's checkpoint does, would end the capture of a CUDA graph.
    block = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh())
    x = torch.randn(2, 3)
    expected = block(x)
    recompute(block)
    calls: list[Any] = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return checkpoint(*args, **kwargs)

    monkeypatch.setattr("RoboRenForce.utils.parallelize.checkpoint", counted)
    with torch.no_grad():
        assert torch.equal(block(x), expected) and not calls
    assert torch.equal(block(x), expected) and calls
