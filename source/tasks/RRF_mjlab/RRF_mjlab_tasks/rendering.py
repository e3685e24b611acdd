"""Frames of environment 0 from our own MuJoCo renderer: 25 a second on a CPU, where mjlab's default makes one.

The shadow map and reflections dominate the cost; they are off. The pose is copied from the simulation, so this works
for simulations on a GPU too, wherever an off-screen OpenGL is available.
"""

from __future__ import annotations

import copy
from typing import Any

import mujoco
import numpy as np


class FrameRenderer:
    """Render one environment from the camera of its viewer configuration, which follows the robot.

    Raises:
        RuntimeError: No off-screen OpenGL works; the message names the Debian packages.
    """

    def __init__(self, env: Any, width: int, height: int) -> None:
        self._env = env
        self._model = copy.copy(env.sim.mj_model)
        quality = self._model.vis.quality
        quality.shadowsize, quality.offsamples = 0, 0
        self._model.mat_reflectance[:] = 0.0
        visual = self._model.vis.global_
        visual.offwidth, visual.offheight = max(visual.offwidth, width), max(visual.offheight, height)
        self._data = mujoco.MjData(self._model)
        self._camera = _camera(env)
        try:
            self._renderer = mujoco.Renderer(self._model, height, width)
        except (RuntimeError, AttributeError, ImportError, mujoco.FatalError) as error:
            raise RuntimeError(
                f"MuJoCo found no off-screen OpenGL ({error}); install libegl1 and libgl1-mesa-dri and set "
                "MUJOCO_GL=egl, or libosmesa6 and MUJOCO_GL=osmesa."
            ) from error

    def frame(self) -> np.ndarray:
        """Return the current state as a picture, uint8 `(height, width, 3)`."""
        data = self._env.sim.data
        self._data.qpos[:] = data.qpos[0].cpu().numpy()
        self._data.qvel[:] = data.qvel[0].cpu().numpy()
        if self._model.nmocap:
            self._data.mocap_pos[:] = data.mocap_pos[0].cpu().numpy()
            self._data.mocap_quat[:] = data.mocap_quat[0].cpu().numpy()
        mujoco.mj_forward(self._model, self._data)
        self._renderer.update_scene(self._data, self._camera)
        return self._renderer.render()

    def close(self) -> None:
        """Free the OpenGL context."""
        self._renderer.close()


def _camera(env: Any) -> mujoco.MjvCamera:
    """Return the camera of mjlab's viewer configuration, tracking the first robot."""
    viewer = env.cfg.viewer
    camera = mujoco.MjvCamera()
    camera.distance, camera.azimuth, camera.elevation = viewer.distance, viewer.azimuth, viewer.elevation
    moving = [entity for entity in env.scene.entities.values() if not entity.is_fixed_base]
    if moving:
        camera.type = mujoco.mjtCamera.mjCAMERA_TRACKING
        camera.trackbodyid = moving[0].indexing.root_body_id
    else:
        camera.lookat[:] = viewer.lookat
    return camera
