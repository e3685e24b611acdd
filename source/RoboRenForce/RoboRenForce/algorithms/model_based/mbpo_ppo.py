"""PPO in the imagination of a robotic world model (RWM; Li, Krause, Hutter 2025, arXiv 2501.10100).

An iteration takes steps of the real environments with the present policy, fits the model to the replay of such steps,
and takes PPO updates on rollouts of the model. The policy never learns from a real step.

    real environments --steps--> replay --windows--> model --imagined rollouts--> PPO --policy--> real environments

The model may come from recorded data (`init_from`) and be fine-tuned, or left as it is.
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
from ...components.actor_critic import ActorCriticPackCfg
from ...components.exploration import SampleCfg
from ...components.system_dynamics import SystemDynamicsCfg, SystemDynamicsTransformerCfg
from ...configclass import ConfigError, Range, configclass
from ...envs.obs_groups import resolve_obs_groups
from ...utils.stateful import Stateful
from ..algorithm import Algorithm, AlgorithmCfg, RunContext
from ..off_policy.collector import OffPolicyCollector
from ..on_policy.ppo import PPO, PPOCfg
from .fit import DynamicsFit, DynamicsFitCfg
from .imagination_env import ImaginationCfg, ImaginationEnv
from .learner_and_model import LearnerAndModel
from .saved_model import SavedModel
from .starts import recorded_starts
from .step_table import StepTable
from .system_dynamics import build_model, refuse_processes


class MBPOPPO(LearnerAndModel):
    """PPO, a dynamics model, and the replay of real steps that it learns from."""

    cfg: MBPOPPOCfg
    collector: OffPolicyCollector
    obs_sets = ("dynamics", *Algorithm.obs_sets)

    def __init__(self, cfg: MBPOPPOCfg, *, policy: ActorCriticPackCfg, context: RunContext) -> None:
        self.cfg, self.context, spec, device = cfg, context, context.spec, context.device
        refuse_processes(self, context)
        if spec.action.kind != "continuous" or "final_observations" not in spec.extras:
            raise ConfigError(
                f"{type(self).__name__} needs continuous actions and final_observations, and '{spec.task}' has "
                f"{spec.action.kind} actions and the extras {', '.join(spec.extras) or 'none'}: take another task, or "
                "switch them on (env.final_observations=true)."
            )
        self.model = build_model(cfg.model, context)
        if cfg.init_from:
            SavedModel.read(cfg.init_from, trust=cfg.trust).load_into(self.model)
        groups = {name: spec.obs_groups[name] for name in self.model.layout.groups}
        stored = replace(spec, obs_groups=groups)
        self.replay: ReplayBuffer = cfg.replay.build(spec=stored, gamma=cfg.learner.gamma, batch_size=1, device=device)
        self.schema = self.replay.schema
        self.table = StepTable(self.model.layout, spec, self.replay.num_slots, device)
        mode = cfg.learner.cuda_graph
        self.fit: DynamicsFit = cfg.fit.build(model=self.model, table=self.table, seed=context.seed, cuda_graph=mode)
        self.env: ImaginationEnv = cfg.imagination.build(
            model=self.model, spec=spec, num_envs=cfg.imagination_num_envs, seed=context.seed
        )
        policy_sets = {name: list(x) for name, x in context.obs_groups.items() if name != "dynamics"}
        imagined = replace(
            context,
            spec=self.env.spec,
            rollout_steps=cfg.imagination_num_steps_per_env,
            max_updates=context.max_updates * cfg.imagination_updates,
            obs_groups=policy_sets,
        )
        self.learner: PPO = cfg.learner.build(policy=policy, context=imagined)
        self.collector = OffPolicyCollector(
            self.learner.actor,
            SampleCfg().build(spec=spec, device=device),
            spec=spec,
            groups=resolve_obs_groups(spec, ("actor",), policy_sets)["actor"],
            device=device,
            cuda_graph=mode,
        )
        self._iteration = 0

    def process_env_step(self, transition: Transition) -> None:
        """Store a real step."""
        self._store(transition)
        self.collector.end_step(transition.done)

    def _store(self, transition: Transition) -> None:
        self.replay.add({name: transition.value_of(name) for name in self.schema.fields})

    def update(self, data: Iterable[Transition] | None = None) -> dict[str, Tensor]:
        """Fit the model to the real steps, then learn in it; in warm-up iterations the model alone learns."""
        for transition in data or ():
            self._store(transition)
        self._iteration += 1
        self.table.fill_from_replay(self.replay)
        metrics = self._learn_model() if self.cfg.finetune or not self.cfg.init_from else {}
        self.model.eval()
        if self._iteration > self.cfg.model_warmup_iterations:
            metrics |= self._learn_policy()
        return metrics

    def _learn_model(self) -> dict[str, Tensor]:
        """Fit the model to the replay; the units of a model that policies learn in no longer change."""
        is_new = not self.cfg.init_from and self._iteration <= max(self.cfg.model_warmup_iterations, 1)
        return {f"Model/{name.partition('/')[2]}": x for name, x in self.fit.run(measure=is_new).items()}

    @torch.no_grad()
    def _imagine(self) -> None:
        """Fill the rollout of PPO with imagined steps."""
        for _ in range(self.cfg.imagination_num_steps_per_env):
            obs = self.env.get_observations()
            out = self.learner.act(obs)
            returned = self.env.step(out.action)
            self.learner.process_env_step(Transition.of_step(obs, out.action, out.record, returned))

    def _learn_policy(self) -> dict[str, Tensor]:
        """Take the updates of PPO on new imagined episodes; returns the metrics of the last one."""
        env, metrics = self.env, {}
        env.start_from(recorded_starts(self.model, self.table, self.cfg.num_starts, env.generator))
        env.reset()
        self.learner.restart_episodes()
        for _ in range(self.cfg.imagination_updates):
            self._imagine()
            metrics = self.learner.update()
        self.collector.policy_version.add_(1)
        return metrics

    def restart_episodes(self) -> None:
        """Start new episodes in the real environments."""
        self.collector.restart_episodes()

    def stored_steps(self, num_steps: int) -> Mapping[str, Tensor]:
        """Return the newest real steps."""
        return self.replay.newest_steps(num_steps)

    @override
    def close(self) -> None:
        super().close()
        self.collector.close()

    def _parts(self) -> dict[str, Stateful]:
        return {"learner": self.learner, "model": self.model, "fit": self.fit, "replay": self.replay}

    def state_dict(self) -> dict[str, Any]:
        """Return PPO, the model, the progress of its fit, the acting state, and the replay if it is stored."""
        return {name: part.state_dict() for name, part in self._parts().items()} | {
            "collector": self.collector.state_dict(),
            "generator": self.env.generator.get_state(),
            "iteration": self._iteration,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.collector.load_state_dict(state["collector"])
        self.env.generator.set_state(state["generator"].cpu())
        self._iteration = state["iteration"]
        self.collector.policy_version.fill_(max(self._iteration - self.cfg.model_warmup_iterations, 0))


@configclass
class MBPOPPOCfg(AlgorithmCfg):
    """Configuration of `MBPOPPO`; numbers of the model and of imagination are those of RWM."""

    class_type: type = MBPOPPO

    learner: PPOCfg = PPOCfg(entropy_coef=0.005)
    """PPO, whose rollouts are imagined."""
    imagination_num_envs: Annotated[int, Range(ge=1)] = 4096
    """Imagined environments."""
    imagination_num_steps_per_env: Annotated[int, Range(ge=1)] = 24
    """Imagined steps of each between two PPO updates."""
    imagination_updates: Annotated[int, Range(ge=1)] = 4
    """PPO updates per iteration, in imagined episodes that begin with it."""
    imagination: ImaginationCfg = ImaginationCfg(horizon=96)
    """Horizon, known terminations and rewards, and the penalty on disagreement."""
    num_starts: Annotated[int, Range(ge=1)] = 4096
    """Real states, drawn from the replay in every iteration, that imagined episodes start from."""

    model: SystemDynamicsCfg = SystemDynamicsTransformerCfg(termination=True)
    """Dynamics model."""
    fit: DynamicsFitCfg = DynamicsFitCfg(
        batch_size=1024, max_grad_norm=1.0, validation_share=0.0, max_epochs=1, steps_per_epoch=20
    )
    """Gradient steps of the model in an iteration."""
    model_warmup_iterations: Annotated[int, Range(ge=0)] = 0
    """First iterations, in which the model learns and the policy stays as it is."""
    init_from: str = ""
    """Checkpoint, run directory or folder of runs of a dynamics model to begin with; empty: a new one."""
    finetune: bool = True
    """True to go on training the model of `init_from` on real steps."""
    trust: bool = False
    """True if the checkpoint of `init_from` may name any class, False for those of RoboRenForce alone."""
    replay: ReplayBufferCfg = ReplayBufferCfg()
    """Real steps that the model learns from."""

    def check(self) -> Iterable[str]:
        """Check that the replay keeps single steps in order, and that a model that is left as it is exists."""
        if type(self.replay) is not ReplayBufferCfg or self.replay.n_step != 1:
            yield "replay: the model reads windows out of single steps; use ReplayBufferCfg with n_step=1"
        if not self.finetune and not self.init_from:
            yield "finetune: false keeps the model of init_from, which is empty; name a checkpoint, or fine-tune"
        steps, envs = self.imagination_num_steps_per_env, self.imagination_num_envs
        yield from (f"learner.{sentence}" for sentence in self.learner.check_rollout(envs, steps))

    def check_rollout(self, num_envs: int, num_steps: int) -> Iterable[str]:
        """Check that the replay holds at least one step of every environment."""
        if self.replay.capacity < num_envs * num_steps:
            yield (
                f"replay.capacity: {self.replay.capacity} can't hold the {num_envs * num_steps} real steps of an "
                "iteration; use at least as many"
            )
