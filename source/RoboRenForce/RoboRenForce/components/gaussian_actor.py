"""Gaussian policies: std as a parameter or as a function of the state, plain or squashed to [-1, 1].

The std is always within `[min_std, max_std]`, whatever a gradient step did to its parameters.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import Range, configclass
from ..envs.spec import EnvSpec
from .actor import Actor, ActorCfg, require_action_kind, require_unit_box
from .bounded import bounded
from .distributions import DiagGaussian, TanhGaussian


class StateIndependentStd(nn.Module):
    """Learnable std per action dimension, stored directly or as its logarithm; `() -> (A,)`."""

    def __init__(self, cfg: GaussianActorCfg, dim: int, use_log_std: bool, learn_std: bool) -> None:
        super().__init__()
        self.use_log_std = use_log_std
        self.bounds = (cfg.min_std, cfg.max_std)
        self.log_bounds = (math.log(cfg.min_std), math.log(cfg.max_std))
        init = math.log(cfg.init_std) if use_log_std else cfg.init_std
        self.param = nn.Parameter(torch.full((dim,), init), requires_grad=learn_std)

    @override
    def forward(self) -> Tensor:
        if self.use_log_std:
            return bounded(self.param, *self.log_bounds).exp()
        return bounded(self.param, *self.bounds)


class StateDependentStd(nn.Module):
    """Std from the second half of the backbone's output, `(..., 2 A) -> mean (..., A), std (..., A)`.

    Where that half is 0 the std is `init_std`. Its logarithm is a clamped sum, or with `std_bounds="tanh"` moves
    between its bounds along a tanh, which has a gradient everywhere and tolerates networks of any output scale.
    """

    def __init__(self, cfg: GaussianActorCfg, output_layer: nn.Linear | None) -> None:
        super().__init__()
        self.squash = cfg.std_bounds == "tanh"
        self.log_bounds = low, high = math.log(cfg.min_std), math.log(cfg.max_std)
        init = math.log(cfg.init_std)
        self.center = math.atanh(2.0 * (init - low) / (high - low) - 1.0) if self.squash else init
        if output_layer is not None:
            # The std starts as init_std in every state; its dependence on the state is learned.
            with torch.no_grad():
                output_layer.weight.chunk(2)[1].zero_()
                output_layer.bias.chunk(2)[1].zero_()

    @override
    def forward(self, output: Tensor) -> tuple[Tensor, Tensor]:
        mean, raw = output.chunk(2, dim=-1)
        low, high = self.log_bounds
        if self.squash:
            return mean, (low + 0.5 * (high - low) * (1.0 + (raw + self.center).tanh())).exp()
        return mean, bounded(raw + self.center, low, high).exp()


@configclass
class GaussianActorCfg(ActorCfg):
    """Settings that the Gaussian actors share."""

    init_std: Annotated[float, Range(gt=0)] = 1.0
    """Initial standard deviation, in units of the action."""
    min_std: Annotated[float, Range(gt=0)] = 1e-6
    """Lower bound of the standard deviation."""
    max_std: Annotated[float, Range(gt=0)] = 1e6
    """Upper bound of the standard deviation."""
    std_bounds: Literal["clamp", "tanh"] = "clamp"
    """Bounding of a state-dependent std: its logarithm is clamped, or passes a tanh."""

    def check(self) -> Iterable[str]:
        """Check for bounds that contradict one another."""
        if not self.min_std <= self.init_std <= self.max_std:
            yield f"init_std: {self.init_std} is not between min_std={self.min_std} and max_std={self.max_std}"
        elif self.std_bounds == "tanh" and not self.min_std < self.init_std < self.max_std:
            yield f"init_std: {self.init_std} is a bound itself, which std_bounds=tanh never reaches; move it inside"


class StateIndStdActor(Actor):
    """Normal distribution whose mean depends on the state and whose std does not."""

    def __init__(self, cfg: StateIndStdActorCfg, spec: EnvSpec, groups: Sequence[str]) -> None:
        require_action_kind(spec, "continuous", "StateIndStdActor", "CategoricalActorCfg")
        super().__init__(cfg, spec, groups)
        self.std = StateIndependentStd(cfg, spec.action.dim, cfg.use_log_std, cfg.learn_std)

    @override
    def distribution(self, output: Tensor) -> DiagGaussian:
        return DiagGaussian(output, self.std())

    @override
    def mode(self, output: Tensor) -> Tensor:
        return output


@configclass
class StateIndStdActorCfg(GaussianActorCfg):
    """Configuration of a `StateIndStdActor`."""

    class_type: type = StateIndStdActor
    use_log_std: bool = False
    """Learn the logarithm of the std instead of the std itself; `init_std` is the std in both cases."""
    learn_std: bool = True
    """True to learn the std; False keeps it at `init_std`."""


class StateDepStdActor(Actor):
    """Normal distribution whose mean and std depend on the state."""

    def __init__(self, cfg: StateDepStdActorCfg, spec: EnvSpec, groups: Sequence[str]) -> None:
        require_action_kind(spec, "continuous", "StateDepStdActor", "CategoricalActorCfg")
        super().__init__(cfg, spec, groups, outputs_per_action=2)
        self.std = StateDependentStd(cfg, self.backbone.output_layer)

    @override
    def distribution(self, output: Tensor) -> DiagGaussian:
        return DiagGaussian(*self.std(output))

    @override
    def mode(self, output: Tensor) -> Tensor:
        return output.chunk(2, dim=-1)[0]


@configclass
class StateDepStdActorCfg(GaussianActorCfg):
    """Configuration of a `StateDepStdActor`."""

    class_type: type = StateDepStdActor


class TanhGaussianActor(Actor):
    """Normal distribution squashed by tanh, for actions in [-1, 1]."""

    def __init__(self, cfg: TanhGaussianActorCfg, spec: EnvSpec, groups: Sequence[str]) -> None:
        require_action_kind(spec, "continuous", "TanhGaussianActor", "CategoricalActorCfg")
        require_unit_box(spec, "TanhGaussianActor")
        super().__init__(cfg, spec, groups, outputs_per_action=2 if cfg.state_dependent_std else 1)
        self.std = (
            StateDependentStd(cfg, self.backbone.output_layer)
            if cfg.state_dependent_std
            else StateIndependentStd(cfg, spec.action.dim, use_log_std=True, learn_std=True)
        )

    @override
    def distribution(self, output: Tensor) -> TanhGaussian:
        if isinstance(self.std, StateDependentStd):
            return TanhGaussian(*self.std(output))
        return TanhGaussian(output, self.std())

    @override
    def mode(self, output: Tensor) -> Tensor:
        mean = output.chunk(2, dim=-1)[0] if isinstance(self.std, StateDependentStd) else output
        return mean.tanh()


@configclass
class TanhGaussianActorCfg(GaussianActorCfg):
    """Configuration of a `TanhGaussianActor`; stds are those before the squashing."""

    class_type: type = TanhGaussianActor
    min_std = math.exp(-5.0)
    max_std = math.exp(2.0)
    state_dependent_std: bool = True
    """True if the std is an output of the backbone, False for one learned value per action dimension."""
