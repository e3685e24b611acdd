"""Parameter groups: optimizer settings by patterns over parameter names."""

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
    """Settings of the parameters whose names match a pattern; None takes over the optimizer's value."""

    pattern: str = MISSING
    """Glob over whole names (`backbone.*`), or after `re:` a regular expression (`re:blocks[.][01][.].*`)."""
    learning_rate: Annotated[float, Range(ge=0)] | None = None
    """Learning rate of the group; the schedule multiplies it too."""
    multiplier: Annotated[float, Range(ge=0)] | None = None
    """Factor on the optimizer's learning rate, instead of `learning_rate`."""
    weight_decay: Annotated[float, Range(ge=0)] | None = None
    """Weight decay, also of norms and biases."""
    kind: Kind | None = None
    """Another optimizer for these parameters, such as AdamW for embeddings and heads beside Muon."""
    frozen: bool | None = None
    """True to exclude the parameters from training."""

    def check(self) -> Iterable[str]:
        """Check for two learning rates, and for an invalid regular expression."""
        if self.learning_rate is not None and self.multiplier is not None:
            yield "multiplier: is given beside learning_rate; keep one of them"
        if self.pattern.startswith("re:"):
            try:
                re.compile(self.pattern.removeprefix("re:"))
            except re.error as error:
                yield f"pattern: {self.pattern!r} is no regular expression ({error}); correct it, or use a glob"

    def names(self, name: str) -> bool:
        """Return True if the pattern matches the parameter name."""
        if self.pattern.startswith("re:"):
            return re.fullmatch(self.pattern.removeprefix("re:"), name) is not None
        return fnmatchcase(name, self.pattern)


class Setting(NamedTuple):
    """Optimizer settings of one parameter."""

    kind: str
    scale: float
    """Factor on the learning rate of the optimizer."""
    weight_decay: float


def settings_of(params: Mapping[str, nn.Parameter], cfg: OptimizerCfg) -> dict[str, Setting]:
    """Return the optimizer settings of each trained parameter.

    Raises:
        ConfigError: A pattern matches no parameter or only frozen ones, or patterns contradict each other.
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
    """Return the merged settings of the matching groups for each parameter; `learning_rate` is a factor.

    Raises:
        ConfigError: As `settings_of`.
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
    """Describe where a group contradicts earlier groups about a parameter, and the fix."""
    for name, before in given.items():
        for setting, value in says.items():
            if before.get(setting, value) != value:
                return (
                    f"pattern '{group.pattern}' sets another {setting} for '{name}' than a group before it",
                    "let one parameter get each setting from one group",
                )
    return None
