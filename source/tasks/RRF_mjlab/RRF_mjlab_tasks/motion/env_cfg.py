"""A velocity task of mjlab that also observes its style and starts episodes in frames of motions."""

from __future__ import annotations

from typing import Annotated, Any

from RoboRenForce.configclass import Range, configclass

from ..env_cfg import MJLabEnvCfg


@configclass
class MJLabMotionEnvCfg(MJLabEnvCfg):
    """An mjlab task with the group `amp` (`style_features`), and reference-state initialisation."""

    motions: list[str] = []
    """Motion files whose frames episodes start in; empty: they start as in the task."""
    motion_share: Annotated[float, Range(ge=0, le=1)] = 0.7
    """Share of episodes that start in a frame of a motion."""

    def mjlab_cfg(self) -> Any:
        """See `MJLabEnvCfg.mjlab_cfg`."""
        from .terms import add_style

        return add_style(super().mjlab_cfg(), self)
