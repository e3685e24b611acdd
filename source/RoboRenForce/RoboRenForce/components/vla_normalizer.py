"""Normalization of states and actions by the statistics of the data, per dimension and exactly invertible."""

from __future__ import annotations

import logging
from typing import Annotated, Literal

import torch
from torch import Tensor, nn

from ..configclass import Cfg, ConfigError, Range, configclass
from .vla_spec import VectorSpec

logger = logging.getLogger(__name__)

_PUBLISHED_EPSILON = 1e-6
"""What openpi adds to every range and standard deviation."""


class VectorNormalizer(nn.Module):
    """`(x - center) / scale` in float32, `(..., D) -> (..., D)`.

    A dimension that hardly moves would turn noise into large numbers. Where the scale is below `floor` times the
    largest of all dimensions, that floor is taken instead (1 if nothing moves at all), and a warning names the
    dimension. Where quantiles meet although minimum and maximum differ, as of a gripper that is rarely open, minimum
    and maximum are taken before.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, cfg: VectorNormalizerCfg, spec: VectorSpec, what: str) -> None:
        super().__init__()
        center, scale = _affine(cfg, spec, what)
        if cfg.method != "identity" and spec.dim:
            identity = _identity_dims(cfg, spec, what)
            scale = scale if cfg.as_published else _floored(center, scale, cfg, spec, what, identity)
            center[identity], scale[identity] = 0.0, 1.0
        self.register_buffer("center", center)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize."""
        return (x.float() - self.center) / self.scale

    def inverse(self, x: Tensor) -> Tensor:
        """Undo `forward`."""
        return x.float() * self.scale + self.center

    def reach(self, spec: VectorSpec) -> Tensor:
        """Largest normalized size `(D,)` of other data, without its rarest values if their quantiles are known."""
        low, high = ("q01", "q99") if {"q01", "q99"} <= spec.statistics.keys() else ("min", "max")
        if not {low, high} <= spec.statistics.keys():
            return torch.zeros(spec.dim)
        ends = torch.stack([_statistic(spec, low), _statistic(spec, high)])
        return ((ends - self.center.cpu()) / self.scale.cpu()).abs().amax(0)


@configclass
class VectorNormalizerCfg(Cfg):
    """Normalization of one vector; build it with `build(spec, what)`."""

    class_type: type = VectorNormalizer
    method: Literal["mean_std", "min_max", "quantile", "identity"] = "quantile"
    """To mean 0 and standard deviation 1; minimum and maximum to -1 and 1; the 1 % and 99 % quantiles to -1 and 1, so
    that outliers do not decide; or not at all."""
    identity_dims: list[int | str] = []
    """Dimensions, by number or name, that stay as they are: a gripper of -1 and 1, for example."""
    floor: Annotated[float, Range(gt=0, le=1)] = 1e-2
    """Smallest scale of a dimension, relative to the largest."""
    as_published: bool = False
    """True for policies that others trained: statistics as they are, ranges and standard deviations plus 1e-6, and no
    floor, for their weights know each dimension in that scale, however little it moves."""


def _affine(cfg: VectorNormalizerCfg, spec: VectorSpec, what: str) -> tuple[Tensor, Tensor]:
    """Center and scale `(D,)` before the floor."""
    if cfg.method == "identity" or not spec.dim:
        return torch.zeros(spec.dim), torch.ones(spec.dim)
    first, second = {"mean_std": ("mean", "std"), "min_max": ("min", "max"), "quantile": ("q01", "q99")}[cfg.method]
    absent = [name for name in (first, second) if name not in spec.statistics]
    if absent:
        raise ConfigError(
            f"Normalizing the {what} by {cfg.method} needs its {' and '.join(absent)}, which the data's statistics "
            "lack: run scripts/data/dataset_stats.py --write, or choose another method."
        )
    low, high = (torch.tensor(spec.statistics[name], dtype=torch.float64) for name in (first, second))
    # In float64, where a range that is nearly zero beside a large center is still one.
    low, high = (low, high + _PUBLISHED_EPSILON) if cfg.as_published else (low.float(), high.float())
    center, scale = (low, high) if cfg.method == "mean_std" else ((low + high) / 2, (high - low) / 2)
    return center.float(), scale.float()


def _floored(
    center: Tensor, scale: Tensor, cfg: VectorNormalizerCfg, spec: VectorSpec, what: str, identity: list[int]
) -> Tensor:
    """The scale with its floor; a center may move in place, where minimum and maximum replace quantiles."""
    moving = torch.ones(spec.dim, dtype=torch.bool)
    moving[identity] = False
    least = cfg.floor * float(scale[moving].max() if moving.any() else 1.0)
    narrow = moving & (scale <= least if least == 0 else scale < least)
    if cfg.method == "quantile" and {"min", "max"} <= spec.statistics.keys():
        low, high = _statistic(spec, "min"), _statistic(spec, "max")
        rare = narrow & ((high - low) / 2 > scale)
        center[rare], scale = ((low + high) / 2)[rare], torch.where(rare, (high - low) / 2, scale)
        narrow = moving & (scale <= least if least == 0 else scale < least)
    if narrow.any():
        names = ", ".join(spec.name_of(number) for number in narrow.nonzero().flatten().tolist())
        logger.warning(
            "The %s hardly moves in dimension %s of the data: its range is taken as %.3g. If it should move, look at "
            "the recordings with `rrf data inspect`.",
            what,
            names,
            2 * (least or 1.0),
        )
    return torch.where(narrow, torch.tensor(least or 1.0), scale)


def _identity_dims(cfg: VectorNormalizerCfg, spec: VectorSpec, what: str) -> list[int]:
    return [dimension(which, spec, f"{what}: identity_dims") for which in cfg.identity_dims]


def dimension(which: int | str, spec: VectorSpec, place: str) -> int:
    """Number of a dimension that a configuration names.

    Raises:
        ConfigError: there is none of it.
    """
    if isinstance(which, str) and which in spec.names:
        return spec.names.index(which)
    if isinstance(which, int) and 0 <= which < spec.dim:
        return which
    known = f"0 to {spec.dim - 1}" + (f", or {', '.join(spec.names)}" if spec.names else "")
    raise ConfigError(f"{place} names dimension {which!r}, expected {known}.")


def _statistic(spec: VectorSpec, name: str) -> Tensor:
    return torch.tensor(spec.statistics[name], dtype=torch.float64).float()
