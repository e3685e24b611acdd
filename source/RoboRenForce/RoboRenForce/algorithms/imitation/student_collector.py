"""Collector of a student: samples from it, or executes its teacher's action."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ...buffer.transition import ActOut, Field
from ...components.actor import Actor
from ...components.observation import Observations
from ...components.teacher import TeacherLabels
from ...envs.spec import EnvSpec
from ...utils.cuda_graph import GraphMode, graphed


class StudentCollector:
    """`Collector` of a student, with its recurrent state.

    The record of a step holds `start`, bool `(N,)`, where the observation is the first of an episode; of a recurrent
    student `state/actor` `(N, layers, features)` before the step; with `beta`, `teacher_action`.

    Args:
        student: Actor.
        spec: Spec of the environment.
        device: Device of the observations.
        teacher: Its actions are executed with probability `beta`; None: the student always acts.
        beta: Probability, 0-dim, changed in place.
        cuda_graph: Capture of the student's step.
    """

    def __init__(
        self,
        student: Actor,
        spec: EnvSpec,
        device: torch.device,
        teacher: TeacherLabels | None,
        beta: Tensor,
        cuda_graph: GraphMode = "off",
    ) -> None:
        self.student, self.spec, self.teacher, self.beta = student, spec, teacher, beta
        self.policy_version = torch.zeros((), dtype=torch.int64, device=device)
        self.start = torch.ones(spec.num_envs, dtype=torch.bool, device=device)
        """bool `(N,)`, True if the next observation is the first of an episode."""
        state = student.initial_state(spec.num_envs)
        self.state = None if state is None else state.to(device)
        """Recurrent state, `(layers, N, features)`."""
        self.step = graphed(self._sample, device, cuda_graph, "policy step")

    @torch.no_grad()
    def act(self, obs: TensorDict) -> ActOut:
        """Sample an action for each environment, `(N, *action.shape)`, or take the teacher's."""
        action, record, self.state = self.step({name: obs[name] for name in self.student.groups}, self.state)
        if self.teacher is None:
            return ActOut(action, record)
        label = self.teacher.label(obs)
        taught = torch.rand(self.spec.num_envs, device=action.device) < self.beta
        action = torch.where(taught.view(-1, *[1] * (action.dim() - 1)), label, action)
        return ActOut(action, {**record, "teacher_action": label})

    def _sample(self, obs: Observations, state: Tensor | None) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
        distribution, after = self.student(obs, state, self.start)
        record = {"start": self.start.clone(), "policy_version": self.policy_version}
        if state is not None:
            record["state/actor"] = state.transpose(0, 1)
        return distribution.sample(), record, after

    def record_fields(self) -> list[Field]:
        """Return the fields that the update needs beside the observations."""
        action = self.spec.action
        fields = [
            Field("start", (), torch.bool, "the observation is the first of an episode"),
            Field("teacher_action", action.shape, action.dtype, "action of the teacher"),
        ]
        if self.state is not None:
            layers, _, features = self.state.shape
            fields.append(Field("state/actor", (layers, features), torch.float32, "recurrent state before the step"))
        return fields

    def end_step(self, done: Tensor, mask: Tensor | None = None) -> None:
        """Start new episodes where `done` `(N,)` is nonzero; rows with `mask` False keep their state."""
        self.start.copy_(done if mask is None else torch.where(mask, done != 0, self.start))

    def restart_episodes(self) -> None:
        """Start new episodes in all environments at the next step."""
        self.start.fill_(True)
        # Zeros, because a bad observation may have left NaN; a new tensor, because the last record shares the old one.
        self.state = None if self.state is None else torch.zeros_like(self.state)

    def state_dict(self) -> dict[str, Any]:
        """Return episode starts and recurrent state."""
        return {"start": self.start.clone(), "state": None if self.state is None else self.state.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; with another number of environments, start new episodes in all of them."""
        if state["start"].shape != self.start.shape:
            self.restart_episodes()
            return
        self.start.copy_(state["start"])
        if self.state is not None:
            self.state = torch.empty_like(self.state).copy_(state["state"])

    def weights(self) -> dict[str, Any]:
        """Return copies of the student's parameters and statistics."""
        copies = {name: value.clone() for name, value in self.student.state_dict().items()}
        return copies | {"policy_version": self.policy_version.clone(), "beta": self.beta.clone()}

    def load_weights(self, weights: Mapping[str, Any]) -> None:
        """Load `weights`."""
        self.policy_version.copy_(weights["policy_version"])
        self.beta.copy_(weights["beta"])
        own = {name: value for name, value in weights.items() if name not in ("policy_version", "beta")}
        self.student.load_state_dict(own)
