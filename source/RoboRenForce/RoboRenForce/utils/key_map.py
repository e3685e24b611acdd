"""Names of tensors in checkpoints of others: renaming by prefixes, both ways.

A layout is described once, and serves loading, exporting and the report of what a file lacks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from .errors import CheckpointError


@dataclass(frozen=True)
class KeyMap:
    """Layout of the names of one publisher."""

    name: str
    """Of the layout."""
    renames: tuple[tuple[str, str], ...]
    """Pairs (beginning of theirs, beginning of ours); the longest that fits is taken, of equal ones the first."""
    unused: tuple[str, ...] = ()
    """Beginnings of names that these files may hold and that we have no use for; they win over `renames`."""
    copies: Mapping[str, str] | None = None
    """Their name of a second copy of a tensor -> their name of the first, which may be absent then."""
    zeros: tuple[str, ...] = ()
    """Their names of tensors that a strict reader asks for and that nothing of ours fills."""

    def ours(self, name: str) -> str | None:
        """Translate one of their names; None if it is not of this layout."""
        return _renamed(name, self.renames)

    def theirs(self, name: str) -> str | None:
        """Translate one of our names; None if the layout has no place for it."""
        return _renamed(name, [(mine, theirs) for theirs, mine in self.renames])

    def from_theirs(self, names: Iterable[str]) -> dict[str, str]:
        """Return our name -> theirs, without what is not used.

        Raises:
            CheckpointError: a name is unknown.
        """
        found, names = {}, set(names)
        for name in sorted(names):
            if name.startswith(self.unused):
                continue
            first = (self.copies or {}).get(name)
            if first is not None:
                if first in names:
                    continue
                mine = self.ours(first)
            else:
                mine = self.ours(name)
            if mine is None:
                raise CheckpointError(
                    f"'{name}' is no name of the layout '{self.name}': the file is of another model, or of a version "
                    "that is not known here."
                )
            found[mine] = name
        return found

    def to_theirs(self, names: Iterable[str]) -> dict[str, str]:
        """Return their name -> ours, without `zeros`.

        Raises:
            CheckpointError: the layout has no place for one.
        """
        found = {}
        for name in names:
            theirs = self.theirs(name)
            if theirs is None:
                raise CheckpointError(
                    f"The layout '{self.name}' has no place for '{name}': export another layout, or merge adapters "
                    "before."
                )
            found[theirs] = name
        return found


def best_layout(layouts: Sequence[KeyMap], names: Iterable[str]) -> KeyMap | None:
    """Return the layout that knows most of the names; None if none knows more than half."""
    names = list(names)
    known = {layout.name: sum(layout.ours(name) is not None for name in names) for layout in layouts}
    best = max(layouts, key=lambda layout: known[layout.name])
    return best if 2 * known[best.name] > len(names) else None


def _renamed(name: str, renames: Sequence[tuple[str, str]]) -> str | None:
    fits = [(old, new) for old, new in renames if name.startswith(old)]
    if not fits:
        return None
    old, new = max(fits, key=lambda pair: len(pair[0]))
    return new + name[len(old) :]
