"""The base class of configurations: build, validate, copy, and convert to plain data."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic_core import ValidationError

from . import plain_data, yaml_text
from . import trust as limits
from .errors import ConfigError, Problem, did_you_mean
from .fields import CLASS_FIELD, MISSING, declared_cfg
from .hints import show
from .messages import problems_of
from .references import resolve
from .validated import is_validated, validated
from .validators import check_cfg


@dataclasses.dataclass(kw_only=True, init=False)
class Cfg:
    """Base class of configurations; subclasses are decorated with `@configclass`.

    A configuration only describes; the class it names in `class_type` acts.
    """

    __cfg_declared__: ClassVar[dict[str, Any]] = {}
    """Annotations that this class itself declares, as written."""
    __cfg_defaults__: ClassVar[dict[str, Any]] = {}
    """Default of every field; instances get copies."""

    def __init__(self, *args: Any, **values: Any) -> None:
        cls = type(self)
        if "__cfg_declared__" not in cls.__dict__:  # its overrides would be ignored silently
            raise TypeError(f"{cls.__qualname__} derives from a configuration: decorate it with @configclass.")
        defaults = cls.__cfg_defaults__
        if args:
            raise TypeError(f"{cls.__qualname__} takes keywords only: write {next(iter(defaults), 'field')}=... .")
        for name in values:
            if name not in defaults:
                raise TypeError(f"{cls.__qualname__} has no field {name!r}; {did_you_mean(name, defaults)}")
        for name, default in defaults.items():
            object.__setattr__(self, name, values[name] if name in values else copy.deepcopy(default))
        self.__post_init__()

    def __post_init__(self) -> None:
        """Run after all fields are set; the default does nothing."""

    def __setattr__(self, name: str, value: Any) -> None:
        cls = type(self)
        fields = cls.__cfg_defaults__
        if name not in fields and not inspect.isdatadescriptor(inspect.getattr_static(cls, name, None)):
            raise AttributeError(f"{cls.__qualname__} has no field {name!r}; {did_you_mean(name, fields)}")
        object.__setattr__(self, name, value)

    def check(self) -> Iterable[str]:
        """Yield sentences about fields that contradict each other; `validate` calls it once every field is valid.

        A sentence that starts with `field:` is reported under that field's path. It says what to write instead.
        """
        return ()

    def validate(self) -> None:
        """Validate this configuration and everything below it.

        Raises:
            ConfigError: Lists every missing field, wrong type, value out of range and contradiction, with dotted paths.
        """
        try:
            check_cfg(self)
        except ValidationError as error:
            raise ConfigError(problems_of(error), type(self).__qualname__) from None

    def build(self, *args: Any, **runtime: Any) -> Any:
        """Validate, then construct `class_type(copy of this configuration, *args, **runtime)`.

        Nested configurations that the constructor builds are not validated again.
        """
        if not is_validated(self):
            self.validate()
        target = getattr(self, CLASS_FIELD, None)
        if target is None or target is MISSING:
            raise ConfigError(f"{type(self).__qualname__} describes no class: give it a field class_type.")
        if isinstance(target, str):
            target = resolve(target)
        cfg = self.copy()
        _require_constructor(target, cfg, args, runtime)
        with validated(cfg):
            return target(cfg, *args, **runtime)

    def copy(self) -> Self:
        """Return a deep copy."""
        return copy.deepcopy(self)

    def replace(self, **changes: Any) -> Self:
        """Return a deep copy with other values for some fields."""
        changed = self.copy()
        for name, value in changes.items():
            setattr(changed, name, value)
        return changed

    @classmethod
    def extending(cls, base: Cfg, **changes: Any) -> Self:
        """Return a configuration of this class with the fields of `base`, of a class above it, except `class_type`.

        Args:
            base: Configuration; it is copied.
            changes: Values of fields that differ.
        """
        taken = {name: getattr(base, name) for name in type(base).__cfg_defaults__ if name != CLASS_FIELD}
        return cls(**copy.deepcopy(taken) | changes)

    def to_dict(self) -> dict[str, Any]:
        """Return plain data (dict, list, str, numbers, None) from which `from_dict` makes an equal configuration."""
        return plain_data.write(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, trust: bool = True) -> Self:
        """Build a configuration from plain data; absent fields keep their defaults.

        Args:
            data: Output of `to_dict`, or a part of it.
            trust: True if the data may name any class or function; pass False for data of others.

        Raises:
            ConfigError: Lists every unknown key, with the nearest name, and every value of a wrong type.
        """
        yaml_text.require_bounded(data, "The data")
        with contextlib.nullcontext() if trust else limits.only(limits.AllowList.of(cls())):
            return plain_data.read(data, cls, subject=cls.__qualname__)

    def to_yaml(self, path: str | Path | None = None) -> str:
        """Return the configuration as YAML text; also write it to `path` if given."""
        text = yaml_text.dump(self.to_dict())
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_yaml(cls, source: str | Path, *, trust: bool | None = None) -> Self:
        """Build a configuration from a YAML file (a `Path`, or a string without line break) or from YAML text.

        Args:
            source: File or text.
            trust: True if it may name any class or function; None: text may, a file may not.
        """
        trust = not yaml_text.is_file(source) if trust is None else trust
        return cls.from_dict(yaml_text.load_mapping(source), trust=trust)


def _require_constructor(target: Any, cfg: Cfg, args: tuple[Any, ...], runtime: Mapping[str, Any]) -> None:
    """Refuse an abstract class, one that can't be constructed like the default, and one of another configuration."""
    usual, what = type(cfg).__cfg_defaults__.get(CLASS_FIELD), ""
    fix = "use a configuration whose class is complete" if target is usual else f"derive it from {usual!r}"
    if inspect.isabstract(target):
        what = f"{show(target)} is abstract"
    elif target is not usual and not isinstance(cfg, needed := declared_cfg(target)):
        what = f"{show(target)} reads the fields of {needed.__name__}, which {type(cfg).__name__} lacks"
        fix = f"choose a task, or a configuration, of {needed.__name__}"
    elif target is not usual:
        try:
            inspect.signature(target).bind(cfg, *args, **runtime)
        except (TypeError, ValueError) as error:
            what = f"{show(target)} can't be built with {type(cfg).__name__} ({error})"
    if what:
        raise ConfigError([Problem(CLASS_FIELD, what, fix)], type(cfg).__qualname__)
