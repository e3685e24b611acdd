"""`rrf doctor`: what is installed, what is missing for what, and whether rendering and the GPU really work."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass

import torch

from ..utils.console import say
from ..utils.environment_info import hardware, package_version, versions
from ..utils.optional import is_installed
from ..utils.registry import import_task_packages, list_tasks

_RENDER_TIMEOUT = 120


@dataclass(frozen=True)
class Need:
    """Something one can do, and what has to be installed for it."""

    what: str
    modules: dict[str, str]
    """Module -> the line that installs it."""


_NEEDS = (
    Need(
        "RoboRenForce-Gym-* tasks",
        {"RRF_gym_tasks": "pip install -e source/tasks/RRF_gym", "mujoco": "pip install -e source/tasks/RRF_gym"},
    ),
    Need(
        "RoboRenForce-EnvPool-* tasks",
        {
            "RRF_gym_tasks": "pip install -e source/tasks/RRF_gym",
            "envpool": "pip install -e 'source/tasks/RRF_gym[envpool]'",
        },
    ),
    Need(
        "RoboRenForce-MJLab-* and Mjlab-* tasks",
        {"RRF_mjlab_tasks": "pip install -e source/tasks/RRF_mjlab", "mjlab": "pip install -e source/tasks/RRF_mjlab"},
    ),
    Need(
        "RoboRenForce-D4RL-* tasks",
        {
            "RRF_d4rl_tasks": "pip install -e source/tasks/RRF_d4rl",
            "minari": "pip install -e source/tasks/RRF_d4rl",
            "RRF_gym_tasks": "pip install -e source/tasks/RRF_gym",
        },
    ),
    Need("Minari's hub", {"huggingface_hub": "pip install -e 'source/tasks/RRF_d4rl[hub]'"}),
    Need("ONNX export", dict.fromkeys(("onnx", "onnxruntime", "onnxscript"), "pip install 'RoboRenForce[export]'")),
    Need("Weights & Biases", {"wandb": "pip install 'RoboRenForce[wandb]'"}),
    Need("SwanLab", {"swanlab": "pip install 'RoboRenForce[swanlab]'"}),
)

_RENDER_CODE = """
import sys
from RoboRenForce.utils.registry import load_task
cfg = load_task(sys.argv[1]).env_cfg
cfg.num_envs, cfg.device, cfg.render = 1, "cpu", True
env = cfg.build()
env.reset(seed=0)
frame = env.render()
env.close()
print("FRAME", *frame.shape, int(frame.max()) - int(frame.min()))
"""


def doctor() -> bool:
    """Print the findings; returns whether everything that is installed works."""
    say(f"{'machine':32s} {hardware('cpu')}")
    for name, version in versions().items():
        say(f"{name:32s} {version}")
    say("")
    healthy = _check_needs()
    say("")
    healthy &= _check_gpu()
    return _check_rendering() and healthy


def _check_needs() -> bool:
    for need in _NEEDS:
        missing = {module: line for module, line in need.modules.items() if not is_installed(module)}
        if missing:
            lines = " && ".join(dict.fromkeys(missing.values()))
            say(f"{need.what:32s} missing {', '.join(missing)}: {lines}")
        else:
            found = [f"{module} {version}".strip() for module in need.modules for version in (package_version(module),)]
            say(f"{need.what:32s} ready ({', '.join(found)})")
    broken = import_task_packages()
    for sentence in broken:
        say(f"{'broken task package':32s} {sentence}")
    say(f"{'tasks':32s} {len(list_tasks())} registered, `rrf list` shows them")
    return not broken


def _check_gpu() -> bool:
    """Multiply two matrices on the GPU and compare with the CPU."""
    if not torch.cuda.is_available():
        say(f"{'GPU':32s} none that torch {torch.__version__} can use; training runs on the CPU")
        return True
    good = True
    for index in range(torch.cuda.device_count()):
        left, right = (torch.randn(256, 256, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
        device = torch.device("cuda", index)
        try:
            deviation = float(((left.to(device) @ right.to(device)).cpu() - left @ right).abs().max())
            works = deviation < 1e-1  # TensorFloat-32 may be on
            verdict = "works" if works else f"computes wrong numbers (deviation {deviation:.2g})"
        except RuntimeError as error:
            works, verdict = False, f"fails: {str(error).splitlines()[0]}"
        good &= works
        say(f"{f'GPU cuda:{index}':32s} {torch.cuda.get_device_name(index)} {verdict}")
    return good


def _check_rendering() -> bool:
    """Render one frame in another process: a missing system library can abort the process that tries."""
    name = f"rendering (MUJOCO_GL={os.environ.get('MUJOCO_GL', 'unset')})"
    task = next((task for task in list_tasks("RoboRenForce-Gym-") if "HalfCheetah" in task), None)
    if task is None or not is_installed("mujoco"):
        say(f"{name:32s} not tried: no MuJoCo task is installed")
        return True
    try:
        done = subprocess.run(
            [sys.executable, "-c", _RENDER_CODE, task], capture_output=True, text=True, timeout=_RENDER_TIMEOUT
        )
    except subprocess.TimeoutExpired:
        say(f"{name:32s} no frame within {_RENDER_TIMEOUT} s")
        return False
    frame = next((line.split()[1:] for line in done.stdout.splitlines() if line.startswith("FRAME")), None)
    if frame is not None and int(frame[-1]) > 0:
        say(f"{name:32s} works ({frame[1]} x {frame[0]} pixels)")
        return True
    reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
    say(f"{name:32s} fails: {reason}")
    return False
