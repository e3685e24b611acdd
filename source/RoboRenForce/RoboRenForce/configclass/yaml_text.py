"""YAML text to plain data and back, with the traps of YAML 1.1 closed.

`1e-3` is a number; `on`, `off`, `yes` and `no` are text (they are choices of ours), as are dates and `1:30`; a key that
appears twice is an error. Only plain data is read: no tag constructs an object.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from .errors import ConfigError


class _Loader(yaml.SafeLoader):
    """A safe loader with the scalars of YAML 1.2."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise ConfigError(f"The key {key!r} appears twice{node.start_mark}; keep one of them.")
        return super().construct_mapping(node, deep)


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


def dump(data: Any) -> str:
    """Plain data as YAML text, keys in their order."""
    return yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100)


def load(text: str, name: str = "The YAML text") -> Any:
    """Plain data from YAML text; `name` says in errors where the text comes from."""
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not valid YAML: {' '.join(str(error).split())}") from error


def load_mapping(source: str | Path) -> dict[str, Any]:
    """The mapping in a YAML file, given by its path, or in YAML text (a string with a line break or a colon).

    Raises:
        ConfigError: there is no such file, it is no YAML, or its top level is no mapping.
    """
    name = "The YAML text"
    text = source
    if isinstance(source, Path) or ("\n" not in source and ": " not in source and source.strip() not in ("", "{}")):
        path = Path(source)
        name = str(path)
        if not path.is_file():
            raise ConfigError(f"There is no configuration file {name}: check the path.")
        text = path.read_text(encoding="utf-8")
    data = load(str(text), name)
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{name} holds a {type(data).__name__}, expected fields: write `name: value` lines.")
    return data
