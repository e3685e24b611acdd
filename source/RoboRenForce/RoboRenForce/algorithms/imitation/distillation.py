"""Distillation of a teacher into a student that observes something else: online DAgger.

Ross, Gordon, Bagnell 2011 (arXiv 1011.0686), with the conventions of legged robotics (rsl_rl, arXiv 2509.10771): the
student acts, the frozen teacher labels the same states from its own observations, and the student regresses on the
labels. With `beta` the teacher's action is executed with that probability.

A recurrent student learns from sequences in the order of time, with gradients truncated after `gradient_length` steps:

    step           0 ... g-1 | g ... 2g-1 | ... | the rest
    state    stored by act --'-- detached -'------ resets where an episode starts

Differences from rsl_rl: the loss is the mean over these steps and not their sum, so the learning rate does not depend
on `gradient_length`; the steps after the last multiple of it count too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from torch import Tensor

from ...buffer.rollout import Epochs, RolloutBatch, RolloutBuffer
from ...buffer.transition import Transition, TransitionSchema
from ...components.lr_schedule import linear_
from ...components.optimizer import FlatAdam
from ...components.student_teacher import StudentTeacherCfg
from ...components.teacher import TeacherLabels
from ...configclass import Range, configclass
from ...envs.obs_groups import resolve_obs_groups
from ...utils.cuda_graph import GraphMode, graphed, release
from ...utils.errors import UserError
from ...utils.precision import Precision, autocast, set_matmul_precision
from ..actor_policy import ActorPolicy
from ..algorithm import Algorithm, AlgorithmCfg, RunContext, require_policy
from ..functional import masked_mean
from ..functional.imitation_loss import ImitationLoss, imitation_loss
from .student_collector import StudentCollector


class Distillation(Algorithm):
    """Owner of student, rollout, optimizer and normalizer; the teacher stays in its file."""

    cfg: DistillationCfg
    collector: StudentCollector
    obs_sets: ClassVar[tuple[str, ...]] = ("actor",)

    def __init__(self, cfg: DistillationCfg, *, policy: StudentTeacherCfg, context: RunContext) -> None:
        self.cfg, self.context, self.device, self.distributed = cfg, context, context.device, context.distributed
        require_policy(self, policy, StudentTeacherCfg)
        spec = context.spec
        groups = resolve_obs_groups(spec, ("actor",), context.obs_groups)["actor"]
        self.networks = policy.build(spec=spec, groups=groups).to(self.device)
        self.student = self.networks.student
        set_matmul_precision(cfg.precision, self.device)
        for tensor in [*self.networks.parameters(), *self.networks.buffers()]:
            self.distributed.broadcast_(tensor.data)
        self.optimizer = FlatAdam(
            {"student": self.student.parameters()},
            learning_rate=cfg.learning_rate,
            max_grad_norm=cfg.max_grad_norm,
            distributed=self.distributed,
        )
        self.iteration = torch.zeros((), device=self.device)
        self.beta = torch.tensor(cfg.beta, device=self.device)
        self.teacher = TeacherLabels(policy.teacher_cfg, spec, self.device)
        mixing = self.teacher if cfg.beta > 0 else None
        self.collector = StudentCollector(self.student, spec, self.device, mixing, self.beta, cfg.cuda_graph)
        self.schema = TransitionSchema.of(spec, groups, next_obs=False, record=self.collector.record_fields())
        self.buffer = RolloutBuffer(self.schema, context.rollout_steps, self.device)
        self.num_steps = 0
        """Number of stored steps."""
        self.epochs = Epochs.of(cfg, self.buffer, True, whole=False)
        self._learn_step = graphed(self._learn, self.device, cfg.cuda_graph, "update")

    @torch.no_grad()
    def process_env_step(self, transition: Transition) -> None:
        """Label and store a step."""
        self._store(transition)
        self.collector.end_step(transition.done, transition.mask)

    def _store(self, transition: Transition) -> None:
        if self.num_steps == self.buffer.num_steps:
            raise UserError(f"A rollout has {self.num_steps} steps, got one more: call update() after each rollout.")
        record = transition.record
        if "teacher_action" not in record:
            record = {**record, "teacher_action": self.teacher.label(transition.obs)}
        self.teacher.end_step(transition.done, transition.mask)
        if self.num_steps == 0:
            self.buffer.write_states(record)
        self.buffer.add(replace(transition, record=record))
        self.num_steps += 1

    def update(self, data: Iterable[Transition] | None = None) -> dict[str, Tensor]:
        """Take gradient steps on the rollout, in the order of time; returns 0-dim metrics on the device."""
        for transition in data or ():
            self._store(transition)
        self.epochs.shuffle()
        metrics = self._learn_step()
        self.buffer.restart()
        self.num_steps = 0
        return dict(metrics)

    def _learn(self) -> dict[str, Tensor]:
        cfg, history = self.cfg, []
        if cfg.schedule == "linear":
            linear_(self.optimizer.lr, cfg.learning_rate, cfg.min_lr, self.iteration, self.context.max_updates)
        for batch in self.epochs:
            # Every pass begins with the state that the student had when the rollout began.
            state = batch.states.get("actor")
            for first in range(0, self.buffer.num_steps, cfg.gradient_length):
                steps = slice(first, first + cfg.gradient_length)
                loss, state = self.loss(batch.map(lambda tensor, steps=steps: tensor[steps]), state)
                self.optimizer.backward(loss)
                state = None if state is None else state.detach()
                norms = self.optimizer.step()
                history.append({"Loss/imitation": loss.detach(), "Policy/grad_norm_student": norms["student"]})
        return self._end_update(history)

    def loss(self, batch: RolloutBatch, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the mean distance to the teacher over steps `(T, B)` from `state`, and the state after them."""
        with autocast(self.cfg.precision, self.device):
            distribution, state = self.student(batch.obs, state, batch.start)
        error = imitation_loss(distribution, batch.record["teacher_action"], self.cfg.loss)
        return masked_mean(error, batch.mask), state

    @torch.no_grad()
    def _end_update(self, history: list[dict[str, Tensor]]) -> dict[str, Tensor]:
        """Update normalizer and schedule, and average the metrics."""
        cfg = self.cfg
        self.student.update_normalizer(self.buffer.obs, self.distributed, self.buffer.mask)
        metrics = {name: torch.stack([step[name] for step in history]).mean() for name in history[0]}
        metrics |= {"Policy/beta": self.beta.clone(), "Policy/skipped_steps": self.optimizer.skipped.clone()}
        metrics["Loss/learning_rate"] = self.optimizer.lr.clone()
        self.iteration.add_(1.0)
        self.collector.policy_version.add_(1)
        if cfg.beta_schedule == "linear":
            linear_(self.beta, cfg.beta, cfg.final_beta, self.iteration, cfg.beta_updates or self.context.max_updates)
        else:
            self.beta.copy_((cfg.beta * cfg.beta_decay**self.iteration).clamp(min=cfg.final_beta))
        return metrics

    def policy(self) -> ActorPolicy:
        """Return the student for play and export; it shares its parameters with the learner."""
        return ActorPolicy(self.student)

    def stored_steps(self, num_steps: int) -> Mapping[str, Tensor]:
        """Return the current rollout, see `Algorithm.stored_steps`."""
        return {name: rows[:num_steps] for name, rows in self.buffer.rows.items()}

    def train(self) -> None:
        """Switch the student to training mode."""
        self.networks.train()

    def eval(self) -> None:
        """Switch the student to evaluation mode."""
        self.networks.eval()

    def close(self) -> None:
        """Free the captured graphs."""
        release(self.collector.step, self._learn_step)

    def restart_episodes(self) -> None:
        """Reset recurrent states at the next step, and discard the rollout."""
        self.collector.restart_episodes()
        self.teacher.restart_episodes()
        self.buffer.restart()
        self.num_steps = 0

    def state_dict(self) -> dict[str, Any]:
        """Return student, optimizer, schedule, episode starts and recurrent states."""
        return {
            "networks": self.networks.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "iteration": self.iteration.clone(),
            "beta": self.beta.clone(),
            "collector": self.collector.state_dict(),
            "teacher": self.teacher.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; with another number of environments, reset recurrent states."""
        self.networks.load_state_dict(state["networks"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.iteration.copy_(state["iteration"])
        self.beta.copy_(state["beta"])
        self.collector.policy_version.copy_(self.iteration)
        self.collector.load_state_dict(state["collector"])
        self.teacher.load_state_dict(state["teacher"])


@configclass
class DistillationCfg(AlgorithmCfg):
    """Configuration of distillation. Defaults are those of rsl_rl where it has the option."""

    class_type: type = Distillation

    # objective
    loss: ImitationLoss = "mse"
    """Distance between student and teacher: of the modes (mse, huber), or the likelihood of the teacher's action."""
    beta: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Initial probability of executing the teacher's action instead of the student's, drawn for each step."""
    final_beta: Annotated[float, Range(ge=0, le=1)] = 0.0
    """Final probability: end of the linear schedule, lower bound of the exponential one."""
    beta_schedule: Literal["linear", "exponential"] = "exponential"
    """Schedule of the probability: linear in the number of updates, or multiplied by `beta_decay` after each."""
    beta_decay: Annotated[float, Range(gt=0, le=1)] = 0.98
    """Factor of the exponential schedule."""
    beta_updates: Annotated[int, Range(ge=1)] | None = None
    """Updates after which the linear schedule ends; None: those of the run."""

    # optimization
    gradient_length: Annotated[int, Range(ge=1)] = 15
    """Steps of a sequence per gradient step; gradients of a recurrent student reach no further back."""
    num_learning_epochs: Annotated[int, Range(ge=1)] = 1
    """Passes over the rollout per update."""
    num_mini_batches: Annotated[int, Range(ge=1)] = 1
    """Groups of environments per pass; has to divide their number."""
    shuffle: Literal["epoch", "once", "none"] = "none"
    """Assignment of environments to groups: anew for every pass, for every update, or fixed."""
    learning_rate: Annotated[float, Range(gt=0)] = 1e-3
    """Initial learning rate."""
    schedule: Literal["fixed", "linear"] = "fixed"
    """linear: down to `min_lr` over the run. Labels of a few steps are noisy, and a fixed rate follows their noise."""
    min_lr: Annotated[float, Range(ge=0)] = 1e-5
    """Final learning rate of the linear schedule."""
    max_grad_norm: Annotated[float, Range(gt=0)] | None = None
    """Maximum gradient norm; None: no bound."""

    # speed
    cuda_graph: GraphMode = "auto"
    """Capture the student's step and the update; `auto` falls back with the reason in the log."""
    precision: Precision = "tf32"
    """Precision of the student in the update: fp32, tf32 or bf16."""

    def check(self) -> Iterable[str]:
        """Check that the schedules go down."""
        if self.schedule == "linear" and self.min_lr > self.learning_rate:
            yield f"min_lr: {self.min_lr} is above learning_rate={self.learning_rate}; swap them"
        if self.final_beta > self.beta:
            yield f"final_beta: {self.final_beta} is above beta={self.beta}; swap them"

    def check_rollout(self, num_envs: int, num_steps: int) -> Iterable[str]:
        """Check that the environments can be divided into groups."""
        if num_envs % self.num_mini_batches:
            yield f"num_mini_batches: {self.num_mini_batches} does not divide {num_envs} environments; use a divisor"
