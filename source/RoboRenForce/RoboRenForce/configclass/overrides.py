"""Change configurations from the command line and from YAML files, all or nothing.

    algorithm.clip_param=0.1            a field, typed by its annotation
    policy.actor_cfg.backbone_cfg.hidden_features=[64,64]
    policy.actor_cfg.backbone_cfg.hidden_features.0=128
    policy.actor_cfg=my_package:MyActorCfg      another class, with its defaults
    policy.actor_cfg.normalizer_cfg=null        None

Values are written in the grammar of OmegaConf and Hydra. Where the annotation asks for text, it is taken as it stands.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import yaml_text
from .base import Cfg
from .errors import ConfigError, Problem, did_you_mean
from .fields import MISSING, field_types
from .hints import arms, is_anything, is_cfg, is_cfg_class, item_hint, parts, show, simplify
from .plain_data import merge, read
from .trust import AllowList, only
from .validators import MISSING_TEXT, fits

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
            try:
                _assign(cfg, keys, value.strip(), path, names)
            except ConfigError as error:
                roots.problems += error.problems
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
    yaml_text.require_bounded(data, name)
    with only(AllowList.of(*roots.originals, everything=not is_file if trust is None else trust)):
        for key, item in data.items():
            cfg, keys, names = roots.find([str(key)])
            if keys:
                roots.problems += merge(cfg, {key: item}, names)
            elif isinstance(item, Mapping):
                roots.problems += [problem.below(str(key)) for problem in merge(cfg, item)]
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


def _assign(cfg: Cfg, keys: list[str], text: str, path: str, names: list[str]) -> None:
    """Assign the value written in `text` at `keys` below a configuration; ConfigErrors say what is wrong with it."""
    if not keys:
        raise ConfigError([Problem(path, f"got {text!r} for the whole {type(cfg).__name__}", "name one of its fields")])
    value, hint, trail = cfg, type(cfg), []
    words = path.split(".")
    for depth, key in enumerate(keys, len(words) - len(keys)):
        trail.append((value, hint, key))
        here, where = ".".join(words[:depth]), ".".join(words[: depth + 1])
        value, hint, what, fix = _child(value, hint, key, here, names, is_last=depth == len(words) - 1)
        if what:
            raise ConfigError([Problem(where, what, fix)])
        names = []
    try:
        value = read(_read_value(text, hint), hint, value)
    except ConfigError as error:
        raise ConfigError([problem.below(path) for problem in error.problems]) from None
    for holder, holder_hint, key in reversed(trail):
        value = _with_child(holder, holder_hint, key, value)


def _child(value: Any, hint: Any, key: str, path: str, names: list[str], *, is_last: bool) -> tuple[Any, Any, str, str]:
    """What `key` leads to in the value at `path`, its annotation, and, if there is nothing, why and what to write."""
    if is_cfg(value):
        hints = field_types(type(value))
        if key in hints:
            return getattr(value, key), hints[key], "", ""
        return None, None, f"{type(value).__name__} has no such field", did_you_mean(key, [*hints, *names])
    if isinstance(value, list | tuple):
        if key.isdecimal() and int(key) < len(value):
            return value[int(key)], item_hint(hint, value, int(key)), "", ""
        return None, None, f"{path} has {len(value)} entries", "count from 0, or assign the whole list"
    if isinstance(value, dict):
        known = [str(known) for known in value]
        if is_last or key in known:
            return value.get(_key(value, hint, key)), item_hint(hint, value), "", ""
        return None, None, f"{path} has no such key", did_you_mean(key, known)
    if value is MISSING:
        return None, None, f"{path} is not set", f"assign {path} first"
    fix = "shorten the path"
    if value is None and any(is_cfg_class(arm) or parts(arm)[0] is dict for arm in arms(hint)):
        fix = f"assign {path} first, for example {path}={{}}"
    return None, None, f"{path} holds {value!r}, which has no fields", fix


def _key(value: dict[Any, Any], hint: Any, key: str) -> Any:
    """The key of a dict that a word of a path means."""
    takes_numbers = any(args and simplify(args[0])[0] is int for _, args in map(parts, arms(hint)))
    new = int(key) if takes_numbers and key.lstrip("-").isdecimal() else key
    return next((known for known in value if str(known) == key), new)


def _with_child(holder: Any, hint: Any, key: str, child: Any) -> Any:
    """A value after `key` of it was assigned; tuples are made anew, everything else is changed in place."""
    if is_cfg(holder):
        setattr(holder, key, child)
    elif isinstance(holder, tuple):
        return (*holder[: int(key)], child, *holder[int(key) + 1 :])
    else:
        holder[int(key) if isinstance(holder, list) else _key(holder, hint, key)] = child
    return holder


def _read_value(text: str, hint: Any) -> Any:
    """The plain value that `text` stands for, given that the field is annotated `hint`."""
    takes_text = not is_anything(hint) and any(simplify(arm)[0] is str for arm in arms(hint))
    try:
        data = _parse(text)
    except ValueError as error:
        if takes_text:
            return text
        reason = str(error).partition("\n")[0].rpartition("interpolation: ")[2]
        fix = "write lists as [1,2], dicts as {a:1}, text in quotes"
        raise ConfigError([Problem("", f"{text!r} can't be read ({reason})", fix)]) from None
    yaml_text.require_bounded(data, "The value")
    # Run names such as 007 or 1e3 are text if the field is: only null keeps its meaning.
    is_text = takes_text and data is not None and not isinstance(data, str | list | dict)
    return text if is_text and not fits(data, hint) else data


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
