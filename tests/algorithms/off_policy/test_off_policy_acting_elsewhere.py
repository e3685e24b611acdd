"""Acting apart from learning: a copy of the collector in another process, and a planner in the place of an actor."""

from __future__ import annotations

import copy
import multiprocessing
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms import RunContext, Transition
from RoboRenForce.algorithms.off_policy.collector import OffPolicyCollector
from RoboRenForce.buffer import ReplayBufferCfg, SequenceReplayBufferCfg
from RoboRenForce.components import Deterministic, SampleCfg
from RoboRenForce.utils.errors import UserError
from small_runs import scripted
from tensordict import TensorDict
from torch import Tensor, nn

pytestmark = pytest.mark.contract

STEPS = 25
MLP = networks.MLPCfg(hidden_features=[8])
CRITIC = components.QNetworkCfg(backbone_cfg=MLP)
SMALL: dict[str, Any] = {"batch_size": 16, "learning_starts": 20, "policy_delay": 2}


def sac(**options: Any) -> algorithms.SAC:
    pack = components.ActorQPackCfg(actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=MLP), critic_cfg=CRITIC)
    settings: dict[str, Any] = SMALL | {"replay": ReplayBufferCfg(capacity=64)} | options
    return build(algorithms.SACCfg(**settings), pack)


def sac_seq() -> algorithms.SAC:
    pack = algorithms.sac_seq_policy("gru", 8, (8,))
    return build(algorithms.SACSeqCfg(**SMALL, replay=SequenceReplayBufferCfg(capacity=64, length=5, burn_in=1)), pack)


def td3() -> algorithms.TD3:
    """Its noise is drawn anew with every episode, so random numbers are used where a step ends too."""
    pack = components.ActorQPackCfg(actor_cfg=components.DeterministicActorCfg(backbone_cfg=MLP), critic_cfg=CRITIC)
    cfg = algorithms.TD3Cfg(
        **SMALL, replay=ReplayBufferCfg(capacity=64), exploration=components.MixedNoiseCfg(), max_return=3.0
    )
    return build(cfg, pack)


def build(cfg: Any, policy: Any) -> Any:
    torch.manual_seed(0)
    learner = cfg.build(policy=policy, context=RunContext(spec=scripted().spec, device=torch.device("cpu")))
    learner.train()
    return learner


def act_elsewhere(collector: Any, env: Any, inbox: Any, outbox: Any) -> None:
    """The other process: it has the environment and a copy of the collector, and knows no learner."""
    obs = env.get_observations()
    while (message := inbox.get()) is not None:
        weights, random_state = pickle.loads(message)
        collector.load_weights(weights)
        torch.set_rng_state(random_state)
        out = collector.act(obs)
        transition = Transition.of_step(obs, out.action, out.record, env.step(out.action))
        message = pickle.dumps((transition, int(collector.policy_version)))
        collector.end_step(transition.done)
        outbox.put((message, pickle.dumps(torch.get_rng_state())))
        obs = transition.reset_obs


@pytest.mark.parametrize("make", [sac, sac_seq, td3])
def test_acting_in_another_process_equals_acting_in_this_one(make: Any) -> None:
    here, env = make(), scripted()
    torch.manual_seed(1)
    obs = env.get_observations()
    for _ in range(STEPS):
        out = here.act(obs)
        transition = Transition.of_step(obs, out.action, out.record, env.step(out.action))
        here.process_env_step(transition)
        here.update()
        obs = transition.reset_obs
    assert here.num_updates == STEPS - 4  # four steps of four environments are needed first

    there = make()
    context = multiprocessing.get_context("fork")
    inbox, outbox = context.Queue(), context.Queue()
    worker = context.Process(
        target=act_elsewhere, args=(copy.deepcopy(there.collector), scripted(), inbox, outbox), daemon=True
    )
    worker.start()
    torch.manual_seed(1)
    for step in range(STEPS):
        inbox.put(pickle.dumps((there.collector.weights(), torch.get_rng_state())))
        message, random_state = outbox.get(timeout=60)
        transition, version = pickle.loads(message)
        torch.set_rng_state(pickle.loads(random_state))
        assert version == int(transition.record["policy_version"]) == max(step - 4, 0)
        there.update([transition])
    inbox.put(None)
    worker.join(60)

    one, other = here.state_dict(), there.state_dict()
    assert one["num_updates"] == other["num_updates"]
    for name, value in one["networks"].items():
        assert torch.equal(value, other["networks"][name]), name
    for name, value in here.parts()["target_critic"].state_dict().items():
        assert torch.equal(value, other["parts"]["target_critic"][name]), name
    if here.experience.reward_scaler is not None:
        assert torch.equal(here.experience.reward_scaler.largest, there.experience.reward_scaler.largest)


def test_a_copy_of_a_collector_goes_on_by_itself() -> None:
    learner, obs = sac(learning_starts=0), scripted().get_observations()
    clone = pickle.loads(pickle.dumps(learner.collector))
    clone.load_state_dict(learner.collector.state_dict())
    torch.manual_seed(2)
    expected = learner.act(obs).action.clone()
    torch.manual_seed(2)
    assert torch.equal(clone.act(obs).action, expected)
    with torch.no_grad():
        for parameter in learner.actor.parameters():
            parameter.add_(1.0)
    torch.manual_seed(2)
    assert torch.equal(clone.act(obs).action, expected)  # until it gets the weights


