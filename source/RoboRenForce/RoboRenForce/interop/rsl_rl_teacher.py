"""A policy that rsl_rl trained, as the teacher of a distillation."""

from __future__ import annotations

from pathlib import Path

import torch
from typing_extensions import override

from ..components.actor import Actor, ActorCfg
from ..components.gaussian_actor import StateIndStdActorCfg
from ..components.teacher import Teacher, TeacherCfg
from ..configclass import configclass
from ..envs.spec import EnvSpec
from ..utils.errors import CheckpointError
from .rsl_rl_checkpoint import load_rsl_rl_model


class RslRlTeacher(Teacher):
    """Actor of an rsl_rl 5 checkpoint, which does not say what it was trained on: `actor_cfg` and `reads` do."""

    @override
    def load_actor(self, cfg: RslRlTeacherCfg, spec: EnvSpec) -> Actor:  # pyright: ignore[reportIncompatibleMethodOverride]
        path = Path(cfg.checkpoint)
        if not path.is_file():
            raise CheckpointError(f"There is no rsl_rl checkpoint '{path}': name a file model_*.pt.")
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        if "actor_state_dict" not in checkpoint:
            raise CheckpointError(f"'{path}' is no rsl_rl 5 checkpoint (it holds {', '.join(checkpoint)}).")
        actor = cfg.actor_cfg.build(spec=spec, groups=cfg.reads)
        load_rsl_rl_model(checkpoint["actor_state_dict"], actor, source=str(path))
        return actor


@configclass
class RslRlTeacherCfg(TeacherCfg):
    """Configuration of an `RslRlTeacher`; `checkpoint` is a file `model_*.pt`."""

    class_type: type = RslRlTeacher
    actor_cfg: ActorCfg = StateIndStdActorCfg()
    """The same network, in our terms: for mjlab's tasks `policy.actor_cfg` of the task."""
    reads: list[str] = ["actor"]
    """Groups of this environment that it reads, in rsl_rl's order."""
