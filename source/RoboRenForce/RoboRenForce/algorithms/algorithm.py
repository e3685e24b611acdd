"""The interface between runners and algorithms.

A runner calls `act`, steps the environment, calls `process_env_step`, and from time to time `update`; it does not
depend on the algorithm. Everything that influences learning (modules, optimizers, normalizers, schedules, buffer) is
owned by the algorithm and is part of `state_dict`.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
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
    """Facts about the run that a runner passes to the algorithm it builds."""

    spec: EnvSpec
    device: torch.device
    rollout_steps: int = 1
    """Environment steps between two calls of `update`."""
    max_updates: int = 1
    """Planned number of updates, for schedules."""
    obs_groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Explicit observation set -> groups; missing sets are resolved from the spec."""
    distributed: DistributedContext = field(default_factory=DistributedContext)
    seed: int = 0
    """Of the run, alike in all processes."""
    data: Any = None
    """Data: the `TransitionDataset` of an offline run, or the source of a `DatasetRunner`'s batches."""
    eval_spec: EnvSpec | None = None
    """Environment that the policy is evaluated and played in, where nothing is learned by stepping one."""


class Policy(nn.Module, ABC):
    """Inference-only policy for play, evaluation and export: observations in, actions out.

    `forward` takes a TensorDict of batch size `[N]` and returns `(N, *action.shape)`. Recurrent policies keep their
    own state.
    """

    @abstractmethod
    def forward(self, obs: TensorDict) -> torch.Tensor:
        """Return the mode of the policy for each observation, or a sample if `deterministic` is False."""

    deterministic: bool = True

    @property
    def has_samples(self) -> bool:
        """Whether acting depends on `deterministic`; if not, evaluating samples would repeat what the mode did."""
        return True

    def reset(self, dones: torch.Tensor | None = None) -> None:
        """Reset the state of environments whose episode ended, `(N,)`; of all of them if `dones` is None."""

    def jacobian_norm(self, obs: TensorDict) -> torch.Tensor | None:
        """Return the Frobenius norm of the deterministic action's derivative by the normalized `obs`, `(N,)`.

        Of what it does at `obs` next, whose state it leaves as it is; None if the policy does not know it.
        """
        return None

    exports_folder: bool = False
    """True if the policy is exported as a folder, by `export_folder`, instead of as a function of tensors."""

    def export_folder(self, folder: Path) -> Path:
        """Write the policy to a folder of its own format, and return that."""
        raise UserError(f"{type(self).__name__} has no folder format: it is exported by `exportable`.")

    def exportable(self) -> Exportable:
        """Return a copy of the deterministic policy as a function of plain tensors, for `export_policy`."""
        raise UserError(f"{type(self).__name__} can't be exported; play it from its checkpoint instead.")


class Algorithm(ABC):
    """Base class of learners, built by `AlgorithmCfg.build(policy=..., context=...)`."""

    cfg: Any
    """Configuration of the algorithm; subclasses narrow its type."""
    obs_sets: ClassVar[tuple[str, ...]] = ("actor", "critic", "rnd_state")
    """Observation sets that the algorithm or one of its terms reads; `obs_groups` may name no other."""
    context: RunContext
    collector: Collector
    """Chooses actions; a copy may do so in another process."""
    schema: TransitionSchema
    """Fields of a transition that the algorithm stores."""
    is_sharded: bool = False
    """True if every process holds a part of its state: all write and read checkpoints, which are directories."""
    exports_folder: bool = False
    """True if its policy is exported as a folder, by `export_folder`, which takes no environment to play it in."""
    saves_directories: bool = False
    """True if its checkpoints are directories `global_step_<N>` even where it is not sharded, as in VLA RL."""

    @property
    def is_finished(self) -> bool:
        """True if nothing is left to learn, which ends the run before its last iteration."""
        return False

    def model_report(self, horizon: int) -> dict[str, Any]:
        """Return the errors of a dynamics model up to `horizon` steps ahead.

        Raises:
            UserError: The learner has none.
        """
        raise UserError(
            f"A {type(self).__name__} has no dynamics model to report on: take a run of system_dynamics_mlp or "
            "system_dynamics_transformer."
        )

    def load_to_judge(self, state: Mapping[str, Any]) -> None:
        """Load a checkpoint to judge its model on other data than it learned from."""
        self.load_state_dict(state)

    def act(self, obs: TensorDict) -> ActOut:
        """Choose the actions for one environment step."""
        return self.collector.act(obs)

    @abstractmethod
    def process_env_step(self, transition: Transition) -> None:
        """Store a transition (its tensors are valid only until the next one) and end the collector's step."""

    @abstractmethod
    def update(self, data: Iterable[Transition] | None = None) -> dict[str, torch.Tensor]:
        """Learn from the stored transitions.

        Args:
            data: Transitions that a copy of the collector gathered elsewhere; they are stored first.

        Returns:
            0-dim tensors on the device, or `{}` if it is too early to learn.
        """

    def stored_steps(self, num_steps: int) -> Mapping[str, torch.Tensor]:
        """Return the last `num_steps` stored steps, `(steps, num_envs, ...)` by their names in `schema`.

        Used for the dump after a NaN; empty if the algorithm stores none.
        """
        return {}

    def warnings(self, metrics: Mapping[str, float]) -> Iterable[str]:
        """Yield sentences that the user should read; called after every iteration.

        Args:
            metrics: Metrics of the last `update`, on the host.
        """
        return ()

    @abstractmethod
    def policy(self) -> Policy:
        """Return the current policy for play, evaluation and export; it shares parameters with the algorithm."""

    def export_folder(self, folder: Path) -> Path:
        """Write the policy to a folder of its own format, and return that."""
        raise UserError(
            f"A {type(self).__name__} exports no policy without an environment: name a task that has one with --task."
        )

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return everything that affects learning, as tensors and plain data."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; missing or unexpected keys raise an error."""

    def local_state_dict(self) -> dict[str, Any]:
        """Return the part of `state_dict` that differs between the processes of a run, such as the replay."""
        return {}

    def load_local_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - most share everything
        """Restore `local_state_dict`, replacing what `load_state_dict` restored from the main process."""

    def restart_episodes(self) -> None:  # noqa: B027 - only what remembers earlier steps cares
        """Start new episodes in all environments, although the last stored step ended none."""

    def add_instructions(self, texts: Iterable[str]) -> None:  # noqa: B027 - only what follows instructions cares
        """Get to know the texts that the environment may give, before the first observation."""

    @abstractmethod
    def train(self) -> None:
        """Switch modules to training mode."""

    @abstractmethod
    def eval(self) -> None:
        """Switch modules to evaluation mode."""

    def close(self) -> None:  # noqa: B027 - only captured algorithms hold something
        """Free resources that must not outlive the run, such as captured graphs."""


