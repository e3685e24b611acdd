"""The loss of a PPO step of pi0 and pi0.5 is that of RLinf: log-probabilities, actor, critic, and gradients.

The expected values are those of RLinf's own `train_micro_batch` (commit a3816b596, on rlinf-openpi 0.1.1) for the
weights and observations of `openpi_cases`, in float32; only its sizes were made small. It reads the value from features
of its own (see docs/vla/models/pi05.md), so both get the same values here.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from openpi_cases import CHUNK, DIMS, ROWS, fingerprint, inputs, small_policy
from RoboRenForce.algorithms.functional import Level
from RoboRenForce.algorithms.vla_rl import VLAPPOCfg
from RoboRenForce.algorithms.vla_rl.chunk_collector import PREFIX, RECORD
from RoboRenForce.algorithms.vla_rl.policy_gradient import ChunkBatch, PolicyGradientModule
from RoboRenForce.components.vla_policy import VLAPolicy
from safetensors.torch import load_file
from torch import Tensor, nn

pytestmark = pytest.mark.oracle
VARIANTS = ("pi05", "pi0")
LEVELS: tuple[Level, ...] = ("chunk", "action", "token")
STEPS, EXECUTED, ACTIONS = 4, 3, 7
"""Euler steps, whose times no two codes round differently; executed actions of a chunk; dimensions of the robot."""


def decisions() -> dict[str, Tensor]:
    """Decisions, each with another noisy step; log-probabilities have changed since they were taken, by `change`."""
    generator = torch.Generator().manual_seed(5)
    before, step = torch.randn(2, ROWS, CHUNK, DIMS, generator=generator)
    return {
        "before": before,
        "after": before + 0.2 * step,
        "step": torch.arange(ROWS),
        "change": 0.1 * torch.randn(ROWS, EXECUTED, ACTIONS, generator=generator),
        "advantage": torch.tensor([1.0, -0.7, 0.4]),
        "old_value": torch.tensor([0.3, -0.5, 2.0]),
        "value": torch.tensor([0.4, 0.1, 1.9]),  # the second has moved by more than the clip, towards its return
        "returns": torch.tensor([1.0, 2.0, 14.0]),  # the last is beyond the threshold of Huber
    }


class Given(nn.Module):
    """Values that do not depend on what is seen."""

    def __init__(self, value: Tensor) -> None:
        super().__init__()
        self.value = nn.Parameter(value)

    def forward(self, _prefix: object, _head: object, *, detached: bool) -> Tensor:
        return self.value


def rl_policy(variant: str) -> VLAPolicy:
    """A policy of which the expert is trained, by one step of Flow-SDE."""
    policy = small_policy(variant, action_dim=ACTIONS, density="sde", num_steps=STEPS)
    policy.backbone.requires_grad_(False)
    return policy


@pytest.fixture(scope="module")
def expected() -> dict[str, Tensor]:
    return load_file(Path(__file__).with_name("openpi_rlinf_expected.safetensors"))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("variant", VARIANTS)
def test_the_loss_of_a_step_is_that_of_rlinf(variant: str, level: Level, expected: dict[str, Tensor]) -> None:
    there = {name.removeprefix(f"{variant}."): value for name, value in expected.items() if name.startswith(variant)}
    data, policy = decisions(), rl_policy(variant)
    prefix = policy.backbone(inputs())
    record = {name: data[name] for name in ("before", "after", "step")}
    found = policy.evaluate(prefix, record).log_prob[:, :EXECUTED]
    torch.testing.assert_close(found, there["log_prob"], rtol=1e-5, atol=1e-5)

    old = torch.full((ROWS, CHUNK, ACTIONS), torch.nan)  # of actions that were not executed, nothing is known
    old[:, :EXECUTED] = there["log_prob"] - data["change"]
    record["log_prob"] = old
    cfg = VLAPPOCfg(init_from="(in memory)", log_prob_level=level, dual_clip=None)
    value: Any = Given(data["value"])
    module = PolicyGradientModule(policy, value, cfg)
    batch = ChunkBatch(
        samples={RECORD + name: tensor for name, tensor in record.items()}
        | {PREFIX + name: tensor for name, tensor in prefix.to_tensors().items()},
        executed=torch.full((ROWS,), EXECUTED),
        advantage=data["advantage"],
        weight=torch.ones(ROWS),
        value=data["old_value"].unsqueeze(1),
        target=data["returns"].unsqueeze(1),
        totals={
            name: torch.tensor(float(ROWS * elements))
            for name, elements in {"value": 1, "chunk": 1, "action": EXECUTED, "token": EXECUTED * ACTIONS}.items()
        },
    )
    loss, metrics = module(batch)
    loss.backward()
    got = {"total": loss.detach(), "actor": metrics["actor/policy_loss"], "ratio": metrics["actor/ratio"]}
    for name, number in got.items():
        assert float(number) == pytest.approx(float(there[f"{level}.{name}"]), rel=1e-5), name
    assert 0 < float(metrics["actor/pg_clipfrac"]) < 1  # both sides of the surrogate are compared
    gradients = {name: p.grad for name, p in policy.head.named_parameters() if p.grad is not None}
    require_same(gradients, there[f"{level}.gradients"])
    torch.testing.assert_close(value.value.grad, there[f"{level}.value_gradient"])


def require_same(found: dict[str, Tensor], expected: Tensor) -> None:
    """Compare norms and projections of all gradients, in the order of their names."""
    assert len(found) == len(expected) > 30
    largest = float(expected[:, 0].max())
    for name, value in zip(sorted(found), expected, strict=True):
        distance = float((fingerprint(found[name]) - value).abs().max())
        assert distance < 1e-5 * largest, name
        assert distance < 1e-4 * float(value[0]), name  # it is this tensor's, however small
