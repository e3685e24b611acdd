"""Proximal policy optimization for many synchronous environments.

Schulman et al. 2017 (arXiv 1707.06347) with GAE (arXiv 1506.02438) and the conventions of legged robotics: a
state-independent standard deviation, asymmetric observations, a learning rate adapted to the measured KL divergence.

Differences from rsl_rl (`parity` undoes all of them, for the version that it names):

- time-outs bootstrap with V(final observation) instead of V(s_t), which is exact;
- normalizer statistics change once per iteration, after the update, so the ratio on the first mini-batch is exactly 1
  (rsl_rl since 5.5 too; 5.4 changes them at every step);
- every epoch draws its own permutation.

Nothing here waits for the host: learning rate, KL, metrics and the skipping of bad steps stay on the device, so acting,
storing and the whole update can each be one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ...buffer.rollout import RolloutBatch
from ...buffer.transition import Transition
from ...components.actor_critic import ActorCriticPackCfg
from ...components.lr_schedule import adapt_to_kl_, linear_
from ...components.normalizer import RewardScaler, ValueNormalizer
from ...components.observation import Observations
from ...components.optimizer import FlatAdam
from ...configclass import Range, configclass
from ...envs.obs_groups import resolve_obs_groups
from ...networks.constraints import constrain_
from ...utils.compile import compile_own
from ...utils.cuda_graph import GraphMode, SideStream, graphed, release
from ...utils.precision import Precision, autocast, set_matmul_precision
from .. import functional
from ..actor_policy import ActorPolicy
from ..algorithm import Algorithm, AlgorithmCfg, RunContext, name_unused_groups, require_policy, require_same_parts
from ..loss_terms import LossTermCfg, build_loss_terms, compiled_losses
from ..reward_terms import RewardTermCfg
from .collector import ActorCriticCollector
from .mini_batches import MiniBatches
from .rollout import OnPolicyRollout


class PPO(Algorithm):
    """PPO, the owner of actor, critic, rollout, optimizer and normalizers."""

    cfg: PPOCfg
    collector: ActorCriticCollector

    def __init__(self, cfg: PPOCfg, *, policy: ActorCriticPackCfg, context: RunContext) -> None:
        self.context, self.device, self.distributed, spec = context, context.device, context.distributed, context.spec
        require_policy(self, policy, ActorCriticPackCfg)
        groups = resolve_obs_groups(spec, ("actor", "critic"), context.obs_groups)
        self.networks = policy.build(spec=spec, obs_groups=groups).to(self.device)
        self.actor, self.critic = self.networks.actor, self.networks.critic
        self.recurrent = self.actor.is_recurrent or self.critic.is_recurrent
        self.cfg = cfg = cfg.with_parity(recurrent=self.recurrent)
        self.loss_terms = build_loss_terms(cfg.loss_terms, sequences=self.recurrent, actor=self.actor)
        self.reward_terms = [term.build(context=context) for term in cfg.reward_terms]
        set_matmul_precision(cfg.precision, self.device)
        # Every process starts from the weights of the main one; from then on equal gradients keep them equal.
        for tensor in [*self.networks.parameters(), *self.networks.buffers()]:
            self.distributed.broadcast_(tensor.data)
        acting = {*groups["actor"], *groups["critic"]}
        read = sorted(acting.union(*(term.groups for term in [*self.loss_terms, *self.reward_terms])))
        name_unused_groups(context, read)
        self.optimizer = FlatAdam(
            {"actor": self.actor.parameters(), "critic": self.critic.parameters()},
            learning_rate=cfg.learning_rate,
            max_grad_norm=cfg.max_grad_norm,
            weight_decay=cfg.weight_decay,
            distributed=self.distributed,
        )
        # Large returns slow the critic down: two ways to bring them to unit scale.
        self.reward_scaler = RewardScaler(spec.num_envs, cfg.gamma).to(self.device) if cfg.normalize_reward else None
        self.value_normalizer = ValueNormalizer().to(self.device) if cfg.normalize_value else None
        self.iteration = torch.zeros((), device=self.device)
        self.entropy_coef = torch.tensor(cfg.entropy_coef, device=self.device)
        self.collector = ActorCriticCollector(
            self.actor, self.critic, spec, sorted(acting), self.device, self.value_normalizer, cfg.cuda_graph
        )
        terms = self.reward_terms, self.reward_scaler, self.loss_terms
        self.rollout = OnPolicyRollout(cfg, self.collector, context, read, *terms)
        self.schema, self.buffer = self.rollout.schema, self.rollout.buffer
        whole = bool(self.loss_terms or self.reward_terms)
        self.mini_batches = MiniBatches(cfg, self.rollout, recurrent=self.recurrent, whole=whole)
        # Compilation fuses the element-wise kernels of losses and optimizer, which a GPU is mostly busy launching.
        compiled = cfg.compile == "on" or (cfg.compile == "auto" and self.device.type == "cuda")
        self._policy_loss = compile_own(self.policy_loss) if compiled else self.policy_loss
        self._value_loss = compile_own(self.value_loss) if compiled else self.value_loss
        self._apply = compile_own(self._apply_gradients) if compiled else self._apply_gradients
        self._term_losses = compiled_losses(self.loss_terms, compiled)
        self._beside, self._terms_beside = SideStream(self.device), SideStream(self.device)
        self._learn_step = graphed(self._learn, self.device, cfg.cuda_graph, "update")

    @torch.no_grad()
    def process_env_step(self, transition: Transition) -> None:
        """Store a step, with learned rewards and the bootstrap of time-outs added to its reward."""
        self.rollout.add(transition)
        self.collector.end_step(transition.done, transition.mask)

    def update(self, data: Iterable[Transition] | None = None) -> dict[str, Tensor]:
        """Take several epochs of clipped gradient steps on the rollout; returns 0-dim metrics on the device."""
        for transition in data or ():
            self.rollout.add(transition)
        self.mini_batches.shuffle()
        metrics = self._learn_step(*self.rollout.end())
        self.rollout.restart()
        return dict(metrics)

    def _learn(self, obs: Observations, state: Tensor | None, start: Tensor | None) -> dict[str, Tensor]:
        self._step_schedules()
        explained_variance = self.mini_batches.prepare(obs, state, start)
        history = []
        for batch in self.mini_batches:
            loss, kl, metrics = self.loss(batch)
            # Gradient and KL share one all-reduce over the processes; the KL then adapts the learning rate.
            self.optimizer.backward(loss)
            self.optimizer.shared.copy_(kl)
            self.optimizer.reduce()
            metrics |= {f"Policy/grad_norm_{part}": norm for part, norm in self._apply().items()}
            # Learned rewards train on the same mini-batches, with optimizers of their own.
            metrics |= {f"Loss/{term.name}": term.train_step(batch.collected()) for term in self.reward_terms}
            history.append(metrics)
        return self._end_update(history) | {"Policy/explained_variance": explained_variance}

    def loss(self, batch: RolloutBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return L = L_surrogate + c_v L_value - c_e H + regularizers over one mini-batch.

        Returns:
            The loss; the mean KL(old || new) without gradient; 0-dim metrics without gradient.
        """
        num_original = batch.advantage.shape[-1]
        # Augmented samples stand behind the original ones.
        for term in self.loss_terms:
            batch = term.augment(batch)
        # Actor and critic share nothing and regularizers share only weights, so on a GPU they run side by side.
        with self._terms_beside:
            terms = [(name, of(self.actor, self.critic, batch, num_original)) for name, of in self._term_losses]
        with self._beside:
            value_error = self._value_loss(batch)
        surrogate, entropy, kl = self._policy_loss(batch)
        self._beside.join()
        self._terms_beside.join()
        # Equation 9 of the paper, to be minimized.
        loss = surrogate + self.cfg.value_loss_coef * value_error - self.entropy_coef * entropy
        metrics = {"Loss/surrogate": surrogate, "Loss/value": value_error, "Loss/entropy": entropy, "Policy/kl": kl}
        # Regularizers add to the same loss, so one backward pass serves all.
        for name, term in terms:
            loss, metrics[name] = loss + term, metrics[name] + term if name in metrics else term
        return loss, kl, {name: metric.detach() for name, metric in metrics.items()}

    def policy_loss(self, batch: RolloutBatch) -> tuple[Tensor, Tensor, Tensor]:
        """Return the surrogate loss over all rows; entropy and KL(old || new) of those that were collected."""
        with autocast(self.cfg.precision, self.device):
            distribution, _ = self.actor(batch.obs, batch.states.get("actor"), batch.start)
        # The clipped surrogate (eq. 7) stops rewarding a ratio once it has left the interval around 1.
        log_prob, mask, clip = distribution.log_prob(batch.action), batch.mask, self.cfg.clip_param
        surrogate = functional.clipped_surrogate(log_prob, batch.log_prob, batch.advantage, clip, mask)
        # Entropy and KL are those of states that were visited, not of added rows, which stand in the last dimension.
        count, dim = batch.num_collected, batch.advantage.dim() - 1
        if count < batch.advantage.shape[dim]:
            collected = {name: x.narrow(dim, 0, count) for name, x in distribution.params.items()}
            distribution = type(distribution).from_params(collected)
            mask = None if mask is None else mask.narrow(dim, 0, count)
        entropy, weight = distribution.entropy(), batch.entropy_weight
        if weight is not None:
            entropy = entropy * weight.narrow(dim, 0, count)
        kl = functional.masked_mean(distribution.kl_from(batch.dist_params), mask)
        return surrogate, functional.masked_mean(entropy, mask), kl.detach()

    def value_loss(self, batch: RolloutBatch) -> Tensor:
        """Return the squared error of the critic, clipped by default."""
        with autocast(self.cfg.precision, self.device):
            value, _ = self.critic(batch.obs, batch.states.get("critic"), batch.start)
        # The value is held near its old one as the policy is; rsl_rl does so by default.
        if self.cfg.use_clipped_value_loss:
            clip = self.cfg.clip_param
            return functional.clipped_value_loss(value, batch.value, batch.return_, clip, batch.mask)
        return functional.value_loss(value, batch.return_, batch.mask)

    def _apply_gradients(self) -> dict[str, Tensor]:
        """Adapt the learning rate to the KL, clip, step and project; a handful of kernels when compiled."""
        cfg, optimizer = self.cfg, self.optimizer
        if cfg.schedule == "adaptive":
            adapt_to_kl_(optimizer.lr, optimizer.shared, cfg.desired_kl, lowest=cfg.min_lr, highest=cfg.max_lr)
        norms = optimizer.apply()
        constrain_(self.networks)
        return norms

    @torch.no_grad()
    def _step_schedules(self) -> None:
        """Set what is linear over the run, on the device: a captured update must not read a Python number."""
        cfg, total = self.cfg, self.context.max_updates
        if cfg.schedule == "linear":
            linear_(self.optimizer.lr, cfg.learning_rate, cfg.min_lr, self.iteration, total)
        if cfg.final_entropy_coef is not None:
            linear_(self.entropy_coef, cfg.entropy_coef, cfg.final_entropy_coef, self.iteration, total)

    @torch.no_grad()
    def _end_update(self, history: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Update the normalizers from the rollout, and average the metrics."""
        # After the update: had they changed before it, the first ratio would not be exactly 1.
        if self.cfg.normalizer_update == "iteration":
            self.rollout.update_normalizers(self.buffer.obs, self.buffer.mask)
        self.iteration.add_(1.0)
        self.collector.policy_version.add_(1)
        metrics = {name: torch.stack([step[name] for step in history]).mean() for name in history[0]}
        metrics["Loss/learning_rate"] = self.optimizer.lr.clone()
        metrics["Policy/skipped_steps"] = self.optimizer.skipped.clone()
        if "dist/std" in self.buffer.rows:
            metrics["Policy/mean_std"] = functional.masked_mean(self.buffer.rows["dist/std"], self.buffer.mask)
        for term in self.reward_terms:
            metrics |= term.metrics()
        return metrics

    def policy(self) -> ActorPolicy:
        """Return the actor for play and export; it shares its parameters with the learner."""
        return ActorPolicy(self.actor)

    def train(self) -> None:
        """Switch the networks to training mode."""
        self.networks.train()

    def eval(self) -> None:
        """Switch the networks to evaluation mode."""
        self.networks.eval()

    def close(self) -> None:
        """Free the captured graphs."""
        release(self.collector.step, self.rollout.step, self._learn_step)

    def stored_steps(self, num_steps: int) -> Mapping[str, Tensor]:
        """Return the current rollout, see `Algorithm.stored_steps`; rewards include terms, scaling and bootstrap."""
        return self.rollout.stored(num_steps)

    def restart_episodes(self) -> None:
        """Reset recurrent states and running returns at the next step, and discard the rollout."""
        self.collector.restart_episodes()
        self.rollout.restart()
        if self.reward_scaler is not None:
            self.reward_scaler.restart()

    def _parts(self) -> dict[str, Any]:
        return {
            "networks": self.networks,
            "optimizer": self.optimizer,
            "reward_scaler": self.reward_scaler,
            "value_normalizer": self.value_normalizer,
        }

    def state_dict(self) -> dict[str, Any]:
        """Return weights, normalizers, optimizer, schedules, episode starts and recurrent states."""
        return {
            **{name: None if part is None else part.state_dict() for name, part in self._parts().items()},
            "reward_terms": {term.name: term.state_dict() for term in self.reward_terms},
            "iteration": self.iteration.clone(),
            **self.collector.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; with another number of environments, reset recurrent states and running returns."""
        self._require_same_parts(state)
        for name, part in self._parts().items():
            if part is not None:
                part.load_state_dict(state[name])
        for term in self.reward_terms:
            term.load_state_dict(state["reward_terms"][term.name])
        self.iteration.copy_(state["iteration"])
        self.collector.policy_version.copy_(self.iteration)
        self.collector.load_state_dict(state)

    def _require_same_parts(self, state: Mapping[str, Any]) -> None:
        here, there = {term.name for term in self.reward_terms}, set(state["reward_terms"])
        for option, name in (("normalize_reward", "reward_scaler"), ("normalize_value", "value_normalizer")):
            here |= {option} if getattr(self, name) is not None else set()
            there |= {option} if state[name] is not None else set()
        require_same_parts(here, there)


@configclass
class PPOCfg(AlgorithmCfg):
    """Configuration of PPO. Defaults are those of rsl_rl where it has the option."""

    class_type: type = PPO

    # rollout
    gamma: Annotated[float, Range(ge=0, le=1)] = 0.99
    """Discount per environment step."""
    lam: Annotated[float, Range(ge=0, le=1)] = 0.95
    """Trace decay of GAE."""
    time_out_bootstrap: Literal["final", "current", "none"] = "final"
    """Value that a time-out bootstraps with: of the true last observation, of the one before the step, or none."""
    normalize_reward: bool = False
    """Divide rewards by the running standard deviation of their discounted sum."""
    normalize_value: bool = False
    """Let the critic predict returns normalized to mean 0 and variance 1."""

    # objective
    clip_param: Annotated[float, Range(gt=0)] = 0.2
    """Half-width of the clip interval of the probability ratio; also the clip of the value, in its units."""
    use_clipped_value_loss: bool = True
    """Clip the change of the value as the ratio is clipped."""
    value_loss_coef: Annotated[float, Range(ge=0)] = 1.0
    """Weight of the value loss."""
    entropy_coef: Annotated[float, Range(ge=0)] = 0.01
    """Weight of the entropy bonus."""
    final_entropy_coef: Annotated[float, Range(ge=0)] | None = None
    """Final entropy weight of a linear schedule over the run; constant if None."""
    normalize_advantage_per_mini_batch: bool = False
    """Normalize advantages within each mini-batch instead of over the whole rollout."""
    loss_terms: list[LossTermCfg] = []
    """Regularizers: symmetry and others."""
    reward_terms: list[RewardTermCfg] = []
    """Learned rewards: RND and others."""

    # optimization
    num_learning_epochs: Annotated[int, Range(ge=1)] = 5
    """Passes over the rollout per update."""
    num_mini_batches: Annotated[int, Range(ge=1)] = 4
    """Gradient steps per epoch; has to divide the transitions of a rollout (recurrent: the environments)."""
    learning_rate: Annotated[float, Range(gt=0)] = 1e-3
    """Initial learning rate."""
    schedule: Literal["adaptive", "fixed", "linear"] = "adaptive"
    """adaptive: adapted to the KL divergence; linear: down to `min_lr` over the run."""
    desired_kl: Annotated[float, Range(gt=0)] = 0.01
    """KL divergence per update that the adaptive schedule targets."""
    min_lr: Annotated[float, Range(ge=0)] = 1e-5
    """Lower bound of the learning rate."""
    max_lr: Annotated[float, Range(gt=0)] = 1e-2
    """Upper bound of the adaptive learning rate."""
    max_grad_norm: Annotated[float, Range(gt=0)] | None = 1.0
    """Maximum gradient norm, for actor and critic separately."""
    weight_decay: Annotated[float, Range(ge=0)] = 0.0
    """Decoupled weight decay; 0 is plain Adam."""
    shuffle: Literal["epoch", "once", "none"] = "epoch"
    """A permutation for every epoch, one for all epochs (a single gather: fastest), or the order of collection."""
    normalizer_update: Literal["iteration", "step"] = "iteration"
    """Time at which observation statistics change: after each update, or at every step as in rsl_rl 5.4."""
    parity: Literal["none", "rsl_rl_5_4", "rsl_rl_5_5"] = "none"
    """rsl_rl version whose numbers are reproduced exactly; sets the options for it."""

    # speed
    cuda_graph: GraphMode = "auto"
    """Capture acting, recording and the update; `auto` falls back with the reason in the log."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile for losses and optimizer; `auto`: on CUDA only. On a CPU it pays off in runs of many minutes."""
    precision: Precision = "tf32"
    """Precision of the networks in the update: fp32, tf32 or bf16."""

    def check(self) -> Iterable[str]:
        """Check for options that contradict each other."""
        if self.parity != "none" and self.time_out_bootstrap == "none":
            yield f"time_out_bootstrap: got 'none', but parity='{self.parity}' bootstraps as rsl_rl does; drop one"
        if self.min_lr > self.max_lr:
            yield f"min_lr: {self.min_lr} is above max_lr={self.max_lr}; swap them"

    def check_rollout(self, num_envs: int, num_steps: int) -> Iterable[str]:
        """Check that the mini-batches divide the rollout evenly."""
        size = num_envs * num_steps
        if size % self.num_mini_batches:
            near = max(n for n in range(1, self.num_mini_batches) if size % n == 0)
            rollout = f"the {size} transitions of a rollout ({num_steps} steps of {num_envs} environments)"
            yield f"num_mini_batches: {self.num_mini_batches} does not divide {rollout}; use for example {near}"

    def with_parity(self, *, recurrent: bool) -> PPOCfg:
        """Return the configuration with the options of `parity` filled in."""
        if self.parity == "none":
            return self
        return self.replace(
            shuffle="none" if recurrent else "once",
            time_out_bootstrap="current",
            normalizer_update="step" if self.parity == "rsl_rl_5_4" else "iteration",
            parity="none",
        )
