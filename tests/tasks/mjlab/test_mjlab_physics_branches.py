"""The recorded physics in branches: what goes where, seen with streams that only keep notes, and the same numbers.

The kernels run one after the other on the CPU, in the order of the recording; that what runs beside one another on a
GPU agrees with mjlab's own graphs is tested there (`tests/gpu/test_mjlab_graph.py`).
"""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("WARP_CACHE_PATH", str(Path.home() / ".cache" / "warp"))
os.environ.setdefault("MJLAB_WARP_QUIET", "1")

import pytest

pytest.importorskip("mjlab")

import mjlab.tasks  # noqa: F401 - registers the tasks
import mujoco_warp as mjwarp
import torch
import warp as wp
from mjlab.envs import ManagerBasedRlEnv
from mjlab.tasks.registry import load_env_cfg
from RRF_mjlab_tasks.env_state import EnvState
from RRF_mjlab_tasks.fast_step.mjlab_version import PHYSICS_BRANCHES, changed_functions
from RRF_mjlab_tasks.fast_step.physics import branches as module

pytestmark = [pytest.mark.contract, pytest.mark.sim_mjlab]

GO1, G1 = "Mjlab-Velocity-Flat-Unitree-Go1", "Mjlab-Velocity-Flat-Unitree-G1"


