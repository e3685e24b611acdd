"""The one seam between runners and everything that learns.

A runner calls `act`, steps the environment, calls `process_env_step`, and from time to time `update`. It never learns
which algorithm it drives. Everything that influences learning (modules, optimizers, normalizers, schedules, buffer) is
owned by the algorithm and is part of `state_dict`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NoReturn

import torch
from tensordict import TensorDict
from torch import nn

from ..buffer.transition import ActOut, Collector, Transition, TransitionSchema
from ..configclass import Cfg, ConfigError, configclass
from ..envs.spec import EnvSpec
from ..utils.distributed import DistributedContext
from ..utils.errors import UserError
from ..utils.export import Exportable

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunContext:
    """What a runner tells an algorithm about the run it is built for."""

    spec: EnvSpec
    device: torch.device
    rollout_steps: int = 1
    """Environment steps between two calls of `update`."""
    max_updates: int = 1
    """Planned number of updates, for schedules."""
    obs_groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Explicit observation set -> groups; sets that are missing are resolved from the spec."""
    distributed: DistributedContext = field(default_factory=DistributedContext)
    seed: int = 0
    """Of the run, alike in all processes."""
    data: Any = None
    """What is learned from: the `TransitionDataset` of an offline run, or what a `DatasetRunner` reads batches of."""
    eval_spec: EnvSpec | None = None
    """Environment that the policy is evaluated and played in, where nothing is learned by stepping one."""


class Policy(nn.Module, ABC):
    """What is played, evaluated and exported: observations in, actions out.

    `forward` takes a TensorDict of batch size `[N]` and returns `(N, *action.shape)`. Recurrent policies keep their
    own state.
    """

    @abstractmethod
    def forward(self, obs: TensorDict) -> torch.Tensor:
        """The action for each observation: the mode of the policy, or a sample of it if `deterministic` is False."""

    deterministic: bool = True

    def reset(self, dones: torch.Tensor | None = None) -> None:
        """Forget the state of environments whose episode ended, `(N,)`; of all of them if `dones` is None."""

    def exportable(self) -> Exportable:
        """A copy of the deterministic policy as a function of plain tensors, for `export_policy`."""
        raise UserError(f"{type(self).__name__} can't be exported; play it from its checkpoint instead.")


class Algorithm(ABC):
    """A learner. Built by `AlgorithmCfg.build(policy=..., context=...)`."""

    cfg: Any
    """The algorithm's own configuration; subclasses say which."""
    obs_sets: ClassVar[tuple[str, ...]] = ("actor", "critic", "rnd_state")
    """Observation sets that it, or a term of its, reads; `obs_groups` may name no other."""
    context: RunContext
    collector: Collector
    """Acts; a copy of it may do so in another process."""
    schema: TransitionSchema
    """What it keeps of transitions."""
    is_sharded: bool = False
    """Whether every process holds a part of its state: all write and read checkpoints, which are directories."""

    def act(self, obs: TensorDict) -> ActOut:
        """Choose the actions for one environment step."""
        return self.collector.act(obs)

    @abstractmethod
    def process_env_step(self, transition: Transition) -> None:
        """Store a step, whose tensors are only valid until the next one, and let the collector end it."""

    @abstractmethod
    def update(self, data: Iterable[Transition] | None = None) -> dict[str, torch.Tensor]:
        """Learn from what was stored.

        Args:
            data: Steps that a copy of the collector took elsewhere; they are stored first.

        Returns:
            0-dim tensors on the device, or `{}` if it is too early to learn.
        """

    def stored_steps(self, num_steps: int) -> Mapping[str, torch.Tensor]:
        """The last `num_steps` steps that were stored, `(steps, num_envs, ...)` by their names in `schema`.

        For a dump of what went wrong; empty if the learner keeps none.
        """
        return {}

    def warnings(self, metrics: Mapping[str, float]) -> Iterable[str]:
        """Sentences that the user should read, asked after every iteration.

        Args:
            metrics: What `update` returned last, on the host.
        """
        return ()

    @abstractmethod
    def policy(self) -> Policy:
        """The current policy for play, evaluation and export; it shares parameters with the learner."""

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Everything that affects learning, as tensors and plain data."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; missing or unexpected keys raise."""

    def local_state_dict(self) -> dict[str, Any]:
        """The part of `state_dict` that processes of one run don't share, such as their experience."""
        return {}

    def load_local_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most share everything
        """Restore `local_state_dict` over that of the main process, which `load_state_dict` brought."""

    def restart_episodes(self) -> None:  # noqa: B027 - only what remembers earlier steps cares
        """All environments begin new episodes, though the last recorded step ended none."""

    @abstractmethod
    def train(self) -> None:
        """Switch modules to training mode."""

    @abstractmethod
    def eval(self) -> None:
        """Switch modules to evaluation mode."""

    def close(self) -> None:  # noqa: B027 - only captured algorithms hold something
        """Free what must not outlive the run, such as captured graphs; learning is over."""


@configclass
class AlgorithmCfg(Cfg):
    """Base of every algorithm's configuration."""

    class_type: type = Algorithm

    def check_rollout(self, num_envs: int, num_steps: int) -> Iterable[str]:
        """Like `check`, for rollouts of `num_steps` in each of `num_envs`; asked before an environment starts."""
        return ()


class DatasetLearner(Algorithm, ABC):
    """Learns from every batch that it is given; it is never asked to act while it learns.

    `RunContext.spec` is what the data says about its environment; where it says nothing, the learner's own
    configuration has to know all sizes.
    """

    @abstractmethod
    def update(self, data: Any = None) -> dict[str, torch.Tensor]:
        """Take one gradient step (or accumulate one) on a batch, which lies on the device; returns 0-dim metrics."""

    def source(self, data: Any) -> Any:
        """What batches are read from when learning begins: the data, or something made of it."""
        return data

    def act(self, obs: Any) -> NoReturn:
        """Refuse: what it learned is played by `policy()`."""
        raise UserError(f"{type(self).__name__} learns from recorded data and takes no steps: use a DatasetRunner.")

    def process_env_step(self, transition: Any) -> NoReturn:
        """Refuse, see `act`."""
        self.act(transition)


@configclass
class DatasetLearnerCfg(AlgorithmCfg):
    """Base of the configurations of such learners."""

    class_type: type = DatasetLearner

    def check_updates(self, updates: int) -> Iterable[str]:
        """Like `check`, for checkpoints after every `updates` updates."""
        return ()


def name_unused_groups(context: RunContext, read: Collection[str]) -> None:
    """Warn of the observation groups that are not in `read`: what a learner never sees should be no surprise."""
    spec = context.spec
    unused = [f"'{name}' {tuple(shape)}" for name, shape in spec.obs_groups.items() if name not in read]
    if unused and context.distributed.is_main:
        logger.warning(
            "%s observes %s, which nothing here reads. To use a group, name it: obs_groups.actor=[%s].",
            spec.task,
            ", ".join(unused),
            ", ".join(spec.obs_groups),
        )


def require_policy(algorithm: Algorithm, policy: Any, wanted: type[Cfg]) -> None:
    """Raise a ValueError if `policy` configures other modules than those that the algorithm learns.

    What is no configuration, such as modules that exist already, is taken as it is.
    """
    if isinstance(policy, Cfg) and not isinstance(policy, wanted):
        raise ConfigError(
            f"{type(algorithm).__name__} learns the modules of an {wanted.__name__}, but policy is an "
            f"{type(policy).__name__}: set policy={wanted.__name__}(...), or start from a task of this algorithm "
            "(`rrf list`)."
        )
