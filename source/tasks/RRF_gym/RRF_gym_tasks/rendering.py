"""Rendering without a display: choice of OpenGL, fast settings for CPUs, and installation hints.

The shadow map, not the number of pixels, dominates the cost of software rendering: without it HalfCheetah renders 20
times faster.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Any

import gymnasium as gym
import numpy as np
from RoboRenForce.utils.errors import MissingPackageError, UserError

_LIBRARIES = {"egl": "libEGL.so.1", "osmesa": "libOSMesa.so.8"}
_PACKAGES = "libegl1 and libgl1-mesa-dri (MUJOCO_GL=egl) or libosmesa6 (MUJOCO_GL=osmesa)"


class RenderingError(UserError, RuntimeError):
    """No picture can be rendered; the message says what to install or to change."""


def choose_backends() -> None:
    """Let MuJoCo and pygame render off screen if there is no display and the user hasn't chosen.

    MuJoCo reads `MUJOCO_GL` when it is imported, so this has to come before. If no library is found nothing is set: the
    simulation itself needs none.
    """
    if not sys.platform.startswith("linux") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        return
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    if "MUJOCO_GL" not in os.environ:
        found = [name for name in _LIBRARIES if library_loads(name)]
        if found:
            os.environ["MUJOCO_GL"] = found[0]


def explain_failed_import() -> None:
    """Raise an error if MuJoCo can't be imported because the chosen OpenGL library is missing.

    Raises:
        RenderingError: `MUJOCO_GL` names a library that doesn't load.
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    if chosen in _LIBRARIES and not library_loads(chosen):
        raise RenderingError(
            f"MuJoCo can't be imported: MUJOCO_GL is '{chosen}' and {_LIBRARIES[chosen]} doesn't load. On Debian or "
            f"Ubuntu install {_PACKAGES}, or unset MUJOCO_GL to train without pictures."
        )


def is_mujoco(env: gym.Env[Any, Any]) -> bool:
    """Return True if an environment simulates with MuJoCo the way Gymnasium's own do."""
    return any(base.__name__ == "MujocoEnv" for base in type(env.unwrapped).__mro__)


def draw_fast(env: gym.Env[Any, Any]) -> None:
    """Disable shadows, reflections and multi-sampling; has to come before the first frame."""
    if is_mujoco(env):
        model = env.unwrapped.model  # pyright: ignore[reportAttributeAccessIssue]
        model.vis.quality.shadowsize = 0
        model.vis.quality.offsamples = 0
        model.mat_reflectance[:] = 0


def follow(env: gym.Env[Any, Any]) -> None:
    """Use the camera that moves with the robot, if the model has one; others lose a robot that runs."""
    if is_mujoco(env):
        inner: Any = env.unwrapped
        names = [inner.model.camera(i).name for i in range(inner.model.ncam)]
        if "track" in names:
            inner.mujoco_renderer.camera_id = names.index("track")


def frame(env: gym.Env[Any, Any], env_id: str) -> np.ndarray:
    """Return the current picture, uint8 `(H, W, 3)`.

    Raises:
        RenderingError: The environment has no pictures, or no OpenGL library works.
        MissingPackageError: A Python package is missing.
    """
    if env.render_mode != "rgb_array":
        modes = env.metadata.get("render_modes") or []
        reason = f"its render modes are {modes}"
        if "rgb_array" in modes:
            reason = "it was built with render=False, or its constructor doesn't take render_mode"
        raise RenderingError(f"{env_id} can't make pictures: {reason}; needed is render_mode='rgb_array'.")
    for viewer in _viewers(env):  # Gymnasium makes its OpenGL context current only when that is created
        viewer.make_context_current()
    try:
        picture = env.render()
    except gym.error.DependencyNotInstalled as error:
        raise MissingPackageError(
            f"Pictures of {env_id} need pygame, which is not installed: pip install pygame."
        ) from error
    except _rendering_errors() as error:
        if not is_mujoco(env):
            raise
        chosen = os.environ.get("MUJOCO_GL", "unset")
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise RenderingError(
            f"MuJoCo can't render {env_id} (MUJOCO_GL is {chosen}: {reason}). On Debian or Ubuntu install {_PACKAGES}; "
            f"training needs neither."
        ) from error
    _drawing.update((id(viewer.con), viewer.con) for viewer in _viewers(env))
    return np.asarray(picture, dtype=np.uint8)


def free_pictures(env: gym.Env[Any, Any]) -> None:
    """Free what an environment draws with, before it is closed and while its OpenGL context still exists.

    Left to the garbage collector it would be freed in the context that happens to be current, that is in another
    environment's, whose pictures are black from then on.
    """
    for viewer in _viewers(env):
        if _drawing.pop(id(viewer.con), None) is not None:
            viewer.make_context_current()
            viewer.con.free()


_drawing: dict[int, Any] = {}
"""MuJoCo's drawing contexts of environments that are not closed, held so that nothing else frees them."""


def _viewers(env: gym.Env[Any, Any]) -> list[Any]:
    """The off-screen viewer of a MuJoCo environment that has drawn already."""
    renderer = getattr(env.unwrapped, "mujoco_renderer", None) if is_mujoco(env) else None
    viewer = None if renderer is None else renderer.viewer
    return [] if viewer is None else [viewer]


def fitted(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """Scale the picture to the given size, by its nearest pixels."""
    if picture.shape[:2] == (height, width):
        return picture
    rows = (np.arange(height) * picture.shape[0]) // height
    columns = (np.arange(width) * picture.shape[1]) // width
    return picture[rows[:, None], columns]


def _rendering_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions of MuJoCo and its OpenGL bindings when a context can't be created."""
    errors: list[type[Exception]] = [ImportError, AttributeError, OSError, RuntimeError]
    if "mujoco" in sys.modules:
        errors.append(sys.modules["mujoco"].FatalError)
    if "OpenGL.error" in sys.modules:
        errors.append(sys.modules["OpenGL.error"].Error)
    return tuple(errors)


def library_loads(name: str) -> bool:
    """Return True if the library behind `egl` or `osmesa` is installed."""
    try:
        ctypes.CDLL(_LIBRARIES[name])
    except OSError:
        return False
    return True
