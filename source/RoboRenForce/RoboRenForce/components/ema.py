"""Exponential moving average of weights, to evaluate and export instead of the weights themselves."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated

import torch
from torch import Tensor, nn

from ..configclass import Cfg, Range, configclass
from ..utils.module_state import copy_into, local
from ..utils.parallelize import reshard


class EMA:
    """Averages in float32 of the parameters that an optimizer moves, sharded as they are.

    Polyak and Juditsky 1992; average <- decay * average + (1 - decay) * weight after every optimizer step.
    """

    def __init__(self, cfg: EMACfg, module: nn.Module, params: Mapping[str, nn.Parameter]) -> None:
        self.cfg, self._module, self._params = cfg, module, dict(params)
        self.averages = {name: param.detach().to(torch.float32, copy=True) for name, param in params.items()}

    @torch.no_grad()
    def update(self, moved: Tensor) -> None:
        """Move the averages towards the weights, or not at all where `moved` (0-dim, 0 or 1) is 0."""
        weight = (1.0 - self.cfg.decay) * moved
        averages = [local(average) for average in self.averages.values()]
        params = [local(param).float() for param in self._params.values()]
        torch._foreach_lerp_(averages, params, [weight] * len(averages))  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Inside the block the module has the averages as its weights; all ranks enter it."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        reshard(self._module)
        for name, average in self.averages.items():
            param, mean = local(self._params[name]), local(average)
            kept = param.clone()
            param.copy_(mean)
            mean.copy_(kept)

    def state_dict(self) -> dict[str, Tensor]:
        """The averages by the names of their parameters."""
        return dict(self.averages)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict` in place."""
        copy_into(self.averages, state, "ema")


@configclass
class EMACfg(Cfg):
    """Configuration of an `EMA`."""

    class_type: type = EMA
    decay: Annotated[float, Range(ge=0, lt=1)] = 0.999
    """Share of the average that stays at a step: it looks back about 1 / (1 - decay) steps."""
