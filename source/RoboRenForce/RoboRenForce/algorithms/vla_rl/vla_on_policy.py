"""Policy gradients for vision-language-action policies: what GRPO, PPO and REINFORCE++ share.

    rollout: prefix --head--> chunk, record;  reward of each executed action
    advantages of the decisions (or actions): `VLAOnPolicy.targets` of each algorithm
    epochs over mini-batches: clipped surrogate of pi(chunk | prefix) / pi_old, value, entropy, KL to the reference

A decision is one call of the policy: a chunk of which the environment executes the first actions. There is one copy of
the weights, which acts and learns; dropout is off in both, so that the first ratio is 1.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from tensordict import TensorDict
from torch import Tensor

from ...buffer.transition import ActOut, Transition
from ...components.chunk_execution import ChunkExecutorCfg
from ...components.torch_optimizer import TorchOptimizer
from ...components.vla_policy import VLAPolicy, VLAPolicyCfg
from ...components.vla_spec import VLASpec
from ...components.vla_value import ValueHead
from ...configclass import ConfigError
from ...envs.spec import EnvSpec
from ...utils.module_state import load_module_state, module_state
from ...utils.parallelize import make_mesh, parallelize
from ..algorithm import Algorithm, RunContext
from ..functional import executed_mask
from ..vla_training.frozen_weights import frozen_fingerprints, load_policy_state, policy_state
from ..vla_training.reference import Reference
from ..vla_training.vla_policy import VLAPlayPolicy
from .chunk_collector import ChunkCollector
from .chunk_epochs import ChunkEpochs
from .chunk_rollout import ChunkRollout
from .co_training import CoTraining
from .episode_sums import EpisodeSums, Ratio
from .equal_rewards import EqualRewards
from .options import PolicyGradientOptions
from .parity import require_parity
from .policy_gradient import ChunkBatch, PolicyGradientModule
from .rollout_metrics import rollout_metrics
from .sample_store import SampleStore
from .starting_policy import starting_policy
from .waves import Waves

_COMPARED_ROWS = 8
"""Rows that the check of log-probabilities at the start acts for."""


@dataclass
class Targets:
    """What is learned from a rollout, for each of its S decisions."""

    advantage: Tensor
    """`(S,)`, or `(S, E)` of actions."""
    weight: Tensor
    """`(S,)`: 0 for decisions that are left out."""
    returns: Tensor
    """Targets of the value, `(S, 1)` or `(S, E)`; `(S, 0)` without a value head."""
    metrics: dict[str, Tensor]
    """0-dim values to log."""


class VLAOnPolicy(Algorithm):
    """A learner of this family; subclasses say what advantages are and, if they judge, by which value head."""

    cfg: PolicyGradientOptions
    collector: ChunkCollector
    saves_directories = True
    whole_episodes: ClassVar[bool] = True
    """True if a rollout is waves of whole episodes, False if it is a number of steps of episodes that go on."""

    def __init__(self, cfg: PolicyGradientOptions, *, policy: VLAPolicyCfg, context: RunContext) -> None:
        self.cfg, self.context, self.device = cfg, context, context.device
        self.model = starting_policy(policy, cfg, context)
        self.value = self.build_value(self.model)
        self.reference = Reference(self.model) if self.needs_reference() else None
        self._build_training()
        spec = context.spec
        self.sums = EpisodeSums(spec.num_envs, self.device)
        self.waves = None
        if self.whole_episodes:
            max_steps = context.rollout_steps // cfg.max_waves
            self.waves = Waves(spec.num_envs, self.device, max_steps=max_steps)
        self.iteration = torch.zeros((), dtype=torch.int64, device=self.device)
        self.equal_rewards = EqualRewards(self.device, context.distributed)
        self._checked = False
        self.collector = ChunkCollector(
            self.model,
            self.value,
            spec,
            self.device,
            stores_features=self._stores_features(),
            precision=cfg.parallel.mixed_precision,
            cuda_graph=cfg.cuda_graph,
        )
        self._rollout: ChunkRollout | None = None

    # ------------------------------------------------------------------------------------- what algorithms differ in

    @abstractmethod
    def targets(self, rollout: ChunkRollout) -> Targets:
        """Compute advantages and returns of the decisions of a rollout."""

    def build_value(self, policy: VLAPolicy) -> ValueHead | None:
        """Build the head that judges observations, if there is one."""
        return None

    def needs_reference(self) -> bool:
        """Return True if the policy as it is now has to be kept."""
        return bool(self.cfg.kl_coef)

    def trains_policy(self) -> bool:
        """Return False while only the value is trained."""
        return True

    def wants_wave(self, rollout: ChunkRollout) -> bool:
        """Return True if more episodes should be collected before the update; asked after every wave."""
        return False

    # ----------------------------------------------------------------------------------------------------- building

    def _build_training(self) -> None:
        cfg, context = self.cfg, self.context
        head = self.reference.head if self.reference is not None and cfg.kl_coef else None
        module = self.plain_module = PolicyGradientModule(self.model, self.value, cfg, head)
        cfg.optimizer.freeze(module)
        self._frozen = frozen_fingerprints(self.model)
        mesh = make_mesh(context.distributed, self.device)
        # The reference encodes outside of `forward`, in the same precision.
        parallel = cfg.parallel.replace(forward_methods=[*cfg.parallel.forward_methods, "encode"])
        parallel = parallel.replace(kind="ddp") if context.distributed.is_distributed else parallel
        self.module = parallelize(module, mesh, parallel)
        self.module.eval()
        if self.reference is not None:
            self.reference.keep_backbone(self.module)
        steps = context.max_updates * cfg.num_learning_epochs * cfg.num_mini_batches
        optimizer = cfg.optimizer.for_run(steps).build(self.module, distributed=context.distributed)
        self.optimizer = cast(TorchOptimizer, optimizer)  # `check` refuses the flat Adam
        self.co_training = CoTraining(cfg, self.model, context) if cfg.sft_dataset is not None else None
        self.epochs = ChunkEpochs(cfg, self.module, self.optimizer, context.distributed, self.co_training)

    def _stores_features(self) -> bool:
        frozen = self.model.backbone.is_frozen
        if self.cfg.store == "features" and not frozen:
            raise ConfigError(
                "algorithm.store is 'features', and the backbone, which computes them, is trained: set it to auto."
            )
        return frozen if self.cfg.store == "auto" else self.cfg.store == "features"

    @property
    def rollout(self) -> ChunkRollout:
        """The current rollout; its memory is taken when the first step is stored."""
        if self._rollout is None:
            cfg, spec, steps = self.cfg, self.context.spec, self.context.rollout_steps
            store = SampleStore(steps * spec.num_envs, self.device, cfg.sample_place)
            self._rollout = ChunkRollout(
                spec,
                steps,
                store,
                value_width=self.value_width,
                reward_coef=cfg.reward_coef,
                step_penalty=cfg.step_penalty,
                relative_reward=cfg.relative_reward,
            )
        return self._rollout

    @property
    def value_width(self) -> int:
        """Values of a decision: none, one, or one per action that the environment executes."""
        if self.value is None:
            return 0
        return max(self.context.spec.action.chunk, 1) if self.value.cfg.per_action else 1

    # --------------------------------------------------------------------------------------------------- collecting

    def act(self, obs: TensorDict) -> ActOut:
        """Choose chunks for the rows that act; others get zeros."""
        if not self._checked:
            self._require_parity(obs)
        self.collector.rows = None if self.waves is None else self.waves.rows
        return self.collector.act(obs)

    def _require_parity(self, obs: TensorDict) -> None:
        """Check once that ratios begin at 1."""
        seen = {name: obs[name][:_COMPARED_ROWS] for name in self.collector.groups}
        require_parity(self.model, seen, precision=self.cfg.parallel.mixed_precision)
        self._checked = True

    @torch.no_grad()
    def process_env_step(self, transition: Transition) -> None:
        """Store a step of the rows that acted."""
        waves = self.waves
        mask = torch.ones_like(transition.done, dtype=torch.bool) if transition.mask is None else transition.mask
        if waves is not None:
            mask = mask & waves.running
        self.rollout.add(transition, mask, wave=0 if waves is None else waves.wave)
        self.sums.add(transition, mask)
        self.after_step(transition, mask)
        if waves is not None:
            waves.end_step(transition.done)
            if waves.is_over and self.wants_wave(self.rollout):
                waves.next_wave()
        self.collector.end_step(transition.done)

    def after_step(self, transition: Transition, mask: Tensor) -> None:
        """Do what else a stored step needs."""

    @property
    def running(self) -> Tensor:
        """bool `(N,)`: rows that the environment has to step; the others are held."""
        if self.waves is None:
            return torch.ones(self.context.spec.num_envs, dtype=torch.bool, device=self.device)
        return self.waves.running

    @property
    def is_collecting(self) -> bool:
        """True until a rollout is complete."""
        return self.rollout.step < self.rollout.num_steps if self.waves is None else not self.waves.is_over

    def episode_ratios(self) -> dict[str, Ratio]:
        """Return statistics of the episodes that ended since the last call, as (sum, count)."""
        return self.sums.collect()

    def frames(self) -> int:
        """Return the environment steps since the last call, as a mean over processes, which take different numbers."""
        return self.sums.frames(self.context.distributed)

    # ----------------------------------------------------------------------------------------------------- learning

    def update(self, data: Iterable[Transition] | None = None) -> dict[str, Tensor]:
        """Take epochs of clipped gradient steps on the rollout; returns 0-dim metrics on the device."""
        for transition in data or ():
            self.process_env_step(transition)
        rollout = self.rollout
        self.model.preprocessing.instructions.require_known()  # on a GPU nothing else would tell
        rollout.end()
        with torch.no_grad():
            found = self.targets(rollout)
            batch = ChunkBatch(
                samples={},
                executed=self.counted_actions(rollout),
                advantage=found.advantage,
                weight=found.weight,
                value=rollout.decisions(rollout.values),
                target=found.returns,
            )
        metrics = self.epochs.run(rollout.store, batch, self.reference, trains_policy=self.trains_policy())
        rewards, executed = rollout.rewards[: rollout.step], rollout.executed[: rollout.step]
        self.equal_rewards.add(rewards, executed_mask(executed, rollout.chunk))
        metrics |= found.metrics | rollout_metrics(rollout, batch) | self.equal_rewards.metrics()
        self.equal_rewards.restart()
        rollout.restart()
        if self.waves is not None:
            self.waves.restart()
        self.iteration += 1
        self.collector.policy_version.add_(1)
        return metrics

    def counted_actions(self, rollout: ChunkRollout) -> Tensor:
        """Actions of each decision whose log-probability counts: all where densities are those of whole chunks."""
        executed = rollout.decisions(rollout.executed)
        return torch.full_like(executed, self.model.chunk_size) if self.model.head.only_whole_chunks else executed

    def warnings(self, metrics: Mapping[str, float]) -> Iterable[str]:
        """Say once that nothing has been learned for a while, because there was nothing to compare."""
        return self.equal_rewards.warnings(metrics)

    # ------------------------------------------------------------------------------------------------------ playing

    def policy(self, env: EnvSpec | None = None, execution: ChunkExecutorCfg | None = None) -> VLAPlayPolicy:
        """The policy in an environment; None: the one that it learns in, with the environment's chunks."""
        return VLAPlayPolicy(self.model, env or self.context.spec, execution=execution)

    def add_instructions(self, texts: Iterable[str]) -> None:
        """Let the policy follow more texts."""
        known = self.model.preprocessing.instructions.table.values()
        if new := [text for text in texts if text not in known]:
            self.model.add_instructions(new)
            self.collector.release()  # captured graphs read the old table

    # -------------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """Return trained weights, optimizer, reference and what goes on between two iterations."""
        left_out = self._frozen if self.cfg.checkpoints == "trained" else ()
        return {
            "spec": self.model.spec.to_dict(),
            **policy_state(self.model, self._frozen, left_out),
            "value": None if self.value is None else module_state(self.value),
            "optimizer": self.optimizer.state_dict(),
            "reference": None if self.reference is None else self.reference.state_dict(),
            "co_training": None if self.co_training is None else self.co_training.state_dict(),
            "iteration": self.iteration.clone(),
            "silent": self.equal_rewards.count,
            **self.local_state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; with another number of environments, start new episodes in all of them."""
        self.model.add_instructions(VLASpec.from_dict(state["spec"]).instructions)
        load_policy_state(self.model, self._frozen, state)
        for name, part in (("value", self.value), ("reference", self.reference), ("co_training", self.co_training)):
            if (part is None) != (state[name] is None):
                raise ValueError(f"the checkpoint has {'no' if state[name] is None else 'a'} {name}, unlike this run")
        if self.value is not None:
            load_module_state(self.value, state["value"])
        if self.reference is not None:
            self.reference.load_state_dict(state["reference"])
        if self.co_training is not None:
            self.co_training.load_state_dict(state["co_training"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration.copy_(state["iteration"])
        self.collector.policy_version.copy_(self.iteration)
        self.equal_rewards.count = state["silent"]
        self.load_local_state_dict(state)

    def local_state_dict(self) -> dict[str, Any]:
        """Return what is known of the running episodes."""
        return {"rollout": self.rollout.state_dict(), "sums": self.sums.state_dict()}

    def load_local_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `local_state_dict`."""
        self.rollout.load_state_dict(state["rollout"])
        self.sums.load_state_dict(state["sums"])

    def restart_episodes(self) -> None:
        """Start new episodes in all rows, and discard the rollout."""
        self.rollout.restart_episodes()
        self.sums.restart()
        self.collector.restart_episodes()
        if self.waves is not None:
            self.waves.restart()

    def stored_steps(self, num_steps: int) -> Mapping[str, Tensor]:
        """See `Algorithm.stored_steps`."""
        return self.rollout.stored(num_steps)

    def train(self) -> None:
        """Do nothing: dropout stays off, see the module."""

    def eval(self) -> None:
        """Do nothing: dropout is off, see the module."""

    def close(self) -> None:
        """Free captured graphs and the workers of the demonstrations."""
        self.collector.release()
        if self.co_training is not None:
            self.co_training.close()
