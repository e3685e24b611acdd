"""TD-MPC2: planning in a latent world model with a terminal value (Hansen et al. 2024, arXiv 2310.16828).

The model of `LatentModel` is unrolled over H steps from the first observation of a window, z_0 = h(s_0),
z_{t+1} = d(z_t, a_t), and every prediction is learned along it, later ones with less weight:

    L      = 1/H sum_t rho^t [ 20 |z_{t+1} - sg h(s_{t+1})|^2 + 0.1 CE(R(z_t, a_t), r_t) + 0.1 CE(Q(z_t, a_t), y_t) ]
    y_t    = r_t + gamma (1 - terminated_t) min_{2 of 5} Qbar(h(s_{t+1}), a'),   a' ~ pi(. | h(s_{t+1}))
    L_pi   = - mean_t rho^t [ mean_{2 of 5} Q(z_t, a) / S + 1e-4 |A| H(pi(z_t)) ],   a ~ pi(. | z_t), z without gradient

CE is the cross-entropy with the two-hot code of a scalar in symlog space, S a running range of Q from its 5th to its
95th percentile. Actions come from MPPI in the model (`LatentPlanner`). TD-MPC is this class with other settings
(tdmpc.py).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...buffer.replay import ReplayBufferCfg
from ...buffer.replay_batch import Observations, ReplayBatch
from ...buffer.sequence import SequenceReplayBufferCfg
from ...buffer.transition import Transition
from ...components.actor_q import ActorPackCfg
from ...components.latent_model import LatentModel, LatentModelCfg, Pair
from ...components.latent_planner import LatentPlanner
from ...components.mppi import MPPICfg
from ...components.policy_state import ActingPolicy
from ...components.target import make_target, soft_update
from ...configclass import ConfigError, Range, configclass
from ...envs.obs_groups import resolve_obs_groups
from ...utils.precision import autocast
from ...utils.stateful import Stateful
from ..actor_policy import ActorPolicy
from ..algorithm import RunContext
from ..off_policy.off_policy_algorithm import OffPolicyAlgorithm, OffPolicyAlgorithmCfg
from .planner_policy import PlannerPolicy

ShareOfSteps = Annotated[float, Range(gt=0, le=1)]


class TDMPC2(OffPolicyAlgorithm):
    """World model, its targets and the planner, with one gradient step of model and prior."""

    cfg: TDMPC2Cfg
    networks_cfg = ActorPackCfg

    def __init__(self, cfg: TDMPC2Cfg, *, policy: ActorPackCfg, context: RunContext) -> None:
        _require_fit(policy, context)
        super().__init__(cfg, policy=policy, context=context)
        model = self.model
        learned = [model.dynamics, model.reward, model.critic, model.termination, _embedding(model)]
        parts = {
            "encoder": nn.ModuleList([model.encoder, model.backbone]),
            "model": nn.ModuleList([part for part in learned if part is not None]),
        }
        factors = {"encoder": cfg.encoder_lr_factor}
        self.model_optimizer = self.make_optimizer(parts, cfg.learning_rate, lr_factors=factors, clip_together=True)
        self.prior_optimizer = self.make_optimizer({"prior": model.prior}, cfg.learning_rate, eps=cfg.prior_eps)
        # Targets are never in training mode, so they have no dropout.
        self.target_critic = make_target(model.critic).eval()
        self.target_encoder = make_target(model).eval() if cfg.target_encoder else None
        self.value_scale = ValueScale(cfg.tau_scale).to(self.device)
        steps = cfg.replay.length if isinstance(cfg.replay, SequenceReplayBufferCfg) else 1
        self._rho = (cfg.rho ** torch.arange(steps + 1.0, device=self.device)).unsqueeze(1)
        """rho^t, `(H + 1, 1)`."""
        self._model_loss = self.compiled(self.model_loss)
        self._policy_loss = self.compiled(self.policy_loss)
        if self._compiles:
            self.planner.compiled_value = self.compiled(self.planner.value)

    @property
    def model(self) -> LatentModel:
        """World model, which is also the policy prior."""
        model: LatentModel = self.networks.actor
        return model

    def acting_policy(self) -> ActingPolicy:
        """Return the planner, or the prior where planning in every environment takes too long."""
        self.planner = LatentPlanner(self.model, self.cfg.planner, self.cfg.gamma, self.cfg.value_of_two)
        self.planner.to(self.device)
        return self.planner if self.cfg.collect_with == "planner" else self.model

    def policy(self) -> ActorPolicy:
        """Return the planner (or the prior) for play, and the prior for export; both share the learner's weights."""
        if self.cfg.play_with == "prior":
            return ActorPolicy(self.model)
        return PlannerPolicy(self.planner)

    # -- learning -----------------------------------------------------------------------------------------------------

    def update(self, data: Iterable[Transition] | None = None) -> dict[str, Tensor]:
        """Learn as `OffPolicyAlgorithm.update`; before the first planned step, as often as random steps were taken."""
        is_first = self.num_updates == 0
        metrics = super().update(data)
        if is_first and metrics:
            for _ in range(self.cfg.first_updates // self.cfg.gradient_steps):
                metrics = self.updates()
        return metrics

    def train_step(self, batch: ReplayBatch, update_actor: bool) -> dict[str, Tensor]:
        """Update model and critics, then the prior on the states that the model predicted, then the targets."""
        loss, states, metrics = self._model_loss(batch)
        metrics |= self.model_optimizer.step(loss)
        if update_actor:
            loss, more = self._policy_loss(states, self.weights(batch, len(states)))
            metrics |= more | self.prior_optimizer.step(loss)
            self.distributed.mean_(self.value_scale.value)
        soft_update(self.target_critic, self.model.critic, self.cfg.tau)
        if self.target_encoder is not None:
            soft_update(self.target_encoder, self.model, self.cfg.tau)
        self.planner.noise.update(self.updates.step)
        return metrics

    def model_loss(self, batch: ReplayBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return L; the predicted states `(H + 1, B, S)` and 0-dim metrics, both without gradient."""
        cfg, model, latent = self.cfg, self.model, self.model.cfg.latent_dim
        later = {name: batch.obs[name][1:] for name in model.groups}
        with autocast(cfg.precision, self.device):
            with torch.no_grad():
                reached = model.encode(later)
                target = self.td_target(reached, batch)
                if self.target_encoder is not None:
                    reached = self.target_encoder.encode(later)
            states = self.unroll(batch.obs, batch.action)
            rewards = model.reward_output(states[:-1], batch.action)
            values = model.values(states[:-1], batch.action)
        weight = self.weights(batch, len(batch.reward))

        def mean(error: Tensor) -> Tensor:
            return (error * weight).mean()

        distance = F.mse_loss(states[1:].float(), reached.float(), reduction="none")[..., :latent].mean(-1)
        value_errors = model.head.loss(values, target)
        losses = {
            "consistency": cfg.consistency_coef * mean(distance),
            "reward": cfg.reward_coef * mean(model.reward_head.loss(rewards, batch.reward)),
            "critic": cfg.value_coef * mean(value_errors.mean(0) if cfg.mean_members else value_errors.sum(0)),
        }
        if model.termination is not None:
            # The discount is 0 where the episode terminated, and a time-out is no termination.
            logit, terminated = model.termination_logit(states[1:]), (batch.discount == 0.0).to(batch.discount.dtype)
            error = F.binary_cross_entropy_with_logits(logit, terminated, reduction="none")
            losses["termination"] = cfg.termination_coef * batch.mean(error)
        total = torch.stack([*losses.values()]).sum()
        metrics = {f"Loss/{name}": loss.detach() for name, loss in losses.items()}
        metrics["Policy/q_value"] = batch.mean(model.head.mean(values.detach()))
        return total, states.detach(), metrics

    def unroll(self, obs: Observations, action: Tensor) -> Tensor:
        """Return z_0 of the first observation and the states that `action` `(H, B, A)` leads to, `(H + 1, B, S)`."""
        states = [self.model.encode({name: obs[name][0] for name in self.model.groups})]
        for step in action:
            states.append(self.model.next_state(states[-1], step))
        return torch.stack(states)

    @torch.no_grad()
    def td_target(self, reached: Tensor, batch: ReplayBatch) -> Tensor:
        """Return y `(H, B)`, from encoded successors `(H, B, S)`: model errors don't enter the targets."""
        action = self.model.sample_action(reached)[0]
        output = self.model.two_values(reached, action, self.target_critic)
        return self.model.head.target(output, 0.0, batch.reward, batch.discount, "min")

    def policy_loss(self, states: Tensor, weight: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return L_pi, and 0-dim metrics without gradient.

        Args:
            states: Predicted states `(H + 1, B, S)`.
            weight: Their weights `(H + 1, B)`.
        """
        cfg, model = self.cfg, self.model
        with autocast(cfg.precision, self.device):
            action, entropy = model.sample_action(states)
            value = model.value_of_two(states, action, cfg.value_of_two)
        if cfg.scale_values:
            value = value / self.value_scale.update(value[0].detach())
        loss = -((value + cfg.entropy_coef * entropy) * weight).mean()
        metrics = {"Loss/actor": loss, "Policy/entropy": entropy.mean(), "Policy/value_scale": self.value_scale.value}
        return loss, {name: metric.detach().clone() for name, metric in metrics.items()}

    def weights(self, batch: ReplayBatch, rows: int) -> Tensor:
        """Return rho^t `(rows, B)`, 0 for steps that a window doesn't have; of H + 1 rows, for its states."""
        rho, valid = self._rho[:rows], batch.valid
        if valid is None:
            return rho.expand(-1, batch.action.shape[1])
        # A state counts if the step to it was taken; the first one if the window has a step at all.
        return rho * (valid if rows == len(valid) else torch.cat([valid[:1], valid]))

    def parts(self) -> dict[str, Stateful]:
        """Return targets, optimizers and the scale of values."""
        parts: dict[str, Stateful] = {
            "target_critic": self.target_critic,
            "model_optimizer": self.model_optimizer,
            "prior_optimizer": self.prior_optimizer,
            "value_scale": self.value_scale,
            "planner_noise": self.planner.noise,
        }
        return parts if self.target_encoder is None else parts | {"target_encoder": self.target_encoder}


class ValueScale(nn.Module):
    """Running range of values from their 5th to their 95th percentile, at least 1, that makes L_pi free of scale."""

    value: Tensor

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate
        self.register_buffer("value", torch.ones(()))

    @torch.no_grad()
    def update(self, values: Tensor) -> Tensor:
        """Update the range by values of any shape; returns it, 0-dim."""
        found = values.flatten().sort().values
        span = (_percentile(found, 0.95) - _percentile(found, 0.05)).clamp(min=1.0).to(self.value.dtype)
        self.value.lerp_(span, self.rate)
        return self.value


def _percentile(found: Tensor, share: float) -> Tensor:
    """Return a percentile of sorted values, between the two nearest of them; torch.quantile waits for the host."""
    position = share * (len(found) - 1)
    low = min(int(position), max(len(found) - 2, 0))
    return torch.lerp(found[low], found[min(low + 1, len(found) - 1)], position - low)


def discount_for(episode_length: int, *, low: float = 0.95, high: float = 0.995) -> float:
    """Return the authors' discount for episodes of so many steps: 0.975 for 200, 0.99 for 500, 0.995 from 1000 on."""
    share = max(episode_length / 5, 1.0)
    return min(max((share - 1.0) / share, low), high)


def tdmpc2_policy(
    latent: int = 512, hidden: int = 512, encoder: int = 256, *, terminates: bool = False, **options: Any
) -> ActorPackCfg:
    """Return the networks of TD-MPC2; the defaults have five million parameters.

    Args:
        latent: Features of a latent state.
        hidden: Width of the two hidden layers of dynamics, reward, critics and prior.
        encoder: Width of the encoder's hidden layer.
        terminates: True for tasks whose episodes end early: the model then predicts where.
        options: Fields of `LatentModelCfg`.
    """
    model = LatentModelCfg(latent_dim=latent, **options)
    for name in ("dynamics_cfg", "reward_cfg", "critic_cfg", "prior_cfg"):
        getattr(model, name).hidden_features = [hidden, hidden]
    model.backbone_cfg.hidden_features = [encoder]
    if terminates:
        model.termination_cfg = model.prior_cfg.copy()
    return ActorPackCfg(actor_cfg=model)


def _embedding(model: LatentModel) -> nn.Module | None:
    return None if model.task_embedding is None else nn.ParameterList([model.task_embedding])


def _require_fit(policy: ActorPackCfg, context: RunContext) -> None:
    """Refuse other networks, recorded data, and observations that only a critic would read."""
    if isinstance(policy, ActorPackCfg) and not isinstance(policy.actor_cfg, LatentModelCfg):
        raise ConfigError(
            f"TD-MPC learns a world model, but policy.actor_cfg is a {type(policy.actor_cfg).__name__}; expected a "
            "LatentModelCfg: set policy=tdmpc2_policy()."
        )
    if context.data is not None:
        raise ConfigError(
            "TD-MPC learns from windows of its own replay, and recorded data gives single transitions; expected an "
            "environment: use an OffPolicyRunnerCfg, or an offline algorithm such as IQLCfg."
        )
    groups = resolve_obs_groups(context.spec, ("actor", "critic"), context.obs_groups)
    if groups["actor"] != groups["critic"]:
        raise ConfigError(
            f"TD-MPC's critics read the latent state of what the actor observes, {groups['actor']}, but the critic's "
            f"groups are {groups['critic']}: set obs_groups.critic to the actor's."
        )


@configclass
class TDMPC2Cfg(OffPolicyAlgorithmCfg):
    """Configuration of TD-MPC2. Defaults are those of the authors' code; its policy is `tdmpc2_policy()`."""

    class_type: type = TDMPC2
    gamma = 0.99
    """Discount per step; `discount_for` has the authors' rule."""
    replay: ReplayBufferCfg = SequenceReplayBufferCfg(length=3, previous_action=False)
    """Windows of H steps that the model is unrolled over."""
    learning_starts = 1000
    """Random transitions at first; the authors take five episodes, and at least 1,000."""
    first_updates: Annotated[int, Range(ge=0)] = 1000
    """Gradient steps before the first planned step, once; as many as random transitions."""
    planner: MPPICfg = MPPICfg()
    """Planner that acts."""
    collect_with: Literal["planner", "prior"] = "planner"
    """What acts while learning: the planner, or the prior in thousands of environments, in which planning is slow."""
    play_with: Literal["planner", "prior"] = "planner"
    """What is played and evaluated."""

    learning_rate: Annotated[float, Range(gt=0)] = 3.0e-4
    """Learning rate of model and prior."""
    encoder_lr_factor: Annotated[float, Range(gt=0)] = 0.3
    """Factor of the encoder's learning rate."""
    prior_eps: Annotated[float, Range(gt=0)] = 1.0e-5
    """Adam's epsilon for the prior."""
    max_grad_norm = 20.0
    """Maximum gradient norm, of the whole model and of the prior."""
    tau: ShareOfSteps = 0.01
    """Soft-update rate of the target critics."""
    tau_scale: ShareOfSteps = 0.01
    """Update rate of the range of values."""

    rho: ShareOfSteps = 0.5
    """Weight of a step against the one before."""
    consistency_coef: Annotated[float, Range(ge=0)] = 20.0
    """Weight of the latent dynamics' error."""
    reward_coef: Annotated[float, Range(ge=0)] = 0.1
    """Weight of the reward's error."""
    value_coef: Annotated[float, Range(ge=0)] = 0.1
    """Weight of the critics' error."""
    termination_coef: Annotated[float, Range(ge=0)] = 1.0
    """Weight of the termination's error."""
    entropy_coef: Annotated[float, Range(ge=0)] = 1.0e-4
    """Weight of the prior's entropy."""
    scale_values: bool = True
    """Divide the values in L_pi by their running range."""
    value_of_two: Pair = "mean"
    """What policy and planner make of two drawn critics; the target always takes the smaller."""
    mean_members: bool = True
    """The critics' loss is the mean over them; else the sum."""
    target_encoder: bool = False
    """Take the latent targets from a slow copy of the encoder (TD-MPC) instead of the encoder itself."""

    def check(self) -> Iterable[str]:
        """Check that the replay gives windows."""
        yield from super().check()
        if not isinstance(self.replay, SequenceReplayBufferCfg):
            yield f"replay: is a {type(self.replay).__name__}; TD-MPC unrolls its model: use SequenceReplayBufferCfg"
        elif self.replay.burn_in:
            yield f"replay.burn_in: is {self.replay.burn_in}; the model has no memory to warm up, use 0"
        if self.gamma == 0.0:
            yield "gamma: is 0, with which every step looks like the end of an episode; use a discount above 0"
