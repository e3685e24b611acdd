"""Checkpoints that were written before the learner was taken apart: loaded, they continue as they did then.

`off_policy_checkpoints.pt` holds, for each case, the state after some steps and the networks some steps later,
both by the code of that time (2026-11-29, `ReplayLearner`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from offline_cases import recorded, spec
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms import RunContext
from RoboRenForce.buffer import PrioritizedReplayBufferCfg, SequenceReplayBufferCfg
from tensordict import TensorDict

pytestmark = pytest.mark.contract

FILE = Path(__file__).with_name("off_policy_checkpoints.pt")
MLP = networks.MLPCfg(hidden_features=[4])
CRITIC = components.QNetworkCfg(backbone_cfg=MLP)
SMALL: dict[str, Any] = {"batch_size": 8, "learning_starts": 12, "precision": "fp32"}


def sac_seq() -> Any:
    replay = SequenceReplayBufferCfg(capacity=48, length=4, burn_in=1, store=True)
    return algorithms.SACSeqCfg(**SMALL, replay=replay, max_return=4.0), algorithms.sac_seq_policy("gru", 4, (4,))


def td3() -> Any:
    replay = PrioritizedReplayBufferCfg(capacity=48, n_step=2, store=True)
    policy = components.ActorQPackCfg(actor_cfg=components.DeterministicActorCfg(backbone_cfg=MLP), critic_cfg=CRITIC)
    return algorithms.TD3Cfg(**SMALL, replay=replay, exploration=components.MixedNoiseCfg()), policy


def cql() -> Any:
    policy = components.ActorQPackCfg(actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=MLP), critic_cfg=CRITIC)
    return algorithms.CQLCfg(batch_size=8, num_actions=2, target_gap=1.0, precision="fp32"), policy


CASES: dict[str, tuple[Callable[[], Any], bool]] = {
    "sac_seq": (sac_seq, False),
    "td3": (td3, False),
    "cql": (cql, True),
}


def build(name: str) -> Any:
    make, offline = CASES[name]
    cfg, policy = make()
    torch.manual_seed(0)
    data = recorded() if offline else None
    learner = cfg.build(policy=policy, context=RunContext(spec=spec(), device=torch.device("cpu"), data=data))
    learner.train()
    return learner


def tape(steps: int, seed: int) -> Iterator[tuple[Any, ...]]:
    """Observations, and what a step brings: final observations, reward, terminations, time-outs."""
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn(4, 3, generator=generator)
    for _ in range(steps):
        final, after = (torch.randn(4, 3, generator=generator) for _ in range(2))
        ends = torch.rand(4, generator=generator)
        terminated, time_outs = ends < 0.1, (ends >= 0.1) & (ends < 0.2)
        done = (terminated | time_outs).unsqueeze(1)
        after = torch.where(done, after, final)
        wrapped = [TensorDict({"policy": group}, [4]) for group in (obs, after, final)]
        yield *wrapped, torch.randn(4, generator=generator), terminated, time_outs
        obs = after


def proceed(name: str, learner: Any, store: Callable[..., None], steps: int, seed: int) -> None:
    """Some updates, online with a step before each."""
    torch.manual_seed(seed)
    for obs, after, final, reward, terminated, time_outs in tape(steps, seed):
        if not CASES[name][1]:
            out = learner.act(obs)
            flags = {"terminated": terminated, "time_outs": time_outs, "final_observations": final}
            store(obs, out, after, reward, (terminated | time_outs).long(), flags)
        learner.update()


def flat(learner: Any) -> torch.Tensor:
    """All that the networks hold, in one row."""
    return torch.cat([value.double().flatten() for value in learner.networks.state_dict().values()])


@pytest.mark.parametrize("name", CASES)
def test_a_run_of_before_continues_as_it_did(name: str) -> None:
    from stepping import stepped

    saved = torch.load(FILE, weights_only=True)[name]
    learner = build(name)
    learner.load_state_dict(saved["state"])
    assert learner.num_updates == saved["state"]["num_updates"] > 0
    proceed(name, learner, lambda *step: learner.process_env_step(stepped(*step)), 6, seed=2)
    assert learner.num_updates == saved["state"]["num_updates"] + 6
    # Another processor may round otherwise; what is learned in 6 updates is thousands of times as large.
    torch.testing.assert_close(flat(learner), saved["networks"], rtol=1e-6, atol=1e-6)


def test_it_goes_on_online_too() -> None:
    """Networks, targets and optimizers of a run with recorded data; the replay is empty at first."""
    saved = torch.load(FILE, weights_only=True)["cql"]
    cfg, policy = cql()
    online = cfg.build(policy=policy, context=RunContext(spec=spec(), device=torch.device("cpu")))
    online.load_state_dict(saved["state"])
    assert len(online.experience.buffer) == 0 and online.collector.random_steps == 0
    assert online.update() == {}
