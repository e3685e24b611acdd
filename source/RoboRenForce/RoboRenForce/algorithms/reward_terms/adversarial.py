"""Rewards of a discriminator that tells the policy's transitions from an expert's: GAIL and AMP.

    GAIL (arXiv 1606.03476)   x = (s, a) or (s, s')            D trained by BCE, reward of the logit
    AMP  (arXiv 2104.02180)   x = (phi(s), phi(s'))            D trained by least squares, reward in [0, 1]

    reward = task_weight * task reward + weight * step_dt * imitation_reward(D(x))
    loss   = discriminator_loss + gradient_penalty * 1/2 E_expert ||grad_x D||^2 + logit_decay * ||W_last||^2

s' is the true successor: pairs never straddle a reset, a time-out is an ordinary transition. The reward of a rollout is
that of the discriminator before the update. Nothing is drawn at random after the start (rows follow Weyl sequences), so
a run with weight 0 is bit for bit the run without the term.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from ...buffer.dataset import DatasetCfg, TransitionDataset
from ...buffer.motion import MotionDatasetCfg
from ...buffer.rollout import RolloutBatch
from ...buffer.transition import Transition, default_dtype
from ...components.discriminator import DiscriminatorCfg
from ...components.observation import Observations
from ...components.optimizer import FlatAdam
from ...configclass import MISSING, ConfigError, Range, configclass
from ...envs.obs_groups import resolve_obs_groups
from ...networks import MLPCfg
from ..algorithm import RunContext
from ..functional.adversarial import (
    GanLoss,
    RewardForm,
    discriminator_loss,
    gradient_penalty,
    imitation_reward,
)
from ..functional.masked import masked_mean
from .policy_replay import TransitionRing, spread_rows
from .reward_term import RewardTerm, RewardTermCfg


class AdversarialReward(RewardTerm):
    """Discriminator, its optimizer, the expert's transitions, and a replay of past transitions of the policy.

    The expert's data is read at the first step, so that a trained policy can be played without it.
    """

    def __init__(self, cfg: AdversarialRewardCfg, *, context: RunContext) -> None:
        self.cfg, self.context, self.name = cfg, context, cfg.name
        self.spec, self.device, self.distributed = context.spec, context.device, context.distributed
        self.needs_successors = cfg.inputs == "transition"
        overrides = dict(context.obs_groups) | ({} if cfg.obs_groups is None else {"actor": cfg.obs_groups})
        self.groups = resolve_obs_groups(self.spec, ("actor",), overrides)["actor"]
        if images := [name for name in self.groups if len(self.spec.obs_groups[name]) != 1]:
            raise ConfigError(
                f"{cfg.name} needs flat observations, got the image groups {images}. Set reward_terms.N.obs_groups."
            )
        state = self.spec.obs_dim(self.groups)
        self.num_inputs = state + (state if self.needs_successors else self.spec.action.dim)
        # The generator of the run is left alone: a run with weight 0 must not differ from one without the term.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.discriminator = cfg.discriminator_cfg.build(self.num_inputs).to(self.device)
        for parameter in self.discriminator.parameters():
            self.distributed.broadcast_(parameter.data)
        self.optimizer = FlatAdam(
            {"discriminator": self.discriminator.parameters()},
            learning_rate=cfg.learning_rate,
            max_grad_norm=cfg.max_grad_norm,
            weight_decay=cfg.weight_decay,
            distributed=self.distributed,
        )
        bounds = (self.spec.action.low, self.spec.action.high)
        self._bounds = [None if bound is None else torch.tensor(bound, device=self.device) for bound in bounds]
        self.replay = TransitionRing(cfg.replay_size, self.num_inputs, self.device)
        self.expert: Tensor | None = None
        """Inputs of the expert `(M, D)`, once they were read."""
        # Processes begin at different places of the expert's data.
        self._drawn = torch.full((), 1e6 * context.distributed.rank, dtype=torch.float64, device=self.device)
        self._sums = torch.zeros(6, device=self.device)

    @torch.no_grad()
    def reward(self, transition: Transition) -> Tensor:
        """Return what is added to the task's reward, `(N,)`."""
        self._require_expert()
        inputs = self._inputs(transition.obs, transition.action, transition.next_obs)
        imitation = imitation_reward(self.discriminator(inputs), self.cfg.reward_form)
        # Simulators with a time step pay per second, as their own reward terms do.
        added = self.cfg.weight * (self.spec.step_dt or 1.0) * imitation
        if self.cfg.task_weight != 1.0:
            added = added + (self.cfg.task_weight - 1.0) * transition.reward
        self._sums[:2].add_(torch.stack([masked_mean(imitation, transition.mask), torch.ones_like(self._sums[0])]))
        return added

    def train_step(self, batch: RolloutBatch, expert: RolloutBatch | None = None) -> Tensor:
        """Take one step on expert rows against rows of the mini-batch and of the replay, half and half."""
        cfg = self.cfg
        current = self._inputs(batch.obs, batch.action, batch.next_obs).flatten(0, -2)
        valid = None if batch.mask is None else batch.mask.flatten()
        size = min(len(current), cfg.batch_size)
        num_old = size // 2 if cfg.replay_size else 0
        current, valid = _thinned(current, size - num_old), None if valid is None else _thinned(valid, size - num_old)
        policy, mask = self.replay.mixed_with(current, valid, num_old)
        rows = self._expert_rows(size)

        normalize = self.discriminator.normalizer
        real, fake = normalize(rows).requires_grad_(), normalize(policy)
        expert_logit, policy_logit = self.discriminator.logit(real), self.discriminator.logit(fake)
        separation = discriminator_loss(expert_logit, policy_logit, cfg.gan, mask)
        penalty = gradient_penalty(expert_logit, real)
        loss = separation + cfg.gradient_penalty * penalty
        if (weight := self.discriminator.output_weight()) is not None:
            loss = loss + cfg.logit_decay * weight.square().sum()
        self.optimizer.backward(loss)
        self.optimizer.step()

        with torch.no_grad():
            # Both sources shape the statistics, in equal parts.
            normalize.update(rows, self.distributed)
            normalize.update(current, self.distributed, valid)
            self.replay.add(
                _thinned(current, cfg.replay_added), None if valid is None else _thinned(valid, cfg.replay_added)
            )
            seen = [(expert_logit > 0).float().mean(), masked_mean((policy_logit < 0).float(), mask), penalty]
            self._sums[2:].add_(torch.stack([*seen, torch.ones_like(penalty)]))
        return separation.detach()

    def update_normalizer(self, obs: Observations, mask: Tensor | None = None) -> None:
        """Do nothing: `train_step` updates the statistics, from both sources."""

    def metrics(self) -> dict[str, Tensor]:
        """Return mean reward and accuracies since the last call."""
        steps, updates = self._sums[1].clamp(min=1.0), self._sums[5].clamp(min=1.0)
        values = [self._sums[0] / steps, *(self._sums[2:5] / updates)]
        names = ("reward", "expert_accuracy", "policy_accuracy", "gradient_penalty")
        found = {f"{self.name.capitalize()}/{name}": value for name, value in zip(names, values, strict=True)}
        self._sums.zero_()
        return found

    def _inputs(self, obs: Observations, action: Tensor, next_obs: Observations | None) -> Tensor:
        """Return what the discriminator reads, `(..., D)`."""
        state = torch.cat([obs[name] for name in self.groups], dim=-1)
        if next_obs is not None and self.needs_successors:
            return torch.cat([state, *(next_obs[name] for name in self.groups)], dim=-1)
        space = self.spec.action
        if space.kind == "discrete":
            action = nn.functional.one_hot(action, space.dim).to(state.dtype)
        else:
            # As executed: the expert's actions are, and samples beyond the bounds would give the policy away.
            action = action if self._bounds == [None, None] else action.clamp(*self._bounds)
        return torch.cat([state, action], dim=-1)

    def _require_expert(self) -> None:
        """Read the expert's data if that was not done yet, and begin the statistics with it."""
        if self.expert is None:
            data = self.cfg.expert.build()
            self._require_fit(data)
            obs, following = (
                {k: rows.to(self.device) for k, rows in part.items()} for part in (data.obs, data.next_obs)
            )
            rows = self._inputs(obs, data.action.to(self.device), following)
            self.expert = rows.to(default_dtype(torch.float32))
            if self.optimizer.steps == 0:  # not resumed
                self.discriminator.normalizer.update(self.expert)

    def _require_fit(self, data: TransitionDataset) -> None:
        there = {name: tuple(rows.shape[1:]) for name, rows in data.obs.items()}
        here = {name: tuple(self.spec.obs_groups[name]) for name in self.groups}
        wrong = [
            f"{name}: {there.get(name)} in the data, {shape} in the task"
            for name, shape in here.items()
            if there.get(name) != shape
        ]
        space = self.spec.action
        if not self.needs_successors and (
            data.action_spec.kind != space.kind or tuple(data.action.shape[1:]) != tuple(space.shape)
        ):
            wrong.append(
                f"actions: {data.action_spec.kind} {tuple(data.action.shape[1:])} in the data, {space.kind} "
                f"{tuple(space.shape)} in the task"
            )
        expert, step_dt = self.cfg.expert, self.spec.step_dt
        if isinstance(expert, MotionDatasetCfg) and step_dt is not None and abs(expert.step_dt - step_dt) > 1e-6:
            wrong.append(f"step_dt: {expert.step_dt} s between the frames, {step_dt:g} s between the steps")
        if wrong:
            raise ConfigError(
                f"reward_terms.N.expert ({data.source}) does not fit '{self.spec.task}' ({'; '.join(wrong)}). Record "
                "it in this task, or set reward_terms.N.obs_groups or, of a motion, expert.step_dt."
            )

    def _expert_rows(self, count: int) -> Tensor:
        if self.expert is None:
            raise ConfigError(f"{self.name} learned before it gave a reward: step the environment first.")
        rows = spread_rows(self._drawn, count, len(self.expert))
        self._drawn.add_(count)
        return self.expert.index_select(0, rows)

    def state_dict(self) -> dict[str, Any]:
        """Return discriminator, statistics, optimizer, replay and the place in the expert's data."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "replay": self.replay.state_dict(),
            "drawn": self._drawn.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.replay.load_state_dict(state["replay"])
        self._drawn.copy_(state["drawn"] + 1e6 * self.distributed.rank)


def _thinned(rows: Tensor, count: int) -> Tensor:
    """Return at most `count` rows, evenly spread: also where consecutive rows are one moment of all environments."""
    return rows[:: max(1, len(rows) // max(count, 1))][:count]


@configclass
class AdversarialRewardCfg(RewardTermCfg):
    """Reward of a discriminator. `GAILCfg` and `AMPCfg` are its two usual settings."""

    class_type: type = AdversarialReward
    name: str = "gail"
    """Name of the term in metrics and checkpoints."""
    expert: DatasetCfg = MISSING
    """Expert's transitions."""
    obs_groups: list[str] | None = None
    """Observation groups that the discriminator reads; None: those of the actor."""
    inputs: Literal["state_action", "transition"] = "state_action"
    """What is compared: (s, a), or (s, s')."""

    weight: Annotated[float, Range(ge=0)] = 1.0
    """Weight of the imitation reward, per simulated second (per step where the simulator has no time step)."""
    task_weight: Annotated[float, Range(ge=0)] = 0.0
    """Weight of the task's own reward; 0: imitation only."""
    reward_form: RewardForm = "gail+"
    """Reward of a logit, see `imitation_reward`; where episodes terminate, `gail+` rewards living and `gail-` dying."""

    gan: GanLoss = "bce"
    """Loss of the discriminator: binary cross entropy, or least squares with targets 1 and -1."""
    discriminator_cfg: DiscriminatorCfg = DiscriminatorCfg()
    """Network and normalizer."""
    learning_rate: Annotated[float, Range(gt=0)] = 3e-4
    """Learning rate of the discriminator."""
    batch_size: Annotated[int, Range(ge=2)] = 4096
    """Most rows of each source per step; a step is taken with each mini-batch of the policy."""
    gradient_penalty: Annotated[float, Range(ge=0)] = 1.0
    """Weight of 1/2 E ||grad_x D||^2 at the expert's normalized inputs."""
    logit_decay: Annotated[float, Range(ge=0)] = 0.0
    """Weight of the squared norm of the last layer."""
    weight_decay: Annotated[float, Range(ge=0)] = 1e-4
    """Decoupled weight decay of all layers."""
    max_grad_norm: Annotated[float, Range(gt=0)] | None = None
    """Maximum gradient norm."""
    replay_size: Annotated[int, Range(ge=0)] = 50_000
    """Past transitions of the policy that are kept; they are half of its rows. 0: none, and all rows are new."""
    replay_added: Annotated[int, Range(ge=1)] = 64
    """Transitions added to the replay per step."""


@configclass
class GAILCfg(AdversarialRewardCfg):
    """Generative adversarial imitation (arXiv 1606.03476)."""


@configclass
class AMPCfg(AdversarialRewardCfg):
    """Adversarial motion priors (arXiv 2104.02180): half of the reward is style, half task."""

    name = "amp"
    obs_groups: list[str] | None = ["amp"]
    inputs = "transition"
    weight = 0.5
    task_weight = 0.5
    reward_form = "lsgan"
    gan = "lsgan"
    learning_rate = 1e-4
    gradient_penalty = 10.0
    discriminator_cfg = DiscriminatorCfg(backbone_cfg=MLPCfg(hidden_features=[1024, 512], activations="ReLU"))
    logit_decay = 0.01
    replay_size = 200_000