class Notes:
    """Streams and launches of a recording: `(kernel, stream)`, `("wait", stream, event)`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lines: list[tuple[Any, ...]] = []
        self.events = 0
        self.main, self.side = self.stream("main"), self.stream("side")
        self.device = SimpleNamespace(stream=self.main, sm_count=132)
        monkeypatch.setattr(wp, "Stream", lambda device: self.side)
        monkeypatch.setattr(wp, "ScopedStream", self.scoped)
        for name in ("launch", "launch_tiled"):
            monkeypatch.setattr(wp, name, self.noted(getattr(wp, name)))

    def stream(self, name: str) -> Any:
        def record() -> int:
            self.events += 1
            self.lines.append(("record", name, self.events))
            return self.events

        return SimpleNamespace(
            name=name, record_event=record, wait_event=lambda event: self.lines.append(("wait", name, event))
        )

    def scoped(self, stream: Any, sync_enter: bool) -> Any:
        notes = self

        class Scope:
            def __enter__(self) -> None:
                notes.device.stream = stream

            def __exit__(self, *exc_info: object) -> None:
                notes.device.stream = notes.main

        assert not sync_enter
        return Scope()

    def noted(self, launch: Any) -> Any:
        def run(kernel: Any, *args: Any, stream: Any = None, **kwargs: Any) -> Any:
            name = kernel.key.partition("__locals__")[0]
            self.lines.append((name, (stream or self.device.stream).name, kwargs.get("dim")))
            return launch(kernel, *args, **kwargs)

        return run

    def streams_of(self, name: str) -> set[str]:
        return {line[1] for line in self.lines if line[0] == name}

    def unfinished_at(self, *names: str) -> set[str]:
        """Side kernels that a launch of `names` on the main stream would not wait for."""
        waiting: list[str] = []
        found: set[str] = set()
        covered: dict[int, list[str]] = {}
        for line in self.lines:
            if line[0] == "record" and line[1] == "side":
                covered[line[2]] = list(waiting)
            elif line[0] == "wait" and line[1] == "main":
                waiting = [name for name in waiting if name not in covered.get(line[2], [])]
            elif line[0] not in ("record", "wait") and line[1] == "side":
                waiting.append(line[0])
            elif line[0] in names:
                found |= set(waiting)
        return found


def make(task: str) -> ManagerBasedRlEnv:
    cfg = load_env_cfg(task)
    cfg.scene.num_envs, cfg.seed = 2, 3
    env = ManagerBasedRlEnv(cfg, device="cpu")
    env.reset()
    env.sim.wp_model.opt.graph_conditional = False
    return env


def test_the_known_functions_are_the_installed_ones() -> None:
    assert changed_functions(PHYSICS_BRANCHES) == []


@pytest.mark.parametrize(
    ("task", "hessian", "solves"),
    [
        (GO1, {"_update_gradient_JTDAJ_dense_tiled", "_update_gradient_JTCJ_dense"}, "_update_gradient_cholesky"),
        (
            G1,
            {"_update_gradient_init_h_sparse", "_JTDAJ_sparse", "_update_gradient_h_incremental_sparse", "_padding_h"},
            "_update_gradient_cholesky_blocked_skip_unchanged",
        ),
    ],
)
def test_independent_kernels_go_to_the_second_stream_and_what_needs_them_waits(
    monkeypatch: pytest.MonkeyPatch, task: str, hessian: set[str], solves: str
) -> None:
    env = make(task)
    state = EnvState(env).save()
    mjwarp.step(env.sim.wp_model, env.sim.wp_data)
    expected = {name: getattr(env.sim.data, name).clone() for name in ("qpos", "qvel", "qacc", "sensordata")}
    EnvState(env).load(state)
    notes = Notes(monkeypatch)
    with module.physics_branches(env.sim.wp_model, notes.device):
        mjwarp.step(env.sim.wp_model, env.sim.wp_data)
    for name, value in expected.items():
        torch.testing.assert_close(getattr(env.sim.data, name).clone(), value, msg=name)

    for name in hessian:
        assert notes.streams_of(name) == {"side"}, name
    assert notes.streams_of("_update_gradient_grad") == {"main"}
    assert notes.streams_of("_linesearch_iterative_kernel") == {"main"}
    if task == G1:
        assert notes.streams_of("_linesearch_jv_fused_kernel") == {"side"}
    contacts = {"_zero_constraint_counts", "_primitive_narrowphase"}
    for name in contacts:
        assert notes.streams_of(name) == {"side"}, name
    for name in ("_crb_accumulate", "_comvel_branch", "_qfrc_smooth", "_actuator_force"):
        assert notes.streams_of(name) == {"main"}, name
    # The first kernels of the solver, the factorization and the line search wait for everything before them.
    assert notes.unfinished_at("_solve_init_dof", solves, "_linesearch_iterative_kernel", "_solve_done") == set()
    # The gradient waits for no Hessian, the smooth dynamics for no contacts.
    assert contacts <= notes.unfinished_at("_qfrc_smooth")
    first_side = next(line for line in notes.lines if line[1] == "side")
    assert first_side[0] == "wait"


def test_kernels_over_contacts_get_more_threads_for_the_same_contacts(monkeypatch: pytest.MonkeyPatch) -> None:
    notes = Notes(monkeypatch)
    recorder = module._SolverRecorder(notes.device, notes.side, True)
    seen: list[dict[str, Any]] = []
    kernel = SimpleNamespace(key="_update_gradient_JTCJ_dense")
    launch = recorder.wrapped(lambda kernel, **kwargs: seen.append(kwargs))
    few = -(-132 * 6 * 256 // 171)
    launch(kernel, dim=(few, 171), inputs=["model", -(-40_000 // few), few], outputs=[])
    (kwargs,) = seen
    length, strides = kwargs["dim"][0], kwargs["inputs"][1]
    assert kwargs["inputs"] == ["model", strides, length] and length == -(-132 * 24 * 256 // 171)
    assert strides * length >= 40_000 > 0 and strides < -(-40_000 // few)


def test_models_in_which_constraints_are_read_early_are_recorded_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    env = make("Mjlab-Cartpole-Balance")
    notes = Notes(monkeypatch)
    monkeypatch.setattr(module, "_has_rarities", lambda model: True)
    with module.physics_branches(env.sim.wp_model, notes.device):
        mjwarp.step(env.sim.wp_model, env.sim.wp_data)
    assert {line[1] for line in notes.lines} == {"main"} and notes.events == 0
