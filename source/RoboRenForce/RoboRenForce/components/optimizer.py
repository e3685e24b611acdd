"""The gradient step every learner takes: gradients in one flat buffer, averaged over ranks, clipped per part, applied.

Nothing here talks to the host, so a step can be captured in a CUDA graph: the learning rate is a device tensor, a non-finite
gradient skips the step on the device (weights, moments and the standard deviation stay as they were) and is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..utils.distributed import DistributedContext

OptimizerName = Literal["adam", "adamw"]

_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class GradientStep:
    """Owns the optimizer of one or more named parts (say actor and critic) that are clipped separately.

    Usage: `step.backward(loss)`, then `step.apply()`; between the two the learning rate may change, and `step.shared` may
    hold one scalar that travels with the gradients through the same all-reduce (PPO sends its KL divergence).
    """

    def __init__(
        self,
        parts: Mapping[str, Iterable[nn.Parameter]],
        *,
        learning_rate: float,
        max_grad_norm: float | None = None,
        optimizer: OptimizerName = "adam",
        weight_decay: float = 0.0,
        distributed: DistributedContext | None = None,
    ) -> None:
        params = {name: [p for p in part if p.requires_grad] for name, part in parts.items()}
        self.params = [p for part in params.values() for p in part]
        if not self.params:
            raise ValueError(f"GradientStep got no trainable parameter in {sorted(params)}: was everything frozen?")
        first = self.params[0]
        self.max_grad_norm = max_grad_norm
        self.distributed = distributed or DistributedContext()
        self.lr = torch.tensor(learning_rate, device=first.device, dtype=torch.float32)
        self.skipped = torch.zeros((), device=first.device)
        """Number of steps that were skipped because a gradient was not finite, as a 0-dim tensor."""

        # All gradients and the shared scalar live in one buffer: one all-reduce, one norm per part.
        sizes = {name: sum(p.numel() for p in part) for name, part in params.items()}
        self._flat = torch.zeros(sum(sizes.values()) + 1, device=first.device, dtype=first.dtype)
        self._parts = dict(zip(sizes, self._flat[:-1].split(list(sizes.values())), strict=True))
        self.shared = self._flat[-1]
        self._views = [
            view.view_as(p) for view, p in zip(self._flat[:-1].split([p.numel() for p in self.params]), self.params, strict=True)
        ]
        for param, view in zip(self.params, self._views, strict=True):
            param.grad = view
        self.optimizer = _OPTIMIZERS[optimizer](
            self.params, lr=self.lr, weight_decay=weight_decay, fused=True, capturable=first.is_cuda
        )
        # Read by the fused kernels of torch.optim: where it is 1, the step leaves everything unchanged.
        self._found_inf = torch.zeros((), device=first.device, dtype=torch.float32)
        self.optimizer.found_inf = self._found_inf  # pyright: ignore[reportAttributeAccessIssue]

    def backward(self, loss: Tensor) -> None:
        """Fill the flat buffer with the gradients of `loss`; parameters that it doesn't reach get zero."""
        grads = torch.autograd.grad(loss, self.params, allow_unused=True, materialize_grads=True)
        torch._foreach_copy_(self._views, list(grads))

    def reduce(self) -> None:
        """Average gradients and the shared scalar over all ranks."""
        self.distributed.mean_(self._flat)

    @torch.no_grad()
    def apply(self) -> dict[str, Tensor]:
        """Clip each part, step, and return the norms before clipping as `{part: 0-dim tensor}`."""
        norms = {name: torch.linalg.vector_norm(flat) for name, flat in self._parts.items()}
        bad = ~torch.isfinite(torch.stack(list(norms.values()))).all()
        self._found_inf.copy_(bad)
        self.skipped.add_(bad)
        if self.max_grad_norm is not None:
            for name, flat in self._parts.items():
                flat.mul_((self.max_grad_norm / (norms[name] + 1e-6)).clamp(max=1.0))
        self.optimizer.step()
        return norms

    def state_dict(self) -> dict[str, Any]:
        """Optimizer moments, learning rate and the count of skipped steps."""
        return {"optimizer": self.optimizer.state_dict(), "lr": self.lr.clone(), "skipped": self.skipped.clone()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict` without moving any tensor a captured graph refers to."""
        if self.optimizer.state:
            _copy_moments(self.optimizer, state["optimizer"])
        else:
            self.optimizer.load_state_dict(state["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr  # load_state_dict replaces the tensor that the schedule writes to
        self.lr.copy_(state["lr"])
        self.skipped.copy_(state["skipped"])


def _copy_moments(optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Copy saved moments into the tensors of an optimizer that has already stepped."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    for index, param in enumerate(params):
        for key, value in state["state"].get(index, {}).items():
            optimizer.state[param][key].copy_(value)
