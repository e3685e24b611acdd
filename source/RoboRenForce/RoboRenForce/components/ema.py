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
    """Averages in float32 of the parameters that an optimizer trains, sharded as they are.

    Polyak and Juditsky 1992; average <- decay * average + (1 - decay) * weight after every optimizer step.
    """

    def __init__(self, cfg: EMACfg, module: nn.Module, params: Mapping[str, nn.Parameter]) -> None:
        self.cfg, self._module, self._params = cfg, module, dict(params)
        self.averages = {name: param.detach().to(torch.float32, copy=True) for name, param in params.items()}

    @torch.no_grad()
    def update(self, moved: Tensor) -> None:
        """Move the averages towards the weights; no change where `moved` (0-dim, 0 or 1) is 0."""
        weight = (1.0 - self.cfg.decay) * moved
        averages = [local(average) for average in self.averages.values()]
        params = [local(param).float() for param in self._params.values()]
        torch._foreach_lerp_(averages, params, [weight] * len(averages))  # pyright: ignore[reportPrivateImportUsage]

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """Swap the averages into the module inside the block; all ranks enter it."""
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
        """Return the averages by the names of their parameters."""
        return dict(self.averages)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restore `state_dict` in place."""
        copy_into(self.averages, state, "ema")


@configclass
class EMACfg(Cfg):
    """Configuration of an `EMA`."""

    class_type: type = EMA
    decay: Annotated[float, Range(ge=0, lt=1)] = 0.999
    """Weight of the old average at a step; the average spans about 1 / (1 - decay) steps."""