class Planner(nn.Module):
    """Takes the best of some random actions and of the plan that it had before, by the learner's critics."""

    action_shape = (2,)

    def __init__(self, critic: Any) -> None:
        super().__init__()
        self.critic = critic

    def initial_state(self, num_envs: int) -> Tensor:
        return torch.zeros(1, num_envs, 2)

    def forward(self, obs: Mapping[str, Tensor], state: Tensor | None, starts: Tensor | None) -> tuple[Any, Tensor]:
        assert state is not None and starts is not None
        plan = state[0].masked_fill(starts.unsqueeze(-1), 0.0)
        candidates = torch.cat([plan.unsqueeze(0), torch.rand(16, *plan.shape) * 2.0 - 1.0])
        values = torch.stack([self.critic(obs, action).mean(0) for action in candidates])
        best = candidates.gather(0, values.argmax(0).view(1, -1, 1).expand(1, -1, 2))
        return Deterministic(best[0]), best


class PlanningSAC(algorithms.SAC):
    """SAC that collects with a planner."""

    def acting_policy(self) -> Any:
        return Planner(self.networks.critic)


def test_a_planner_acts_in_the_place_of_an_actor_and_sac_learns_from_what_it_did() -> None:
    pack = components.ActorQPackCfg(actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=MLP), critic_cfg=CRITIC)
    cfg = algorithms.SACCfg(**SMALL, class_type=PlanningSAC, replay=ReplayBufferCfg(capacity=64))
    learner, env = build(cfg, pack), scripted()
    obs, before = env.get_observations(), [p.clone() for p in learner.actor.parameters()]
    for step in range(12):
        plan = learner.collector.policy_state.state.clone()
        out = learner.act(obs)
        if step >= 5:  # behind the random actions: no worse than the plan that it continues
            plan = plan[0].masked_fill(learner.collector.policy_state.start.unsqueeze(-1), 0.0)
            chosen, planned = (learner.critic(obs, action).mean(0) for action in (out.action, plan))
            assert (chosen >= planned - 1e-6).all()
            assert torch.equal(learner.collector.policy_state.state[0], out.action)
        transition = Transition.of_step(obs, out.action, out.record, env.step(out.action))
        learner.process_env_step(transition)
        stored = learner.stored_steps(1)
        assert torch.equal(stored["action"][0], transition.action)
        learner.update()
        obs = transition.reset_obs
    assert learner.num_updates == 8
    assert any(not torch.equal(a, b) for a, b in zip(before, learner.actor.parameters(), strict=True))


def test_a_collector_needs_no_algorithm() -> None:
    """Random steps first, then the policy; what a step carries says by which weights it was taken."""
    spec, obs = scripted().spec, scripted().get_observations()
    critic = CRITIC.build(spec=spec, groups=["policy"])
    exploration = SampleCfg().build(spec=spec, device=torch.device("cpu"))
    collector = OffPolicyCollector(
        Planner(critic), exploration, spec=spec, groups=["policy"], device=torch.device("cpu"), random_steps=2
    )
    for step in range(4):
        out = collector.act(obs)
        plan = collector.policy_state.state
        assert plan is not None and bool(plan.any()) == (step >= 2)
        assert out.record.keys() == {"policy_version"}
        collector.end_step(torch.zeros(4))
    assert not collector.policy_state.start.any()


def test_behavior_cloning_says_that_it_does_not_act() -> None:
    bc = build(algorithms.BCCfg(), components.ActorPackCfg(actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=MLP)))
    assert not hasattr(bc, "collector") and not hasattr(bc, "experience")
    with pytest.raises(UserError, match=r"BC learns from recorded data.*OfflineRunnerCfg"):
        bc.act(TensorDict({"policy": torch.zeros(4, 3)}, [4]))
    assert bc.policy()(scripted().get_observations()).shape == (4, 2)


def depth(cls: type) -> int:
    """Classes between `Algorithm` and `cls`, itself included."""
    return cls.__mro__.index(algorithms.Algorithm)


def all_below(cls: type) -> list[type]:
    return [below for child in cls.__subclasses__() for below in (child, *all_below(child))]


def test_learners_and_their_configurations_are_no_deep_family() -> None:
    learners = [cls for cls in all_below(algorithms.Algorithm) if cls.__module__.startswith("RoboRenForce.")]
    assert {"PPO", "SAC", "TD3", "BC", "IQL"} <= {cls.__name__ for cls in learners}
    assert {cls.__name__: depth(cls) for cls in learners if depth(cls) > 2} == {}
    cfgs = [cls for cls in all_below(algorithms.AlgorithmCfg) if cls.__module__.startswith("RoboRenForce.")]
    chains = {cls: [base for base in cls.__mro__ if issubclass(base, algorithms.AlgorithmCfg)] for cls in cfgs}
    assert {cls.__name__: len(chain) - 1 for cls, chain in chains.items() if len(chain) - 1 > 3} == {}
