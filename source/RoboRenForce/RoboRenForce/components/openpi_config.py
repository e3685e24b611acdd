"""The JSON files beside published weights of pi0 and pi0.5, of whatever version: read, and refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from ..utils.errors import CheckpointError

Method = Literal["mean_std", "min_max", "quantile", "identity"]
METHODS: dict[str, Method] = {
    "MEAN_STD": "mean_std",
    "MIN_MAX": "min_max",
    "QUANTILES": "quantile",
    "IDENTITY": "identity",
}
"""LeRobot's names of normalizations -> ours."""
_CORRECT = "correct the file, or download the model again"
_CAMERA, _EMPTY = "observation.images.", "empty_camera_"


class PublishedConfig:
    """`config.json` of openpi, LeRobot or transformers; empty if there is none.

    Its methods raise a CheckpointError where a value is not what its name promises.
    """

    def __init__(self, file: Path) -> None:
        self.file, self._found = file, read_object(file)

    def count(self, *names: str, default: int) -> int:
        """The first of these numbers that is there; at least 1."""
        for name in names:
            value = self._found.get(name, default)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise self._wrong(name, value, "a whole number above 0")
            if name in self._found:
                return value
        return default

    def flag(self, name: str, *, default: bool | None) -> bool | None:
        """True or False; `default` if it is not there or null."""
        value = self._found.get(name)
        if value is not None and not isinstance(value, bool):
            raise self._wrong(name, value, "true or false")
        return default if value is None else value

    def cameras(self) -> tuple[str, ...]:
        """Names of the cameras, without those that LeRobot fills up with and masks."""
        names = [name.removeprefix(_CAMERA) for name in self._mapping("input_features") if name.startswith(_CAMERA)]
        return tuple(name for name in names if not name.startswith(_EMPTY))

    def methods(self, default: Method) -> dict[str, Method]:
        """How `state` and `action` are normalized; pictures are always read as they are."""
        mapping = self._mapping("normalization_mapping")
        for kind, expected in (("STATE", METHODS), ("ACTION", METHODS), ("VISUAL", ("IDENTITY",))):
            if kind in mapping and mapping[kind] not in list(expected):
                what = f"normalization_mapping.{kind}"
                fix = "fine-tune the base model with one of these"
                raise self._wrong(what, mapping[kind], " or ".join(expected), fix)
        return {
            what: METHODS[mapping[kind]] if kind in mapping else default
            for what, kind in (("state", "STATE"), ("action", "ACTION"))
        }

    def _mapping(self, name: str) -> dict[str, Any]:
        value = self._found.get(name)
        if value is not None and not isinstance(value, dict):
            raise self._wrong(name, value, "an object")
        return value or {}

    def _wrong(self, name: str, value: Any, expected: str, fix: str = _CORRECT) -> CheckpointError:
        return CheckpointError(f"'{self.file}' has {name} = {json.dumps(value)[:60]}, expected {expected}: {fix}.")


def read_object(file: Path) -> dict[str, Any]:
    """Read a JSON object; empty if there is no such file.

    Raises:
        CheckpointError: it is something else.
    """
    if not file.is_file():
        return {}
    try:
        found: Any = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{file}' can't be read ({error}): download the model again.") from None
    if not isinstance(found, dict):
        raise CheckpointError(f"'{file}' holds a {type(found).__name__}, expected an object: download the model again.")
    return found
