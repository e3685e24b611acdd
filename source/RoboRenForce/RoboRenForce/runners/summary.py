"""Summary at the end of a training run."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any, Literal

from ..utils.console_command import console_command
from ..utils.errors import ConfigError
from ..utils.registry import load_task
from ..utils.run_dir import RunDir


def consent(task_id: str, config: dict[str, Any]) -> str:
    """Return the flags without which a checkpoint of this run is refused, because of names that files may not use."""
    flags = f" --task {shlex.quote(task_id)}" if ":" in task_id else ""
    try:
        load_task(task_id).restore(config)
    except ConfigError:
        flags += " --trust"
    return flags


def summary(
    run: RunDir,
    saved_elsewhere: Path | None,
    flags: str,
    folder: Path,
    *,
    interrupted: bool,
    played: Literal["here", "elsewhere", "never"] = "here",
) -> str:
    """Return the final message: the paths of all results, and the next commands.

    Args:
        run: Directory of the run.
        saved_elsewhere: Last checkpoint, if it could not be written there.
        flags: Flags to add to commands, see `consent`.
        folder: Folder that paths are relative to.
        interrupted: True if a signal ended the run.
        played: In the environment of its task, of a task that is named as there was none, or not, being no policy.
    """

    def shown(path: Path) -> Path:
        return path.relative_to(folder) if path.is_relative_to(folder) else path

    newest, best = saved_elsewhere or run.pointed("latest"), run.pointed("best")
    root, target = (shlex.quote(str(shown(path))) for path in (run.root, saved_elsewhere or run.root))
    lines = ["Training was stopped; everything is saved." if interrupted else "Training is done."]
    if newest is not None:
        lines.append(f"  checkpoint   {shown(newest)}" + (f" (best: {best.name})" if best is not None else ""))
    if run.report.is_file():
        lines.append(f"  report       {shown(run.report)}")
    lines.append(f"  metrics      {shown(run.metrics)}, tensorboard --logdir {root}")
    rrf = console_command()
    resume = f"  go on        {rrf} train --resume {target}{flags}"
    play = {
        "here": [f"  play         {rrf} play --target {target} --video --export{flags}"],
        "elsewhere": [
            f"  export       {rrf} export --target {target}{flags}",
            f"  play         {rrf} play --target {target} --task TASK --video{flags}",
        ],
        "never": [],
    }[played]
    return "\n".join([*lines, *([resume, *play] if interrupted else [*play, resume + " --max_iterations N"])])
