"""Change configurations from the command line and from YAML files, all or nothing.

    algorithm.clip_param=0.1            a field, typed by its annotation
    policy.actor_cfg.backbone_cfg.hidden_features=[64,64]
    policy.actor_cfg.backbone_cfg.hidden_features.0=128
    policy.actor_cfg=my_package:MyActorCfg      another class, with its defaults
    policy.actor_cfg.normalizer_cfg=null        None

Values are written in the grammar of OmegaConf and Hydra. Where the annotation asks for text, it is taken as it stands.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import yaml_text
from .base import Cfg
from .errors import ConfigError, Problem, did_you_mean
from .fields import MISSING, field_types
from .hints import MAPPINGS, arms, is_anything, is_cfg, is_cfg_class, item_hint, simplify
from .matching import fits
from .restore import decode, merge, require_bounded
from .serialize import MISSING_TEXT
from .trust import AllowList, only
from .wording import show

Configs = Cfg | Mapping[str, Cfg]
"""One configuration, or several by the first word of a path; the one named `""` takes the paths that name none."""


def apply_overrides(configs: Configs, overrides: Sequence[str]) -> None:
    """Assign `path.to.field=value` texts in place, in their order.

    Raises:
        ConfigError: lists every override that names no field or does not fit its type; nothing is changed then.
    """
    roots = _Roots(configs)
    for text in overrides:
        path, equals, value = text.partition("=")
        path = path.strip()
        if not equals or not path:
            roots.problems.append(Problem(text, "is no override", "write path.to.field=value"))
        elif path[0] in "+~":
            fix = f"write {path.lstrip('+~')}={value} to change a field"
            roots.problems.append(Problem(path, "fields can be neither added nor removed", fix))
        else:
            cfg, keys, names = roots.find(path.split("."))
            _assign(cfg, keys, value.strip(), path, roots.problems, names)
    roots.commit("The command line")


def apply_yaml(configs: Configs, source: str | Path, *, trust: bool | None = None) -> None:
    """Merge a YAML file, or YAML text, into configurations in place; it may name a few fields only.

    Args:
        configs: what is changed.
        source: the file or the text.
        trust: whether it may name any class or function, or those of the allow-list (see `trust`); None: text of your
            program may, a file may not.

    Raises:
        ConfigError: lists every unknown field and wrong value; nothing is changed then.
    """
    roots = _Roots(configs)
    data = yaml_text.load_mapping(source)
    is_file = yaml_text.is_file(source)
    name = str(source) if is_file else "The YAML text"
    require_bounded(data, name)
    with only(AllowList.of(*roots.originals, everything=not is_file if trust is None else trust)):
        for key, item in data.items():
            cfg, keys, names = roots.find([str(key)])
            if keys:
                merge(cfg, {key: item}, "", roots.problems, names)
            elif isinstance(item, Mapping):
                merge(cfg, item, str(key), roots.problems)
            else:
                what = f"got {show(item)}, expected the fields of {type(cfg).__name__}"
                roots.problems.append(Problem(str(key), what, "write its fields below it"))
    roots.commit(name)


def to_yaml(configs: Configs) -> str:
    """Configurations as YAML that `apply_yaml` reads; several are written below their names."""
    if isinstance(configs, Cfg):
        return configs.to_yaml()
    return yaml_text.dump({name: cfg.to_dict() for name, cfg in configs.items() if name})


class _Roots:
    """Copies of the configurations to work on, until all changes are known to be right."""

    def __init__(self, configs: Configs) -> None:
        self._originals: Mapping[str, Cfg] = configs if isinstance(configs, Mapping) else {"": configs}
        copies = {id(cfg): cfg.copy() for cfg in self._originals.values()}
        self._copies = {name: copies[id(cfg)] for name, cfg in self._originals.items()}
        self.problems: list[Problem] = []

    @property
    def originals(self) -> Iterable[Cfg]:
        """The configurations as they are."""
        return self._originals.values()

    def find(self, keys: list[str]) -> tuple[Cfg, list[str], list[str]]:
        """The configuration a path leads into, the rest of the path, and what its first key could also have meant."""
        if keys[0] and keys[0] in self._copies:
            return self._copies[keys[0]], keys[1:], []
        others = [name for name in self._copies if name]
        return self._copies.get("", next(iter(self._copies.values()))), keys, others

    def commit(self, subject: str) -> None:
        """Carry the changes over to the originals, or raise what was found."""
        if self.problems:
            raise ConfigError(self.problems, subject)
        for name, cfg in self._originals.items():
            for field in field_types(type(cfg)):
                setattr(cfg, field, getattr(self._copies[name], field))


def _assign(holder: Any, keys: list[str], text: str, path: str, problems: list[Problem], names: list[str]) -> None:
    """Assign the value written in `text` at `keys` below `holder`."""
    if not keys:
        problems.append(Problem(path, f"got {text!r} for the whole {type(holder).__name__}", "name one of its fields"))
        return
    words = path.split(".")
    slot, trail = _Slot(holder, None, ""), []
    for depth, key in enumerate(keys):
        where = ".".join(words[: len(words) - len(keys) + depth + 1])
        child = slot.child(key, where, is_last=depth == len(keys) - 1, names=names if depth == 0 else [])
        if isinstance(child, Problem):
            problems.append(child)
            return
        trail.append(slot)
        slot = child
    found: list[Problem] = []
    data = _read_value(text, slot.hint, path, found)
    value = data if found else decode(data, slot.hint, slot.value, path, found)
    problems += found
    if not found:
        for parent, key in zip(reversed(trail), reversed(keys), strict=True):
            value = parent.with_child(key, value)


class _Slot:
    """A place on the way to the field: what it holds and how it is annotated."""

    def __init__(self, value: Any, hint: Any, path: str) -> None:
        self.value, self.hint, self.path = value, hint, path

    def child(self, key: str, path: str, is_last: bool, names: list[str]) -> _Slot | Problem:
        """The place that `key` leads to, or why there is none."""
        value = self.value
        if is_cfg(value):
            hints = field_types(type(value))
            if key not in hints:
                what = f"{type(value).__name__} has no such field"
                return Problem(path, what, did_you_mean(key, [*hints, *names]))
            return _Slot(getattr(value, key), hints[key], path)
        if isinstance(value, list | tuple):
            if not key.isdecimal() or int(key) >= len(value):
                return Problem(path, f"{self.path} has {len(value)} entries", "count from 0, or assign the whole list")
            origin, args = self._container()
            return _Slot(value[int(key)], item_hint(origin, args, int(key)), path)
        if isinstance(value, dict):
            return self._entry(key, path, is_last)
        if value is MISSING:
            return Problem(path, f"{self.path} is not set", f"assign {self.path} first")
        fix = "shorten the path"
        if value is None and any(is_cfg_class(arm) or simplify(arm)[0] is dict for arm in arms(self.hint)):
            fix = f"assign {self.path} first, for example {self.path}={{}}"
        return Problem(path, f"{self.path} holds {value!r}, which has no fields", fix)

    def _entry(self, key: str, path: str, is_last: bool) -> _Slot | Problem:
        _, args = self._container()
        actual = next((known for known in self.value if str(known) == key), None)
        if actual is None and not is_last:
            return Problem(path, f"{self.path} has no such key", did_you_mean(key, map(str, self.value)))
        return _Slot(self.value.get(actual), args[1] if len(args) == 2 else Any, path)

    def _container(self) -> tuple[Any, tuple[Any, ...]]:
        """Origin and arguments of that member of the annotation which describes the container in this place."""
        for arm in arms(self.hint):
            plain, _ = simplify(arm)
            origin, args = typing.get_origin(plain) or plain, typing.get_args(plain)
            if not is_anything(plain) and args and isinstance(self.value, dict) == (origin in MAPPINGS):
                return origin, args
        return type(self.value), ()

    def with_child(self, key: str, child: Any) -> Any:
        """What this place holds after `key` was assigned; tuples are made anew, everything else is changed in place."""
        value = self.value
        if is_cfg(value):
            setattr(value, key, child)
        elif isinstance(value, tuple):
            value = (*value[: int(key)], child, *value[int(key) + 1 :])
        elif isinstance(value, list):
            value[int(key)] = child
        else:
            _, args = self._container()
            known = next((known for known in value if str(known) == key), None)
            new_key = int(key) if args and simplify(args[0])[0] is int and key.lstrip("-").isdecimal() else key
            value[new_key if known is None else known] = child
        return value


def _read_value(text: str, hint: Any, path: str, problems: list[Problem]) -> Any:
    """The plain value that `text` stands for, given that the field is annotated `hint`."""
    takes_text = not is_anything(hint) and any(simplify(arm)[0] is str for arm in arms(hint))
    try:
        data = _parse(text)
    except ValueError as error:
        if takes_text:
            return text
        reason = str(error).partition("\n")[0].rpartition("interpolation: ")[2]
        problems.append(
            Problem(path, f"{text!r} can't be read ({reason})", "write lists as [1,2], dicts as {a:1}, text in quotes")
        )
        return None
    # Run names such as 007 or 1e3 are text if the field is: only null keeps its meaning.
    return (
        text
        if takes_text and data is not None and not isinstance(data, str | list | dict) and not fits(data, hint)
        else data
    )


def _parse(text: str) -> Any:
    """Read one value in OmegaConf's grammar, which Hydra shares."""
    from omegaconf import OmegaConf  # slow to import, and only needed if something is overridden

    if text in ("", MISSING_TEXT):
        return text
    if "${" in text:
        raise ValueError("interpolations are not supported")
    try:
        value = OmegaConf.create({"text": text, "value": "${oc.decode:${text}}"})["value"]
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
