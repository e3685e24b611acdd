"""Proximal policy optimization for many synchronous environments.

Schulman et al. 2017 (arXiv 1707.06347) with GAE (arXiv 1506.02438) and the conventions of legged robotics: a Gaussian
policy with a state-independent standard deviation, asymmetric observations, a learning rate steered by the measured
KL divergence.

Where it leaves rsl_rl, and why (all of it undone by `parity`, for the version that is named there):

- time-outs bootstrap with V(final observation) instead of V(s_t), which is exact;
- normalizer statistics change once per iteration, after the update, so the ratio on the first mini-batch is exactly 1
  (rsl_rl since 5.5 too; 5.4 changes them at every step);
- every epoch draws its own permutation.

Nothing here talks to the host: learning rate, KL, metrics and the skipping of bad steps live on the device, so acting,
recording and the whole update can each be one CUDA graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from ...buffer import RolloutBatch, RolloutBuffer, StepInputs, copy_observations, mini_batches
from ...buffer.transition import Transition
from ...components.actor_critic import ActorCriticPackCfg
from ...components.lr_schedule import adapt_to_kl_, linear_
from ...components.normalizer import RewardScaler, ValueNormalizer
from ...components.optimizer import FlatAdam
from ...configclass import ConfigError, Range, configclass
from ...envs.obs_groups import resolve_obs_groups
from ...utils.compile import compile_own
from ...utils.cuda_graph import GraphedStep, GraphMode, SideStream, graphed
from ...utils.precision import Precision, autocast, set_matmul_precision
from ..actor_policy import ActorPolicy
from ..algorithm import ActOut, Algorithm, AlgorithmCfg, RunContext, name_unused_groups, require_policy
from ..functional import (
    bootstrap_time_outs,
    clipped_surrogate,
    clipped_value_loss,
    gae,
    normalize_advantage,
    value_loss,
)
from ..loss_terms import LossTermCfg
from ..reward_terms import RewardTermCfg


class PPO(Algorithm):
    """Owns actor, critic, rollout, optimizer and everything else that PPO learns with."""

    cfg: PPOCfg

    def __init__(self, cfg: PPOCfg, *, policy: ActorCriticPackCfg, context: RunContext) -> None:
        self.context, self.device, self.distributed = context, context.device, context.distributed
        spec = context.spec
        require_policy(self, policy, ActorCriticPackCfg)
        groups = resolve_obs_groups(spec, ("actor", "critic"), context.obs_groups)
        self.networks = policy.build(spec=spec, obs_groups=groups).to(self.device)
        self.actor, self.critic = self.networks.actor, self.networks.critic
        self.recurrent = self.actor.is_recurrent or self.critic.is_recurrent
        self.cfg = cfg = cfg.with_parity(recurrent=self.recurrent)
        self.loss_terms = [term.build() for term in cfg.loss_terms]
        self.reward_terms = [term.build(context=context) for term in cfg.reward_terms]
        self._check_fit()
        set_matmul_precision(cfg.precision, self.device)
        for tensor in [*self.networks.parameters(), *self.networks.buffers()]:
            self.distributed.broadcast_(tensor.data)

        read = {*groups["actor"], *groups["critic"], *(name for term in self.reward_terms for name in term.groups)}
        name_unused_groups(context, read)
        stored = replace(spec, obs_groups={name: shape for name, shape in spec.obs_groups.items() if name in read})
        self.buffer = RolloutBuffer(stored, context.rollout_steps, self.device)
        self.optimizer = FlatAdam(
            {"actor": self.actor.parameters(), "critic": self.critic.parameters()},
            learning_rate=cfg.learning_rate,
            max_grad_norm=cfg.max_grad_norm,
            weight_decay=cfg.weight_decay,
            distributed=self.distributed,
        )
        self.reward_scaler = RewardScaler(spec.num_envs, cfg.gamma).to(self.device) if cfg.normalize_reward else None
        self.value_normalizer = ValueNormalizer().to(self.device) if cfg.normalize_value else None
        self.iteration = torch.zeros((), device=self.device)
        self.entropy_coef = torch.tensor(cfg.entropy_coef, device=self.device)
        self._now = StepInputs(stored, self.device)
        for name, network in (("actor", self.actor), ("critic", self.critic)):
            if network.is_recurrent:
                self._now.states[name] = network.initial_state(spec.num_envs).to(self.device)
                self.buffer.states[name] = self._now.states[name].clone()
        self._permutations = self._allocate_permutations()
        self._metrics: dict[str, Tensor] = {}
        self._bootstrap_final = cfg.time_out_bootstrap == "final"

        compiled = cfg.compile == "on" or (cfg.compile == "auto" and self.device.type == "cuda")
        self._policy_loss = compile_own(self.policy_loss) if compiled else self.policy_loss
        self._value_loss = compile_own(self.value_loss) if compiled else self.value_loss
        self._apply = compile_own(self._apply_gradients) if compiled else self._apply_gradients
        self._beside = SideStream(self.device)
        self._act_step = graphed(self._act, self.device, cfg.cuda_graph, "policy step")
        self._record_step = graphed(self._record, self.device, cfg.cuda_graph, "storage step")
        self._learn_step = graphed(self._learn, self.device, cfg.cuda_graph, "update")

    # -- collecting ---------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def act(self, obs: TensorDict) -> ActOut:
        """Sample an action per environment, `(N, *action.shape)`, and store it with its log-prob and value."""
        copy_observations(self._now.obs, obs)
        self._act_step()
        return ActOut(self._now.action)

    def _act(self) -> None:
        now, buffer = self._now, self.buffer
        distribution, _ = self._forward("actor", now.obs, keep_state=True)
        value, _ = self._forward("critic", now.obs, keep_state=True)
        now.value.copy_(self._denormalized(value))
        now.action.copy_(distribution.sample())
        buffer.write_obs(now.obs)
        buffer.write("action", now.action)
        buffer.write("value", now.value)
        buffer.write("log_prob", distribution.log_prob(now.action))
        buffer.write_dist_params(distribution.params)

    @torch.no_grad()
    def process_env_step(self, transition: Transition) -> None:
        """Store reward and end of episode, with learned rewards and the bootstrap of time-outs added to the reward."""
        now = self._now
        copy_observations(now.obs, transition.reset_obs)
        now.reward.copy_(transition.reward)
        now.done.copy_(transition.done)
        now.time_outs.copy_(transition.time_outs)
        if self.cfg.time_out_bootstrap == "final":
            # On a CPU looking is free and time-outs are rare; on a GPU looking would stall the queue, so don't.
            self._bootstrap_final = self.device.type != "cpu" or bool(now.time_outs.any())
            if self._bootstrap_final:
                final: Any = transition.next_obs
                copy_observations(now.final_obs, final)
        self._record_step()

    def _record(self) -> None:
        now, buffer, cfg = self._now, self.buffer, self.cfg
        if cfg.normalizer_update == "step":
            self._update_normalizers(now.obs)
        reward = now.reward
        for term in self.reward_terms:
            reward = reward + term.reward(now.obs)
        if self.reward_scaler is not None:
            self.reward_scaler.update(reward, now.done, self.distributed)
            reward = self.reward_scaler(reward)
        if self._bootstrap_final:
            now.start.zero_()  # the final observation belongs to the episode that ends, so does the recurrent state
            value = self._denormalized(self._forward("critic", now.final_obs)[0])
            reward = bootstrap_time_outs(reward, now.time_outs, value, gamma=cfg.gamma)
        elif cfg.time_out_bootstrap == "current":
            reward = bootstrap_time_outs(reward, now.time_outs, now.value, gamma=cfg.gamma)
        buffer.write("reward", reward)
        buffer.write("done", now.done)
        now.start.copy_(now.done)
        buffer.advance(now.start)

    # -- learning -----------------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Take several epochs of clipped gradient steps on the rollout; returns 0-dim metrics on the device."""
        for order in self._permutations:
            if self.cfg.shuffle != "none":  # drawn outside the graph, into the tensors that it reads
                torch.randperm(order.shape[0], out=order)
        self._learn_step()
        return dict(self._metrics)

    def _learn(self) -> None:
        self._begin_update()
        history = []
        for batch in self._mini_batches():
            loss, kl, metrics = self.loss(batch)
            self.optimizer.backward(loss)
            self.optimizer.shared.copy_(kl)
            self.optimizer.reduce()
            metrics |= {f"Policy/grad_norm_{part}": norm for part, norm in self._apply().items()}
            metrics |= {f"Loss/{term.name}": term.train_step(batch.obs) for term in self.reward_terms}
            history.append(metrics)
        self._end_update(history)

    def loss(self, batch: RolloutBatch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """L = L_surrogate + c_v L_value - c_e H + regularizers, over one mini-batch.

        Returns:
            The loss; the mean KL(old || new) without gradient; 0-dim metrics without gradient.
        """
        cfg, num_original = self.cfg, batch.advantage.shape[0]
        if cfg.normalize_advantage_per_mini_batch:
            batch.advantage = normalize_advantage(batch.advantage)
        for term in self.loss_terms:
            batch = term.augment(batch)
        with self._beside:  # actor and critic share nothing, so on a GPU they run side by side
            value_error = self._value_loss(batch)
        surrogate, entropy, kl = self._policy_loss(batch, num_original)
        self._beside.join()
        loss = surrogate + cfg.value_loss_coef * value_error - self.entropy_coef * entropy
        metrics = {"Loss/surrogate": surrogate, "Loss/value": value_error, "Loss/entropy": entropy, "Policy/kl": kl}
        for term in self.loss_terms:
            metrics[f"Loss/{term.name}"] = term.loss(self.actor, self.critic, batch, num_original)
            loss = loss + metrics[f"Loss/{term.name}"]
        return loss, kl, {name: metric.detach() for name, metric in metrics.items()}

    def policy_loss(self, batch: RolloutBatch, num_original: int) -> tuple[Tensor, Tensor, Tensor]:
        """Surrogate loss over all samples; entropy and KL(old || new) of the first `num_original`, which happened."""
        with autocast(self.cfg.precision, self.device):
            distribution, _ = self.actor(batch.obs, batch.states.get("actor"), batch.start)
        surrogate = clipped_surrogate(
            distribution.log_prob(batch.action), batch.log_prob, batch.advantage, self.cfg.clip_param
        )
        if num_original < batch.advantage.shape[0]:
            distribution = type(distribution).from_params({k: v[:num_original] for k, v in distribution.params.items()})
        return surrogate, distribution.entropy().mean(), distribution.kl_from(batch.dist_params).mean().detach()

    def value_loss(self, batch: RolloutBatch) -> Tensor:
        """Squared error of the critic, clipped by default."""
        with autocast(self.cfg.precision, self.device):
            value, _ = self.critic(batch.obs, batch.states.get("critic"), batch.start)
        if self.cfg.use_clipped_value_loss:
            return clipped_value_loss(value, batch.value, batch.return_, self.cfg.clip_param)
        return value_loss(value, batch.return_)

    def _apply_gradients(self) -> dict[str, Tensor]:
        """Adapt the learning rate to the KL, clip and step; compiled, this is a handful of kernels."""
        cfg, optimizer = self.cfg, self.optimizer
        if cfg.schedule == "adaptive":
            adapt_to_kl_(optimizer.lr, optimizer.shared, cfg.desired_kl, lowest=cfg.min_lr, highest=cfg.max_lr)
        return optimizer.apply()

    @torch.no_grad()
    def _begin_update(self) -> None:
        """Move the schedules; turn the rollout into advantages and value targets."""
        cfg, buffer, total = self.cfg, self.buffer, self.context.max_updates
        if cfg.schedule == "linear":
            linear_(self.optimizer.lr, cfg.learning_rate, cfg.min_lr, self.iteration, total)
        if cfg.final_entropy_coef is not None:
            linear_(self.entropy_coef, cfg.entropy_coef, cfg.final_entropy_coef, self.iteration, total)
        buffer.write_obs(self._now.obs)  # the successors of the last step
        last_value = self._denormalized(self._forward("critic", self._now.obs)[0])
        advantage, target = gae(buffer.reward, buffer.value, buffer.done, last_value, gamma=cfg.gamma, lam=cfg.lam)
        self._explained_variance = 1.0 - (target - buffer.value).var() / (target.var() + 1e-8)
        if self.value_normalizer is not None:
            self.value_normalizer.update(target.flatten(), self.distributed)
            target = self.value_normalizer.normalize(target)
            buffer.value.copy_(self.value_normalizer.normalize(buffer.value))
        buffer.return_.copy_(target)
        buffer.advantage.copy_(advantage if cfg.normalize_advantage_per_mini_batch else normalize_advantage(advantage))

    @torch.no_grad()
    def _end_update(self, history: list[dict[str, Tensor]]) -> None:
        """Update the normalizers, average the metrics and begin the next rollout where this one ended."""
        if self.cfg.normalizer_update == "iteration":
            self._update_normalizers(self.buffer.obs[:-1])
        self.iteration.add_(1.0)
        metrics = {name: torch.stack([step[name] for step in history]).mean() for name in history[0]}
        metrics["Loss/learning_rate"] = self.optimizer.lr.clone()
        metrics["Policy/explained_variance"] = self._explained_variance
        metrics["Policy/skipped_steps"] = self.optimizer.skipped.clone()
        if "std" in self.buffer.dist_params:
            metrics["Policy/mean_std"] = self.buffer.dist_params["std"].mean()
        for term in self.reward_terms:
            metrics |= term.metrics()
        self._metrics = metrics
        self.buffer.restart()
        for name, state in self.buffer.states.items():
            state.copy_(self._now.states[name])

    # -- parts --------------------------------------------------------------------------------------------------------

    def _forward(
        self, name: Literal["actor", "critic"], obs: TensorDict, *, keep_state: bool = False
    ) -> tuple[Any, Any]:
        """One step of a network from its current recurrent state, which advances only if `keep_state`."""
        network: nn.Module = getattr(self, name)
        output, state = network(obs, self._now.states.get(name), self._now.start)
        if keep_state and state is not None:
            self._now.states[name].copy_(state)
        return output, state

    def _mini_batches(self) -> Iterator[RolloutBatch]:
        """Gather the rollout by each permutation and cut it; epochs beyond the last permutation reuse it."""
        gather = self.buffer.sequences if self.recurrent else self.buffer.flat
        successors = any(term.needs_successors for term in self.loss_terms)
        rollout = gather(self._permutations[0], successors=successors)
        for epoch in range(self.cfg.num_learning_epochs):
            if 0 < epoch < len(self._permutations):
                rollout = gather(self._permutations[epoch], successors=successors)
            yield from mini_batches(rollout, self.cfg.num_mini_batches, recurrent=self.recurrent)

    def _allocate_permutations(self) -> list[Tensor]:
        size = self.buffer.num_envs * (1 if self.recurrent else self.buffer.num_steps)
        count = self.cfg.num_learning_epochs if self.cfg.shuffle == "epoch" else 1
        return [torch.arange(size, device=self.device) for _ in range(count)]

    def _update_normalizers(self, obs: TensorDict) -> None:
        self.actor.update_normalizer(obs, self.distributed)
        self.critic.update_normalizer(obs, self.distributed)
        for term in self.reward_terms:
            term.update_normalizer(obs)

    def _denormalized(self, value: Tensor) -> Tensor:
        return value if self.value_normalizer is None else self.value_normalizer.denormalize(value)

    def _check_fit(self) -> None:
        """Refuse what can't work with this environment before anything starts."""
        cfg, spec = self.cfg, self.context.spec
        unit = "environments" if self.recurrent else "transitions"
        size = spec.num_envs * (1 if self.recurrent else self.context.rollout_steps)
        if size % cfg.num_mini_batches:
            raise ConfigError(
                f"algorithm.num_mini_batches = {cfg.num_mini_batches} does not divide the {size} {unit} of a rollout. "
                "Choose a divisor, or change --num_envs or num_steps_per_env."
            )
        if cfg.time_out_bootstrap == "final" and "final_observations" not in spec.extras:
            raise ConfigError(
                f"algorithm.time_out_bootstrap = 'final' needs final_observations, which '{spec.task}' lacks "
                f"(it has: {', '.join(spec.extras) or 'no optional extras'}). Use algorithm.time_out_bootstrap=current."
            )
        if self.recurrent and self.loss_terms:
            names = ", ".join(term.name for term in self.loss_terms)
            raise ConfigError(
                f"loss_terms ({names}) are not available for recurrent policies. Use a feed-forward backbone."
            )

    # -- the rest of the Algorithm contract ---------------------------------------------------------------------------

    def policy(self) -> ActorPolicy:
        """The actor for play and export, sharing its parameters with the learner."""
        return ActorPolicy(self.actor)

    def train(self) -> None:
        """Switch the networks to training mode."""
        self.networks.train()

    def eval(self) -> None:
        """Switch the networks to evaluation mode."""
        self.networks.eval()

    def close(self) -> None:
        """Free the captured graphs."""
        for step in (self._act_step, self._record_step, self._learn_step):
            if isinstance(step, GraphedStep):
                step.release()

    def state_dict(self) -> dict[str, Any]:
        """Weights, normalizers, optimizer, schedules and where the next rollout begins."""
        state = {
            "networks": self.networks.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "reward_terms": {term.name: term.state_dict() for term in self.reward_terms},
            "iteration": self.iteration.clone(),
            "start": self._now.start.clone(),
            "states": {name: value.clone() for name, value in self._now.states.items()},
        }
        for name in ("reward_scaler", "value_normalizer"):
            module = getattr(self, name)
            state[name] = None if module is None else module.state_dict()
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`. With another number of environments, recurrent states and running returns start anew.

        Raises:
            ValueError: the state has parts that this configuration lacks, or lacks parts that it has.
        """
        self._require_same_parts(state)
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        for term in self.reward_terms:
            term.load_state_dict(state["reward_terms"][term.name])
        for name in ("reward_scaler", "value_normalizer"):
            module = getattr(self, name)
            if module is not None:
                module.load_state_dict(state[name])
        self.iteration.copy_(state["iteration"])
        if state["start"].shape != self._now.start.shape:
            self.restart_episodes()
            return
        self._now.start.copy_(state["start"])
        self.buffer.start[0].copy_(state["start"])
        for name, value in state["states"].items():
            self._now.states[name].copy_(value)
            self.buffer.states[name].copy_(value)

    def restart_episodes(self) -> None:
        """Let recurrent networks and running returns begin anew at the next step."""
        self._now.start.fill_(True)
        self.buffer.start[0].fill_(True)
        for state in self._now.states.values():  # not read any more, and NaN after a bad observation
            state.zero_()
        if self.reward_scaler is not None:
            self.reward_scaler.restart()

    def _require_same_parts(self, state: Mapping[str, Any]) -> None:
        here, there = {term.name for term in self.reward_terms}, set(state["reward_terms"])
        for option, name in (("normalize_reward", "reward_scaler"), ("normalize_value", "value_normalizer")):
            here |= {option} if getattr(self, name) is not None else set()
            there |= {option} if state[name] is not None else set()
        if here != there:
            raise ValueError(
                f"the checkpoint has {sorted(there - here) or 'nothing'} that this configuration lacks, and lacks "
                f"{sorted(here - there) or 'nothing'} that it has"
            )


@configclass
class PPOCfg(AlgorithmCfg):
    """PPO. Defaults are those of rsl_rl where it has the option."""

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
    """Let the critic predict returns shifted and scaled to mean 0, variance 1."""

    # objective
    clip_param: Annotated[float, Range(gt=0)] = 0.2
    """Half-width of the trusted interval of the probability ratio; also the clip of the value, in its units."""
    use_clipped_value_loss: bool = True
    """Clip the change of the value as the ratio is clipped."""
    value_loss_coef: Annotated[float, Range(ge=0)] = 1.0
    """Weight of the value loss."""
    entropy_coef: Annotated[float, Range(ge=0)] = 0.01
    """Weight of the entropy bonus."""
    final_entropy_coef: Annotated[float, Range(ge=0)] | None = None
    """Where the entropy weight ends after a linear schedule over the run; constant if None."""
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
    """Gradient steps per pass; has to divide the transitions of a rollout (recurrent: the environments)."""
    learning_rate: Annotated[float, Range(gt=0)] = 1e-3
    """Initial learning rate."""
    schedule: Literal["adaptive", "fixed", "linear"] = "adaptive"
    """adaptive: steered by the KL divergence; linear: down to `min_lr` over the run."""
    desired_kl: Annotated[float, Range(gt=0)] = 0.01
    """KL divergence per update that the adaptive schedule aims for."""
    min_lr: Annotated[float, Range(ge=0)] = 1e-5
    """Lower bound of the learning rate."""
    max_lr: Annotated[float, Range(gt=0)] = 1e-2
    """Upper bound of the adaptive learning rate."""
    max_grad_norm: Annotated[float, Range(gt=0)] | None = 1.0
    """Gradients of actor and critic are each clipped to this norm."""
    weight_decay: Annotated[float, Range(ge=0)] = 0.0
    """Decoupled weight decay; 0 is plain Adam."""
    shuffle: Literal["epoch", "once", "none"] = "epoch"
    """A permutation for every epoch, one for all epochs (a single gather: fastest), or the order of collection."""
    normalizer_update: Literal["iteration", "step"] = "iteration"
    """When observation statistics change: after each update, or at every step as rsl_rl 5.4 does."""
    parity: Literal["none", "rsl_rl_5_4", "rsl_rl_5_5"] = "none"
    """Set the options with which this class reproduces rsl_rl 5.4 or 5.5 number for number."""

    # speed
    cuda_graph: GraphMode = "auto"
    """Capture acting, recording and the update; `auto` falls back with the reason in the log."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile losses and optimizer; `auto` does it on CUDA. On a CPU it pays off in runs of many minutes."""
    precision: Precision = "tf32"
    """fp32, tf32 or bf16 for the networks in the update."""

    def check(self) -> Iterable[str]:
        """Options that contradict each other."""
        if self.parity != "none" and self.time_out_bootstrap == "none":
            yield f"time_out_bootstrap: got 'none', but parity='{self.parity}' bootstraps as rsl_rl does; drop one"
        if self.min_lr > self.max_lr:
            yield f"min_lr: {self.min_lr} is above max_lr={self.max_lr}; swap them"

    def check_rollout(self, num_envs: int, num_steps: int) -> Iterable[str]:
        """Mini-batches have to be of one size."""
        size = num_envs * num_steps
        if size % self.num_mini_batches:
            near = max(n for n in range(1, self.num_mini_batches) if size % n == 0)
            yield (
                f"num_mini_batches: {self.num_mini_batches} does not divide the {size} transitions of a rollout "
                f"({num_steps} steps of {num_envs} environments); use for example {near}"
            )

    def with_parity(self, *, recurrent: bool) -> PPOCfg:
        """The configuration with the options that `parity` stands for filled in."""
        if self.parity == "none":
            return self
        return self.replace(
            shuffle="none" if recurrent else "once",
            time_out_bootstrap="current",
            normalizer_update="step" if self.parity == "rsl_rl_5_4" else "iteration",
            parity="none",
        )
