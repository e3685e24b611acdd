"""Checks of this package for `rrf doctor`."""

from __future__ import annotations

import os
import subprocess
import sys

_TIMEOUT = 120
_CODE = """
from RRF_gym_tasks import GymEnvCfg
env = GymEnvCfg(env_id="HalfCheetah-v5", num_envs=1).build()
env.reset(seed=0)
frame = env.render()
env.close()
print("FRAME", *frame.shape, int(frame.max()) - int(frame.min()))
"""


def check_rendering() -> tuple[bool, str]:
    """Return True if MuJoCo can render, and the end of a sentence about it.

    One frame is rendered in another process: a missing system library can abort the process that tries.
    """
    backend = f"MUJOCO_GL={os.environ.get('MUJOCO_GL', 'unset')}"
    try:
        done = subprocess.run([sys.executable, "-c", _CODE], capture_output=True, text=True, timeout=_TIMEOUT)
    except subprocess.TimeoutExpired:
        return False, f"no frame within {_TIMEOUT} s ({backend})"
    frame = next((line.split()[1:] for line in done.stdout.splitlines() if line.startswith("FRAME")), None)
    if frame is not None and int(frame[-1]) > 0:
        return True, f"works ({frame[1]} x {frame[0]} pixels, {backend})"
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    return False, f"fails: {reason} ({backend})"
