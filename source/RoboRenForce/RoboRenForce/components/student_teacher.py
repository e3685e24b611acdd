"""Student that learns to act like a teacher."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..configclass import Cfg, configclass
from ..envs.spec import EnvSpec
from .actor import Actor, ActorCfg
from .gaussian_actor import StateIndStdActorCfg
from .teacher import TeacherCfg


class StudentTeacher(nn.Module):
    """The student; its teacher is no part of it and is not saved with it.

    Args:
        cfg: Configuration.
        spec: Spec of the environment.
        groups: Observation groups that the student reads.
    """

    def __init__(self, cfg: StudentTeacherCfg, spec: EnvSpec, groups: Sequence[str]) -> None:
        super().__init__()
        self.cfg = cfg
        self.student: Actor = cfg.student_cfg.build(spec=spec, groups=groups)


@configclass
class StudentTeacherCfg(Cfg):
    """Configuration of a `StudentTeacher`."""

    class_type: type = StudentTeacher
    student_cfg: ActorCfg = StateIndStdActorCfg(init_std=0.1, learn_std=False)
    """Policy that learns. Its std is the exploration, which a regression does not learn."""
    teacher_cfg: TeacherCfg = TeacherCfg()
    """Policy that labels."""
