"""A check before learning: evaluating recorded actions finds the log-probabilities that they were drawn with.

Ratios of a policy gradient start at 1 only then. What breaks it is dropout, batch statistics, another temperature or
precision, or a head whose rows are not independent of one another; nothing else would show it but slow learning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...components.vla_policy import VLAPolicy
from ...networks.vlm import Prefix
from ...utils.errors import UserError
from ...utils.precision import Precision, autocast
from ...utils.seeding import preserved_rng

TOLERANCE: dict[Precision, float] = {"fp32": 1e-4, "tf32": 2e-2, "bf16": 0.1}
"""Largest difference of the log-probability of one dimension of an action. Kernels depend on the number of rows, and
their rounding is divided by the std of an action: in half precision that is some percent."""


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Switch dropout and batch statistics off inside the block: for acting and for evaluating alike."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


@torch.no_grad()
def require_parity(
    policy: VLAPolicy, obs: Mapping[str, Any], *, precision: Precision = "fp32", tolerance: float | None = None
) -> float:
    """Act on a few observations and evaluate the record: in another order, and in two micro-batches.

    Modes of modules and torch's random numbers stay as they were. Reads a number back from the device.

    Args:
        policy: What will act and learn.
        obs: Observations of at least two rows, on the policy's device.
        precision: Of acting and evaluating.
        tolerance: Largest difference of a log-probability; None: `TOLERANCE`.

    Returns:
        The largest difference.

    Raises:
        UserError: it is larger, or not a number, or the head has no density.
    """
    policy.head.require_density()
    device = next(policy.parameters()).device
    with evaluation_mode(policy), preserved_rng(), autocast(precision, device):
        _, record = policy.act(policy.encode(obs), deterministic=False)
        if "log_prob" not in record:
            raise UserError(f"The record of {type(policy.head).__name__}.act lacks 'log_prob': add it, `(B, H, A)`.")
        found = _in_micro_batches(policy, policy.encode(obs), record)
    worst = float((found - record["log_prob"]).abs().max())  # NaN if one is
    allowed = TOLERANCE[precision] if tolerance is None else tolerance
    if not worst <= allowed:
        raise UserError(
            f"{type(policy.head).__name__} does not find the log-probabilities of its own actions again: they are up "
            f"to {worst:.3g} off in {precision}, expected at most {allowed:g}, so that no ratio of the policy gradient "
            "would be right. Take precision=fp32; if it stays, the head (or the backbone) draws random numbers, or "
            "mixes the rows of a batch, where it should not."
        )
    return worst


def _in_micro_batches(policy: VLAPolicy, prefix: Prefix, record: Mapping[str, Tensor]) -> Tensor:
    backwards = torch.arange(len(prefix.tokens), device=prefix.tokens.device).flip(0)
    parts = [
        policy.evaluate(prefix.rows(rows), {name: tensor[rows] for name, tensor in record.items()}).log_prob
        for rows in backwards.chunk(2)
    ]
    return torch.cat(parts).flip(0)
