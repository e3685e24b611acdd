"""Copies of weights that can take their place: an exponential moving average, or weights as they once were."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

import torch
from torch import Tensor, nn

from ..configclass import Cfg, Range, configclass
from ..utils.module_state import copy_into, local
from ..utils.parallelize import reshard


class WeightCopy:
    """A copy of some parameters in float32, sharded as they are.

    Args:
        module: What the parameters belong to.
        params: Those that are copied, by name.
    """

    def __init__(self, module: nn.Module, params: Mapping[str, nn.Parameter]) -> None:
        self._module, self._params = module, dict(params)
        self.copies = {name: param.detach().to(torch.float32, copy=True) for name, param in params.items()}

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside the block the module has the copies as its weights; all ranks enter it."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange copies and weights; the second call undoes the first."""
        reshard(self._module)
        for name, average in self.copies.items():
            param, mean = local(self._params[name]), local(average)
            kept = param.clone()
            param.copy_(mean)
            mean.copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The copies by the names of their parameters."""
        return dict(self.copies)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict` in place."""
        copy_into(self.copies, state, "ema")


class EMA(WeightCopy):
    """Averages of the parameters that an optimizer moves, to evaluate and export instead of the weights themselves.

    Polyak and Juditsky 1992; average <- decay * average + (1 - decay) * weight after every optimizer step.
    """

    def __init__(self, cfg: EMACfg, module: nn.Module, params: Mapping[str, nn.Parameter]) -> None:
        super().__init__(module, params)
        self.cfg = cfg

    @torch.no_grad()
    def update(self, moved: Tensor) -> None:
        """Move the averages towards the weights, or not at all where `moved` (0-dim, 0 or 1) is 0."""
        weight = (1.0 - self.cfg.decay) * moved
        averages = [local(average) for average in self.copies.values()]
        params = [local(param).float() for param in self._params.values()]
        torch._foreach_lerp_(averages, params, [weight] * len(averages))  # pyright: ignore[reportPrivateImportUsage]


@configclass
class EMACfg(Cfg):
    """Configuration of an `EMA`."""

    class_type: type = EMA
    decay: Annotated[float, Range(ge=0, lt=1)] = 0.999
    """Weight of the old average at a step; the average spans about 1 / (1 - decay) steps."""
