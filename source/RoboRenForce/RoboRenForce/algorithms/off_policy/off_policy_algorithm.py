"""Base class of off-policy algorithms: it connects these parts and saves their state.

    OffPolicyCollector    chooses actions           collector.py
    Experience            stores, draws batches     experience.py
    CapturedUpdate        counts gradient steps     captured_update.py
    ScheduledAdam         takes them                components/scheduled_adam.py

A concrete algorithm implements one gradient step, `train_step(batch, update_actor)`. The batch comes from a replay that
is filled while acting, or from recorded data (`RunContext.data`); the algorithm does not see the difference. With
recorded data there is no collector, no exploration, no replay and no warm-up.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Annotated, Any, ClassVar, Literal

from tensordict import TensorDict
from torch import Tensor, nn

from ...buffer.replay import ReplayBufferCfg
from ...buffer.replay_batch import ReplayBatch
from ...buffer.transition import ActOut, Transition
from ...components.actor import Actor
from ...components.actor_q import ActorPackCfg
from ...components.exploration import ExplorationCfg, SampleCfg
from ...components.lr_schedule import cosine_
from ...components.policy_state import ActingPolicy
from ...components.return_heads import ReturnHead
from ...components.scheduled_adam import ScheduledAdam
from ...components.shared_statistics import share_statistics
from ...configclass import Cfg, ConfigError, Range, configclass
from ...envs.obs_groups import PREVIOUS_ACTION
from ...utils.compile import compile_own
from ...utils.cuda_graph import GraphMode
from ...utils.errors import UserError
from ...utils.precision import Precision, set_matmul_precision
from ...utils.stateful import Stateful
from ..actor_policy import ActorPolicy
from ..algorithm import Algorithm, AlgorithmCfg, RunContext, require_policy, require_same_parts
from ..history_policy import HistoryPolicy
from .captured_update import CapturedUpdate, smooth_
from .collector import OffPolicyCollector
from .experience import Experience, build_networks, recorded_schema


class OffPolicyAlgorithm(Algorithm, ABC):
    """Owner of the networks, the source of batches and, if it acts, the collector.

    A subclass builds its optimizers and targets in `__init__` after `super().__init__(...)`, and implements
    `train_step` and `parts`.
    """

    cfg: OffPolicyAlgorithmCfg
    networks_cfg: ClassVar[type[Cfg]] = ActorPackCfg
    """Configuration class of the modules that it learns."""
    needs_data: ClassVar[bool] = False
    """True if it learns from recorded data only and never acts."""
    sets_priorities: ClassVar[bool] = False
    """True if it updates replay priorities."""
    collector: OffPolicyCollector
    """Chooses actions; missing in runs on recorded data."""
    experience: Experience
    """Source of batches; missing if a policy that `needs_data` is only played."""

    def __init__(self, cfg: OffPolicyAlgorithmCfg, *, policy: ActorPackCfg, context: RunContext) -> None:
        self.cfg, self.context, self.device, self.distributed = cfg, context, context.device, context.distributed
        spec = context.spec
        require_policy(self, policy, self.networks_cfg)
        if spec.action.kind != "continuous":
            raise ConfigError(
                f"{type(self).__name__} needs continuous actions; '{spec.task}' has {spec.action.kind} actions "
                f"[{spec.action.dim}]: use PPOCfg with a CategoricalActorCfg."
            )
        set_matmul_precision(cfg.precision, self.device)
        self._compiles = cfg.compile == "on" or (cfg.compile == "auto" and self.device.type == "cuda")
        self.acts = context.data is None and not self.needs_data
        # Networks and buffer together: a sequence replay adds an observation that the networks read.
        self.networks, buffer = build_networks(self, policy)
        self.actor: Actor = self.networks.actor
        # Without recorded data the algorithm acts: collector, exploration and warm-up exist in this case only.
        graph: GraphMode = "off"
        if self.acts:
            self.schema = recorded_schema(buffer, spec)
            self.collector = OffPolicyCollector(
                self.acting_policy(),
                cfg.exploration.build(spec=spec, device=self.device),
                spec=spec,
                groups=[*(field.removeprefix("obs/") for field in buffer.schema.fields if field.startswith("obs/"))],
                device=self.device,
                previous_action=PREVIOUS_ACTION in self.schema.fields,
                random_steps=-(-cfg.learning_starts // spec.num_envs),
                cuda_graph=cfg.cuda_graph,
            )
        if buffer is not None:
            self.experience = Experience(self, buffer, self.collector if self.acts else None)
            graph = self.experience.cuda_graph
        # The whole update is one captured graph; the counter on the device drives the schedules in it.
        smooth, finish = self.compiled(smooth_), self._finish_update
        self.updates = CapturedUpdate(cfg, self._gradient_step, finish, smooth, self.device, graph)
        self._warned: set[ReturnHead] = set()

    # -- what a subclass says -----------------------------------------------------------------------------------------

    @abstractmethod
    def train_step(self, batch: ReplayBatch, update_actor: bool) -> dict[str, Tensor]:
        """Take a gradient step of the critics and, if `update_actor`, of the policy; returns detached 0-dim metrics."""

    @abstractmethod
    def parts(self) -> dict[str, Stateful]:
        """Return optimizers, targets and everything else that the subclass owns, for the checkpoint."""

    def acting_policy(self) -> ActingPolicy:
        """Return the policy of the collector: the actor, or a planner over `networks`."""
        return self.actor

    # -- collecting ---------------------------------------------------------------------------------------------------

    def act(self, obs: TensorDict) -> ActOut:
        """Choose an action for each environment: uniform during warm-up, then the policy with exploration."""
        if not self.acts:
            raise UserError(
                f"{type(self).__name__} learns from recorded data in this run and does not act: give it an "
                "OfflineRunnerCfg, or learn online with SACCfg or TD3Cfg."
            )
        return self.collector.act(obs)

    def process_env_step(self, transition: Transition) -> None:
        """Store the transition of the collector's last action, and end the collector's step."""
        self.experience.process_env_step(transition)

    def restart_episodes(self) -> None:
        """Reset recurrent states, held noise and running returns; no episode continues."""
        if self.acts:
            self.experience.restart_episodes()

    def stored_steps(self, num_steps: int) -> Mapping[str, Tensor]:
        """Return the newest steps of the replay; see `Algorithm.stored_steps`."""
        return self.experience.buffer.newest_steps(num_steps) if self.acts else {}

    # -- learning -----------------------------------------------------------------------------------------------------

    def update(self, data: Iterable[Transition] | None = None) -> dict[str, Tensor]:
        """Store `data` and take `gradient_steps` gradient steps; returns smoothed 0-dim metrics, `{}` in warm-up."""
        for transition in data or ():
            self.experience.add(transition)
        if not self.experience.is_enough:
            return {}
        return self.updates()

    @property
    def num_updates(self) -> int:
        """Number of gradient steps taken."""
        return self.updates.num_steps

    def _gradient_step(self, update_actor: bool) -> dict[str, Tensor]:
        return self.train_step(self.experience.sample(), update_actor)

    def _finish_update(self) -> None:
        parts = (part for part in self.parts().values() if isinstance(part, nn.Module))
        # Gradients are averaged in every step; batch statistics only need to agree once per update.
        share_statistics([self.networks, *parts], self.distributed)
        if self.acts:
            self.collector.policy_version.add_(1)

    def make_optimizer(
        self, parts: Mapping[str, nn.Module], learning_rate: float, *, final: float | None = None, **options: Any
    ) -> ScheduledAdam:
        """Build an optimizer of `parts`, named as in the metrics.

        Schedule, clipping, weight decay and betas are as configured unless given; `final` is the share of the learning
        rate that is left at the end of the run.
        """
        cfg, schedule = self.cfg, None
        final = cfg.final_learning_rate if final is None else final
        if final != 1.0:
            end, total = learning_rate * final, self.context.max_updates * cfg.gradient_steps
            schedule = partial(cosine_, start=learning_rate, end=end, step=self.updates.step, total=total)
        options = {"max_grad_norm": cfg.max_grad_norm, "weight_decay": cfg.weight_decay} | options
        options |= {"learning_rate": learning_rate, "betas": (0.9, cfg.beta2), "distributed": self.distributed}
        return ScheduledAdam(parts, self.compiled, schedule, **options)

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, wrapped in torch.compile if the configuration asks for it."""
        return compile_own(function) if self._compiles else function

    # -- the rest of the Algorithm contract ---------------------------------------------------------------------------

    def warnings(self, metrics: Mapping[str, float]) -> Iterable[str]:
        """Yield the warnings of the critics' return heads about their settings, each once."""
        heads = [module for module in self.networks.modules() if isinstance(module, ReturnHead)] if metrics else []
        for head in heads:
            sentence = head.warning(metrics)
            if sentence is not None and head not in self._warned:
                self._warned.add(head)
                yield sentence

    def policy(self) -> ActorPolicy:
        """Return the actor for play and export; it shares its parameters with the learner."""
        remembers = PREVIOUS_ACTION in {*self.actor.groups} - {*self.context.spec.obs_groups}
        return (HistoryPolicy if remembers else ActorPolicy)(self.actor)

    def train(self) -> None:
        """Switch the networks to training mode."""
        self.networks.train()

    def eval(self) -> None:
        """Switch the networks to evaluation mode."""
        self.networks.eval()

    def close(self) -> None:
        """Free the captured graphs."""
        self.updates.close()
        if self.acts:
            self.experience.close()

    def state_dict(self) -> dict[str, Any]:
        """Return networks, targets, optimizers, exploration and counters; the replay if it is stored."""
        return {
            "networks": self.networks.state_dict(),
            "num_updates": self.num_updates,
            "parts": {name: part.state_dict() for name, part in self.parts().items()},
            **self.local_state_dict(),
        }

    def local_state_dict(self) -> dict[str, Any]:
        """Return experience and collector state, which differ between processes."""
        metrics = {name: value.clone() for name, value in self.updates.metrics.items()}
        return {**self.experience.state_dict(), "metrics": metrics}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            ValueError: The state and this configuration have different parts.
        """
        here, there = self.parts(), state["parts"]
        require_same_parts(here, there)
        self.networks.load_state_dict(state["networks"])
        self.updates.resume(state["num_updates"])
        if self.acts:
            self.collector.policy_version.fill_(self.num_updates // self.cfg.gradient_steps)
        if self.acts or self.context.data is not None:  # otherwise it is a policy that is only played
            self.load_local_state_dict(state)
        for name, part in here.items():
            part.load_state_dict(there[name])

    def load_local_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `local_state_dict`."""
        self.experience.load_state_dict(state, num_updates=self.num_updates)
        self.updates.load_metrics(state["metrics"])


