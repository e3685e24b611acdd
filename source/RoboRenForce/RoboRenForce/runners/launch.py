"""What the scripts of all simulators share: errors as sentences, devices, tasks of checkpoints, filming."""

from __future__ import annotations

import logging
import os
import re
import shlex
import shutil
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from ..configclass.references import main_script
from ..envs.env_cfg import evaluation_cfg
from ..utils.console import make_printable, say
from ..utils.errors import UnknownTaskError, UserError
from ..utils.registry import Task, load_stored_task, names_package
from .evaluation import record_video
from .runner import Runner

logger = logging.getLogger(__name__)

MOST_PLAY_ENVS = 16
_MOST_VIDEO_STEPS = 500


@contextmanager
def user_errors() -> Iterator[None]:
    """Turn errors that the user can repair into their sentence and exit code 1; others keep their traceback."""
    try:
        yield
    except UserError as error:
        make_printable(sys.stderr).write(f"Error: {error}\n")
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        sys.stderr.write("Interrupted; checkpoints that were written are complete.\n")
        raise SystemExit(128 + signal.SIGINT) from None


def console_command() -> str:
    """How to call `rrf` from here: by its name, by its path in the virtual environment, or as a module."""
    if shutil.which("rrf"):
        return "rrf"
    beside = Path(sys.executable).with_name("rrf")
    if not beside.is_file():
        return "python -m RoboRenForce.cli"
    return shlex.quote(str(beside.relative_to(Path.cwd()) if beside.is_relative_to(Path.cwd()) else beside))


def find_device(name: str) -> torch.device:
    """The device called `name`; under torchrun, `cuda` is the one of this process.

    Raises:
        UserError: there is no such device.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    too_large = re.fullmatch(r"cuda:\d{3,}", name)  # torch takes these modulo 256
    if device is None or device.type not in ("cpu", "cuda", "mps") or too_large:
        raise UserError(f"There is no device {name[:60]!r}; use cpu, cuda, cuda:<number> or mps.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError(f"--device {name} needs a Mac with an Apple GPU: use --device cpu, or see `rrf doctor`.")
    if device.type != "cuda":
        return torch.device(device.type)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count:
        raise UserError(
            f"--device {name} needs an NVIDIA GPU, and torch {torch.__version__} finds none: "
            "use --device cpu, or see `rrf doctor`."
        )
    index = int(os.environ.get("LOCAL_RANK", "0")) if device.index is None else device.index
    if index >= count:
        raise UserError(f"There is no device cuda:{index}; this machine has {count}, counted from cuda:0.")
    return torch.device("cuda", index)


def task_of_checkpoint(data: dict[str, Any], *, trust: bool = False, task: str | None = None) -> Task:
    """The task of a loaded checkpoint, with the configuration that it was trained with.

    Args:
        data: the checkpoint.
        trust: whether it may name any class and import any module, or what the allow-list covers (SECURITY.md).
        task: the id that the user named, if any.

    Raises:
        UnknownTaskError: nobody here has registered the task; the message says which script does.
    """
    try:
        found = load_stored_task(data["task"], trust=trust or task == data["task"])
    except UnknownTaskError as error:
        script = data.get("script")
        if script is None or script == str(main_script()) or names_package(data["task"]):
            raise
        if not script.isprintable():  # the terminal would obey it
            raise UnknownTaskError(
                f"Task {data['task']} is registered by the script {script!a}: run that one, with these arguments."
            ) from error
        arguments = shlex.join(sys.argv[1:])
        raise UnknownTaskError(
            f"Task {data['task']} is registered by {script}: run `python {shlex.quote(script)} {arguments}`."
        ) from error
    found.restore(data["config"], trust=trust)
    return found


def eval_cfg(task: Task, num_envs: int, seed: int, *, render: bool = False) -> Any:
    """The environment of a task for evaluation or, with `render`, for videos."""
    cfg = evaluation_cfg(task.env_cfg, num_envs, seed)
    if render:
        if "render" not in {field.name for field in fields(cfg)}:
            raise RuntimeError(f"the environment of {task.id} has no option 'render'.")
        cfg.render = True
    return cfg


def film(
    task: Task, runner: Runner, path: Path, *, steps: int | None = None, deterministic: bool = True
) -> Path | None:
    """Film the policy of a runner in an environment of its own; without a renderer, say why and go on."""
    try:
        env = eval_cfg(task, 1, task.env_cfg.seed, render=True).build()
        try:
            length = steps or min(env.max_episode_length or _MOST_VIDEO_STEPS, _MOST_VIDEO_STEPS)
            record_video(env, runner.policy(), path, steps=length, deterministic=deterministic, seed=task.env_cfg.seed)
        finally:
            env.close()
    except (RuntimeError, UserError) as error:  # what can't render says so
        logger.warning("No video: %s", error)
        return None
    except Exception as error:  # simulators, encoders and disks fail in any way: the rest goes on
        logger.warning("No video: %s: %s", type(error).__name__, error, exc_info=error)
        return None
    say(f"video         {path}")
    return path
