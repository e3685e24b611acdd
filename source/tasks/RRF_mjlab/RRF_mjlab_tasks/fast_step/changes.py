"""Print what changed in the functions that the fast step mirrors, between two versions of mjlab.

    python -m RRF_mjlab_tasks.fast_step.changes OLD NEW

OLD and NEW are folders with `mjlab` and, to compare it too, `mujoco_warp` in them, such as `site-packages`. Their files
are read, not imported. Ends with 1 if something differs, like `diff`. See `docs/adding/mjlab_version.md`.
"""

from __future__ import annotations

import argparse
import ast
import difflib
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from .mjlab_version import FINGERPRINTS, KNOWN_MINOR, fingerprint

Definition = ast.ClassDef | ast.FunctionDef


class Sources:
    """The packages in one folder, as text.

    Args:
        site: folder of the packages.
    """

    def __init__(self, site: Path) -> None:
        self.site = site

    def has(self, package: str) -> bool:
        """Return True if the package is in the folder."""
        return (self.site / package).is_dir()

    def version(self) -> str:
        """Return mjlab's version by its metadata, or the folder if there are none."""
        found = sorted(self.site.glob("mjlab-*.dist-info"))
        return found[-1].name.removeprefix("mjlab-").removesuffix(".dist-info") if found else str(self.site)

    def source(self, path: str) -> str:
        """Return the text of `module:Class.function`, as `inspect.getsource` cuts it out; empty if absent."""
        file, node = self._find(path)
        if node is None:
            return ""
        first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
        return "".join(inspect.getblock(file.read_text(encoding="utf-8").splitlines(keepends=True)[first - 1 :]))

    def members(self, path: str) -> set[str]:
        """Return fields and methods, as `name` and `name()`, of the class that `path` is or belongs to."""
        module, _, qualified = path.partition(":")
        _, node = self._find(f"{module}:{qualified.partition('.')[0]}")
        if not isinstance(node, ast.ClassDef):
            return set()
        found = {f"{entry.name}()" for entry in node.body if isinstance(entry, ast.FunctionDef)}
        for entry in node.body:
            targets = entry.targets if isinstance(entry, ast.Assign) else [getattr(entry, "target", None)]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
        for entry in ast.walk(node):
            if isinstance(entry, ast.Attribute) and isinstance(entry.ctx, ast.Store):
                found |= {entry.attr} if isinstance(entry.value, ast.Name) and entry.value.id == "self" else set()
        return found

    def elsewhere(self, path: str) -> list[str]:
        """Return other definitions of a class or function of this name in the package, as `module:Class.function`."""
        module, _, qualified = path.partition(":")
        package = module.partition(".")[0]
        found = []
        for file in sorted((self.site / package).rglob("*.py")):
            other = ".".join(file.relative_to(self.site).with_suffix("").parts).removesuffix(".__init__")
            if other != module and self._find(f"{other}:{qualified}")[1] is not None:
                found.append(f"{other}:{qualified}")
        return found

    def words(self, packages: list[str]) -> set[str]:
        """Return every word in the files of these packages."""
        return {word for name in packages for file in (self.site / name).rglob("*.py") for word in _words(file)}

    def _find(self, path: str) -> tuple[Path, Definition | None]:
        module, _, qualified = path.partition(":")
        folder = self.site.joinpath(*module.split("."))
        file = folder / "__init__.py" if folder.is_dir() else folder.with_suffix(".py")
        node: ast.AST | None = _parsed(file) if file.is_file() else None
        for name in qualified.split("."):
            entries = getattr(node, "body", [])
            node = next((e for e in entries if isinstance(e, Definition) and e.name == name), None)
        return file, node if isinstance(node, Definition) else None


@cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def _words(file: Path) -> set[str]:
    return set(re.findall(r"[A-Za-z_]\w*", file.read_text(encoding="utf-8")))


@cache
def _our_words() -> dict[str, set[str]]:
    folder = Path(__file__).parent
    return {str(file.relative_to(folder)): _words(file) for file in sorted(folder.rglob("*.py"))}


