"""Which parameters an optimizer moves, and how: settings by patterns over their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple

from torch import nn

from ..configclass import MISSING, Cfg, ConfigError, Problem, Range, configclass
from ..utils.errors import did_you_mean

if TYPE_CHECKING:
    from .torch_optimizer import OptimizerCfg

Kind = Literal["adam", "adamw", "sgd", "muon"]


@configclass
class ParamGroupCfg(Cfg):
    """Settings of the parameters that a pattern names; what is None is as in the optimizer's configuration."""

    pattern: str = MISSING
    """Over whole names: a glob (`backbone.*`), or after `re:` a regular expression (`re:blocks[.][01][.].*`)."""
    learning_rate: Annotated[float, Range(ge=0)] | None = None
    """Learning rate of the group; the schedule multiplies it too."""
    multiplier: Annotated[float, Range(ge=0)] | None = None
    """Instead of `learning_rate`: factor on the optimizer's."""
    weight_decay: Annotated[float, Range(ge=0)] | None = None
    """Weight decay, also of norms and biases."""
    kind: Kind | None = None
    """Another optimizer for these parameters, such as AdamW for embeddings and heads beside Muon."""
    frozen: bool | None = None
    """True: they are not trained."""

    def check(self) -> Iterable[str]:
        """Sentences on two learning rates and on a regular expression that is none."""
        if self.learning_rate is not None and self.multiplier is not None:
            yield "multiplier: is given beside learning_rate; keep one of them"
        if self.pattern.startswith("re:"):
            try:
                re.compile(self.pattern.removeprefix("re:"))
            except re.error as error:
                yield f"pattern: {self.pattern!r} is no regular expression ({error}); correct it, or use a glob"

    def names(self, name: str) -> bool:
        """Whether the pattern names this parameter."""
        if self.pattern.startswith("re:"):
            return re.fullmatch(self.pattern.removeprefix("re:"), name) is not None
        return fnmatchcase(name, self.pattern)


class Setting(NamedTuple):
    """How a parameter is moved."""

    kind: str
    scale: float
    """Factor on the learning rate of the optimizer."""
    weight_decay: float


def settings_of(params: Mapping[str, nn.Parameter], cfg: OptimizerCfg) -> dict[str, Setting]:
    """How each parameter that is trained is moved.

    Raises:
        ConfigError: a pattern names no parameter or only frozen ones, or patterns contradict each other.
    """
    found = {}
    for name, given in matches(params, cfg).items():
        if params[name].requires_grad:
            is_matrix = params[name].ndim >= 2  # sharded or not; norms and biases are vectors
            kind = given.get("kind", cfg.kind)
            if kind == "muon" and params[name].ndim != 2:
                kind = "adamw"  # Muon orthogonalizes matrices
            decay = cfg.weight_decay if is_matrix or not cfg.decay_only_matrices else 0.0
            found[name] = Setting(kind, given.get("learning_rate", 1.0), given.get("weight_decay", decay))
    return found


def matches(params: Mapping[str, nn.Parameter], cfg: OptimizerCfg) -> dict[str, dict[str, Any]]:
    """Per parameter what the groups that name it say; `learning_rate` is a factor on the optimizer's.

    Raises:
        ConfigError: as `settings_of`.
    """
    given: dict[str, dict[str, Any]] = {name: {} for name in params}
    problems = []
    for index, group in enumerate(cfg.groups):
        named = [name for name in params if group.names(name)]
        problem = _contradiction(group, _says(group, cfg), {name: given[name] for name in named})
        if not named:
            problem = f"pattern '{group.pattern}' names no parameter", did_you_mean(group.pattern, params)
        elif not group.frozen and not any(params[name].requires_grad for name in named):
            problem = f"pattern '{group.pattern}' names frozen parameters only", "remove it, or train them"
        if problem is not None:
            problems.append(Problem(f"groups.{index}", *problem))
        for name in named:
            given[name] |= _says(group, cfg)
    if problems:
        raise ConfigError(problems, "OptimizerCfg")
    return given


def _says(group: ParamGroupCfg, cfg: OptimizerCfg) -> dict[str, Any]:
    says = {name: getattr(group, name) for name in ("weight_decay", "kind", "frozen")}
    rate = group.learning_rate
    says["learning_rate"] = group.multiplier if rate is None else rate / cfg.learning_rate
    return {name: value for name, value in says.items() if value is not None}


def _contradiction(
    group: ParamGroupCfg, says: Mapping[str, Any], given: Mapping[str, Mapping[str, Any]]
) -> tuple[str, str] | None:
    """Where a group says something else of a parameter than the groups before it, and what to do."""
    for name, before in given.items():
        for setting, value in says.items():
            if before.get(setting, value) != value:
                return (
                    f"pattern '{group.pattern}' sets another {setting} for '{name}' than a group before it",
                    "let one parameter get each setting from one group",
                )
    return None
