"""LiftColor under our environment contract: mjlab's environment, and the instruction of each row as a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

from RoboRenForce.configclass import Range, configclass

from ..env_cfg import MJLabEnvCfg

TEMPLATES = ["lift the {} cube", "pick up the {} cube", "raise the {} block", "grab the {} cube and lift it"]
"""Wordings of an instruction."""


@configclass
class LiftColorEnvCfg(MJLabEnvCfg):
    """Lift the cube that the instruction names, with mjlab's Yam arm.

    Groups: `actor` and `critic` (state, with the target's position), `robot` (joint positions and velocities), and an
    image uint8 `(H, W, 3)` per camera.
    """

    class_type: type | str = "RRF_mjlab_tasks.lift_color.vec_env:LiftColorVecEnv"
    task: str = "LiftColor"
    """Its name; mjlab's registry does not know it."""
    colors: list[Literal["red", "green", "blue", "yellow", "purple"]] = ["red", "green", "blue"]
    """One cube each."""
    targets: list[str] | None = None
    """Colours that are asked for; None: all. A colour that is never asked for in training tells what its success is
    worth."""
    templates: list[str] = TEMPLATES
    """Wordings of the instruction; {} is the colour."""
    cameras: list[Literal["front", "wrist"]] = []
    """Cameras that are rendered at every step."""
    image_size: Annotated[int, Range(ge=8, le=512)] = 64
    """Height and width of images in pixels."""
    language: bool = False
    """True to put the text of each row into `extras["instruction"]`."""
    end_on_success: bool = False
    """True to end an episode when the target was lifted; a learner that is paid for holding it must not end."""
    noise: bool = True
    """Noise on what the actor observes."""
    vary_friction: bool = False
    """Another friction of the finger tips in every environment. Rows start alike, and can be held, without this and
    `noise`."""
    exchange: bool = False
    """Ask for another cube in what is otherwise the same scene (with the same seed): whether language is read."""
    goal_height: Annotated[float, Range(gt=0.03, lt=0.4)] = 0.15
    """Of the cube's centre above the ground, in m."""
    hold_steps: Annotated[int, Range(ge=1)] = 5
    """Steps in a row at the goal that make success."""
    episode_length_s: Annotated[float, Range(gt=0)] = 6.0
    """Horizon in seconds, 20 steps each."""

    def check(self) -> Iterable[str]:
        """Cubes differ, and a wording names the colour."""
        yield from super().check()
        if len(set(self.colors)) < max(len(self.colors), 2):
            yield f"colors: got {self.colors}, expected two or more different ones"
        unknown = [color for color in self.targets or [] if color not in self.colors]
        if unknown or self.targets == []:
            yield f"targets: got {self.targets}, expected some of {self.colors}"
        for text in self.templates:
            if text.count("{}") != 1:
                yield f"templates: '{text}' has no single {{}} for the colour"
        if not self.templates:
            yield "templates: there is none, expected at least one"

    def mjlab_cfg(self) -> Any:
        """See `MJLabEnvCfg.mjlab_cfg`."""
        from .scene import lift_color_cfg

        return lift_color_cfg(self)
