"""Runs of a benchmark as processes of their own: several at a time, over GPUs, with results while they last."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peer_scripts import ONE_THREAD

Result = dict[str, Any]
"""JSON of a child; `error` is the last line of one that failed, `stopped` is True if its time was over."""


@dataclass
class Child:
    """Run of `python script --child FILE words`."""

    words: Sequence[str]
    environment: Mapping[str, str] = field(default_factory=dict)
    python: str = ""
    """Interpreter, if not this one."""


class _Running:
    def __init__(self, script: str, child: Child, path: Path) -> None:
        self._path, self._log = path, path.with_suffix(".log")
        command = [child.python or sys.executable, str(Path(script).resolve()), "--child", str(path), *child.words]
        environment = os.environ | ONE_THREAD | dict(child.environment)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)

    @property
    def is_over(self) -> bool:
        return self._process.poll() is not None

    def result(self) -> Result:
        """Return what it has written so far, and the error if it has failed."""
        found = json.loads(self._path.read_text()) if self._path.exists() else {}
        code = self._process.poll()
        if code or (code == 0 and not found):
            said = self._log.read_text().strip()
            print(said[-3000:], file=sys.stderr)
            found["error"] = said.splitlines()[-1] if said else f"ended with code {code}"  # no paths of a traceback
        return found

    def stop(self) -> Result:
        """End it, and return what it has written."""
        found = self.result() | {"stopped": True}
        self._process.kill()
        self._process.wait()
        return found


def run_children(
    script: str, children: Mapping[str, Child], jobs: int, seconds: float = 0.0, poll: float = 1.0
) -> Iterator[dict[str, Result]]:
    """Run children, `jobs` at a time; yields the results of all whenever one has changed.

    Args:
        script: The script.
        children: Name -> child, in the order in which they start.
        jobs: Processes at a time.
        seconds: Time after which those that run are ended and no more are started; 0: never.
        poll: Seconds between two looks.
    """
    begin, waiting, found = time.monotonic(), dict(children), {}
    running: dict[str, _Running] = {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            if is_late := bool(seconds) and time.monotonic() - begin > seconds:
                waiting.clear()
            for name in list(waiting)[: jobs - len(running)]:
                running[name] = _Running(script, waiting.pop(name), Path(folder) / f"{len(waiting)}.json")
            time.sleep(poll)
            before = dict(found)
            for name, child in list(running.items()):
                is_over = child.is_over
                result = child.result() if is_over or not is_late else child.stop()
                if result:
                    found[name] = result
                if is_over or is_late:
                    del running[name]
            if found != before:
                yield dict(found)


def write_child(path: str | Path, result: Mapping[str, Any]) -> None:
    """Write the result of a child, whole or not at all; it may be called again with more."""
    part = Path(path).with_suffix(".part")
    part.write_text(json.dumps(result))
    part.replace(path)


def on_gpu(index: int) -> dict[str, str]:
    """Return the environment of a process that sees one of the GPUs that are visible here."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return {"CUDA_VISIBLE_DEVICES": visible.split(",")[index] if visible else str(index)}
