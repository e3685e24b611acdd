"""Changes of configurations from the command line and from YAML files, all or nothing.

    algorithm.clip_param=0.1            a field, typed by its annotation
    policy.actor_cfg.backbone_cfg.hidden_features=[64,64]
    policy.actor_cfg.backbone_cfg.hidden_features.0=128
    policy.actor_cfg=my_package:MyActorCfg      another class, with its defaults
    policy.actor_cfg.normalizer_cfg=null        None

Values are written in the grammar of OmegaConf and Hydra. Where the annotation asks for text, it is taken literally.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import yaml_text
from .base import Cfg
from .errors import ConfigError, Problem, did_you_mean
from .fields import MISSING, field_types
from .hints import arms, is_anything, is_cfg, is_cfg_class, item_hint, parts, show, simplify
from .plain_data import merge, read
from .trust import AllowList, only
from .validators import CLASS_KEY, MISSING_TEXT, fits

Configs = Cfg | Mapping[str, Cfg]
"""One configuration, or several by the first word of a path; the one named `""` takes all other paths."""


def apply_overrides(configs: Configs, overrides: Sequence[str]) -> None:
    """Assign `path.to.field=value` texts in place, in their order.

    Raises:
        ConfigError: Lists every override that names no field or does not fit its type; nothing is changed then.
    """
    with _all_or_nothing(configs, "The command line") as (copies, problems):
        for text in overrides:
            path, equals, value = text.partition("=")
            path = path.strip()
            if not equals or not path:
                problems.append(Problem(text, "is no override", "write path.to.field=value"))
            elif path[0] in "+~":
                fix = f"write {path.lstrip('+~')}={value} to change a field"
                problems.append(Problem(path, "fields can be neither added nor removed", fix))
            else:
                try:
                    _override(copies, path, value.strip())
                except ConfigError as error:
                    problems += error.problems


def apply_yaml(configs: Configs, source: str | Path, *, trust: bool | None = None, ignore: Sequence[str] = ()) -> None:
    """Merge a YAML file, or YAML text, into configurations in place; it may name a few fields only.

    Args:
        configs: Configurations to change.
        source: File or text.
        trust: True if it may name any class or function, False for those of the allow-list (see `trust`); None: text
            may, a file may not.
        ignore: Keys that somebody else reads.

    Raises:
        ConfigError: Lists every unknown field and wrong value; nothing is changed then.
    """
    data = {key: item for key, item in yaml_text.load_mapping(source).items() if key not in ignore}
    is_file = yaml_text.is_file(source)
    name = str(source) if is_file else "The YAML text"
    yaml_text.require_bounded(data, name)
    everything = not is_file if trust is None else trust
    with (
        _all_or_nothing(configs, name) as (copies, problems),
        only(AllowList.of(*copies.values(), everything=everything)),
    ):
        for key, item in data.items():
            cfg, keys, others = _find(copies, [str(key)])
            if not keys and not isinstance(item, Mapping):
                what = f"got {show(item)}, expected the fields of {type(cfg).__name__}"
                problems.append(Problem(str(key), what, "write its fields below it"))
            elif not keys:
                problems += [problem.below(str(key)) for problem in merge(cfg, item)]
            elif others and key not in (CLASS_KEY, *field_types(type(cfg))):
                problems.append(_no_field(cfg, str(key), str(key), others))
            else:
                problems += merge(cfg, {key: item})


def to_yaml(configs: Configs) -> str:
    """Return configurations as YAML that `apply_yaml` reads; several are written below their names."""
    if isinstance(configs, Cfg):
        return configs.to_yaml()
    return yaml_text.dump({name: cfg.to_dict() for name, cfg in configs.items() if name})


@contextmanager
def _all_or_nothing(configs: Configs, subject: str) -> Iterator[tuple[dict[str, Cfg], list[Problem]]]:
    """Yield copies to change and a list for problems; apply the changes to the originals if there are none."""
    originals: Mapping[str, Cfg] = configs if isinstance(configs, Mapping) else {"": configs}
    copies = {id(cfg): cfg.copy() for cfg in originals.values()}
    problems: list[Problem] = []
    yield {name: copies[id(cfg)] for name, cfg in originals.items()}, problems
    if problems:
        raise ConfigError(problems, subject)
    for cfg in originals.values():
        for field in field_types(type(cfg)):
            setattr(cfg, field, getattr(copies[id(cfg)], field))


def _find(configs: dict[str, Cfg], keys: list[str]) -> tuple[Cfg, list[str], list[str]]:
    """Return the configuration that a path leads into, the rest of the path, and other meanings of its first key."""
    if keys[0] and keys[0] in configs:
        return configs[keys[0]], keys[1:], []
    return configs.get("", next(iter(configs.values()))), keys, [name for name in configs if name]


def _no_field(cfg: Any, path: str, name: str, others: Sequence[str] = ()) -> Problem:
    fix = did_you_mean(name, [*field_types(type(cfg)), *others])
    return Problem(path, f"{type(cfg).__name__} has no such field", fix)


def _override(configs: dict[str, Cfg], path: str, text: str) -> None:
    """Assign the value written in `text`; a ConfigError explains a failure."""
    words = path.split(".")
    cfg, keys, others = _find(configs, words)
    if not keys:
        raise ConfigError([Problem(path, f"got {text!r} for the whole {type(cfg).__name__}", "name one of its fields")])
    if others and keys[0] not in field_types(type(cfg)):
        raise ConfigError([_no_field(cfg, keys[0], keys[0], others)])
    _assign(cfg, type(cfg), keys, text, ".".join(words[: len(words) - len(keys)]))


def _assign(value: Any, hint: Any, keys: list[str], text: str, path: str) -> Any:
    """Return the value at `path` after assigning `text` below it: the same configuration, or a new container."""
    if not keys:
        try:
            return read(_read_value(text, hint), hint, value)
        except ConfigError as error:
            raise ConfigError([problem.below(path) for problem in error.problems]) from None
    key, *rest = keys
    where = f"{path}.{key}" if path else key
    if is_cfg(value):
        if key not in (hints := field_types(type(value))):
            raise ConfigError([_no_field(value, where, key)])
        setattr(value, key, _assign(getattr(value, key), hints[key], rest, text, where))
        return value
    if isinstance(value, list | tuple):
        if not key.isdecimal() or int(key) >= len(value):
            what = f"{path} has {len(value)} entries"
            raise ConfigError([Problem(where, what, "count from 0, or assign the whole list")])
        items, index = list(value), int(key)
        items[index] = _assign(items[index], item_hint(hint, value, index), rest, text, where)
        return type(value)(items)
    if isinstance(value, dict):
        numbers = any(args and simplify(args[0])[0] is int for _, args in map(parts, arms(hint)))
        new = int(key) if numbers and key.lstrip("-").isdecimal() else key
        actual = next((known for known in value if str(known) == key), new)
        if rest and actual not in value:
            raise ConfigError([Problem(where, f"{path} has no such key", did_you_mean(key, map(str, value)))])
        return {**value, actual: _assign(value.get(actual), item_hint(hint, value), rest, text, where)}
    what, fix = f"{path} holds {value!r}, which has no fields", "shorten the path"
    if value is MISSING:
        what, fix = f"{path} is not set", f"assign {path} first"
    elif value is None and any(is_cfg_class(arm) or parts(arm)[0] is dict for arm in arms(hint)):
        fix = f"assign {path} first, for example {path}={{}}"
    raise ConfigError([Problem(where, what, fix)])


def _read_value(text: str, hint: Any) -> Any:
    """Parse `text` to a plain value, given that the field is annotated `hint`."""
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
    """Parse one value in OmegaConf's grammar, which Hydra shares."""
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
