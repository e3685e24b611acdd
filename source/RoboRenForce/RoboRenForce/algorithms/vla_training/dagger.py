"""DAgger (Ross et al. 2011, arXiv 1011.0686): learn from the expert's actions in the states that the policy comes to.

In round i the expert's action is executed with probability beta_i and the policy's otherwise; what is recorded is
always the expert's. The policy then learns from everything that was recorded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated

import torch
from tensordict import TensorDict
from torch import Tensor

from ...configclass import Range, configclass
from ..algorithm import Policy
from .supervised import VLAPretrainAlgorithmCfg


class Mixture:
    """Mixture of expert and learner, drawn for every environment and step.

    Args:
        policy: The learner's.
        beta: Probability of the expert's actions.
        seed: Of the draws.
    """

    def __init__(self, policy: Policy, beta: float, seed: int) -> None:
        self.policy, self.beta = policy, beta
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(self, obs: TensorDict, expert: Tensor) -> Tensor:
        """The actions to execute, `(N, A)`, of the expert's ones and an observation."""
        by_expert = torch.rand(len(expert), generator=self._generator) < self.beta
        if bool(by_expert.all()):
            return expert
        return torch.where(by_expert.to(expert.device).unsqueeze(1), expert, self.policy(obs))


@configclass
class DAggerAlgorithmCfg(VLAPretrainAlgorithmCfg):
    """Configuration of DAgger: the supervised learner, and who acts while data is collected."""

    beta_start: Annotated[float, Range(ge=0, le=1)] = 1.0
    """Probability of the expert's action in the first round."""
    beta_decay: Annotated[float, Range(ge=0, le=1)] = 0.98
    """Factor on it from round to round."""
    beta_min: Annotated[float, Range(ge=0, le=1)] = 0.05
    """Final value."""

    def beta(self, rounds: int) -> float:
        """Probability of the expert's action after so many rounds."""
        return max(self.beta_min, self.beta_start * self.beta_decay**rounds)

    def executor(self, policy: Policy, rounds: int, seed: int) -> Mixture:
        """Return the acting policy of the next round."""
        return Mixture(policy, self.beta(rounds), seed)

    def check(self) -> Iterable[str]:
        """Sentences on a lower bound above the start."""
        yield from super().check()
        if self.beta_min > self.beta_start:
            yield f"beta_min: {self.beta_min} is larger than beta_start = {self.beta_start}; exchange them"
