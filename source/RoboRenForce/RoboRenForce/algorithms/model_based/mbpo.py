"""Model-based policy optimization: off-policy learning mostly from short imagined rollouts.

Janner et al. 2019 (arXiv 1906.08253). After every `model_interval` environment steps an ensemble is fitted to all real
transitions; then the present policy is rolled out for k steps in it, from states of the real replay (branches). Any
off-policy learner of transitions, SAC by default, takes its batches from both:

    batch = real_ratio * B real transitions  +  (1 - real_ratio) * B imagined ones

k grows linearly in the number of environment steps, as the model's error shrinks. Imagined transitions of the last
`retained` rollouts are kept. A branch that terminates is followed by another one, from another real state.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any

import torch
from torch import Tensor
from typing_extensions import override

from ...buffer.replay import ReplayBuffer, ReplayBufferCfg
from ...buffer.transition import Transition
from ...components.actor_q import ActorQPackCfg
from ...components.system_dynamics import SystemDynamicsCfg, SystemDynamicsMLPCfg
from ...configclass import ConfigError, Range, configclass
from ...envs.spec import EnvSpec
from ...utils.stateful import Stateful
from ..algorithm import AlgorithmCfg, RunContext
from ..off_policy.off_policy_algorithm import OffPolicyAlgorithm, OffPolicyAlgorithmCfg
from ..off_policy.sac import SACCfg
from .fit import DynamicsFit, DynamicsFitCfg
from .imagination_env import ImaginationCfg, ImaginationEnv
from .learner_and_model import LearnerAndModel
from .starts import recorded_starts
from .step_table import StepTable
from .system_dynamics import build_model, refuse_processes


class MBPO(LearnerAndModel):
    """An off-policy learner, a dynamics model, and the replay of imagined transitions between them."""

    cfg: MBPOCfg

    def __init__(self, cfg: MBPOCfg, *, policy: ActorQPackCfg, context: RunContext) -> None:
        self.cfg, self.context, device, spec = cfg, context, context.device, context.spec
        refuse_processes(self, context)
        real = max(1, round(cfg.real_ratio * cfg.learner.batch_size))
        learner_cfg = cfg.learner.replace(batch_size=real)
        self.learner: OffPolicyAlgorithm = learner_cfg.build(policy=policy, context=context)
        self.collector, self.schema = self.learner.collector, self.learner.schema
        replay: ReplayBuffer = self.learner.experience.buffer
        self.model = build_model(cfg.model, context)
        self.table = StepTable(self.model.layout, spec, replay.num_slots, device)
        mode = cfg.learner.cuda_graph
        self.fit: DynamicsFit = cfg.fit.build(model=self.model, table=self.table, seed=context.seed, cuda_graph=mode)
        self.env: ImaginationEnv = cfg.imagination.build(
            model=self.model, spec=spec, num_envs=cfg.num_rollouts, seed=context.seed
        )
        longest = max(cfg.rollout_length, cfg.final_rollout_length)
        groups = {name: spec.obs_groups[name] for name in replay.spec.obs_groups}
        rollouts_cfg = _RolloutsCfg(capacity=cfg.num_rollouts * longest * cfg.retained, store=cfg.learner.replay.store)
        self.rollouts: _Rollouts = rollouts_cfg.build(
            spec=_with_groups(self.env, groups),
            gamma=cfg.learner.gamma,
            batch_size=max(1, cfg.learner.batch_size - real),
            device=device,
        )
        if real < cfg.learner.batch_size:
            self.learner.experience.beside = self.rollouts.sample
        self._fitted_at: int | None = None
        """Real transitions at the last fit; None: before the first one, or without its rollouts."""
        self._metrics: dict[str, Tensor] = {}

    def process_env_step(self, transition: Transition) -> None:
        """See `OffPolicyAlgorithm.process_env_step`."""
        self.learner.process_env_step(transition)

    def update(self, data: Iterable[Transition] | None = None) -> dict[str, Tensor]:
        """Fit the model and imagine if it is time, then take the learner's gradient steps."""
        experience = self.learner.experience
        for transition in data or ():
            experience.add(transition)
        if not experience.is_enough:
            return {}
        if self._fitted_at is None or experience.num_stored - self._fitted_at >= self.cfg.model_interval:
            self._metrics = self._learn_model()
            self._imagine(self.rollout_length)
            self._fitted_at = experience.num_stored
        return self.learner.update() | self._metrics

    @property
    def rollout_length(self) -> int:
        """k, steps of an imagined rollout at the present number of real transitions."""
        cfg, steps = self.cfg, self.learner.experience.num_stored
        first, last = cfg.growth
        share = min(max((steps - first) / max(last - first, 1), 0.0), 1.0)
        return round(cfg.rollout_length + share * (cfg.final_rollout_length - cfg.rollout_length))

    def _learn_model(self) -> dict[str, Tensor]:
        """Fit the ensemble to all real transitions; returns metrics."""
        self.table.fill_from_replay(self.learner.experience.buffer)
        metrics = self.fit.run()
        numbers = {"Model/epochs": self.fit.epoch, "Model/rollout_length": self.rollout_length}
        device = self.context.device
        return metrics | {name: torch.tensor(float(number), device=device) for name, number in numbers.items()}

    @torch.no_grad()
    def _imagine(self, length: int) -> None:
        """Roll the policy out from real states, and store every step."""
        env, policy = self.env, self.learner.policy()
        policy.deterministic = False
        env.start_from(recorded_starts(self.model, self.table, env.num_envs, env.generator))
        self.rollouts.keep(length * env.num_envs * self.cfg.retained)
        obs, _ = env.reset()
        for step in range(length):
            action = policy(obs)
            following, reward, done, extras = env.step(action)
            record: dict[str, Any] = {f"obs/{name}": value for name, value in obs.items()}
            record |= {f"next_obs/{name}": value for name, value in extras["final_observations"].items()}
            ended = torch.ones_like(done) if step == length - 1 else done
            record |= {"action": action, "reward": reward, "terminated": extras["terminated"], "done": ended}
            self.rollouts.add(record)
            obs = following

    def restart_episodes(self) -> None:
        """See `OffPolicyAlgorithm.restart_episodes`."""
        self.learner.restart_episodes()

    def stored_steps(self, num_steps: int) -> Mapping[str, Tensor]:
        """See `OffPolicyAlgorithm.stored_steps`."""
        return self.learner.stored_steps(num_steps)

    def warnings(self, metrics: Mapping[str, float]) -> Iterable[str]:
        """See `OffPolicyAlgorithm.warnings`."""
        return self.learner.warnings(metrics)

    def _parts(self) -> dict[str, Stateful]:
        return {"learner": self.learner, "model": self.model, "fit": self.fit, "rollouts": self.rollouts}

    def state_dict(self) -> dict[str, Any]:
        """Return learner, model, the progress of its fit, and imagined transitions if real ones are stored."""
        return {name: part.state_dict() for name, part in self._parts().items()} | {
            "generator": self.env.generator.get_state(),
            "fitted_at": self._fitted_at,
            "metrics": {name: value.clone() for name, value in self._metrics.items()},
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; without the imagined transitions, the next update begins with a fit."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.env.generator.set_state(state["generator"].cpu())
        device = self.context.device
        self._metrics = {name: value.to(device) for name, value in state["metrics"].items()}
        self._fitted_at = state["fitted_at"] if len(self.rollouts) else None
        self.rollouts.keep(self.rollout_length * self.env.num_envs * self.cfg.retained)


class _Rollouts(ReplayBuffer):
    """Imagined transitions, of which only the newest are drawn: the capacity is that of the longest rollouts."""

    def __init__(self, cfg: ReplayBufferCfg, **runtime: Any) -> None:
        super().__init__(cfg, **runtime)
        self._kept = torch.full_like(self._stored, self.num_slots)

    def keep(self, count: int) -> None:
        """Draw from the newest `count` transitions from now on."""
        self._kept.fill_(count)

    @override
    def _draw(self) -> Tensor:
        count = torch.minimum(self._stored, self._kept)
        age = torch.rand(self.batch_size, dtype=torch.float64, device=self.device).mul_(count).long()
        return (self._newest_slot - age) % self.num_slots


@configclass
class _RolloutsCfg(ReplayBufferCfg):
    class_type: type = _Rollouts


@configclass
class MBPOCfg(AlgorithmCfg):
    """Configuration of MBPO. Defaults are those of the paper for HalfCheetah."""

    class_type: type = MBPO

    learner: OffPolicyAlgorithmCfg = SACCfg(gradient_steps=10, learning_starts=5000)
    """Off-policy learner of transitions; `gradient_steps` is G, updates per environment step (of `train_freq`)."""
    real_ratio: Annotated[float, Range(ge=0, le=1)] = 0.05
    """Share of real transitions in a batch, at least one."""

    model: SystemDynamicsCfg = SystemDynamicsMLPCfg()
    """Dynamics model."""
    fit: DynamicsFitCfg = DynamicsFitCfg()
    """How it is fitted, each time from the weights that it has."""
    model_interval: Annotated[int, Range(ge=1)] = 250
    """Real transitions between two fits, over all environments."""

    imagination: ImaginationCfg = ImaginationCfg()
    """Known terminations and rewards, penalty, and which member predicts."""
    num_rollouts: Annotated[int, Range(ge=1)] = 100_000
    """Imagined rollouts side by side after each fit."""
    rollout_length: Annotated[int, Range(ge=1)] = 1
    """k, steps of a rollout at the start."""
    final_rollout_length: Annotated[int, Range(ge=1)] = 1
    """k at the end of its growth."""
    growth: tuple[int, int] = (0, 1)
    """Real transitions at which k begins and ends to grow."""
    retained: Annotated[int, Range(ge=1)] = 4
    """Fits whose rollouts are kept; the paper keeps those of 1,000 steps."""

    def check(self) -> Iterable[str]:
        """Check that the learner takes plain transitions, and that k grows forwards."""
        replay = self.learner.replay
        if type(replay) is not ReplayBufferCfg or replay.n_step != 1:
            yield "learner.replay: imagined rollouts are single transitions; use ReplayBufferCfg with n_step=1"
        if self.learner.max_return is not None:
            yield "learner.max_return: scales real rewards only; leave it null"
        if self.growth[1] <= self.growth[0]:
            yield f"growth: {self.growth} ends before it begins; give the smaller number first"

    def check_rollout(self, num_envs: int, num_steps: int) -> Iterable[str]:
        """See `OffPolicyAlgorithmCfg.check_rollout`."""
        return (f"learner.{sentence}" for sentence in self.learner.check_rollout(num_envs, num_steps))


def _with_groups(env: ImaginationEnv, groups: Mapping[str, tuple[int, ...]]) -> EnvSpec:
    """Return the spec of `env` with the groups that the policy reads, all of which the model has to predict."""
    if missing := sorted({*groups} - {*env.spec.obs_groups}):
        raise ConfigError(
            f"The policy reads {missing}, which the model does not predict: add them to obs_groups.dynamics."
        )
    return replace(env.spec, obs_groups=groups)
