"""Errors that a user can cause and repair; this module imports nothing."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace


class UserError(Exception):
    """Error that the user can repair: scripts print the message without a traceback and exit with 1."""


@dataclass(frozen=True)
class Problem:
    """One error in a configuration, in words."""

    path: str
    """Dotted path of the field, `""` for the configuration itself."""
    what: str
    """Description of the error: got and expected."""
    fix: str = ""
    """Suggested fix."""
    is_missing: bool = False
    """True if a field has no value yet."""

    def below(self, prefix: str) -> Problem:
        """Return the same problem with the path from the configuration that holds this one at `prefix`."""
        return replace(self, path=join_path(prefix, self.path))

    def __str__(self) -> str:
        text = f"{self.path}: {self.what}" if self.path else self.what
        return f"{text}; {self.fix}" if self.fix else text


class ConfigError(UserError, ValueError):
    """All errors in a configuration at once.

    Attributes:
        problems: The errors, each with its dotted path.
    """

    def __init__(self, problems: str | Sequence[Problem], subject: str = "The configuration") -> None:
        self.problems = (Problem("", problems),) if isinstance(problems, str) else tuple(problems)
        self.subject = subject
        if isinstance(problems, str):
            message = problems
        elif len(self.problems) == 1:
            message = f"{subject} has a problem: {self.problems[0]}"
        else:
            lines = "\n".join(f"  {problem}" for problem in self.problems)
            message = f"{subject} has {len(self.problems)} problems:\n{lines}"
        super().__init__(message)


def contradiction(sentence: str, names: Iterable[str], path: str = "") -> Problem:
    """Turn a sentence of `Cfg.check` into a problem: `field: ...` goes under that field, others under `path`."""
    head, colon, rest = sentence.partition(":")
    if colon and head.split(".")[0] in names:
        return Problem(join_path(path, head), rest.strip())
    return Problem(path, sentence)


def join_path(prefix: str, name: str) -> str:
    """Return `prefix.name`, where either may be empty."""
    return f"{prefix}.{name}" if prefix and name else prefix or name


def nearest(name: str, names: Iterable[str], limit: int = 3) -> list[str]:
    """Return the names most similar to `name`, best first; empty if none is similar."""
    by_lower: dict[str, str] = {}
    for candidate in names:
        by_lower.setdefault(candidate.lower(), candidate)
    found = difflib.get_close_matches(name.lower(), by_lower, n=limit, cutoff=0.6)
    return [by_lower[match] for match in found]


def did_you_mean(name: str, names: Iterable[str], limit: int = 1) -> str:
    """Return `did you mean 'x'?`, or the list of all names if none is similar."""
    names = list(names)
    found = nearest(name, names, limit)
    if found:
        return f"did you mean {' or '.join(repr(match) for match in found)}?"
    if not names:
        return "there are none"
    shown = ", ".join(sorted(names)[:20])
    return f"there is {shown}{', ...' if len(names) > 20 else ''}"
