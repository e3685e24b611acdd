"""Returns on the scale of D4RL: 0 is a random policy, 100 an expert.

The references are those of D4RL (Fu et al. 2020, arXiv 2004.07219), which were measured in the `v0` to `v2` versions of
the robots. Rewards of Gymnasium's `v5` differ a little, so scores of policies played there compare with one another and
only roughly with published ones.
"""

from __future__ import annotations

import math
import re

from RoboRenForce.configclass import configclass
from RoboRenForce.runners import Callback, CallbackCfg, Trainer

REFERENCE_RETURNS = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
}
"""Robot -> returns of the random and of the expert policy."""


def reference_returns(name: str) -> tuple[float, float] | None:
    """Return random and expert return of a robot, None if D4RL has none.

    Args:
        name: a Gymnasium id, a data set or a task of ours: `Hopper-v5`, `hopper-medium-v2`,
            `RoboRenForce-D4RL-Hopper-IQL`.
    """
    words = re.split(r"[-_/]", name.lower())
    return next((REFERENCE_RETURNS[word] for word in words if word in REFERENCE_RETURNS), None)


def normalized_score(name: str, mean_return: float) -> float | None:
    """Return `100 (R - random) / (expert - random)` of an undiscounted return; None without references.

    Args:
        name: see `reference_returns`.
        mean_return: R, averaged over episodes.
    """
    references = reference_returns(name)
    if references is None:
        return None
    low, high = references
    return 100.0 * (mean_return - low) / (high - low)


class NormalizedScore(Callback):
    """Logs `Eval/normalized_score` beside the return of every evaluation."""

    def after_iteration(self, runner: Trainer, metrics: dict[str, float]) -> None:
        """See `Callback.after_iteration`."""
        name = runner.task if runner.played_spec is None else runner.played_spec.task
        score = normalized_score(name, metrics.get("Eval/mean_reward", math.nan))
        if score is not None and math.isfinite(score):
            metrics["Eval/normalized_score"] = score


@configclass
class NormalizedScoreCfg(CallbackCfg):
    """Configuration of `NormalizedScore`."""

    class_type: type = NormalizedScore
