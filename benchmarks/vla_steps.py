"""What the benchmarks of vision-language-action policies share: random weights, learners, steps, memory, processes."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from statistics import median
from typing import Any
from unittest.mock import patch

CONTEXT_GIB = 0.6
"""Of a CUDA context with its loaded kernels."""


# ------------------------------------------------------------------------------------------------------- what is built


@contextmanager
def drawn_on(device: Any, *builders: tuple[Any, str]) -> Iterator[None]:
    """Let functions, named by owner and attribute, make their tensors on the device.

    A CPU takes minutes for billions of random numbers.
    """
    import torch

    def there(function: Callable[..., Any]) -> Callable[..., Any]:
        def on_device(*args: Any, **kwargs: Any) -> Any:
            with torch.device(device):
                return function(*args, **kwargs)

        return on_device

    with ExitStack() as stack:
        for owner, name in builders:
            stack.enter_context(patch.object(owner, name, there(getattr(owner, name))))
        yield


def random_policy(cfg: Any, device: Any, *builders: tuple[Any, str]) -> Any:
    """Build a policy of the fake simulator, whose `builders` draw their weights on the device."""
    import torch
    from fake_simulator import ACTIONS, CAMERAS, INSTRUCTION, STATE
    from RoboRenForce.components.vla_spec import VectorSpec, VLASpec

    torch.manual_seed(0)
    unit = {"mean": 0.0, "std": 1.0, "min": -1.0, "max": 1.0, "q01": -1.0, "q99": 1.0}
    state, action = (VectorSpec(dim, (), {k: (v,) * dim for k, v in unit.items()}) for dim in (STATE, ACTIONS))
    spec = VLASpec(CAMERAS, state, action, (INSTRUCTION,))
    with drawn_on(device, *builders):
        policy = cfg.build(spec)
    with torch.no_grad():
        for parameter in policy.head.parameters():
            if not parameter.is_meta and not parameter.any():  # what begins as zero is no longer zero when RL begins
                parameter.normal_(std=0.01)
    return policy


def learner(kind: type, cfg: Any, policy: Any, spec: Any, decisions: int, device: Any) -> Any:
    """Build a learner of `kind` for a policy in memory, as if it had been loaded from a run."""
    from importlib import import_module

    from RoboRenForce.algorithms.algorithm import RunContext

    module = import_module("RoboRenForce.algorithms.vla_rl.starting_policy")
    with patch.object(module, "policy_of_run", lambda *_, **__: (policy, set())):
        context = RunContext(spec=spec, device=device, rollout_steps=decisions, max_updates=100)
        return kind(cfg, policy=policy.cfg, context=context)


# --------------------------------------------------------------------------------------------------- what is measured


def collect(built: Any, simulator: Any, obs: Any, decisions: int, device: Any) -> tuple[Any, float]:
    """Collect a rollout; returns the observations after it, and seconds."""
    from RoboRenForce.buffer.transition import Transition

    def steps() -> None:
        nonlocal obs
        for _ in range(decisions):
            out = built.act(obs)
            transition = Transition.of_step(obs, out.action, out.record, simulator.step(out.action))
            built.process_env_step(transition)
            obs = transition.reset_obs

    seconds = timed(steps, device)
    return obs, seconds


def rates(step: Callable[[], Any], samples: int, steps: int, repeats: int, device: Any) -> dict[str, Any]:
    """Milliseconds of a step of so many samples, samples per second, and peak memory; after five steps of warm-up."""
    for _ in range(5):
        step()
    timed(lambda: None, device)
    forget_peak(device)

    def several() -> None:
        for _ in range(steps):
            step()

    times = [timed(several, device) / steps for _ in range(repeats)]
    row: dict[str, Any] = {"ms": round(1e3 * median(times), 3), "samples_per_s": round(samples / median(times), 1)}
    if device.type == "cuda":
        row["peak_memory_gib"] = round(peak_gib(device), 2)
    return row | {"ms_all": [round(1e3 * t, 3) for t in times]}


def timed(function: Callable[[], Any], device: Any) -> float:
    """Seconds of a call, with all that it sends to the device."""
    import torch

    start = time.perf_counter()
    function()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def peak_gib(device: Any) -> float:
    """Most that tensors took since `forget_peak`; 0 on a CPU."""
    import torch

    return torch.cuda.max_memory_allocated() / 2**30 if device.type == "cuda" else 0.0


def forget_peak(device: Any) -> None:
    """Begin to look for a peak."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()


def cap_memory(gib: float, device: Any) -> None:
    """Let this process take at most so much of the device, with its context."""
    import torch

    if device.type == "cuda":
        total = torch.cuda.get_device_properties(device).total_memory / 2**30
        torch.cuda.set_per_process_memory_fraction(min((gib - CONTEXT_GIB) / total, 1.0), device)


# -------------------------------------------------------------------------------------------------- processes, results


def run_child(script: str, name: str, options: Mapping[str, Any], flags: Iterable[str] = ()) -> dict[str, Any]:
    """Call `script --child NAME` with options, as a process of its own; the last line that it prints is its result."""
    given = [f"--{key}={value}" for key, value in options.items()]
    done = subprocess.run(
        [sys.executable, script, "--child", name, *given, *flags], stdout=subprocess.PIPE, text=True, check=False
    )
    return json.loads(done.stdout.splitlines()[-1]) if done.returncode == 0 else {"failed": done.returncode}


def write_results(path: str, benchmark: str, settings: Mapping[str, Any], results: Any, command: str) -> None:
    """Write what there is so far, with versions and machine."""
    from report import environment_report, write_json

    facts = {"benchmark": benchmark, "arguments": dict(settings), "results": results}
    write_json(path, {**facts, **environment_report(), "command": command})
