"""The pages of the documentation as tests see them: fenced blocks, commands, and running both in this process.

In this process, because each interpreter that imports torch costs seconds; `Workplace` undoes what a command changes.
"""

from __future__ import annotations

import contextlib
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
from RoboRenForce.cli import main as rrf

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
_FILE_NAME = re.compile(r"# (\w+\.py)\n")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(page: Path, language: str) -> list[str]:
    """The fenced blocks of a language, in their order."""
    text = page.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def files_of(page: Path) -> dict[str, str]:
    """The snippets that are files of their own: those that begin with `# name.py`."""
    return {match[1]: block for block in blocks(page, "python") if (match := _FILE_NAME.match(block))}


def snippets_of(page: Path) -> str:
    """All other Python snippets, one after another."""
    return "\n".join(block for block in blocks(page, "python") if not _FILE_NAME.match(block))


@dataclass(frozen=True)
class Command:
    """One command of a page, without assignments before and redirections behind it."""

    page: Path
    words: tuple[str, ...]

    @property
    def verb(self) -> str:
        """`train`, `play`, `list`, ... for `rrf`, for scripts, and for files of the page that call rrf; else empty."""
        if self.words[0] == "rrf":
            return self.words[1]
        if self.words[0] != "python":
            return ""
        if self.words[1] in files_of(self.page):
            return self.words[2]
        script = re.fullmatch(r"scripts/renforce/(\w+?)_\w+\.py", self.words[1])
        return script[1] if script else ""

    @property
    def arguments(self) -> list[str]:
        """What follows the verb."""
        return list(self.words[3 if self.words[1] in files_of(self.page) else 2 :])

    def __str__(self) -> str:
        return f"{name_of(self.page)}: {' '.join(self.words)}"


def commands_of(page: Path) -> list[Command]:
    """Every command of the bash blocks of a page."""
    found = []
    for block in blocks(page, "bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line.partition(" > ")[0], comments=True)
            while words and re.match(r"[A-Z_]+=", words[0]):
                words.pop(0)
            if words:
                found.append(Command(page, tuple(words)))
    return found


class Workplace:
    """A folder in which the commands and snippets of one page run, one after another."""

    def __init__(self, folder: Path, page: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        monkeypatch.chdir(folder)
        monkeypatch.syspath_prepend(str(folder))
        (folder / "scripts").symlink_to(ROOT / "scripts")
        for name, text in files_of(page).items():
            (folder / name).write_text(text, encoding="utf-8")

    def run(self, *words: str) -> int:
        """Run `rrf ...` or `python file.py ...`; returns the exit code."""
        with self._undone():
            try:
                if words[0] == "rrf":
                    rrf(words[1:])
                else:
                    self.monkeypatch.setattr(sys, "argv", list(words[1:]))
                    runpy.run_path(words[1], run_name="__main__")
            except SystemExit as left:
                return int(left.code or 0)
        return 0

    def import_text(self, name: str, text: str) -> dict[str, Any]:
        """Import a text as a module, because configclass finds annotations and functions there; returns its names."""
        (self.folder / f"{name}.py").write_text(text, encoding="utf-8")
        with self._undone():
            module = __import__(name)
        self.monkeypatch.setitem(sys.modules, name, module)
        return vars(module)

    @contextlib.contextmanager
    def _undone(self) -> Iterator[None]:
        """Forget tasks and modules that came from the folder, as a new process would."""
        tasks, modules = dict(gym.registry), set(sys.modules)
        try:
            yield
        finally:
            own = [name for name in set(sys.modules) - modules if self._is_here(sys.modules[name])]
            for name in own:
                del sys.modules[name]
            for name in set(gym.registry) - set(tasks):
                if not name.startswith("RoboRenForce-"):
                    del gym.registry[name]

    def _is_here(self, module: Any) -> bool:
        file = getattr(module, "__file__", None)
        return file is not None and Path(file).is_relative_to(self.folder)


def found_run(root: Path, word: str) -> str:
    """`algorithm.init_from=<run>` with the run in `root` that the time stamp of a page stands for."""
    name, _, pattern = word.partition("=")
    (run,) = root.glob(pattern.replace("2026-01-01_12-00-00", "*"))
    return f"{name}={run}"
