"""Acting in another process: a copy of the collector steps the environment there, what it did travels through a queue.

Weights go there after each update, and the random state travels along, so that the same numbers are drawn: then the
parameters are equal bit for bit.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.multiprocessing as multiprocessing
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms import Algorithm, RunContext, Transition
from RoboRenForce.buffer import Collector
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.utils.cuda_graph import map_tensors
from RoboRenForce.utils.errors import UserError

pytestmark = pytest.mark.contract

ENVS, STEPS, UPDATES, SEED = 4, 12, 3, 7
ENV_CFG = ScriptedEnvCfg(num_envs=ENVS, script=[["time_out@5"], ["terminated@3", "time_out@4"]])


def ppo(backbone: networks.NetworkCfg) -> Algorithm:
    policy = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=backbone),
        critic_cfg=components.VNetworkCfg(backbone_cfg=backbone),
    )
    cfg = algorithms.PPOCfg(
        num_learning_epochs=2,
        num_mini_batches=2,
        normalize_value=True,
        normalize_reward=True,
        reward_terms=[algorithms.RNDCfg()],
    )
    return cfg.build(policy=policy, context=context())


def context() -> RunContext:
    return RunContext(spec=ENV_CFG.build().spec, device=torch.device("cpu"), rollout_steps=STEPS)


MLP = networks.MLPCfg(hidden_features=[8])
LEARNERS: dict[str, Callable[[], Algorithm]] = {
    "ppo": lambda: ppo(MLP),
    "ppo_gru": lambda: ppo(networks.RNNCfg(hidden_size=6, head_cfg=MLP)),
}


def build(name: str) -> Algorithm:
    torch.manual_seed(SEED)
    return LEARNERS[name]()


def collect(collector: Collector, env: Any, obs: Any, steps: int) -> tuple[list[Transition], Any]:
    """Step as a process that only acts does; what it sends is its own, since environment and collector reuse theirs."""
    sent = []
    for _ in range(steps):
        out = collector.act(obs)
        transition = Transition.of_step(obs, out.action, out.record, env.step(out.action))
        sent.append(copy.deepcopy(transition))
        collector.end_step(transition.done)
        obs = transition.reset_obs
    return sent, obs


def act_elsewhere(collector: Collector, orders: Any, steps: Any) -> None:
    """The other process: a rollout for each pair of weights and random state that comes, until there is none."""
    torch.set_num_threads(1)
    env = ENV_CFG.build()
    obs = env.get_observations()
    while (order := orders.get()) is not None:
        weights, random_state = order
        collector.load_weights(weights)
        torch.set_rng_state(random_state)
        with torch.no_grad():
            rollout, obs = collect(collector, env, obs, STEPS)
        steps.put((rollout, torch.get_rng_state()))


@pytest.mark.parametrize("name", LEARNERS)
def test_a_copy_that_acts_in_another_process_teaches_the_same(name: str) -> None:
    here = build(name)
    env = ENV_CFG.build()
    obs = env.get_observations()
    versions = []
    for _ in range(UPDATES):
        for _ in range(STEPS):
            out = here.act(obs)
            versions.append(int(out.record["policy_version"]))
            transition = Transition.of_step(obs, out.action, out.record, env.step(out.action))
            here.process_env_step(transition)
            obs = transition.reset_obs
        metrics_here = here.update()
    assert versions == [update for update in range(UPDATES) for _ in range(STEPS)]

    there = build(name)
    spawn = multiprocessing.get_context("spawn")
    orders, steps = spawn.Queue(), spawn.Queue()
    worker = spawn.Process(target=act_elsewhere, args=(copy.deepcopy(there.collector), orders, steps), daemon=True)
    worker.start()
    try:
        for _ in range(UPDATES):
            orders.put((there.collector.weights(), torch.get_rng_state()))
            rollout, random_state = steps.get(timeout=120)
            torch.set_rng_state(random_state)
            metrics_there = there.update(map_tensors(rollout, torch.clone))
        orders.put(None)
        worker.join(60)
        assert worker.exitcode == 0
    finally:
        worker.kill()

    assert metrics_here.keys() == metrics_there.keys()
    for key, value in metrics_here.items():
        assert torch.equal(value, metrics_there[key]), key
    moved = build(name)
    changed = 0
    for key, value in here.networks.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(value, there.networks.state_dict()[key]), key  # type: ignore[attr-defined]
        changed += not torch.equal(value, moved.networks.state_dict()[key])  # type: ignore[attr-defined]
    assert changed > 4


@pytest.mark.parametrize("name", LEARNERS)
def test_the_schema_declares_what_is_recorded(name: str) -> None:
    learner = build(name)
    env = ENV_CFG.build()
    obs = env.get_observations()
    (transition,), _ = collect(learner.collector, env, obs, 1)
    assert set(transition.record) <= set(learner.schema.fields)
    for field in learner.schema.fields.values():
        value = transition.value_of(field.name)
        assert value.dtype == field.dtype, field.name
        assert value.expand(ENVS, *field.shape).shape == (ENVS, *field.shape), field.name
        assert field.meaning


def test_a_collector_goes_on_where_its_state_was_saved() -> None:
    first, second = build("ppo_gru"), build("ppo_gru")
    env = ENV_CFG.build()
    _, obs = collect(first.collector, env, env.get_observations(), 5)
    start = first.collector.state_dict()["start"]
    assert start.any() and not start.all()
    second.collector.load_state_dict(first.collector.state_dict())
    outs = []
    for collector in (first.collector, second.collector):
        torch.manual_seed(1)
        outs.append(collector.act(obs))
    assert torch.equal(outs[0].action, outs[1].action)
    for name, value in outs[0].record.items():
        assert torch.equal(value, outs[1].record[name]), name


def test_what_another_policy_did_is_refused_by_the_field_that_it_lacks() -> None:
    learner = build("ppo")
    env = ENV_CFG.build()
    rollout, _ = collect(learner.collector, env, env.get_observations(), STEPS)
    rollout[3].record = {}
    with pytest.raises(UserError, match="A step has no 'policy_version' in its record"):
        learner.update(rollout)
