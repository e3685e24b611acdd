"""Base of dynamics models: what they predict, in which units, and how one step is imagined.

    y = [ (s'_P - s_P - m) / d,  (r - m_r) / d_r ]   ~ N(mu_e, var_e)       P: the predicted columns of the state
    contacts, terminated                              ~ Bernoulli            e: member of the ensemble

The inputs are standardized too. Both standardizations are measured over all data before each fit. Disagreement of the
members' means is epistemic uncertainty, their variance the noise of the system (aleatoric).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...configclass import Cfg, Range, configclass
from ...envs.spec import EnvSpec
from .gaussian import SoftBounds, Standardizer, gaussian_nll
from .layout import StateLayout

Memory = dict[str, Tensor]
"""What a model remembers of each row, `(N, ...)` each; empty for models that read the present alone."""


@dataclass
class Steps:
    """Recorded steps, `(E, B)` for the members of an ensemble, or `(T, B)` in windows."""

    state: Tensor
    """`(..., D)`."""
    action: Tensor
    """`(..., A)`; one-hot if actions are discrete."""
    reward: Tensor
    terminated: Tensor
    """1 where the episode terminated, else 0."""
    next_state: Tensor
    """True successor, `(..., D)`."""
    valid: Tensor | None = None
    """1 at steps of the same episode as the first, 0 after it; None: all are."""


@dataclass
class Imagined:
    """One imagined step of `N` rows."""

    state: Tensor
    """`(N, D)`."""
    reward: Tensor
    """`(N,)`."""
    terminated: Tensor
    """bool `(N,)`; False if the model does not learn it."""
    disagreement: Tensor
    """`(N,)`: standard deviation of the members' means, summed over the predicted columns, in units of the data's
    step-to-step changes."""
    memory: Memory


class SystemDynamics(nn.Module, ABC):
    """Ensemble of `E` predictors over one state layout.

    Args:
        cfg: Configuration.
        spec: Spec of the environment.
        groups: Observation groups of the state.
    """

    sees_history: ClassVar[bool] = False
    """True if it learns from windows of steps and keeps a memory, False if from single steps."""
    elites: Tensor
    """int64 `(num_elites,)`: members that imagine, those that predict unseen data best."""

    def __init__(self, cfg: SystemDynamicsCfg, *, spec: EnvSpec, groups: Sequence[str]) -> None:
        super().__init__()
        self.cfg, self.spec = cfg, spec
        self.layout = StateLayout(spec, groups, cfg.contacts, cfg.held)
        self.num_actions = spec.action.dim
        self.num_gaussian = len(self.layout.predicted) + 1
        self.num_contacts = len(self.layout.contacts)
        self.num_inputs = self.layout.dim + self.num_actions
        self.num_outputs = 2 * self.num_gaussian + self.num_contacts + int(cfg.termination)
        self.inputs = Standardizer(self.num_inputs)
        self.targets = Standardizer(self.num_gaussian)
        self.bounds = SoftBounds(self.num_gaussian)
        self.register_buffer("elites", torch.arange(cfg.num_members)[: cfg.num_elites or cfg.num_members])

    # -- what a subclass says -----------------------------------------------------------------------------------------

    @abstractmethod
    def outputs(self, inputs: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Return the raw outputs `(E, N, O)` of one step for standardized inputs `(N, D + A)`, and the next memory."""

    @abstractmethod
    def loss(self, steps: Steps) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the 0-dim training loss, and 0-dim metrics without gradient."""

    @abstractmethod
    def errors(self, steps: Steps) -> Tensor:
        """Return the mean squared error of each member, `(E,)`, in standardized units, by which the best are chosen."""

    def memory(self, num_rows: int) -> Memory:
        """Return the memory at the start of an episode."""
        return {}

    def remember(self, states: Tensor, actions: Tensor, starts: Tensor, begins: Tensor) -> Memory:
        """Return the memory after recorded steps.

        Args:
            states: `(H, N, D)`.
            actions: `(H, N, A)`.
            starts: bool `(H, N)`: True at the first step of an episode.
            begins: bool `(N,)`: True where an episode begins after the last of these steps.
        """
        return {}

    # -- units --------------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def measure(self, steps: Steps) -> None:
        """Measure the standardizations over steps `(M,)`."""
        self.inputs.fit(torch.cat([steps.state, steps.action], dim=-1))
        self.targets.fit(self._changes(steps))

    def standardized_inputs(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the network's input `(..., D + A)`."""
        return self.inputs(torch.cat([state, action], dim=-1))

    def _changes(self, steps: Steps) -> Tensor:
        change = (steps.next_state - steps.state).index_select(-1, self.layout.predicted)
        return torch.cat([change, steps.reward.unsqueeze(-1)], dim=-1)

    def gaussian(self, output: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance `(..., P + 1)` in standardized units."""
        mean, raw, _ = output.tensor_split([self.num_gaussian, 2 * self.num_gaussian], dim=-1)
        return mean, self.bounds(raw)

    # -- learning -----------------------------------------------------------------------------------------------------

    def step_losses(self, output: Tensor, steps: Steps) -> dict[str, Tensor]:
        """Return the losses of raw outputs `(E, ..., O)`, by their names, `(E, ...)` each."""
        cfg, contacts = self.cfg, self.num_contacts
        mean, log_var = self.gaussian(output)
        target = self.targets(self._changes(steps))
        losses = {"nll": gaussian_nll(mean, log_var, target, cfg.nll_beta).mean(-1)}
        rest = output[..., 2 * self.num_gaussian :]
        if contacts:
            truth = steps.next_state.index_select(-1, self.layout.contacts).expand(*rest.shape[:-1], -1)
            losses["contacts"] = F.binary_cross_entropy_with_logits(rest[..., :contacts], truth, reduction="none").sum(
                -1
            )
        if cfg.termination:
            truth = steps.terminated.expand(rest.shape[:-1])
            losses["termination"] = F.binary_cross_entropy_with_logits(rest[..., -1], truth, reduction="none")
        return losses

    def squared_errors(self, output: Tensor, steps: Steps) -> Tensor:
        """Return the squared error of the mean, averaged over columns, `(E, ...)`."""
        return (self.gaussian(output)[0] - self.targets(self._changes(steps))).square().mean(-1)

    # -- imagining ----------------------------------------------------------------------------------------------------

    def successor(
        self,
        state: Tensor,
        output: Tensor,
        *,
        deterministic: bool = False,
        soft_contacts: bool = False,
        generator: torch.Generator | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return the next state `(..., D)` and the reward `(...)` that one member's output `(..., O)` describes.

        Args:
            state: Present state `(..., D)`.
            output: Raw output of one member for each row.
            deterministic: True for the mean instead of a sample.
            soft_contacts: True for probabilities of contacts instead of 0 and 1; they carry a gradient.
            generator: Of the samples.
        """
        mean, log_var = self.gaussian(output)
        if not deterministic:
            noise = torch.randn(mean.shape, device=mean.device, dtype=mean.dtype, generator=generator)
            mean = mean + noise * torch.exp(0.5 * log_var)
        change = self.targets.inverse(mean)
        following = state.index_add(-1, self.layout.predicted, change[..., :-1])
        if self.num_contacts:
            chance = output[..., 2 * self.num_gaussian :][..., : self.num_contacts].sigmoid()
            if not soft_contacts:
                draw = 0.5 if deterministic else torch.rand(chance.shape, device=chance.device, generator=generator)
                chance = (chance > draw).to(chance.dtype)
            following = following.index_copy(-1, self.layout.contacts, chance)
        return following, change[..., -1]

    def with_held(self, state: Tensor, recorded: Tensor) -> Tensor:
        """Return `state` with the held columns of `recorded`, `(..., D)` both: they are no prediction."""
        if self.num_gaussian - 1 + self.num_contacts == self.layout.dim:
            return state
        taken = torch.cat([self.layout.predicted, self.layout.contacts])
        return recorded.index_copy(-1, taken, state.index_select(-1, taken))

    @torch.no_grad()
    def imagine(
        self,
        state: Tensor,
        action: Tensor,
        memory: Memory,
        member: Tensor,
        *,
        deterministic: bool = False,
        generator: torch.Generator | None = None,
    ) -> Imagined:
        """Predict one step.

        Args:
            state: `(N, D)`.
            action: `(N, A)`, one-hot if actions are discrete.
            memory: What the model remembers of the rows.
            member: int64 `(N,)`: index into `elites` of the member that predicts each row.
            deterministic: True for the mean over the elites instead of a sample of one.
            generator: Of all samples.
        """
        output, memory = self.outputs(self.standardized_inputs(state, action), memory)
        elite = output.index_select(0, self.elites)
        means = elite[..., : self.num_gaussian - 1]
        spread = means.std(0, correction=0).sum(-1)
        if deterministic:
            chosen = elite.mean(0)
        else:
            chosen = elite.gather(0, member.view(1, -1, 1).expand(1, -1, output.shape[-1])).squeeze(0)
        following, reward = self.successor(state, chosen, deterministic=deterministic, generator=generator)
        terminated = torch.zeros(len(state), dtype=torch.bool, device=state.device)
        if self.cfg.termination:
            terminated = chosen[..., -1] > 0.0
        return Imagined(following, reward, terminated, spread, memory)


@configclass
class SystemDynamicsCfg(Cfg):
    """Settings that dynamics models share."""

    class_type: type = SystemDynamics
    num_members: Annotated[int, Range(ge=1, le=100)] = 7
    """E, number of predictors."""
    num_elites: Annotated[int, Range(ge=1)] | None = None
    """Members that imagine, the best on validation data; None: all."""
    termination: bool = False
    """True to learn where episodes terminate; False if they never do, or where that is known."""
    contacts: dict[str, list[int]] = {}
    """Observation group -> columns that are 0 or 1, predicted as probabilities."""
    held: dict[str, list[int]] = {}
    """Observation group -> columns that stay as they are while the model runs, such as commands."""
    bounds_weight: Annotated[float, Range(ge=0)] = 0.01
    """Weight of the width of the variance bounds in the loss."""
    nll_beta: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Exponent of the variance by which errors are weighted (beta-NLL); 0: plain likelihood."""

    def check(self) -> Any:
        """Check that there are enough members."""
        if self.num_elites is not None and self.num_elites > self.num_members:
            yield f"num_elites: {self.num_elites} is more than num_members={self.num_members}"
