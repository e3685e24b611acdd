"""Distance to a frozen teacher as a regularizer: reinforcement learning that stays close to, or starts from, a teacher.

Schmitt et al. 2018, "Kickstarting deep reinforcement learning" (arXiv 1803.03835), with a regression on the teacher's
action in place of the cross-entropy.
"""

from __future__ import annotations

from typing import Annotated, Any

from torch import Tensor, nn

from ...components.teacher import Teacher, TeacherCfg
from ...configclass import MISSING, ConfigError, Range, configclass
from ...utils.errors import did_you_mean
from ..functional import masked_mean
from ..functional.imitation_loss import ImitationLoss, imitation_loss
from .loss_term import AnyBatch, LossTerm, LossTermCfg
from .samples import Samples


class TeacherDistance(LossTerm):
    """Weighted distance between the policy's actions and those of a teacher without memory."""

    name = "teacher"

    def __init__(self, cfg: TeacherDistanceCfg) -> None:
        self.cfg, self.groups = cfg, tuple(cfg.groups)
        self.teacher: Teacher | None = None

    def check_fit(self, *, sequences: bool, actor: Any, n_step: int = 1) -> None:
        """Take the spec of the environment, which the teacher has to fit when it is loaded."""
        self._spec = actor.spec

    def loss(
        self, actor: Any, critic: nn.Module, batch: AnyBatch, num_original: int, expert: AnyBatch | None = None
    ) -> Tensor:
        """Return the mean distance over the mini-batch."""
        samples = Samples.of(batch, batch.action.numel())
        distribution, _ = actor(samples.obs, samples.states.get("actor"), samples.start)
        teacher = self.teacher or self._load(batch)
        error = imitation_loss(distribution, teacher(samples.obs)[0], self.cfg.loss)
        return self.cfg.weight * masked_mean(error, samples.acted)

    def _load(self, batch: AnyBatch) -> Teacher:
        """Read the teacher from its file: a policy that is only played needs none."""
        teacher: Teacher = self.cfg.teacher_cfg.build(spec=self._spec).to(batch.action.device)
        if teacher.is_recurrent:
            raise ConfigError(
                "TeacherDistanceCfg got a recurrent teacher, whose state a mini-batch does not hold: use a "
                "feed-forward teacher, or DistillationCfg."
            )
        for group in teacher.groups:
            if group not in batch.obs:
                raise ConfigError(
                    f"The teacher reads '{group}', which is not stored: name it in TeacherDistanceCfg.groups; "
                    f"{did_you_mean(group, batch.obs.keys())}"
                )
        self.teacher = teacher
        return teacher


@configclass
class TeacherDistanceCfg(LossTermCfg):
    """Configuration of `TeacherDistance`."""

    class_type: type = TeacherDistance
    teacher_cfg: TeacherCfg = TeacherCfg()
    """Teacher."""
    groups: list[str] = MISSING
    """Observation groups of the environment that the teacher reads."""
    weight: Annotated[float, Range(ge=0)] = 1.0
    """Weight of the distance."""
    loss: ImitationLoss = "mse"
    """Distance, see `DistillationCfg.loss`."""
