"""What every configuration can do: build what it describes, check itself, copy itself and become plain data."""

from __future__ import annotations

import copy
import dataclasses
import inspect
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Self

from . import restore, serialize, wording, yaml_text
from . import trust as limits
from .errors import ConfigError, Problem, did_you_mean
from .fields import CLASS_FIELD, MISSING, field_names
from .references import resolve
from .validated import is_validated, validated


@dataclasses.dataclass(kw_only=True)
class Cfg:
    """Base of every configuration; subclasses are decorated with `@configclass`.

    A configuration describes, the class it names in `class_type` acts.
    """

    __cfg_declared__: ClassVar[dict[str, Any]] = {}
    """Annotations that this very class declares, as written."""
    __cfg_defaults__: ClassVar[dict[str, Any]] = {}
    """Default of every field; instances get copies."""

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Refuse classes without the decorator: their overrides would be ignored silently."""
        if "__cfg_declared__" not in cls.__dict__:
            raise TypeError(f"{cls.__qualname__} derives from a configuration: decorate it with @configclass.")
        return super().__new__(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        cls = type(self)
        fields = field_names(cls)
        if name not in fields and not inspect.isdatadescriptor(inspect.getattr_static(cls, name, None)):
            raise AttributeError(f"{cls.__qualname__} has no field {name!r}; {did_you_mean(name, fields)}")
        object.__setattr__(self, name, value)

    def check(self) -> Iterable[str]:
        """Sentences about fields that contradict each other; called by `validate` once every field is right by itself.

        A sentence that starts with `field:` is reported under that field's path. It says what to write instead.
        """
        return ()

    def validate(self) -> None:
        """Check everything below this configuration.

        Raises:
            ConfigError: lists every missing field, wrong type, value out of range and contradiction, with dotted paths.
        """
        problems = wording.problems_of(self)
        if problems:
            raise ConfigError(problems, type(self).__qualname__)

    def build(self, *args: Any, **runtime: Any) -> Any:
        """Validate, then construct `class_type(copy of this configuration, *args, **runtime)`.

        The parts of it that the constructor builds are not validated again.
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
        """A deep copy."""
        return copy.deepcopy(self)

    def replace(self, **changes: Any) -> Self:
        """A deep copy with other values for some fields."""
        changed = self.copy()
        for name, value in changes.items():
            setattr(changed, name, value)
        return changed

    def to_dict(self) -> dict[str, Any]:
        """Plain data (dict, list, str, numbers, None) from which `from_dict` makes an equal configuration."""
        return serialize.encode_cfg(self, expected=type(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], *, trust: bool = True) -> Self:
        """Build a configuration from plain data; fields that are absent keep their defaults.

        Args:
            data: what `to_dict` makes, or a part of it.
            trust: whether it may name any class or function, as your program does; say False for data of others.

        Raises:
            ConfigError: lists every unknown key, with the nearest name, and every value of a wrong type.
        """
        if trust:
            return restore.from_plain(cls, data)
        with limits.only(limits.AllowList.of(cls())):
            return restore.from_plain(cls, data)

    def to_yaml(self, path: str | Path | None = None) -> str:
        """The configuration as YAML text, also written to `path` if one is given."""
        text = yaml_text.dump(self.to_dict())
        if path is not None:
            Path(path).write_text(text, encoding="utf-8")
        return text

    @classmethod
    def from_yaml(cls, source: str | Path, *, trust: bool | None = None) -> Self:
        """Build a configuration from a YAML file (a `Path`, or a string without line break) or from YAML text.

        Args:
            source: the file or the text.
            trust: whether it may name any class or function; None: text of your program may, a file may not.
        """
        trust = not yaml_text.is_file(source) if trust is None else trust
        return cls.from_dict(yaml_text.load_mapping(source), trust=trust)


def _require_constructor(target: Any, cfg: Cfg, args: tuple[Any, ...], runtime: Mapping[str, Any]) -> None:
    """Refuse an abstract class, and one other than the default that can't be constructed like it."""
    usual = type(cfg).__cfg_defaults__.get(CLASS_FIELD)
    what = f"{wording.show(target)} is abstract" if inspect.isabstract(target) else ""
    if not what and target is not usual:
        try:
            inspect.signature(target).bind(cfg, *args, **runtime)
        except (TypeError, ValueError) as error:
            what = f"{wording.show(target)} can't be built with {type(cfg).__name__} ({error})"
    if what:
        fix = "use a configuration whose class is complete" if target is usual else f"derive it from {usual!r}"
        raise ConfigError([Problem(CLASS_FIELD, what, fix)], type(cfg).__qualname__)