@configclass
class AlgorithmCfg(Cfg):
    """Base of every algorithm's configuration."""

    class_type: type = Algorithm

    def check_rollout(self, num_envs: int, num_steps: int) -> Iterable[str]:
        """Check rollouts of `num_steps` in `num_envs` environments, as `check` does, before any environment starts."""
        return ()


class DatasetLearner(Algorithm, ABC):
    """Algorithm that learns from the batches it is given and never acts while it learns.

    `RunContext.spec` describes the environment as far as the data does; where it does not, the configuration of the
    learner has to give all sizes.
    """

    @abstractmethod
    def update(self, data: Any = None) -> dict[str, torch.Tensor]:
        """Take one gradient step (or accumulate one) on a batch on the device; returns 0-dim metrics."""

    def source(self, data: Any) -> Any:
        """Return the source of batches when learning begins: the data, or something made of it."""
        return data

    def act(self, obs: Any) -> NoReturn:
        """Refuse to act while learning; `policy()` plays the learned policy."""
        raise UserError(f"{type(self).__name__} learns from recorded data and takes no steps: use a DatasetRunner.")

    def process_env_step(self, transition: Any) -> NoReturn:
        """Refuse to store a step, see `act`."""
        self.act(transition)


@configclass
class DatasetLearnerCfg(AlgorithmCfg):
    """Base of the configurations of `DatasetLearner`s."""

    class_type: type = DatasetLearner

    def check_updates(self, updates: int) -> Iterable[str]:
        """Like `check`, for checkpoints after every `updates` updates."""
        return ()


def name_unused_groups(context: RunContext, read: Collection[str]) -> None:
    """Warn about observation groups that are not in `read`, so that an unused input is no surprise."""
    spec = context.spec
    unused = [f"'{name}' {tuple(shape)}" for name, shape in spec.obs_groups.items() if name not in read]
    if unused and context.distributed.is_main:
        logger.warning(
            "%s observes %s, which nothing here reads. To use a group, name it: obs_groups.actor=[%s].",
            spec.task,
            ", ".join(unused),
            ", ".join(spec.obs_groups),
        )


def require_same_parts(here: Collection[str], there: Collection[str]) -> None:
    """Raise a ValueError unless a checkpoint has the parts `there` that this configuration has, `here`."""
    if {*here} != {*there}:
        raise ValueError(
            f"the checkpoint has {sorted({*there} - {*here}) or 'nothing'} that this configuration lacks, and lacks "
            f"{sorted({*here} - {*there}) or 'nothing'} that it has"
        )


def require_policy(algorithm: Algorithm, policy: Any, wanted: type[Cfg]) -> None:
    """Raise a ConfigError if `policy` configures other modules than the algorithm learns.

    Anything that is no configuration, such as modules that exist already, is accepted.
    """
    if isinstance(policy, Cfg) and not isinstance(policy, wanted):
        raise ConfigError(
            f"{type(algorithm).__name__} learns the modules of an {wanted.__name__}, but policy is an "
            f"{type(policy).__name__}: set policy={wanted.__name__}(...), or start from a task of this algorithm "
            "(`rrf list`)."
        )
