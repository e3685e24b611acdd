"""What a fit finds in a linear system with Gaussian noise, whose answers are known (algorithm sheet, 4.1 and 7.12)."""

from __future__ import annotations

import math

import pytest
import torch
from dynamics_cases import NOISE, episodes, mlp_cfg, recorded, single_steps, spec, step
from RoboRenForce.algorithms import DynamicsFitCfg, RunContext, SystemDynamicsLearnerCfg
from RoboRenForce.algorithms.model_based.step_table import StepTable
from RoboRenForce.components import SystemDynamicsTransformerCfg
from RoboRenForce.networks import MLPCfg, TransformerCfg

pytestmark = pytest.mark.oracle

CPU = torch.device("cpu")


def learned(data, model_cfg, **fit):
    context = RunContext(spec=data.spec(), device=CPU, data=data)
    learner = SystemDynamicsLearnerCfg(fit=DynamicsFitCfg(**fit)).build(policy=model_cfg, context=context)
    while not learner.is_finished:
        learner.update()
    learner.fit.finish()
    return learner


@pytest.fixture(scope="module")
def linear():
    torch.manual_seed(0)
    return learned(
        single_steps(5000),
        mlp_cfg(num_members=5, num_elites=3, backbone_cfg=MLPCfg(hidden_features=[64], activations="SiLU")),
        learning_rate=3e-3,
        threshold=1e-4,
        max_epochs=40,
    ).model


def test_mean_variance_and_likelihood_are_those_of_the_system(linear) -> None:
    torch.manual_seed(1)
    state, action = torch.randn(4000, 4), torch.rand(4000, 1) * 2 - 1
    following = step(state, action) + NOISE * torch.randn(4000, 4)
    output, _ = linear.outputs(linear.standardized_inputs(state, action), {})
    mean, log_var = linear.gaussian(output[linear.elites])
    change = linear.targets.inverse(mean)[..., :4]
    std = (torch.exp(0.5 * log_var) * linear.targets.std)[..., :4]
    error = following - state - change
    assert float(error.square().mean()) == pytest.approx(NOISE**2, rel=0.05)
    torch.testing.assert_close(std.mean((0, 1)), torch.full((4,), NOISE), atol=0.01, rtol=0)
    nll = 0.5 * (error.square() / std.square() + 2 * std.log() + math.log(2 * math.pi))
    assert float(nll.mean()) == pytest.approx(0.5 * math.log(2 * math.pi * math.e * NOISE**2), abs=0.05)


def test_members_disagree_where_there_was_no_data(linear) -> None:
    torch.manual_seed(2)
    inside, action = torch.randn(2000, 4), torch.rand(2000, 1) * 2 - 1
    direction = torch.nn.functional.normalize(torch.randn(2000, 4))
    member = torch.zeros(2000, dtype=torch.int64)

    def disagreement(state):
        return float(linear.imagine(state, action, {}, member).disagreement.mean())

    # Three standard deviations beyond the outermost of five thousand states, which is about 5 away from the middle.
    assert disagreement((5.0 + 3.0) * direction) >= 5.0 * disagreement(inside)


def test_noise_that_depends_on_the_state_is_found() -> None:
    torch.manual_seed(3)
    state, action = torch.rand(6000, 4) * 2 - 1, torch.zeros(6000, 1)
    std = torch.where(state[:, :1] > 0, 0.3, 0.05)
    following = state + std * torch.randn(6000, 4)
    data = recorded(state, action, following, torch.ones(6000, dtype=torch.bool))
    model = learned(data, mlp_cfg(), learning_rate=3e-3, threshold=1e-4, max_epochs=25).model
    probe = torch.zeros(2, 4)
    probe[:, 0] = torch.tensor([-0.7, 0.7])
    output, _ = model.outputs(model.standardized_inputs(probe, torch.zeros(2, 1)), {})
    found = (torch.exp(0.5 * model.gaussian(output)[1]) * model.targets.std)[..., 1:4].mean((0, 2))
    torch.testing.assert_close(found, torch.tensor([0.05, 0.3]), atol=0.03, rtol=0.1)


