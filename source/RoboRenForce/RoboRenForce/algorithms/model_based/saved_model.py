"""Dynamics models read from the checkpoints of their runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ...components.system_dynamics import SystemDynamics, SystemDynamicsCfg
from ...components.teacher import newest_checkpoint
from ...configclass import Cfg, configclass
from ...envs.spec import EnvSpec
from ...utils.checkpoint import load_checkpoint
from ...utils.errors import CheckpointError
from ...utils.seeding import seeded
from .starts import Starts, saved_starts
from .system_dynamics import dynamics_groups

_SCHEMA = {"spec": dict, "config": {"agent": dict}, "algorithm": {"model": dict, "starts": dict}}


@configclass
class _SavedAgent(Cfg):
    """The part of a run's configuration that a model is built from."""

    policy: Cfg | None = None
    obs_groups: dict[str, list[str]] = {}


@dataclass
class SavedModel:
    """What a checkpoint of a `SystemDynamicsLearner` holds."""

    path: Path
    spec: EnvSpec
    """Of the data that it was learned from."""
    cfg: SystemDynamicsCfg
    groups: list[str]
    """Observation groups of the state."""
    weights: dict[str, Tensor]
    starts: dict[str, Tensor]

    @classmethod
    def read(cls, target: str, *, trust: bool = False) -> SavedModel:
        """Read a checkpoint, or the newest one of a run or of several.

        Args:
            target: Checkpoint, run directory, or folder of runs.
            trust: True if it may name any class, False for those of RoboRenForce alone.
        """
        path = newest_checkpoint(Path(target))
        data = load_checkpoint(path, schema=_SCHEMA)
        known = {name: data["config"]["agent"].get(name) for name in ("policy", "obs_groups")}
        agent: Any = _SavedAgent.from_dict({name: x for name, x in known.items() if x}, trust=trust)
        if not isinstance(agent.policy, SystemDynamicsCfg):
            raise CheckpointError(
                f"'{path}' holds no dynamics model, but a {type(agent.policy).__name__}: take the run of a "
                "SystemDynamicsMLPCfg or SystemDynamicsTransformerCfg."
            )
        spec = EnvSpec.from_dict(data["spec"])
        learned = data["algorithm"]
        groups = dynamics_groups(spec, agent.obs_groups)
        return cls(path, spec, agent.policy, groups, learned["model"], learned["starts"])

    def build(self, device: torch.device) -> tuple[SystemDynamics, Starts]:
        """Return the model in evaluation mode, and states of its data to start from."""
        with seeded(0):  # a run that loads a model draws the numbers that it drew without
            model: SystemDynamics = self.cfg.build(spec=self.spec, groups=self.groups)
        self.load_into(model)
        model.to(device).eval().requires_grad_(False)
        return model, saved_starts(model, self.starts)

    def load_into(self, model: SystemDynamics) -> None:
        """Load the weights into a model that was built already."""
        try:
            model.load_state_dict(self.weights)
        except RuntimeError as error:
            raise CheckpointError(
                f"'{self.path}' holds a model of other sizes ({error}): use the same configuration and groups."
            ) from error
