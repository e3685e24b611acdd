"""Policy that plans, for play and evaluation; what is exported is its policy prior."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import Any

from tensordict import TensorDict
from torch import Tensor

from ...components.latent_planner import LatentPlanner
from ...utils.export import Exportable
from ..actor_policy import ActorPolicy

logger = logging.getLogger(__name__)


class PlannerPolicy(ActorPolicy):
    """Plan every action, from the plan of the step before; a sample has the plan's noise."""

    def __init__(self, planner: LatentPlanner, *, deterministic: bool = True) -> None:
        as_actor: Any = planner  # it acts like one; what only networks have, features and a mode of them, is not used
        super().__init__(as_actor, deterministic=deterministic)

    @property
    def planner(self) -> LatentPlanner:
        """Planner that is played."""
        planner: Any = self.actor
        return planner

    def jacobian_norm(self, obs: TensorDict) -> Tensor | None:
        """Return None: a plan has no useful derivative, it is drawn."""
        return None

    def exportable(self) -> Exportable:
        """Export the policy prior, which is a function of the observation and needs no planner."""
        logger.warning(
            "The file holds the policy prior: planning is a search among %d sequences of actions in the model, and a "
            "file holds a function. The prior is another policy than the planner: measure it by rrf eval with "
            "algorithm.play_with=prior.",
            self.planner.cfg.num_samples,
        )
        prior = ActorPolicy(self.planner.model).exportable()
        return replace(prior, metadata={**(prior.metadata or {}), "policy": "prior of a planner"})