def test_each_member_learns_from_a_bootstrap_of_its_own_and_is_judged_on_rows_that_none_saw() -> None:
    torch.manual_seed(0)
    data = single_steps(1000)
    learner = SystemDynamicsLearnerCfg().build(
        policy=mlp_cfg(), context=RunContext(spec=data.spec(), device=CPU, data=data)
    )
    drawn, held_out = learner.fit.train_rows, set(learner.fit.validation_rows.tolist())
    assert drawn.shape == (3, 800) and len(held_out) == 200
    for member in drawn:
        assert 0.6 < len(set(member.tolist())) / 800 < 0.67 and not held_out & set(member.tolist())  # 1 - 1/e
    assert not torch.equal(drawn[0].sort()[0], drawn[1].sort()[0])


def test_every_member_returns_to_its_own_best_weights() -> None:
    torch.manual_seed(0)
    data = single_steps(200)
    learner = SystemDynamicsLearnerCfg(fit=DynamicsFitCfg(batch_size=32, learning_rate=0.05, patience=3)).build(
        policy=mlp_cfg(), context=RunContext(spec=data.spec(), device=CPU, data=data)
    )
    fit, best, seen = learner.fit, torch.full((3,), torch.inf), []
    steps = fit.table.gather(fit.validation_rows)
    while not learner.is_finished:
        learner.update()
        errors = learner.model.errors(steps)
        improved = errors < (1.0 - fit.cfg.threshold) * best
        best = torch.where(improved, errors, best)
        seen.append(improved)
    assert len({int(rows.nonzero()[-1]) for rows in torch.stack(seen).T}) > 1, "members stop at different epochs"
    fit.finish()
    torch.testing.assert_close(learner.model.errors(steps), best)
    assert learner.model.elites.tolist() == best.argsort()[:2].tolist()
    assert (fit.stale >= 3).all() and fit.epoch < fit.cfg.max_epochs


def test_windows_and_histories_stay_in_their_episode() -> None:
    data = episodes(4, 5)
    model = mlp_cfg().build(spec=spec(), groups=["policy"])
    table = StepTable(model.layout, spec(), 20, CPU)
    table.fill_from_dataset(data)
    steps = table.windows(torch.tensor([0, 3, 18]), 4)
    assert steps.valid.T.tolist() == [[1, 1, 1, 1], [1, 1, 0, 0], [1, 1, 0, 0]]
    torch.testing.assert_close(steps.state[1:, 0], steps.next_state[:-1, 0])
    states, actions, starts, begins = table.histories(torch.tensor([0, 2, 5, 7]), 3)
    assert begins.tolist() == [True, False, True, False]
    assert starts.T.tolist() == [[True, True, True], [True, True, False], [False, False, False], [False, True, False]]
    torch.testing.assert_close(states[:, 3], data.obs["policy"][4:7])
    torch.testing.assert_close(actions[:, 3], data.action[4:7])


@pytest.mark.slow
@pytest.mark.long
def test_training_on_own_predictions_pays_over_fifty_steps() -> None:
    """A gate of the sheet (4.4): at most 5 % relative error after 50 steps, a fifth less than from teacher forcing."""
    found = {}
    for forecast in (1, 8):
        torch.manual_seed(0)
        cfg = SystemDynamicsTransformerCfg(
            backbone_cfg=TransformerCfg(dim=32, num_layers=1, num_heads=2, window=8), history=8, forecast=forecast
        )
        learner = learned(episodes(100, 60, noise=0.05), cfg, batch_size=128, max_epochs=30, learning_rate=1e-3)
        table = StepTable(learner.model.layout, spec(), 60 * 64, CPU)
        table.fill_from_dataset(episodes(64, 60, noise=0.0))
        from RoboRenForce.algorithms.model_based.open_loop import open_loop

        rows = torch.arange(64) * 60 + 8
        found[forecast] = open_loop(learner.model, table, rows, 50)["relative"]["model"][-1]
    assert found[8] <= 0.8 * found[1], found
