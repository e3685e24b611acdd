"""Configuration of an mjlab environment: the task's own, and the few options that we add."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterable
from copy import deepcopy
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
from RoboRenForce.configclass import Range, configclass
from RoboRenForce.envs.env_cfg import VecEnvCfg
from RoboRenForce.utils.errors import UserError, did_you_mean

logger = logging.getLogger(__name__)

BYTES_PER_ENV = {"Go1": 4.5e6, "G1": 9.0e6}
"""GPU memory of one environment by robot, for the out-of-memory message; measured at 4,096 environments."""


@configclass
class MJLabEnvCfg(VecEnvCfg):
    """An mjlab task as environments of ours."""

    class_type: type | str = "RRF_mjlab_tasks.mjlab_env:MJLabVecEnv"
    task: str = "Mjlab-Velocity-Flat-Unitree-Go1"
    """mjlab's task id."""
    num_envs: Annotated[int, Range(ge=1, le=1_000_000)] = 4096
    """Environments per process."""
    seed: int = 42
    """Seed of mjlab's and torch's random numbers."""
    device: str = "cuda"
    """cpu, cuda or cuda:<number>."""
    env_graph: Literal["auto", "on", "off"] = "auto"
    """The fast step: masked resets in CUDA graphs. `auto`: on CUDA where the task allows it; `on`: also on the CPU, or
    fail; `off`: mjlab's own step."""
    final_observations: bool = True
    """Provide the true last observation of every episode. The fast step then computes kinematics twice where episodes
    end, which costs a tenth of its speed; the registered PPO tasks do without it and bootstrap like rsl_rl."""
    play: bool = False
    """The task's play variant: no noise, no pushes, endless episodes."""
    clip_actions: Annotated[float, Range(gt=0)] | None = None
    """Clip actions to plus and minus this."""
    action_bound: Annotated[float, Range(gt=0)] | Literal["joint_limits"] | None = None
    """Take actions in [-1, 1] and multiply them by this: a number for all, or "joint_limits" for what brings each
    joint to the farther of its limits. Policies that act in a box need it (SAC, TD3); None: actions are mjlab's own."""
    student_lacks: list[str] = []
    """Terms of the group `actor` that a further group, `student`, leaves out, such as the height scan; none: there is
    no such group."""
    nan_guard: bool = False
    """mjlab's NaN guard: dumps the states before a NaN appears (mjlab's `viz-nan` shows them)."""
    motion_file: str | None = None
    """Motion of a tracking task, an .npz file."""
    mjlab: dict[str, Any] = {}
    """Fields of mjlab's own configuration by dotted path, for example {"sim.njmax": 300} or, on the command line,
    env.mjlab='{episode_length_s: 10}'."""
    render: bool = False
    """True if `render` will be called."""
    render_width: Annotated[int, Range(ge=16)] = 480
    """Width of rendered frames in pixels."""
    render_height: Annotated[int, Range(ge=16)] = 360
    """Height of rendered frames in pixels."""

    def check(self) -> Iterable[str]:
        """A motion file has to exist; there is one way to bound actions."""
        yield from super().check()
        if self.motion_file is not None and not Path(self.motion_file).is_file():
            yield f"motion_file: '{self.motion_file}' does not exist"
        if self.action_bound is not None and self.clip_actions is not None:
            yield (
                f"clip_actions: {self.clip_actions} has no meaning beside action_bound={self.action_bound}, which "
                f"bounds actions already; leave one of them out"
            )

    def mjlab_cfg(self) -> Any:
        """mjlab's own configuration of the task, a fresh copy; what is set here beside it follows later."""
        from mjlab.tasks.registry import load_env_cfg

        return load_env_cfg(self.task, play=self.play)


