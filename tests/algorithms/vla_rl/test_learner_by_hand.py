"""The whole way from an environment to a gradient step, against plain loops: every option, and that it is read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from frozen_runs import saved_policy
from learner_by_hand import (
    HEAD,
    ROWS,
    build,
    collect,
    credit,
    environment,
    episode_means,
    is_close,
    loss,
    move,
    trained,
    value_of,
)
from RoboRenForce.algorithms.vla_rl import GRPOCfg, ReinforcePPCfg, VLAPPOCfg
from RoboRenForce.utils.errors import UserError
from torch import nn

pytestmark = pytest.mark.oracle

SHARED: list[dict[str, Any]] = [
    {},
    {"gamma": 0.7},
    {"reward_coef": 0.3, "step_penalty": 0.4},
    {"relative_reward": True},
    {"log_prob_level": "token"},
    {"log_prob_level": "chunk"},
    {"clip_low": 0.05},
    {"clip_high": 0.05},
    {"dual_clip": 1.1},
    {"dual_clip": None, "log_prob_level": "chunk"},
    {"max_log_ratio": 0.1},
    {"entropy_coef": 0.5},
    {"entropy_coef": 0.5, "entropy_level": "action"},
    {"kl_coef": 0.5},
    {"kl_coef": 0.5, "entropy_level": "chunk"},
]
OF_PPO: list[dict[str, Any]] = [
    {"lam": 0.5},
    {"reward_level": "action"},
    {"reward_level": "action", "lam": 0.5, "log_prob_level": "token"},
    {"normalize_advantage": False},
    {"value_loss_coef": 0.3},
    {"value_clip": None},
    {"value_clip": 0.01},
    {"huber_delta": 0.1},
    {"huber_delta": None, "reward_coef": 10.0},
]
OF_GRPO: list[dict[str, Any]] = [
    {},
    {"clip_high": 0.05},
    {"normalize_by_std": False},
    {"length_normalization": True},
    {"length_normalization": True, "log_prob_level": "chunk"},
    {"score": "success"},
    {"highest_mean": 0.5, "filters_success": True},
    {"lowest_mean": 0.5, "filters_success": True},
    {"score": "success", "max_refills": 1, "highest_mean": 0.5},
]
CASES = [(VLAPPOCfg, options) for options in (*SHARED, *OF_PPO)] + [(GRPOCfg, options) for options in OF_GRPO]
CASES += [(ReinforcePPCfg, {}), (ReinforcePPCfg, {"gamma": 0.7})]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return saved_policy(tmp_path_factory.mktemp("policy"), HEAD)


def name_of(case: Any) -> str:
    return case.__name__.removesuffix("Cfg") if isinstance(case, type) else str(case).translate(_BARE)


_BARE = str.maketrans("", "", "{}' ")


@pytest.mark.parametrize(("kind", "options"), CASES, ids=name_of)
def test_a_gradient_step_is_that_of_plain_loops(kind: Any, options: dict[str, Any], policy: str) -> None:
    env = environment(kind)
    learner = build(kind, policy, env, **options)
    decisions, after = collect(learner, env)
    seen: dict[str, Any] = {}
    targets = learner.targets

    def look(rollout: Any) -> Any:
        """Note what is learned from; then move the weights, so that ratios and values are not those of acting."""
        last = [value_of(learner, after, row) for row in range(ROWS)]
        seen["targets"] = targets(rollout)
        move(learner)
        before = {name: p.detach().clone() for name, p in trained(learner).items()}
        with torch.enable_grad():
            for ignored in [*options, None]:  # ends with the options as they are
                cfg = learner.cfg if ignored is None else _without(learner.cfg, ignored)
                credit(cfg, decisions, last)
                total, metrics = loss(cfg, learner, decisions)
                seen[str(ignored)] = _gradient(total, learner)
        seen.update(metrics=metrics, before=before)
        return seen["targets"]

    learner.targets = look
    metrics = learner.update()

    for decision, advantage, weight in zip(decisions, seen["targets"].advantage, seen["targets"].weight, strict=True):
        found = advantage.reshape(-1)[: len(decision.advantage)].tolist()
        assert found == pytest.approx(decision.advantage, rel=1e-3, abs=1e-4)
        assert float(weight) == pytest.approx(decision.weight, abs=1e-5)
    for decision, target in zip(decisions, seen["targets"].returns, strict=True):
        assert target[: len(decision.target)].tolist() == pytest.approx(decision.target, rel=1e-3, abs=1e-4)
    for name, expected in (seen["metrics"] | _of_advantages(decisions)).items():
        assert is_close(metrics[name], expected), (name, float(metrics[name]), expected)
    ratios = learner.episode_ratios()
    for name, expected in episode_means(decisions).items():
        total, count = ratios[name]
        assert is_close(total / count, expected), name
    for (name, parameter), expected in zip(trained(learner).items(), seen["None"], strict=True):
        step = seen["before"][name] - parameter.detach()
        torch.testing.assert_close(step, expected, rtol=2e-3, atol=2e-5, msg=lambda text, at=name: f"{at}: {text}")
    # A learner that ignored one of the options would have taken another step.
    for ignored in options:
        pairs = zip(seen[ignored], seen["None"], strict=True)
        # Waves are collected, not learned from differently.
        assert ignored == "max_refills" or max(float((a - b).abs().max()) for a, b in pairs) > 1e-3, ignored


def _gradient(total: torch.Tensor, learner: Any) -> list[torch.Tensor]:
    parameters = [*trained(learner).values()]
    if not total.requires_grad:  # nothing is learned from any decision
        return [torch.zeros_like(p) for p in parameters]
    return [*torch.autograd.grad(total, parameters, allow_unused=True, materialize_grads=True)]


def _without(cfg: Any, option: str) -> Any:
    return cfg.replace(**{option: getattr(type(cfg)(), option)})


def _of_advantages(decisions: Any) -> dict[str, float]:
    """Metrics of what is learned from, of chunks: 0 stands for decisions that are left out."""
    used = [sum(d.advantage) / len(d.advantage) for d in decisions if d.weight and len(d.advantage) == 1]
    if len(used) < sum(bool(d.weight) for d in decisions):
        return {}
    left_out = [0.0] * (len(decisions) - len(used))
    return {
        "rollout/advantages_mean": sum(used) / len(used),
        "rollout/advantages_max": max(used + left_out),
        "rollout/advantages_min": min(used + left_out),
        "rollout/num_samples": float(len(decisions)),
        "rollout/used_samples": len(used) / len(decisions),
        "rollout/rewards": sum(sum(d.learned_rewards) for d in decisions) / len(decisions),
    }


def test_every_epoch_has_all_decisions_in_an_order_of_its_own(policy: str) -> None:
    env = environment(VLAPPOCfg)
    learner = build(VLAPPOCfg, policy, env, num_learning_epochs=4, num_mini_batches=3)
    decisions, _ = collect(learner, env)
    taken: list[int] = []
    store = learner.rollout.store
    take = store.take
    store.take = lambda index: taken.extend(index.tolist()) or take(index)
    learner.update()
    orders = [tuple(taken[start : start + len(decisions)]) for start in range(0, len(taken), len(decisions))]
    unshuffled = tuple(range(len(decisions)))
    assert len(orders) == 4 and all(tuple(sorted(order)) == unshuffled for order in orders)
    assert len({*orders, unshuffled}) == 5


@pytest.mark.parametrize("kind", [VLAPPOCfg, GRPOCfg, ReinforcePPCfg])
def test_a_policy_whose_ratios_would_be_wrong_does_not_begin(kind: Any, policy: str) -> None:
    env = environment(kind)
    learner = build(kind, policy, env)

    class Noise(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 0.1 * torch.randn_like(x)

    learner.model.head.network.output = nn.Sequential(learner.model.head.network.output, Noise())
    with pytest.raises(UserError, match="does not find the log-probabilities of its own actions"):
        learner.act(env.get_observations())