@configclass
class OffPolicyAlgorithmCfg(AlgorithmCfg):
    """Settings that all off-policy and offline algorithms share."""

    class_type: type = OffPolicyAlgorithm
    needs_next_action: ClassVar[bool] = False
    """True if recorded data has to contain the action taken in the successor state."""

    # experience
    gamma: Annotated[float, Range(ge=0, le=1)] = 0.99
    """Discount per environment step."""
    replay: ReplayBufferCfg = ReplayBufferCfg()
    """Replay buffer, which stores transitions and draws batches."""
    exploration: ExplorationCfg = SampleCfg()
    """Choice of actions while collecting."""
    max_return: Annotated[float, Range(gt=0)] | None = None
    """Scale drawn rewards so that discounted returns stay within plus and minus this; None: no scaling."""
    learning_starts: Annotated[int, Range(ge=0)] = 5000
    """Number of transitions, over all environments, to collect with random actions before learning starts."""

    # updates
    batch_size: Annotated[int, Range(ge=1)] = 256
    """Transitions (or sequences) per gradient step."""
    gradient_steps: Annotated[int, Range(ge=1)] = 1
    """Gradient steps per update; `train_freq` of the runner is the number of environment steps between updates."""
    policy_delay: Annotated[int, Range(ge=1)] = 1
    """Gradient steps of the critics per gradient step of the policy."""
    max_grad_norm: Annotated[float, Range(gt=0)] | None = None
    """Maximum gradient norm, for actor and critics separately; None: no clipping."""
    weight_decay: Annotated[float, Range(ge=0)] = 0.0
    """Decoupled weight decay (AdamW) of actor and critics."""
    beta2: Annotated[float, Range(ge=0, lt=1)] = 0.999
    """Decay of Adam's second moment."""
    final_learning_rate: Annotated[float, Range(ge=0, le=1)] = 1.0
    """Share of all learning rates that is left at the end of the run, on a half cosine; 1: constant."""

    # speed
    cuda_graph: GraphMode = "auto"
    """Capture acting, storing and the update; `auto` falls back with the reason in the log."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile for losses and optimizers; `auto`: on CUDA only."""
    precision: Precision = "tf32"
    """Precision of the networks in the update: fp32, tf32 or bf16."""

    def check_rollout(self, num_envs: int, num_steps: int) -> Iterable[str]:
        """Check that the replay holds at least one step of every environment."""
        if self.replay.capacity < num_envs:
            yield (
                f"replay.capacity: {self.replay.capacity} transitions can't hold one step of {num_envs} environments; "
                f"use at least {num_envs}"
            )
