"""Source of batches: a replay that a collector fills, or recorded data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...buffer.dataset import TransitionDataset
from ...buffer.dataset_buffer import DatasetBuffer
from ...buffer.dataset_sequences import SequenceDatasetBuffer, with_previous_actions
from ...buffer.prioritized import PrioritizedReplayBufferCfg
from ...buffer.replay import ReplayBuffer
from ...buffer.replay_batch import ReplayBatch
from ...buffer.sequence import SequenceReplayBuffer, SequenceReplayBufferCfg
from ...buffer.transition import Field, Transition, TransitionSchema
from ...components.normalizer import BoundedRewardScaler
from ...components.observation import Observations
from ...configclass import ConfigError
from ...envs.obs_groups import PREVIOUS_ACTION, resolve_obs_groups
from ...envs.spec import EnvSpec
from ...networks.batch_norm import uses_batch_statistics
from ...utils.cuda_graph import GraphMode, graphed, release
from ...utils.distributed import DistributedContext
from ..algorithm import name_unused_groups
from .collector import OffPolicyCollector

if TYPE_CHECKING:
    from .off_policy_algorithm import OffPolicyAlgorithm


class Experience:
    """A buffer, with the observation normalizers and reward scale that are updated from every stored step.

    Args:
        learner: Learner whose networks and settings are used.
        buffer: Replay or recorded data.
        collector: Collector that fills the replay; None with recorded data.
    """

    def __init__(
        self, learner: OffPolicyAlgorithm, buffer: ReplayBuffer | DatasetBuffer, collector: OffPolicyCollector | None
    ) -> None:
        _require_fit(learner.networks, buffer)
        cfg, spec = learner.cfg, learner.context.spec
        self.buffer: Any = buffer
        self.collector = collector
        self.stored = () if collector is None else tuple(learner.schema.fields)
        """Names of the transition fields that are stored."""
        self.networks, self.distributed, self.num_envs = learner.networks, learner.distributed, spec.num_envs
        self.warm_up = 0 if collector is None else cfg.learning_starts
        """Number of transitions to collect with random actions before learning starts."""
        self.num_stored: int = buffer.num_added
        """Number of transitions ever stored; counted here because asking the replay would wait for the device."""
        self.beside: Callable[[], ReplayBatch] | None = None
        """Another source, whose transitions are appended to every batch: demonstrations, for example."""
        self.reward_scaler: BoundedRewardScaler | None = None
        if cfg.max_return is not None:
            self.reward_scaler = BoundedRewardScaler(spec.num_envs, cfg.gamma, cfg.max_return).to(learner.device)
        # A replay in host memory can be part of no graph, neither to write nor to read.
        self.cuda_graph: GraphMode = cfg.cuda_graph if buffer.captured else "off"
        self.store_step = graphed(self._store_and_end_step, learner.device, self.cuda_graph, "storage step")

    @torch.no_grad()
    def process_env_step(self, transition: Transition) -> None:
        """Store the transition of the collector's last action, and end the collector's step."""
        self.store_step({name: transition.value_of(name) for name in self.stored})
        self.num_stored += self.num_envs

    @torch.no_grad()
    def add(self, transition: Transition) -> None:
        """Store a transition that a copy of the collector gathered elsewhere."""
        device = self.buffer.learner
        self._store({name: transition.value_of(name).to(device) for name in self.stored})
        self.num_stored += self.num_envs

    def _store_and_end_step(self, step: Mapping[str, Tensor]) -> None:
        self._store(step)
        if self.collector is not None:
            self.collector.end_step(step["done"], step.get("mask"))

    def _store(self, step: Mapping[str, Tensor]) -> None:
        # Observation statistics follow everything that was observed, each step once.
        names = (name for name in step if name.startswith("obs/") or name == PREVIOUS_ACTION)
        update_normalizers(self.networks, {name.removeprefix("obs/"): step[name] for name in names}, self.distributed)
        self.buffer.add(step)
        if self.reward_scaler is not None:
            self.reward_scaler.update(step["reward"], step["done"], self.distributed)

    def sample(self) -> ReplayBatch:
        """Draw a batch on the learner's device."""
        batch = self.buffer.sample()
        # Rewards are scaled when they are drawn: stored ones would keep the scale of their time.
        if self.reward_scaler is not None:
            batch.reward = self.reward_scaler(batch.reward)
        return batch if self.beside is None else batch.joined(self.beside())

    @property
    def is_enough(self) -> bool:
        """True if there is enough data to learn from."""
        return self.num_stored >= max(self.warm_up, 1)

    def restart_episodes(self) -> None:
        """Reset recurrent states, held noise and running returns; no episode continues."""
        if self.collector is not None:
            self.collector.restart_episodes()
        if self.reward_scaler is not None:
            self.reward_scaler.restart()

    def close(self) -> None:
        """Free the captured graphs."""
        if self.collector is not None:
            self.collector.close()
        release(self.store_step)

    def state_dict(self) -> dict[str, Any]:
        """Return the buffer (if it is stored), the collector's state, and the reward scale."""
        acting = {} if self.collector is None else self.collector.state_dict()
        return {
            "replay": self.buffer.state_dict(),
            "offline": self.collector is None,
            "exploration": acting.get("exploration"),
            "memory": acting.get("memory"),
            "reward_scaler": None if self.reward_scaler is None else self.reward_scaler.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any], *, num_updates: int) -> None:
        """Restore `state_dict`; the buffer only if both runs learn from the same kind of data."""
        if state["offline"] == (self.collector is None):
            self.buffer.load_state_dict(state["replay"])
        self.num_stored, scale = self.buffer.num_added, state["reward_scaler"]
        if (scale is None) != (self.reward_scaler is None):
            raise ValueError(
                f"the checkpoint was trained {'without' if scale is None else 'with'} max_return, this configuration "
                f"{'with' if scale is None else 'without'} it"
            )
        if self.reward_scaler is not None:
            self.reward_scaler.load_state_dict(scale)
        if self.collector is not None:
            # A run that has learned before collects with its policy, also if its replay was not kept.
            missing = 0 if num_updates else max(self.warm_up - self.num_stored, 0)
            acting = self.collector.state_dict() if state["memory"] is None else state
            self.collector.load_state_dict({**acting, "random_steps": -(-missing // self.num_envs)})


def update_normalizers(networks: Any, obs: Observations, distributed: DistributedContext | None = None) -> None:
    """Update the normalizers of all networks from observations of any batch shape."""
    for network in networks.children():
        network.update_normalizer(obs, distributed)


def recorded_schema(buffer: ReplayBuffer, spec: EnvSpec) -> TransitionSchema:
    """Return the stored fields of a transition: the replay's, and the previous action if that is an observation."""
    fields = dict(buffer.schema.fields)
    if PREVIOUS_ACTION in {*buffer.spec.obs_groups} - {*spec.obs_groups}:
        meaning = "action that was executed before, zeros where an episode begins"
        fields[PREVIOUS_ACTION] = Field(PREVIOUS_ACTION, spec.action.shape, spec.action.dtype, meaning)
    return TransitionSchema(spec.num_envs, fields)


def build_networks(learner: OffPolicyAlgorithm, policy: Any) -> tuple[Any, Any]:
    """Build the modules of `policy`, and the buffer that they learn from (None if they are only played)."""
    context = learner.context
    spec, data = context.spec, context.data
    groups = resolve_obs_groups(spec, ("actor", "critic"), context.obs_groups)
    read = {*groups["actor"], *groups["critic"]}
    name_unused_groups(context, read)
    stored = replace(spec, obs_groups={name: shape for name, shape in spec.obs_groups.items() if name in read})
    buffer: Any = None
    # Sequence replays add the previous action to the observations, also those of recorded data.
    seen = learner.cfg.replay.stored_spec(stored)
    if data is not None:
        data = _chosen_data(learner, data, stored)
        buffer = _make_dataset_buffer(learner, data)
    elif learner.acts:
        buffer = _make_replay(learner, stored)
    added = [name for name in seen.obs_groups if name not in read]
    networks = policy.build(
        spec=replace(spec, obs_groups={**spec.obs_groups, **seen.obs_groups}),
        obs_groups={name: [*groups[name], *added] for name in ("actor", "critic")},
    ).to(learner.device)
    # Recorded data is complete from the start, so its statistics are final; they are equal in all processes.
    if data is not None:
        update_normalizers(networks, {name: rows.to(learner.device) for name, rows in data.obs.items()})
    for tensor in [*networks.parameters(), *networks.buffers()]:
        learner.distributed.broadcast_(tensor.data)
    return networks, buffer


def _make_replay(learner: OffPolicyAlgorithm, stored: EnvSpec) -> ReplayBuffer:
    """Build an empty replay for transitions with the observation groups of `stored`."""
    cfg, spec, name = learner.cfg, learner.context.spec, type(learner).__name__
    if "final_observations" not in spec.extras:
        raise ConfigError(
            f"{name} needs final_observations, the true successors at the end of episodes, which "
            f"'{spec.task}' lacks (it has: {', '.join(spec.extras) or 'no optional extras'}). "
            "Let its adapter provide them, see docs/adding/environment.md."
        )
    if isinstance(cfg.replay, PrioritizedReplayBufferCfg) and not learner.sets_priorities:
        raise ConfigError(
            f"{name} has no TD errors for the priorities of a PrioritizedReplayBufferCfg, which "
            "would draw uniformly: use replay=ReplayBufferCfg(...). (A learner that calls update_priorities says "
            "so with sets_priorities = True.)"
        )
    return cfg.replay.build(spec=stored, gamma=cfg.gamma, batch_size=cfg.batch_size, device=learner.device)


def _chosen_data(learner: OffPolicyAlgorithm, data: TransitionDataset, stored: EnvSpec) -> TransitionDataset:
    """Return the run's recorded data with the observation groups of `stored`, and the previous action if it is one."""
    cfg, groups = learner.cfg, stored.obs_groups
    data.require_fit(learner.context.spec)
    if cfg.max_return is not None:
        raise ConfigError("max_return follows rewards as they come; use dataset.reward_mode for recorded ones.")
    obs, next_obs = ({group: rows[group] for group in groups} for rows in (data.obs, data.next_obs))
    data = replace(data, obs=obs, next_obs=next_obs)
    sequences = isinstance(cfg.replay, SequenceReplayBufferCfg) and cfg.replay.previous_action
    return with_previous_actions(data) if sequences else data


def _make_dataset_buffer(learner: OffPolicyAlgorithm, data: TransitionDataset) -> DatasetBuffer:
    """Load recorded data onto the learner's device, as transitions or as sequences."""
    cfg, replay = learner.cfg, learner.cfg.replay
    if isinstance(replay, SequenceReplayBufferCfg):
        sizes = {"length": replay.length, "burn_in": replay.burn_in}
        return SequenceDatasetBuffer(data, cfg.gamma, cfg.batch_size, learner.device, **sizes)
    return DatasetBuffer(data, cfg.gamma, cfg.batch_size, learner.device, next_action=cfg.needs_next_action)


def _require_fit(networks: Any, buffer: ReplayBuffer | DatasetBuffer) -> None:
    """Refuse recurrent networks without sequences, and batch statistics over padded sequences."""
    recurrent = [name for name, network in networks.named_children() if network.is_recurrent]
    if recurrent and not isinstance(buffer, SequenceReplayBuffer | SequenceDatasetBuffer):
        raise ConfigError(
            f"{' and '.join(recurrent)} have a memory and learn from sequences, but batches come from a "
            f"{type(buffer).__name__}: use replay=SequenceReplayBufferCfg(...), or networks without memory."
        )
    if isinstance(buffer, SequenceReplayBuffer | SequenceDatasetBuffer) and uses_batch_statistics(networks):
        raise ConfigError(
            "The networks have batch normalization, and batches are sequences with padding, which would count as "
            "data: use MLPCfg instead of FlashNetCfg, or replay=ReplayBufferCfg(...)."
        )