def report(old: Sources, new: Sources) -> tuple[list[str], bool]:
    """Return the changes from `old` to `new` as lines, and True if there are any."""
    lines = [f"mjlab {old.version()} -> {new.version()}"]
    packages = [name for name in ("mjlab", "mujoco_warp") if old.has(name) and new.has(name)]
    paths = [path for path in FINGERPRINTS if path.partition(".")[0] in packages]
    if "mujoco_warp" not in packages:
        lines.append("mujoco_warp is not in both folders: its functions are not compared.")
    unknown = [path for path in paths if fingerprint(old.source(path)) != FINGERPRINTS[path]]
    if unknown:
        lines.append(f"OLD is not the version that the fingerprints are of: {len(unknown)} of {len(paths)} differ.")
    changed = [path for path in paths if old.source(path) != new.source(path)]
    lines.append(f"{len(changed)} of {len(paths)} functions and classes differ.")
    for path in changed:
        lines += ["", *_difference(old, new, path)]
    for title, part in (
        ("Fields and methods", _member_changes(old, new, paths)),
        (
            "Private names that the fast step uses and NEW has nowhere",
            _lost_names(old.words(packages) - new.words(packages)),
        ),
        ("Fingerprints for mjlab_version.py", _fingerprints(new, paths)),
    ):
        entries = list(part)
        lines += ["", f"{title}:", *(entries or ["    (none)"])]
    return lines, bool(changed)


def _difference(old: Sources, new: Sources, path: str) -> Iterator[str]:
    before, after = old.source(path), new.source(path)
    if not after:
        places = ", ".join(new.elsewhere(path)) or "nowhere"
        yield f"{path} is gone; now defined: {places}"
        return
    if _code(before) == _code(after):
        yield f"{path}: comments and docstrings only"
    yield from difflib.unified_diff(
        before.splitlines(), after.splitlines(), f"old/{path}", f"new/{path}", lineterm="", n=3
    )


def _code(source: str) -> str:
    """Return `source` without comments and docstrings."""
    tree = ast.parse(inspect.cleandoc("\n" + source))
    for node in ast.walk(tree):
        if isinstance(node, Definition) and ast.get_docstring(node, clean=False) is not None:
            node.body = node.body[1:]
    return ast.dump(tree)


def _member_changes(old: Sources, new: Sources, paths: list[str]) -> Iterator[str]:
    """Yield `+` new and `-` removed members of every class that is mirrored, or has a mirrored method."""
    for name in dict.fromkeys(re.sub(r"(:\w+).*", r"\1", path) for path in paths):
        before, after = old.members(name), new.members(name)
        signs = [f"+{member}" for member in sorted(after - before)]
        for member in sorted(before - after):
            users = [file for file, words in _our_words().items() if member.removesuffix("()") in words]
            is_telling = 0 < len(users) < 4  # `reset` is everywhere
            signs.append(f"-{member}" + (f" (named in {', '.join(users)})" if is_telling else ""))
        if signs:
            yield f"    {name}  {' '.join(signs)}"


def _lost_names(gone: set[str]) -> Iterator[str]:
    """Find changes that no fingerprint covers: attributes of classes whose other methods are irrelevant here."""
    for file, words in _our_words().items():
        lost = sorted(word for word in words & gone if word.startswith("_"))
        if lost:
            yield f"    {file}  {' '.join(lost)}"


def _fingerprints(new: Sources, paths: list[str]) -> Iterator[str]:
    """Return lines to paste over those of the table."""
    minor = re.match(r"\d+\.\d+\.", new.version())
    if minor and minor[0] != KNOWN_MINOR:
        yield f'KNOWN_MINOR = "{minor[0]}"'
    for path in paths:
        source = new.source(path)
        if source and fingerprint(source) != FINGERPRINTS[path]:
            yield f'    "{path}": "{fingerprint(source)}",'


def main(arguments: list[str] | None = None) -> int:
    """Print the report."""
    parser = argparse.ArgumentParser(prog="python -m RRF_mjlab_tasks.fast_step.changes", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    for name in ("old", "new"):
        parser.add_argument(name, type=Path, metavar=name.upper(), help="folder with mjlab in it")
    options = parser.parse_args(arguments)
    old, new = Sources(options.old), Sources(options.new)
    for sources in (old, new):
        if not sources.has("mjlab"):
            parser.error(f"there is no mjlab in {sources.site}; pip install --no-deps --target {sources.site} mjlab")
    lines, changed = report(old, new)
    sys.stdout.write("\n".join(lines) + "\n")
    return int(changed)


if __name__ == "__main__":
    sys.exit(main())
