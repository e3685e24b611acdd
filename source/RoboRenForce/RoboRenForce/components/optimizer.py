"""The gradient step every learner takes: gradients in one flat buffer, averaged over ranks, clipped per part, applied.

Nothing here talks to the host, so a step can be captured in a CUDA graph: the learning rate is a device tensor, a non-finite
gradient skips the step on the device (weights, moments and the standard deviation stay as they were) and is counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from ..utils.distributed import DistributedContext

OptimizerName = Literal["adam", "adamw"]

_OPTIMIZERS: dict[str, type[torch.optim.Optimizer]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}

_ALIGNMENT = 32
"""Each parameter begins at a multiple of so many elements, because matrix kernels are slower on unaligned memory."""


class GradientStep:
    """Owns the optimizer of one or more named parts (say actor and critic) that are clipped separately.

    The parameters become views of one flat tensor, part after part, and so do their gradients: one all-reduce, one norm per part
    and one optimizer kernel do for all of them. Build it after the modules are on their device.

    Usage: `step.backward(loss)`, `step.reduce()`, `step.apply()`. Before `apply` the learning rate may change; `step.shared`
    holds one scalar that travels with the gradients through the same all-reduce (PPO sends its KL divergence).
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
        trainable = {name: [p for p in part if p.requires_grad] for name, part in parts.items()}
        self.params = [p for part in trainable.values() for p in part]
        if not self.params:
            raise ValueError(f"GradientStep got no trainable parameter in {sorted(trainable)}: was everything frozen?")
        self.max_grad_norm = max_grad_norm
        self.distributed = distributed or DistributedContext()
        device, dtype = self.params[0].device, self.params[0].dtype
        self.lr = torch.tensor(learning_rate, device=device, dtype=torch.float32)
        self.skipped = torch.zeros((), device=device)
        """Number of steps that were skipped because a gradient was not finite, as a 0-dim tensor."""

        part_sizes = [sum(_padded(p) for p in part) for part in trainable.values()]
        self._flat = nn.Parameter(torch.zeros(sum(part_sizes), device=device, dtype=dtype))
        for param, view in zip(self.params, self._views_of(self._flat.data), strict=True):
            view.copy_(param.data)
            param.data = view
        self._sent = torch.zeros(sum(part_sizes) + 1, device=device, dtype=dtype)
        """Gradients and the shared scalar: what one all-reduce averages."""
        self.shared = self._sent[-1]
        self._flat.grad = self._sent[:-1]
        self._parts = dict(zip(trainable, self._flat.grad.split(part_sizes), strict=True))
        self._grads = self._views_of(self._flat.grad)
        self.optimizer = _OPTIMIZERS[optimizer](
            [self._flat], lr=self.lr, weight_decay=weight_decay, fused=True, capturable=device.type == "cuda"
        )
        # Read by the fused kernels of torch.optim: where it is 1, the step leaves everything unchanged.
        self._found_inf = torch.zeros((), device=device, dtype=torch.float32)
        self.optimizer.found_inf = self._found_inf  # pyright: ignore[reportAttributeAccessIssue]

    def backward(self, loss: Tensor) -> None:
        """Fill the flat buffer with the gradients of `loss`; parameters that it doesn't reach get zero."""
        grads = torch.autograd.grad(loss, self.params, allow_unused=True, materialize_grads=True)
        torch._foreach_copy_(self._grads, list(grads))

    def reduce(self) -> None:
        """Average gradients and the shared scalar over all ranks."""
        self.distributed.mean_(self._sent)

    @torch.no_grad()
    def apply(self) -> dict[str, Tensor]:
        """Clip each part, step, and return the norms before clipping as `{part: 0-dim tensor}`."""
        norms = {name: torch.linalg.vector_norm(flat) for name, flat in self._parts.items()}
        bad = ~torch.isfinite(sum(norms.values()))
        self._found_inf.copy_(bad)
        self.skipped.add_(bad)
        if self.max_grad_norm is not None:
            for name, flat in self._parts.items():
                # A NaN factor would stay in the padding between parameters, which no later gradient overwrites.
                flat.mul_((self.max_grad_norm / (norms[name] + 1e-6)).clamp(max=1.0).nan_to_num(nan=1.0))
        self.optimizer.step()
        return norms

    def state_dict(self) -> dict[str, Any]:
        """Step count, moments per parameter in the order of the parts, learning rate, skipped steps."""
        state = self.optimizer.state[self._flat]
        moments = [name for name in state if name != "step"]
        return {
            "step": state["step"].clone() if state else None,
            "moments": {name: [view.clone() for view in self._views_of(state[name])] for name in moments},
            "lr": self.lr.clone(),
            "skipped": self.skipped.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict` without moving a tensor that a captured graph refers to."""
        if state["step"] is not None:
            own = self.optimizer.state[self._flat]
            if not own:
                own["step"] = torch.zeros((), device=self._flat.device, dtype=torch.float32)
            own["step"].copy_(state["step"])
            for name, values in state["moments"].items():
                own.setdefault(name, torch.zeros_like(self._flat.data))
                for view, value in zip(self._views_of(own[name]), values, strict=True):
                    view.copy_(value)
        self.lr.copy_(state["lr"])
        self.skipped.copy_(state["skipped"])

    def _views_of(self, flat: Tensor) -> list[Tensor]:
        """The part of a flat tensor that belongs to each parameter, in its shape."""
        chunks = flat.split([_padded(p) for p in self.params])
        return [chunk[: p.numel()].view_as(p) for chunk, p in zip(chunks, self.params, strict=True)]


def per_parameter_state(step: GradientStep) -> dict[str, Any]:
    """The state that torch's Adam over the same parameters, one by one, would have; for checkpoints of other libraries."""
    state = step.state_dict()
    names = state["moments"]
    entries = {
        index: {"step": state["step"].clone()} | {name: values[index] for name, values in names.items()}
        for index in range(len(step.params) if names else 0)
    }
    group = {key: value for key, value in step.optimizer.param_groups[0].items() if key != "params"}
    group |= {"lr": float(step.lr), "params": list(range(len(step.params)))}
    return {"state": entries, "param_groups": [group]}


def load_per_parameter_state(step: GradientStep, state: Mapping[str, Any]) -> None:
    """Inverse of `per_parameter_state`; the learning rate is taken from the first group."""
    entries: Sequence[Mapping[str, Tensor]] = [state["state"][index] for index in sorted(state["state"])]
    names = [name for name in entries[0] if name != "step"] if entries else []
    step.load_state_dict(
        {
            "step": torch.as_tensor(entries[0]["step"]) if entries else None,
            "moments": {name: [entry[name] for entry in entries] for name in names},
            "lr": torch.as_tensor(state["param_groups"][0]["lr"]),
            "skipped": step.skipped.clone(),
        }
    )


def _padded(param: Tensor) -> int:
    return -(-param.numel() // _ALIGNMENT) * _ALIGNMENT
