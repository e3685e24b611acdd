"""TD-MPC2 on a GPU: planning and updates are captured with the numbers of the eager code, and nothing waits."""

import pytest
import torch
from RoboRenForce import algorithms, components
from RoboRenForce.buffer import SequenceReplayBufferCfg
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from stepping import stepped
from tensordict import TensorDict

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

ENVS, OBS, ACTIONS = 4, 9, 3
DEVICE = torch.device("cuda:0")
POLICIES = {
    "tdmpc2": (algorithms.TDMPC2Cfg, lambda: algorithms.tdmpc2_policy(32, 32, 32)),
    "terminates": (algorithms.TDMPC2Cfg, lambda: algorithms.tdmpc2_policy(32, 32, 32, terminates=True)),
    "tdmpc": (algorithms.TDMPCCfg, lambda: algorithms.tdmpc_policy(16, 32, 32)),
}


def make(name: str, **options) -> algorithms.TDMPC2:
    cfg_class, policy = POLICIES[name]
    action = ActionSpec("continuous", ACTIONS, low=(-1.0,) * ACTIONS, high=(1.0,) * ACTIONS)
    spec = EnvSpec("synthetic", ENVS, {"policy": (OBS,)}, action, 100, ("final_observations",))
    settings = {
        "replay": SequenceReplayBufferCfg(length=3, capacity=2000, previous_action=False),
        "planner": components.MPPICfg(num_samples=32, num_policy_samples=4, num_elites=8, iterations=3),
        "batch_size": 32,
        "learning_starts": 20,
        "first_updates": 5,
        "precision": "fp32",
        "compile": "off",
    }
    torch.manual_seed(0)
    cfg = cfg_class(**(settings | options))
    return cfg.build(policy=policy(), context=algorithms.RunContext(spec=spec, device=DEVICE))


def iterate(learner: algorithms.TDMPC2, steps: int) -> list[torch.Tensor]:
    """Step and learn in made-up episodes; returns the actions."""
    generator, actions = torch.Generator(DEVICE).manual_seed(1), []

    def observed() -> TensorDict:
        return TensorDict({"policy": torch.randn(ENVS, OBS, generator=generator, device=DEVICE)}, [ENVS], DEVICE)

    obs = observed()
    learner.train()
    for _ in range(steps):
        out = learner.act(obs)
        actions.append(out.action.clone())
        after, done = observed(), torch.rand(ENVS, generator=generator, device=DEVICE) < 0.1
        terminated = done & (torch.rand(ENVS, generator=generator, device=DEVICE) < 0.5)
        extras = {"final_observations": after, "terminated": terminated, "log": {}}
        reward = torch.randn(ENVS, generator=generator, device=DEVICE)
        learner.process_env_step(stepped(obs, out, after, reward, done.long(), extras))
        learner.update()
        obs = after
    return actions


def graphs(learner: algorithms.TDMPC2) -> list:
    return [learner.collector._act_step, learner.experience.store_step, *learner.updates.graphs.values()]


@pytest.mark.parametrize("name", POLICIES)
def test_captured_equals_eager(name: str) -> None:
    found = []
    for mode in ("off", "on"):
        learner = make(name, cuda_graph=mode)
        torch.manual_seed(2)
        actions = iterate(learner, 20)
        found.append([*actions, *(parameter.detach().clone() for parameter in learner.model.parameters())])
        assert mode == "off" or all(step.captured for step in graphs(learner))
        learner.close()
    for eager, captured in zip(*found, strict=True):
        torch.testing.assert_close(captured, eager, rtol=1e-3, atol=1e-3)


def test_compiled_losses_and_values_are_captured_and_finite(caplog: pytest.LogCaptureFixture) -> None:
    learner = make("terminates", cuda_graph="on", compile="on", precision="tf32")
    actions = iterate(learner, 16)
    assert all(step.captured for step in graphs(learner)) and learner.planner.compiled_value is not None
    assert torch.stack(actions).abs().max() <= 1
    assert all(torch.isfinite(parameter).all() for parameter in learner.model.parameters())
    learner.close()


def test_a_captured_step_waits_for_nothing_and_memory_does_not_grow() -> None:
    learner = make("tdmpc2", cuda_graph="on")
    iterate(learner, 16)
    before = torch.cuda.memory_allocated()
    batch = {"policy": torch.randn(ENVS, OBS, device=DEVICE)}
    obs = TensorDict(batch, [ENVS], DEVICE)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(10):
            learner.act(obs)
            learner.updates()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.cuda.memory_allocated() <= before + 2**16
    learner.close()


def test_the_captured_planner_solves_the_lqr() -> None:
    from RoboRenForce.utils.cuda_graph import graphed

    start = torch.tensor([0.3, -0.5], device=DEVICE)

    def value(actions: torch.Tensor) -> torch.Tensor:
        state, total, discount = start.unsqueeze(1), 0.0, 1.0
        for action in actions.squeeze(-1):
            total = total - discount * (state.square() + 0.1 * action.square())
            state = 1.1 * state + 0.5 * action
            discount *= 0.99
        return total - discount * 1.374017 * state.square()

    def plan(mean: torch.Tensor) -> torch.Tensor:
        return components.mppi(components.MPPICfg(num_policy_samples=0), mean, value).mean[0, :, 0]

    step = graphed(plan, DEVICE, "on", "plan")
    found = torch.stack([step(torch.zeros(3, 2, 1, device=DEVICE)).clone() for _ in range(6)])
    torch.testing.assert_close(found, (-1.700079 * start).expand(6, 2), rtol=0.05, atol=0)
    assert not torch.equal(found[-1], found[-2])  # every replay draws anew
