"""Random network distillation: a bonus for states that the predictor has rarely seen.

Burda et al. 2018 (arXiv 1810.12894); the weight schedules and the per-second weight follow Schwarke et al. 2023 (CoRL).
reward = weight * step_dt * ||predictor(s) - target(s)||_2 with a frozen random target; the predictor regresses onto it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ...buffer.rollout import RolloutBatch
from ...buffer.transition import Transition
from ...components.normalizer import EmpiricalNormalizer, EmpiricalNormalizerCfg, plausible
from ...components.observation import Observations
from ...components.optimizer import FlatAdam
from ...configclass import ConfigError, Range, configclass
from ...envs.obs_groups import resolve_obs_groups
from ...networks import MLPCfg
from ..algorithm import RunContext
from ..functional import masked_mean, masked_mse
from .reward_term import RewardTerm, RewardTermCfg


class RND(RewardTerm):
    """Predictor and target networks on the observation set `rnd_state`."""

    name = "rnd"

    def __init__(self, cfg: RNDCfg, *, context: RunContext) -> None:
        self.cfg = cfg
        self.distributed = context.distributed
        device, spec = context.device, context.spec
        overrides = dict(context.obs_groups)
        if cfg.obs_groups is not None:
            overrides["rnd_state"] = cfg.obs_groups
        chosen = "rnd_state" if "rnd_state" in overrides else "actor"
        self.groups = resolve_obs_groups(spec, (chosen,), overrides)[chosen]
        images = [name for name in self.groups if len(spec.obs_groups[name]) != 1]
        if images:
            raise ConfigError(
                f"RND needs flat observations, got the image groups {images}. Set reward_terms.N.obs_groups."
            )
        # The target is never trained; the predictor learns to reproduce it on the states that were visited.
        size = spec.obs_dim(self.groups)
        self.predictor = cfg.predictor_cfg.build(size, cfg.num_outputs).to(device)
        self.target = cfg.target_cfg.build(size, cfg.num_outputs).to(device).requires_grad_(False)
        for tensor in [*self.predictor.parameters(), *self.target.parameters()]:
            self.distributed.broadcast_(tensor.data)
        normalizer = EmpiricalNormalizerCfg(until=cfg.normalize_until)
        self.state_normalizer = normalizer.build((size,)).to(device) if cfg.normalize_state else None
        self.reward_normalizer: EmpiricalNormalizer | None = (
            normalizer.build(()).to(device) if cfg.normalize_reward else None
        )
        self.optimizer = FlatAdam(
            {"predictor": self.predictor.parameters()}, learning_rate=cfg.learning_rate, distributed=self.distributed
        )
        self.weight = cfg.weight * (spec.step_dt or 1.0)
        self.final_weight = cfg.final_weight * (spec.step_dt or 1.0)
        self.steps = torch.zeros((), device=device)
        self.last_bonus = torch.zeros(spec.num_envs, device=device)
        """Bonus `(N,)` of the last step, for logging."""
        self._discounted = torch.zeros(spec.num_envs, device=device)
        self._reward_sum = torch.zeros(2, device=device)

    def reward(self, transition: Transition) -> Tensor:
        """Return the bonus `(N,)` for the state that was reached, and advance the weight schedule by one step."""
        self.steps.add_(1.0)
        mask = transition.mask
        with torch.no_grad():
            state = self._state(transition.reset_obs)
            # The predictor's error is large where it has not been trained: a measure of novelty.
            surprise = torch.linalg.vector_norm(self.target(state) - self.predictor(state), dim=-1)
            if self.reward_normalizer is not None:
                # The error shrinks during training: divide by the std of its discounted sum, as the paper does.
                sums = self.cfg.reward_gamma * self._discounted + torch.where(plausible(surprise), surprise, 0.0)
                self._discounted.copy_(sums if mask is None else torch.where(mask, sums, self._discounted))
                self.reward_normalizer.update(self._discounted, self.distributed, mask)
                surprise = surprise / self.reward_normalizer.moments.var.sqrt().clamp(min=1e-8).to(surprise.dtype)
            bonus = self._scheduled_weight() * surprise
            self.last_bonus.copy_(bonus)
            self._reward_sum[0].add_(masked_mean(bonus, mask))
            self._reward_sum[1].add_(1.0)
        return bonus

    def train_step(self, batch: RolloutBatch, expert: RolloutBatch | None = None) -> Tensor:
        """Regress the predictor onto the target on a mini-batch of transitions or sequences."""
        state = self._state(batch.obs)
        loss = masked_mse(self.predictor(state), self.target(state), batch.mask)
        self.optimizer.backward(loss)
        self.optimizer.reduce()
        self.optimizer.apply()
        return loss.detach()

    def update_normalizer(self, obs: Observations, mask: Tensor | None = None) -> None:
        """Update the state statistics from observations `(...)` where `mask` is True."""
        if self.state_normalizer is not None:
            state = torch.cat([obs[name] for name in self.groups], dim=-1)
            self.state_normalizer.update(state.flatten(0, -2), self.distributed, mask)

    def metrics(self) -> dict[str, Tensor]:
        """Return the mean bonus per step since the last call, and the current weight."""
        mean = self._reward_sum[0] / self._reward_sum[1].clamp(min=1.0)
        self._reward_sum.zero_()
        return {"Rnd/mean_intrinsic_reward": mean, "Rnd/weight": self._scheduled_weight()}

    def _state(self, obs: Observations) -> Tensor:
        state = torch.cat([obs[name] for name in self.groups], dim=-1)
        return state if self.state_normalizer is None else self.state_normalizer(state)

    def _scheduled_weight(self) -> Tensor:
        cfg = self.cfg
        if cfg.weight_schedule == "constant":
            progress = torch.zeros_like(self.steps)
        elif cfg.weight_schedule == "step":
            progress = (self.steps >= cfg.final_step).to(self.steps.dtype)
        else:
            progress = ((self.steps - cfg.initial_step) / (cfg.final_step - cfg.initial_step)).clamp(0.0, 1.0)
        return self.weight + (self.final_weight - self.weight) * progress

    def state_dict(self) -> dict[str, Any]:
        """Return networks, optimizer, statistics and the step counter."""
        modules = {"predictor": self.predictor, "target": self.target}
        modules |= {"state_normalizer": self.state_normalizer, "reward_normalizer": self.reward_normalizer}
        state: dict[str, Any] = {name: module.state_dict() for name, module in modules.items() if module is not None}
        return state | {
            "optimizer": self.optimizer.state_dict(),
            "steps": self.steps.clone(),
            "discounted": self._discounted.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        for name in ("predictor", "target", "state_normalizer", "reward_normalizer"):
            module = getattr(self, name)
            if module is not None:
                module.load_state_dict(state[name])
        self.optimizer.load_state_dict(state["optimizer"])
        self.load_progress(state)

    def load_progress(self, state: Mapping[str, Any]) -> None:
        """Restore the position in the schedule, and the discounted sums if the number of environments is the same."""
        self.steps.copy_(state["steps"])
        if state["discounted"].shape == self._discounted.shape:
            self._discounted.copy_(state["discounted"])
        else:  # sums of other environments
            self._discounted.zero_()


@configclass
class RNDCfg(RewardTermCfg):
    """Random network distillation."""

    class_type: type = RND
    obs_groups: list[str] | None = None
    """Observation groups whose novelty is rewarded; None: the set `rnd_state` of the runner, or the actor's groups."""
    weight: Annotated[float, Range(ge=0)] = 1.0
    """Weight of the bonus per simulated second (per step where the simulator has no time step)."""
    weight_schedule: Literal["constant", "step", "linear"] = "constant"
    """Schedule of the weight towards `final_weight`: none, a jump at `final_step`, or linear from `initial_step` on."""
    final_weight: Annotated[float, Range(ge=0)] = 0.0
    """Weight at the end of the schedule."""
    initial_step: Annotated[int, Range(ge=0)] = 0
    """Environment step at which a linear schedule begins."""
    final_step: Annotated[int, Range(ge=1)] = 1
    """Environment step at which the schedule ends."""
    num_outputs: Annotated[int, Range(ge=1)] = 1
    """Size of the embedding."""
    predictor_cfg: MLPCfg = MLPCfg(hidden_features=[256, 256], activations="ELU")
    """Network that is trained."""
    target_cfg: MLPCfg = MLPCfg(hidden_features=[256, 256], activations="ELU")
    """Frozen random network."""
    learning_rate: Annotated[float, Range(gt=0)] = 1e-3
    """Learning rate of the predictor."""
    normalize_state: bool = True
    """Normalize observations by running statistics."""
    normalize_reward: bool = False
    """Divide the bonus by the running standard deviation of its discounted sum."""
    normalize_until: Annotated[int, Range(gt=0)] | None = None
    """Freeze both statistics after this many samples; None: never."""
    reward_gamma: Annotated[float, Range(ge=0, le=1)] = 0.99
    """Discount of the sum that `normalize_reward` divides by."""

    def check(self) -> Iterable[str]:
        """Check that a linear schedule has an interval."""
        if self.weight_schedule == "linear" and self.final_step <= self.initial_step:
            yield f"final_step: {self.final_step} is not above initial_step={self.initial_step}; raise it"
