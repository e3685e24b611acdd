"""What every learner from a replay shares: acting, storing, warming up, counting updates, and their CUDA graphs.

A concrete algorithm is one gradient step, `learn(batch, policy_turn)`. The batch may come from a replay that fills
while acting or from a data set that was recorded before (`RunContext.data`); the algorithm can't tell.

Nothing here talks to the host: drawing the batch and all gradient steps of one `update` are one CUDA graph. Since the
policy learns at every `policy_delay`-th step only, there is one graph for each way an update can begin.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal, Protocol

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from ...buffer import StepInputs, copy_observations, copy_together
from ...buffer.dataset_buffer import DatasetBuffer
from ...buffer.prioritized import PrioritizedReplayBufferCfg
from ...buffer.replay import ReplayBuffer, ReplayBufferCfg
from ...buffer.replay_batch import ReplayBatch
from ...buffer.sequence import SequenceReplayBuffer
from ...buffer.transition import Transition
from ...components.acting_memory import ActingMemory
from ...components.actor import Actor
from ...components.actor_q import ActorPackCfg
from ...components.exploration import ExplorationCfg, SampleCfg
from ...components.lr_schedule import cosine_
from ...components.normalizer import BoundedRewardScaler
from ...components.observation import Observations
from ...components.optimizer import FlatAdam
from ...components.return_heads import ReturnHead
from ...configclass import ConfigError, Range, configclass
from ...envs.obs_groups import PREVIOUS_ACTION, resolve_obs_groups
from ...envs.spec import EnvSpec
from ...networks.batch_norm import BatchNorm, uses_batch_statistics
from ...networks.constraints import constrain_, constrained_parts
from ...utils.compile import compile_own
from ...utils.cuda_graph import GraphedStep, GraphMode, graphed
from ...utils.distributed import DistributedContext
from ...utils.precision import Precision, set_matmul_precision
from ..actor_policy import ActorPolicy
from ..algorithm import ActOut, Algorithm, AlgorithmCfg, RunContext, name_unused_groups, require_policy
from ..history_policy import HistoryPolicy

SMOOTHING = 0.01
"""Weight of the newest update in the metrics, which are exponential means over about a hundred updates."""


class Part(Protocol):
    """Something that belongs into a checkpoint."""

    def state_dict(self) -> Mapping[str, Any]:
        """Tensors and plain data."""
        ...

    def load_state_dict(self, state: Any, /) -> Any:
        """Restore `state_dict`."""
        ...


class ReplayLearner(Algorithm, ABC):
    """Owns the networks, the replay and the exploration; a subclass owns its optimizers and targets.

    A subclass sets what it needs in `__init__` after `super().__init__(...)`, and implements `learn` and `parts`.
    """

    cfg: ReplayLearnerCfg
    policy_cfg: type[ActorPackCfg] = ActorPackCfg
    """The modules that it learns."""
    needs_next_action: bool = False
    """Whether the data has to say what was done in the successor state."""
    sets_priorities: bool = False
    """Whether it tells the replay how surprising samples were."""

    def __init__(self, cfg: ReplayLearnerCfg, *, policy: ActorPackCfg, context: RunContext) -> None:
        self.cfg, self.context, self.device, self.distributed = cfg, context, context.device, context.distributed
        spec = context.spec
        require_policy(self, policy, self.policy_cfg)
        if spec.action.kind != "continuous":
            raise ConfigError(
                f"{type(self).__name__} needs continuous actions; '{spec.task}' has {spec.action.kind} actions "
                f"[{spec.action.dim}]: use PPOCfg with a CategoricalActorCfg."
            )
        if context.data is not None:
            context.data.require_fit(spec)
            if cfg.max_return is not None:
                raise ConfigError("max_return follows rewards as they come; use dataset.reward_mode for recorded ones.")
        elif "final_observations" not in spec.extras:
            raise ConfigError(
                f"{type(self).__name__} needs final_observations, the true successors at the end of episodes, which "
                f"'{spec.task}' lacks (it has: {', '.join(spec.extras) or 'no optional extras'}). "
                "Let its adapter provide them, see docs/adding/environment.md."
            )
        set_matmul_precision(cfg.precision, self.device)
        groups = resolve_obs_groups(spec, ("actor", "critic"), context.obs_groups)
        read = {*groups["actor"], *groups["critic"]}
        name_unused_groups(context, read)
        stored = replace(spec, obs_groups={name: shape for name, shape in spec.obs_groups.items() if name in read})
        self.replay: Any = self._build_replay(stored)
        """Where batches come from: a `ReplayBuffer`, or the `DatasetBuffer` of recorded data."""
        # A replay may show more than the environment does: the previous action.
        shown = self.replay.spec.obs_groups if isinstance(self.replay, ReplayBuffer) else stored.obs_groups
        added = [name for name in shown if name not in read]
        self.networks: Any = policy.build(
            spec=replace(spec, obs_groups={**spec.obs_groups, **shown}),
            obs_groups={name: [*groups[name], *added] for name in ("actor", "critic")},
        ).to(self.device)
        self.actor: Actor = self.networks.actor
        if context.data is not None:  # there is nothing else to see; processes all see the same
            self._update_normalizers({name: rows.to(self.device) for name, rows in context.data.obs.items()})
        for tensor in [*self.networks.parameters(), *self.networks.buffers()]:
            self.distributed.broadcast_(tensor.data)
        self._check_networks()
        self.memory = ActingMemory(
            self.actor, spec.num_envs, self.device, previous_action=PREVIOUS_ACTION in self.actor.groups
        )
        self.exploration = cfg.exploration.build(spec=spec, device=self.device)
        self.num_stored = self.replay.num_added
        """Transitions that were ever stored; kept here too, since asking the replay would wait for the device."""
        self.num_updates = 0
        """Gradient steps that were taken."""
        self.reward_scaler: BoundedRewardScaler | None = None
        if cfg.max_return is not None:
            self.reward_scaler = BoundedRewardScaler(spec.num_envs, cfg.gamma, cfg.max_return).to(self.device)
        self._step = torch.zeros((), device=self.device)
        """`num_updates` where a captured update can count it."""
        self._now = StepInputs(stored, self.device)
        self._metrics: dict[str, Tensor] = {}
        self._warned: set[ReturnHead] = set()
        self._compiles = cfg.compile == "on" or (cfg.compile == "auto" and self.device.type == "cuda")
        self._act_step = graphed(self._act, self.device, cfg.cuda_graph, "policy step")
        self._record_step = self._graphed(self._record, "storage step")
        self._smooth = self.compiled(smooth_)
        self._update_steps: dict[int, Callable[[], None]] = {}
        self._apply: dict[FlatAdam, Callable[[], dict[str, Tensor]]] = {}

    # -- what a subclass says -----------------------------------------------------------------------------------------

    @abstractmethod
    def learn(self, batch: ReplayBatch, policy_turn: bool) -> dict[str, Tensor]:
        """One gradient step of the critic and, if `policy_turn`, of the policy; returns 0-dim metrics, detached."""

    @abstractmethod
    def parts(self) -> dict[str, Part]:
        """Optimizers, targets and whatever else the subclass owns, for the checkpoint."""

    # -- collecting ---------------------------------------------------------------------------------------------------

    @property
    def warm_up(self) -> int:
        """Transitions to collect at random before anything is learned; none where the data is there already."""
        return 0 if self.context.data is not None else self.cfg.learning_starts

    @torch.no_grad()
    def act(self, obs: TensorDict) -> ActOut:
        """An action per environment, `(N, A)`: uniform in the box while warming up, then the policy's exploration."""
        copy_observations(self._now.obs, obs)
        if self.num_stored < self.warm_up and not self.num_updates:  # a resumed run has learned a policy already
            self._now.action.uniform_(-1.0, 1.0)
            self.memory.forget_state()
        else:
            self._act_step()
        return ActOut(self._now.action)

    def _act(self) -> None:
        distribution = self.memory.distribution(self.actor, self._now.obs)
        self._now.action.copy_(self.exploration.explore(distribution))

    @torch.no_grad()
    def process_env_step(self, transition: Transition) -> None:
        """Store the transition that the last action led to; its successor is the true one, also where it is done."""
        now = self._now
        final: Any = transition.next_obs
        groups: Any = list(now.final_obs.items())
        into = [now.reward, *(rows for _, rows in groups)]
        copy_together(into, [transition.reward, *(final[name] for name, _ in groups)])
        now.terminated.copy_(transition.terminated)
        now.done.copy_(transition.done)
        self._record_step()
        self.num_stored += self.context.spec.num_envs

    def _record(self) -> None:
        now, done = self._now, self._now.done != 0
        self._update_normalizers(self.memory.complete(now.obs), self.distributed)
        self.replay.add(
            obs=now.obs,
            action=now.action,
            reward=now.reward,
            terminated=now.terminated,
            done=done,
            next_obs=now.final_obs,
        )
        self.exploration.on_done(done)
        self.memory.finish_step(now.action, done)
        if self.reward_scaler is not None:
            self.reward_scaler.update(now.reward, now.done, self.distributed)

    @torch.no_grad()
    def restart_episodes(self) -> None:
        """Forget memories, held noise and running returns: none of the episodes that they belong to goes on."""
        self.memory.restart()
        self.exploration.on_done(torch.ones_like(self.memory.start))
        if self.reward_scaler is not None:
            self.reward_scaler.restart()

    def _update_normalizers(self, obs: Observations, distributed: DistributedContext | None = None) -> None:
        for network in self.networks.children():
            network.update_normalizer(obs, distributed)

    # -- learning -----------------------------------------------------------------------------------------------------

    def update(self) -> dict[str, Tensor]:
        """Take `gradient_steps` steps; returns smoothed 0-dim metrics on the device, `{}` while warming up."""
        if self.num_stored < max(self.warm_up, 1):
            return {}
        self._update_step(self.num_updates % self.cfg.policy_delay)()
        self.num_updates += self.cfg.gradient_steps
        return dict(self._metrics)

    def warnings(self, metrics: Mapping[str, float]) -> Iterable[str]:
        """What the critics' return heads say about their settings, each once."""
        heads = [module for module in self.networks.modules() if isinstance(module, ReturnHead)] if metrics else []
        for head in heads:
            sentence = head.warning(metrics)
            if sentence is not None and head not in self._warned:
                self._warned.add(head)
                yield sentence

    def _update_step(self, phase: int) -> Callable[[], None]:
        """The update that begins `phase` gradient steps after the policy's last turn."""
        if phase not in self._update_steps:
            self._update_steps[phase] = self._graphed(partial(self._learn, phase), f"update {phase}")
        return self._update_steps[phase]

    def _learn(self, phase: int) -> None:
        delay = self.cfg.policy_delay
        for step in range(phase, phase + self.cfg.gradient_steps):
            batch = self.replay.sample()
            if self.reward_scaler is not None:  # by the statistics of now, whenever the transition was stored
                batch.reward = self.reward_scaler(batch.reward)
            metrics = self.learn(batch, policy_turn=step % delay == delay - 1)
            self._step.add_(1.0)
            for name in metrics.keys() - self._metrics.keys():
                self._metrics[name] = metrics[name].clone()
            self._smooth([self._metrics[name] for name in metrics], list(metrics.values()))
        self._share_statistics()

    @torch.no_grad()
    def _share_statistics(self) -> None:
        """Average over processes what networks remember of their batches, so that all of them act and weigh alike.

        Such statistics are exponential means, so that the average of them is that of the union of the batches.
        """
        if not self.distributed.is_distributed:
            return
        modules = [self.networks, *(part for part in self.parts().values() if isinstance(part, nn.Module))]
        if statistics := list(batch_buffers(*modules)):
            shared = self.distributed.mean_(torch.cat([buffer.flatten() for buffer in statistics]))
            for buffer, mean in zip(statistics, shared.split([buffer.numel() for buffer in statistics]), strict=True):
                buffer.copy_(mean.view_as(buffer))

    def gradient_step(
        self, parts: Mapping[str, nn.Module], learning_rate: float, *, final: float | None = None, **options: Any
    ) -> FlatAdam:
        """An optimizer for `take_step`.

        Args:
            parts: what it moves, by the names that their gradients have in the metrics.
            learning_rate: at the start.
            final: share of it that is left at the end of the run; None: as configured.
            options: those of `FlatAdam` that differ from the configuration's.
        """
        cfg = self.cfg
        final = cfg.final_learning_rate if final is None else final
        options = {"max_grad_norm": cfg.max_grad_norm, "weight_decay": cfg.weight_decay} | options
        optimizer = FlatAdam(
            {name: part.parameters() for name, part in parts.items()},
            learning_rate=learning_rate,
            betas=(0.9, cfg.beta2),
            distributed=self.distributed,
            **options,
        )
        total = self.context.max_updates * cfg.gradient_steps
        constrained = constrained_parts(*parts.values())

        def apply() -> dict[str, Tensor]:
            if final != 1.0:
                cosine_(optimizer.lr, learning_rate, learning_rate * final, self._step, total)
            norms = optimizer.apply()
            constrain_(*constrained)
            return norms

        self._apply[optimizer] = self.compiled(apply)
        return optimizer

    def take_step(self, optimizer: FlatAdam, loss: Tensor) -> dict[str, Tensor]:
        """One gradient step on `loss`, averaged over processes; returns the norm of each part's gradient."""
        optimizer.backward(loss)
        optimizer.reduce()
        return {f"Policy/grad_norm_{part}": norm for part, norm in self._apply[optimizer]().items()}

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """`function`, through torch.compile where the configuration asks for it."""
        return compile_own(function) if self._compiles else function

    def _graphed(self, function: Callable[[], None], name: str) -> Callable[[], None]:
        """A replay in host memory can be part of no graph, neither to write nor to read."""
        return graphed(function, self.device, self.cfg.cuda_graph if self.replay.captured else "off", name)

    # -- the rest of the Algorithm contract ---------------------------------------------------------------------------

    def policy(self) -> ActorPolicy:
        """The actor for play and export, sharing its parameters with the learner."""
        return (ActorPolicy if self.memory.previous_action is None else HistoryPolicy)(self.actor)

    def train(self) -> None:
        """Switch the networks to training mode."""
        self.networks.train()

    def eval(self) -> None:
        """Switch the networks to evaluation mode."""
        self.networks.eval()

    def close(self) -> None:
        """Free the captured graphs."""
        for step in (self._act_step, self._record_step, *self._update_steps.values()):
            if isinstance(step, GraphedStep):
                step.release()

    def state_dict(self) -> dict[str, Any]:
        """Networks, normalizers, targets, optimizers, exploration and counters; the replay as far as it is stored."""
        return {
            "networks": self.networks.state_dict(),
            "num_updates": self.num_updates,
            "parts": {name: part.state_dict() for name, part in self.parts().items()},
            **self.local_state_dict(),
        }

    def local_state_dict(self) -> dict[str, Any]:
        """Experience and what is remembered between steps: every process has its own environments."""
        return {
            "replay": self.replay.state_dict(),
            "offline": self.context.data is not None,
            "exploration": self.exploration.state_dict(),
            "memory": self.memory.state_dict(),
            "reward_scaler": None if self.reward_scaler is None else self.reward_scaler.state_dict(),
            "metrics": {name: value.clone() for name, value in self._metrics.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            ValueError: the state has parts that this configuration lacks, or lacks parts that it has.
        """
        here, there = self.parts(), state["parts"]
        if here.keys() != there.keys():
            raise ValueError(
                f"the checkpoint has {sorted(there.keys() - here.keys()) or 'nothing'} that this configuration lacks, "
                f"and lacks {sorted(here.keys() - there.keys()) or 'nothing'} that it has"
            )
        self.networks.load_state_dict(state["networks"])
        self.load_local_state_dict(state)
        self.num_updates = state["num_updates"]
        self._step.fill_(float(self.num_updates))
        for name, part in here.items():
            part.load_state_dict(there[name])

    def load_local_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `local_state_dict`."""
        if state["offline"] == (self.context.data is not None):  # otherwise the run goes on from other experience
            self.replay.load_state_dict(state["replay"])
        self.num_stored = self.replay.num_added
        self.exploration.load_state_dict(state["exploration"])
        self.memory.load_state_dict(state["memory"])
        self._load_reward_scaler(state["reward_scaler"])
        for name, value in state["metrics"].items():
            self._metrics.setdefault(name, torch.zeros_like(value, device=self.device)).copy_(value)

    def _load_reward_scaler(self, state: Mapping[str, Any] | None) -> None:
        if (state is None) != (self.reward_scaler is None):
            raise ValueError(
                f"the checkpoint was trained {'without' if state is None else 'with'} max_return, this configuration "
                f"{'with' if state is None else 'without'} it"
            )
        if state is not None and self.reward_scaler is not None:
            self.reward_scaler.load_state_dict(state)

    def _check_networks(self) -> None:
        """Refuse a memory where batches are single transitions, and batch statistics where padding would enter them."""
        recurrent = [name for name, network in self.networks.named_children() if network.is_recurrent]
        if recurrent and not isinstance(self.replay, SequenceReplayBuffer):
            raise ConfigError(
                f"{' and '.join(recurrent)} have a memory and learn from sequences, but batches come from a "
                f"{type(self.replay).__name__}: use replay=SequenceReplayBufferCfg(...), or networks without memory."
            )

        if isinstance(self.replay, SequenceReplayBuffer) and uses_batch_statistics(self.networks):
            raise ConfigError(
                "The networks have batch normalization, and batches are sequences with padding, which would count as "
                "data: use MLPCfg instead of FlashNetCfg, or replay=ReplayBufferCfg(...)."
            )

    def _build_replay(self, stored: EnvSpec) -> ReplayBuffer | DatasetBuffer:
        cfg, data = self.cfg, self.context.data
        if data is not None:
            read: dict[str, Any] = {
                name: {group: rows[group] for group in stored.obs_groups}
                for name, rows in {"obs": data.obs, "next_obs": data.next_obs}.items()
            }
            data = replace(data, **read)
            return DatasetBuffer(data, cfg.gamma, cfg.batch_size, self.device, next_action=self.needs_next_action)
        if isinstance(cfg.replay, PrioritizedReplayBufferCfg) and not self.sets_priorities:
            raise ConfigError(
                f"{type(self).__name__} has no TD errors for the priorities of a PrioritizedReplayBufferCfg, which "
                "would draw uniformly: use replay=ReplayBufferCfg(...). (A learner that calls update_priorities says "
                "so with sets_priorities = True.)"
            )
        return cfg.replay.build(spec=stored, gamma=cfg.gamma, batch_size=cfg.batch_size, device=self.device)


def smooth_(means: list[Tensor], values: list[Tensor]) -> None:
    """Take `values` into exponential means of them."""
    torch._foreach_lerp_(means, values, SMOOTHING)  # pyright: ignore[reportPrivateImportUsage]


def batch_buffers(*modules: nn.Module) -> Iterable[Tensor]:
    """What `modules` remember of the batches that they saw in training: of batch normalization and return heads."""
    for module in modules:
        for part in module.modules():
            if isinstance(part, (BatchNorm, ReturnHead)):
                persistent = part.state_dict(keep_vars=True)
                yield from (buffer for name, buffer in part.named_buffers() if name in persistent)


@configclass
class ReplayLearnerCfg(AlgorithmCfg):
    """What the configurations of all learners from a replay share."""

    class_type: type = ReplayLearner

    # experience
    gamma: Annotated[float, Range(ge=0, le=1)] = 0.99
    """Discount per environment step."""
    replay: ReplayBufferCfg = ReplayBufferCfg()
    """Where transitions are kept and how they are drawn."""
    exploration: ExplorationCfg = SampleCfg()
    """How actions are chosen while collecting."""
    max_return: Annotated[float, Range(gt=0)] | None = None
    """Scale rewards as they are drawn so that discounted returns stay within plus and minus this; None: not at all."""
    learning_starts: Annotated[int, Range(ge=0)] = 5000
    """Transitions over all environments that are collected with random actions before anything is learned."""

    # updates
    batch_size: Annotated[int, Range(ge=1)] = 256
    """Transitions (or sequences) per gradient step."""
    gradient_steps: Annotated[int, Range(ge=1)] = 1
    """Gradient steps per update; the runner's `train_freq` says how often there is one."""
    policy_delay: Annotated[int, Range(ge=1)] = 1
    """Gradient steps of the critic per turn of the policy."""
    max_grad_norm: Annotated[float, Range(gt=0)] | None = None
    """Gradients of actor and critic are each clipped to this norm; None: not at all."""
    weight_decay: Annotated[float, Range(ge=0)] = 0.0
    """Decoupled weight decay (AdamW) of actor and critic."""
    beta2: Annotated[float, Range(ge=0, lt=1)] = 0.999
    """Decay of Adam's second moment."""
    final_learning_rate: Annotated[float, Range(ge=0, le=1)] = 1.0
    """Share of all learning rates that is left at the end of the run, on a half cosine; 1: they are constant."""

    # speed
    cuda_graph: GraphMode = "auto"
    """Capture acting, recording and the update; `auto` falls back with the reason in the log."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile losses and optimizers; `auto` does it on CUDA."""
    precision: Precision = "tf32"
    """fp32, tf32 or bf16 for the networks in the update."""

    def check_rollout(self, num_envs: int, num_steps: int) -> Iterable[str]:
        """The replay has to hold at least one step of every environment."""
        if self.replay.capacity < num_envs:
            yield (
                f"replay.capacity: {self.replay.capacity} transitions can't hold one step of {num_envs} environments; "
                f"use at least {num_envs}"
            )
