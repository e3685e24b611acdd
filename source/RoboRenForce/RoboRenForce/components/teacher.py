"""Frozen policy that labels what a student sees: the actor of a checkpoint, with the observations of its own training.

A teacher may read other groups than the student, such as the simulator's state. It is loaded when the first label is
asked for: a student that is only played needs no teacher.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..configclass import Cfg, configclass
from ..envs.obs_groups import BLOCK, PREVIOUS_ACTION, resolve_obs_groups
from ..envs.spec import EnvSpec
from ..utils.checkpoint import load_checkpoint
from ..utils.errors import CheckpointError, ConfigError, SpecMismatch
from ..utils.run_dir import RunDir, newest_run, resolve_checkpoint
from ..utils.seeding import seeded
from .actor import Actor
from .observation import Observations


@configclass
class _SavedAgent(Cfg):
    """The part of a run's configuration that an actor is built from."""

    policy: Cfg | None = None
    obs_groups: dict[str, list[str]] = {}


_SCHEMA = {"spec": dict, "config": {"agent": dict}, "algorithm": {"networks": dict}}


class Teacher(nn.Module):
    """Actor of one of our checkpoints: of PPO and its relatives, SAC, TD3, cloning or distillation.

    `teacher(obs, state, starts) -> (action, state)`, the mode of its distribution and the next recurrent state. Modes
    beyond the bounds of the action space are not clipped: how far beyond says how sure the teacher is.

    Args:
        cfg: Configuration.
        spec: Spec of the environment that it labels.
    """

    def __init__(self, cfg: TeacherCfg, *, spec: EnvSpec) -> None:
        super().__init__()
        if not cfg.checkpoint:
            raise ConfigError(
                "There is no teacher: name a checkpoint or a run directory, policy.teacher_cfg.checkpoint=PATH."
            )
        # It is loaded in the middle of a run, whose random numbers its initial weights must not take.
        with seeded(0):
            self.actor = self.load_actor(cfg, spec).requires_grad_(False).eval()
        self._names = {name: cfg.groups.get(name, name) for name in self.actor.spec.obs_groups}
        self._require_fit(cfg, spec)
        self.eval()

    @property
    def is_recurrent(self) -> bool:
        """True if its actions depend on a recurrent state."""
        return self.actor.is_recurrent

    @property
    def groups(self) -> list[str]:
        """Groups of the environment that it reads."""
        return [self._names[name] for name in self.actor.groups if name != BLOCK]

    def initial_state(self, num_envs: int) -> Tensor | None:
        """Return the zero state `(L, num_envs, S)`, None if it is not recurrent."""
        return self.actor.initial_state(num_envs)

    @torch.no_grad()
    def forward(
        self, obs: Observations, state: Tensor | None = None, starts: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the actions `(..., *action.shape)` for observations with at least `groups`, and the next state."""
        # Without the group `block`, the teacher that learned in blocks is its leader.
        own = {name: obs[self._names[name]] for name in self.actor.groups if name != BLOCK}
        output, state = self.actor.evaluate(own, state, starts)
        return self.actor.mode(output), state

    def train(self, mode: bool = True) -> Teacher:
        """Stay in evaluation mode: nothing about a teacher changes."""
        return super().train(False)

    def load_actor(self, cfg: TeacherCfg, spec: EnvSpec) -> Actor:
        """Build the actor of the checkpoint, with the spec that it was trained with."""
        path = newest_checkpoint(Path(cfg.checkpoint))
        data = load_checkpoint(path, schema=_SCHEMA)
        there = EnvSpec.from_dict(data["spec"])
        known = {name: data["config"]["agent"].get(name) for name in ("policy", "obs_groups")}
        agent: Any = _SavedAgent.from_dict({name: x for name, x in known.items() if x}, trust=cfg.trust)
        name = "actor" if hasattr(agent.policy, "actor_cfg") else "student"
        actor_cfg = getattr(agent.policy, f"{name}_cfg", None)
        if actor_cfg is None or PREVIOUS_ACTION in there.obs_groups:
            raise CheckpointError(
                f"'{path}' holds no actor that acts on observations alone, but a {type(agent.policy).__name__}: take a "
                "checkpoint of PPO, SAC, TD3, BC or a distillation."
            )
        groups = resolve_obs_groups(there, ("actor",), agent.obs_groups)["actor"]
        if actor_cfg.block_features is not None and BLOCK in there.obs_groups and BLOCK not in groups:
            groups = [*groups, BLOCK]
        actor = actor_cfg.build(spec=there, groups=groups)
        prefix = f"{name}."
        state = {
            key.removeprefix(prefix): x for key, x in data["algorithm"]["networks"].items() if key.startswith(prefix)
        }
        try:
            actor.load_state_dict(state)
        except RuntimeError as error:
            raise CheckpointError(f"'{path}' does not fit its own configuration: {error}; take another one.") from error
        return actor

    def _require_fit(self, cfg: TeacherCfg, spec: EnvSpec) -> None:
        """Refuse an environment with other observations or actions than the teacher was trained on."""
        there = self.actor.spec
        for name in self.actor.groups:
            here = spec.obs_groups.get(self._names[name])
            if name != BLOCK and here != there.obs_groups[name]:
                raise SpecMismatch(
                    f"The teacher of '{cfg.checkpoint}' reads '{name}' {tuple(there.obs_groups[name])}, and "
                    f"'{spec.task}' has '{self._names[name]}' {here}: name the group that holds it, "
                    f"policy.teacher_cfg.groups={{{name}: ...}} ({', '.join(spec.obs_groups)})."
                )
        if (there.action.kind, there.action.shape) != (spec.action.kind, spec.action.shape):
            raise SpecMismatch(
                f"The teacher of '{cfg.checkpoint}' chooses {there.action.kind} actions {there.action.shape}, and "
                f"'{spec.task}' takes {spec.action.kind} ones {spec.action.shape}: take a teacher of the same robot."
            )


@configclass
class TeacherCfg(Cfg):
    """Configuration of a `Teacher`."""

    class_type: type = Teacher
    checkpoint: str = ""
    """Checkpoint, run directory, or folder of runs; of several the newest is taken."""
    groups: dict[str, str] = {}
    """Group that the teacher was trained on -> group of this environment, where the names differ."""
    trust: bool = False
    """True if the checkpoint may name any class, False for those of RoboRenForce alone."""


def newest_checkpoint(target: Path) -> Path:
    """Return the checkpoint of a run, or of the newest run in a folder of runs."""
    if target.is_dir() and not RunDir(target).checkpoints():
        target = newest_run(target.parent, target.name).root
    return resolve_checkpoint(target)


class TeacherLabels:
    """A teacher beside the environments: loads it when needed, and keeps its recurrent state.

    Args:
        cfg: Teacher.
        spec: Spec of the environment.
        device: Device of the labels.
    """

    def __init__(self, cfg: TeacherCfg, spec: EnvSpec, device: torch.device) -> None:
        self.cfg, self.spec, self.device = cfg, spec, device
        self.teacher: Teacher | None = None
        self._state: Tensor | None = None
        self.start = torch.ones(spec.num_envs, dtype=torch.bool, device=device)
        """bool `(N,)`, True if the next observation is the first of an episode."""

    @torch.no_grad()
    def label(self, obs: Observations) -> Tensor:
        """Return the teacher's actions for one step `(N,)`."""
        teacher = self.loaded()
        action, self._state = teacher(obs, self._state, self.start)
        return action

    def loaded(self) -> Teacher:
        """Return the teacher, which is read from its file the first time."""
        if self.teacher is not None:
            return self.teacher
        self.teacher = teacher = self.cfg.build(spec=self.spec).to(self.device)
        if self._state is None:
            state = teacher.initial_state(self.spec.num_envs)
            self._state = None if state is None else state.to(self.device)
        return teacher

    def end_step(self, done: Tensor) -> None:
        """Start new episodes where `done` `(N,)` is nonzero."""
        self.start.copy_(done)

    def restart_episodes(self) -> None:
        """Start new episodes in all environments."""
        self.start.fill_(True)

    def state_dict(self) -> dict[str, Any]:
        """Return the recurrent state."""
        return {"state": None if self._state is None else self._state.clone(), "start": self.start.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; with another number of environments, start new episodes."""
        if state["start"].shape != self.start.shape:
            self.restart_episodes()
            return
        self.start.copy_(state["start"])
        self._state = None if state["state"] is None else state["state"].to(self.device).clone()