def import_mjlab_tasks() -> None:
    """Let mjlab register its tasks, without the warning that one of its modules compiles with `torch.jit.script`."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*torch.jit.script", category=FutureWarning)
        import mjlab.tasks  # noqa: F401


def make_mjlab_env(cfg: MJLabEnvCfg) -> Any:
    """mjlab's environment for `cfg`, not reset yet.

    Raises:
        UserError: the task needs a motion file, a path is unknown, the device is missing or its memory too small.
    """
    os.environ.setdefault("MUJOCO_GL", "egl")
    import_mjlab_tasks()
    from mjlab.envs import ManagerBasedRlEnv

    env_cfg = cfg.mjlab_cfg()
    env_cfg.scene.num_envs = cfg.num_envs
    env_cfg.seed = cfg.seed
    env_cfg.sim.nan_guard.enabled = cfg.nan_guard
    _set_motion(env_cfg, cfg)
    if cfg.student_lacks:
        env_cfg.observations["student"] = _without(env_cfg.observations["actor"], cfg.student_lacks, cfg.task)
    for path, value in cfg.mjlab.items():
        _set_field(env_cfg, path, value)
    try:
        return ManagerBasedRlEnv(cfg=env_cfg, device=cfg.device)
    except (RuntimeError, MemoryError) as error:
        if "out of memory" not in str(error).lower() and "allocate" not in str(error).lower():
            raise
        raise UserError(_memory_sentence(cfg)) from error


def _without(group: Any, left_out: list[str], task: str) -> Any:
    """Return a copy of an observation group without some of its terms."""
    group = deepcopy(group)
    for term in left_out:
        if term not in group.terms:
            raise UserError(
                f"env.student_lacks names the term '{term}', and the group actor of {task} has "
                f"{', '.join(group.terms)}: {did_you_mean(term, group.terms)}"
            )
        del group.terms[term]
    return group


def _set_motion(env_cfg: Any, cfg: MJLabEnvCfg) -> None:
    motion = env_cfg.commands.get("motion")
    if motion is None or "motion_file" not in {field.name for field in fields(motion)}:
        if cfg.motion_file is not None:
            raise UserError(f"{cfg.task} tracks no motion; leave env.motion_file out.")
        return
    motion.motion_file = cfg.motion_file or motion.motion_file
    if not motion.motion_file or not Path(motion.motion_file).is_file():
        raise UserError(
            f"{cfg.task} imitates a motion and got the file '{motion.motion_file}', which does not exist: "
            "give one with env.motion_file=PATH.npz."
        )


def _set_field(target: Any, path: str, value: Any) -> None:
    """Assign a field of nested dataclasses and dicts, with the type of what is there."""
    *parents, last = path.split(".")
    for name in parents:
        target = _get(target, name, path)
    present = _get(target, last, path)
    if present is not None and value is not None and not isinstance(value, type(present)):
        if isinstance(present, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        elif isinstance(present, tuple) and isinstance(value, list):
            value = tuple(value)
        else:
            raise UserError(
                f"env.mjlab: {path} got {value!r} ({type(value).__name__}), "
                f"expected {type(present).__name__} as in {present!r}."
            )
    if isinstance(target, dict):
        target[last] = value
    else:
        setattr(target, last, value)


def _get(target: Any, name: str, path: str) -> Any:
    if isinstance(target, dict):
        known = list(target)
    elif is_dataclass(target):
        known = [field.name for field in fields(target)]
    else:
        known = []
    if name not in known:
        raise UserError(f"env.mjlab: there is no '{name}' in {path}: {did_you_mean(name, known)}")
    return target[name] if isinstance(target, dict) else getattr(target, name)


def _memory_sentence(cfg: MJLabEnvCfg) -> str:
    per_env = next((size for robot, size in BYTES_PER_ENV.items() if robot in cfg.task), max(BYTES_PER_ENV.values()))
    free = torch.cuda.mem_get_info(torch.device(cfg.device))[1] if torch.cuda.is_available() else 0
    return (
        f"{cfg.num_envs} environments of {cfg.task} need about {cfg.num_envs * per_env / 1e9:.0f} GB, "
        f"and {cfg.device} has {free / 1e9:.0f} GB in all: about {int(0.8 * free / per_env)} fit; use --num_envs."
    )
