"""Playing with receding horizon, temporal ensembling and real-time chunking: what reaches the environment, and when."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from RoboRenForce.algorithms.vla_training import VLAPlayPolicy
from RoboRenForce.components.action_heads import DiTHeadCfg, FlowHeadCfg
from RoboRenForce.components.chunk_execution import RealTimeChunkingCfg, RecedingHorizonCfg, TemporalEnsembleCfg
from RoboRenForce.components.vla_preprocessing import VLAPreprocessingCfg
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs.multi_modal import MultiModalCfg
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.runners import VLAPretrainRunnerCfg
from RoboRenForce.utils.errors import SpecMismatch
from tensordict import TensorDict
from vla_cases import CHUNK, observed, policy, recorded

pytestmark = pytest.mark.contract

OBS = TensorDict(observed(recorded()), batch_size=[2])


def env(chunk: int = 0) -> EnvSpec:
    groups = {"front": (48, 64, 3), "wrist": (48, 64, 3), "proprio": (3,), "instruction_id": (1,)}
    return EnvSpec("Table", 2, groups, ActionSpec("continuous", 2, chunk=chunk), max_episode_length=10)


def counting(built: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the policy's k-th chunk be `k + index / 10`."""
    calls = iter(range(100))

    def forward(obs: Any, *, deterministic: bool = True) -> torch.Tensor:
        return (next(calls) + torch.arange(CHUNK) / 10).view(1, CHUNK, 1).expand(len(obs["proprio"]), CHUNK, 2)

    monkeypatch.setattr(built, "forward", forward)


def test_receding_horizon_plans_anew_where_it_must(monkeypatch: pytest.MonkeyPatch) -> None:
    built = policy()
    counting(built, monkeypatch)
    play = VLAPlayPolicy(built, env(), execution=RecedingHorizonCfg(num_executed=2))
    found = []
    for step in range(4):
        found.append(play(OBS)[:, 0].tolist())
        play.reset(torch.tensor([0, step == 0]))  # the episode of row 1 ends with its first action
    expected = [[0.0, 0.0], [0.1, 1.0], [2.0, 1.1], [2.1, 3.0]]
    assert torch.allclose(torch.tensor(found), torch.tensor(expected))
    play.reset()
    assert play(OBS)[:, 0].tolist() == [4.0, 4.0]
    assert play(OBS[:1])[:, 0].tolist() == [5.0], "another number of environments begins anew"


def test_an_ensemble_averages_what_chunks_say_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    built = policy()
    counting(built, monkeypatch)
    play = VLAPlayPolicy(built, env(), execution=TemporalEnsembleCfg(decay=0.0))
    assert play(OBS)[0, 0] == 0.0
    assert play(OBS)[0, 0] == pytest.approx((0.1 + 1.0) / 2)
    assert play(OBS)[0, 0] == pytest.approx((0.2 + 1.1 + 2.0) / 3)


def test_real_time_chunks_go_on_in_the_units_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """A head trained with delays keeps what is given: through units, flips and relative actions it comes back."""
    head = DiTHeadCfg(chunk_size=CHUNK, num_steps=2, max_delay=2)
    transforms = VLAPreprocessingCfg(flipped_actions=[1])
    built = policy(head=head, preprocessing=transforms)
    prefix = built.encode(OBS)
    asked: list[Any] = []
    act = built.head.act
    monkeypatch.setattr(built.head, "act", lambda *args, **options: asked.append(options) or act(*args, **options))

    play = VLAPlayPolicy(built, env(), execution=RealTimeChunkingCfg(num_executed=2, delay=1))
    first = torch.stack([play(OBS) for _ in range(2)], dim=1)
    executor: Any = play._executor
    left = executor.continuation().actions.clone()
    assert torch.equal(executor.queue.chunks[:, :2], first)
    third = play(OBS)
    assert torch.equal(third, left[:, 0]), "the action of the delay is the running chunk's"
    running = asked[1]["continuation"]
    assert asked[0]["continuation"].delay.tolist() == [0, 0] and running.delay.tolist() == [1, 1]
    assert torch.allclose(built.preprocessing.env_actions(running.actions, built.raw_state(prefix)), left, atol=1e-5)
    # The head itself kept it, too.
    again = built.go_on(prefix, running_in_env(running, left))
    assert torch.allclose(again[:, 0], left[:, 0], atol=1e-4)


def running_in_env(running: Any, actions: torch.Tensor) -> Any:
    return type(running)(actions, running.delay, running.weights, running.max_guidance_weight)


def test_guidance_works_without_gradients_of_the_caller() -> None:
    built = policy(head=FlowHeadCfg(chunk_size=CHUNK, num_steps=2))
    play = VLAPlayPolicy(built, env(), execution=RealTimeChunkingCfg(num_executed=2, delay=1))
    with torch.no_grad():
        actions = torch.stack([play(OBS) for _ in range(6)])
    assert not actions.requires_grad and len(actions.unique(dim=0)) == 6
    assert all(param.grad is None for param in built.parameters())


def test_what_does_not_fit_is_one_sentence() -> None:
    with pytest.raises(SpecMismatch, match=r"executes 2 actions per step, and RecedingHorizonCfg .*chunk_size to null"):
        VLAPlayPolicy(policy(), env(2), execution=RecedingHorizonCfg())
    with pytest.raises(SpecMismatch, match="guides a flow head as it samples, and the policy has a RegressionHead"):
        VLAPlayPolicy(policy(), env(), execution=RealTimeChunkingCfg())
    with pytest.raises(ConfigError, match=f"num_executed is {CHUNK + 1}"):
        VLAPlayPolicy(policy(), env(), execution=RecedingHorizonCfg(num_executed=CHUNK + 1))


def test_the_runner_lets_the_environment_take_single_actions() -> None:
    cfg = VLAPretrainRunnerCfg()
    table = ScriptedEnvCfg(multi_modal=MultiModalCfg(proprio=["policy"], instruction="go", chunk_size=4))
    cfg.adapt_env_to_play(table)
    assert table.multi_modal is not None and table.multi_modal.chunk_size == 4 and not list(cfg.check_env(table))
    cfg.execution = TemporalEnsembleCfg()
    assert "env.multi_modal.chunk_size=null" in next(iter(cfg.check_env(table)))
    cfg.adapt_env_to_play(table)
    assert table.multi_modal.chunk_size is None and not list(cfg.check_env(table))
