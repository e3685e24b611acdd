"""YAML text to plain data and back, with the traps of YAML 1.1 closed.

`1e-3` is a number; `on`, `off`, `yes` and `no` are text (they are choices of ours), as are dates and `1:30`; a key that
appears twice is an error. Only plain data is read: no tag constructs an object.
"""

from __future__ import annotations

import re
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError


class _Loader(yaml.SafeLoader):
    """A safe loader with the scalars of YAML 1.2."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):  # what is not is refused below
                if key in seen:
                    line = key_node.start_mark.line + 1
                    raise ConfigError(f"The key {key!r} appears twice, again in line {line}; keep one of them.")
                seen.add(key)
        return super().construct_mapping(node, deep)

    def flatten_mapping(self, node: Any) -> None:
        """Do not expand merge keys, which are of YAML 1.1 and multiply what they repeat."""


class _Dumper(yaml.SafeDumper):
    """A safe dumper that writes lists without fields on one line and never refers back to an earlier node."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


_SCALARS = (
    ("bool", r"true|True|TRUE|false|False|FALSE", "tTfF"),
    ("int", r"[-+]?[0-9]+|0x[0-9a-fA-F]+", "-+0123456789"),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", "-+.0123456789"),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", "-+."),
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
)
_Loader.yaml_implicit_resolvers = {}
for _name, _pattern, _first in _SCALARS:
    # The dumper learns them too: text that any of the two versions would read as a number is then written in quotes.
    for _class in (_Loader, _Dumper):
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(rf"^(?:{_pattern})$"), list(_first))


def _represent_list(dumper: yaml.SafeDumper, data: list[Any]) -> yaml.Node:
    holds_fields = any(isinstance(item, dict) and item for item in data)
    return dumper.represent_sequence("tag:yaml.org,2002:seq", data, flow_style=not holds_fields)


_Dumper.add_representer(list, _represent_list)

_LONGEST = 250_000
"""Maximum number of characters that are read; a configuration with every field written out has ten thousand."""


def dump(data: Any) -> str:
    """Format plain data as YAML text, keys in their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def load(text: str, name: str = "The YAML text") -> Any:
    """Parse plain data from YAML text; `name` is the origin of the text in errors."""
    if len(text) > _LONGEST:
        raise ConfigError(
            f"{name} has {len(text):,} characters, expected a configuration of at most {_LONGEST:,}: "
            f"keep large data in a file of its own."
        )
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error
    except RecursionError:
        raise ConfigError(f"{name} is nested too deeply: flatten it.") from None
    except ConfigError:
        raise
    except ValueError as error:  # of int(): too many digits, or 8 and 9 after a leading 0
        raise ConfigError(f"{name} holds a number that can't be read: {error}.") from error


def is_file(source: str | Path) -> bool:
    """Return True if `source` is the path of a YAML file: a `Path`, or text without a line break and a colon."""
    return isinstance(source, Path) or ("\n" not in source and ": " not in source and source.strip() not in ("", "{}"))


def load_mapping(source: str | Path) -> dict[str, Any]:
    """Parse the mapping in a YAML file or in YAML text; a ConfigError explains a failure."""
    data = load(_read(Path(source)), str(source)) if is_file(source) else load(str(source))
    if data is not None and not isinstance(data, dict):
        name = str(source) if is_file(source) else "The YAML text"
        raise ConfigError(f"{name} holds a {type(data).__name__}, expected fields: write `name: value` lines.")
    return data or {}


def load_file(path: Path) -> Any:
    """Parse plain data from a YAML file, bounded by what a configuration can hold once its anchors are expanded."""
    data = load(_read(path), str(path))
    require_bounded(data, str(path))
    return data


def _read(path: Path) -> str:
    try:
        if path.is_file() and path.stat().st_size > 4 * _LONGEST:  # even if every character takes four bytes
            raise ConfigError(f"{path} has {path.stat().st_size:,} bytes, which is no configuration: check the path.")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(f"There is no configuration file {path}: check the path.") from None
    except UnicodeDecodeError as error:
        what = f"{error.reason} at byte {error.start}"
        raise ConfigError(f"{path} is not UTF-8 text ({what}): save it as UTF-8.") from None
    except ConfigError:
        raise
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} can't be read ({error}): check the path.") from error


_MOST_VALUES = 100_000
_DEEPEST = 64


def require_bounded(data: Any, name: str) -> None:
    """Refuse data that contains itself, is very deep, or is very large once repeated parts are expanded."""
    known: dict[int, tuple[int, int]] = {}

    def extent(value: Any, depth: int) -> tuple[int, int]:
        """Count the values in `value`, and the levels below it."""
        if depth > _DEEPEST:
            raise ConfigError(f"{name} is nested in itself, or deeper than {_DEEPEST} levels: flatten it.")
        if not isinstance(value, Mapping | list | tuple):
            return 1, 0
        if id(value) not in known:
            parts = [extent(part, depth + 1) for part in (value.values() if isinstance(value, Mapping) else value)]
            known[id(value)] = 1 + sum(size for size, _ in parts), 1 + max((levels for _, levels in parts), default=0)
        size, levels = known[id(value)]
        if size > _MOST_VALUES or depth + levels > _DEEPEST:
            raise ConfigError(
                f"{name} holds more than {_MOST_VALUES} values or {_DEEPEST} levels once its anchors are written out: "
                f"keep large data in a file of its own."
            )
        return size, levels

    extent(data, 0)
