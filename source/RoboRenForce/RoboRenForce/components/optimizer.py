"""The `Optimizer` interface, and `FlatAdam`, its fast path for small networks.

`TorchOptimizer` (torch_optimizer.py) is the other implementation, over torch.optim: parameter groups, schedules,
accumulation, and modules under DDP and FSDP2. The learning rate of both is a device tensor. A non-finite gradient
skips the step (weights, moments and the standard deviation stay as they were), and the skip is counted.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import ConfigError
from ..utils.distributed import DistributedContext

ALIGNMENT = 32
"""Number of elements to which each parameter is aligned, because matrix kernels are slower on unaligned memory."""

MOMENTS = ("exp_avg", "exp_avg_sq")
"""First and second moment, under torch's names."""


class Optimizer(ABC):
    """Update parameters by the gradients of losses: `backward(loss)`, then `step()`."""

    lr: Tensor
    """Learning rate, 0-dim; set it in place (`lr.fill_(1e-4)`)."""
    steps: Tensor
    """Number of steps taken, 0-dim."""
    skipped: Tensor
    """Number of steps skipped because a gradient was not finite, 0-dim."""

    @abstractmethod
    def backward(self, loss: Tensor) -> None:
        """Compute the gradients of `loss` for the next step."""

    @abstractmethod
    def step(self) -> dict[str, Tensor]:
        """Clip, update the parameters and zero the gradients; all ranks call it.

        Returns:
            Norms of the gradients before clipping, by the names of the parts that are clipped together, each 0-dim.
        """

    @abstractmethod
    def state_dict(self) -> dict[str, Any]:
        """Return moments, step counts and learning rate: tensors that `load_state_dict` restores."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict` in place."""


class FlatAdam(Optimizer):
    """Adam over one or more named parts (say actor and critic) that are clipped separately.

    The parameters become views of one flat tensor, part after part, and so do their gradients, so one all-reduce, one
    norm per part and one pass of Adam serve all of them. Build it after the modules are on their device. (Kingma and
    Ba 2015, arXiv 1412.6980; decoupled decay: Loshchilov and Hutter 2019, arXiv 1711.05101. torch's fused kernel is
    written for many tensors and occupies 7 of an H200's 132 multiprocessors on a single flat one: 36 us against 5 us
    of these lines compiled.)

    Nothing here waits for the host, so a step can be captured in a CUDA graph. `step()` is `reduce()`, then `apply()`;
    call these if something has to happen between them: the learning rate may change before `apply`. `shared` holds one
    scalar that is averaged in the same all-reduce as the gradients (PPO uses it for its KL divergence).

    `lr_factors` multiply the learning rate of the parts they name; with `clip_together` the norm of all parts counts.
    """

    def __init__(
        self,
        parts: Mapping[str, Iterable[nn.Parameter]],
        *,
        learning_rate: float,
        max_grad_norm: float | None = None,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lr_factors: Mapping[str, float] | None = None,
        clip_together: bool = False,
        distributed: DistributedContext | None = None,
    ) -> None:
        seen: set[nn.Parameter] = set()  # a parameter that two parts share belongs to the first
        trainable = {
            name: [p for p in part if p.requires_grad and not (p in seen or seen.add(p))]
            for name, part in parts.items()
        }
        self.params = [p for part in trainable.values() for p in part]
        if not self.params:
            raise ConfigError(f"FlatAdam got no trainable parameter in {sorted(trainable)}: was everything frozen?")
        self.max_grad_norm, self.betas, self.eps, self.weight_decay = max_grad_norm, betas, eps, weight_decay
        self.distributed = distributed or DistributedContext()
        like = self.params[0].detach()
        self.lr = like.new_tensor(learning_rate)
        self.steps = like.new_zeros(())
        self.skipped = like.new_zeros(())

        part_sizes = [sum(_padded(p) for p in part) for part in trainable.values()]
        self._flat = like.new_zeros(sum(part_sizes))
        for param, view in zip(self.params, self._views_of(self._flat), strict=True):
            view.copy_(param.data)
            param.data = view
        self._moments = {name: torch.zeros_like(self._flat) for name in MOMENTS}
        self._sent = like.new_zeros(sum(part_sizes) + 1)
        """Gradients and the shared scalar: the buffer of the all-reduce."""
        self.shared = self._sent[-1]
        self._grad = self._sent[:-1]
        self._parts = dict(zip(trainable, self._grad.split(part_sizes), strict=True))
        self._clip_together = clip_together
        self._factors: Tensor | None = None
        """Factor of the learning rate for each number, if parts have their own."""
        if lr_factors:
            sizes = zip(trainable, part_sizes, strict=True)
            self._factors = torch.cat([like.new_full((size,), lr_factors.get(name, 1.0)) for name, size in sizes])
        self._padding = [like.new_zeros(_padded(p) - p.numel()) for p in self.params]

    @override
    def backward(self, loss: Tensor) -> None:
        """Fill the flat buffer with the gradients of `loss`; parameters that it does not reach get zero."""
        grads = torch.autograd.grad(loss, self.params, allow_unused=True, materialize_grads=True)
        pieces = [piece for grad, pad in zip(grads, self._padding, strict=True) for piece in (grad.reshape(-1), pad)]
        torch.cat(pieces, out=self._grad)

    @override
    def step(self) -> dict[str, Tensor]:
        """Average over ranks, clip each part and step; returns the norm of each part's gradient before clipping."""
        self.reduce()
        return self.apply()

    def reduce(self) -> None:
        """Average gradients and the shared scalar over all ranks."""
        self.distributed.mean_(self._sent)

    @torch.no_grad()
    def apply(self) -> dict[str, Tensor]:
        """Clip each part, step, and return the norms before clipping as `{part: 0-dim tensor}`."""
        norms = {name: torch.linalg.vector_norm(part) for name, part in self._parts.items()}
        total: Any = sum(norms.values())  # a tensor: there is at least one part
        fine = torch.isfinite(total)
        go = fine.to(self._flat.dtype)  # 1, or 0 for a step that must change nothing
        self.skipped.add_(1.0 - go)
        self.steps.add_(go)
        grad = self._grad
        if (most := self.max_grad_norm) is not None:
            measured = norms
            if self._clip_together:
                measured = dict.fromkeys(norms, torch.linalg.vector_norm(torch.stack([*norms.values()])))
            factors = {name: (most / (norm + 1e-6)).clamp(max=1.0) for name, norm in measured.items()}
            grad = torch.cat([part * factors[name] for name, part in self._parts.items()])
        grad = torch.where(fine, grad, 0.0)
        (beta1, beta2), (first, second) = self.betas, self._moments.values()
        first.lerp_(grad, (1.0 - beta1) * go)
        second.lerp_(grad.square_(), (1.0 - beta2) * go)
        # max(step, 1): before the first good step nothing moves, but 0/0 would
        step = self.steps.clamp(min=1.0)
        unbiased_std = (second / (1.0 - beta2**step)).sqrt_().add_(self.eps)
        rate = self.lr * go
        if self._factors is not None:
            rate = rate * self._factors
        if self.weight_decay:
            self._flat.mul_(1.0 - rate * self.weight_decay)
        self._flat.sub_((rate / (1.0 - beta1**step) * first).div_(unbiased_std))
        return norms

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return step count, moments per parameter in the order of the parts, learning rate, skipped steps."""
        return {
            "moments": {name: [view.clone() for view in self._views_of(flat)] for name, flat in self._moments.items()},
            "step": self.steps.clone(),
            "lr": self.lr.clone(),
            "skipped": self.skipped.clone(),
        }

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict` in place, so that captured graphs stay valid."""
        for name, flat in self._moments.items():
            for view, value in zip(self._views_of(flat), state["moments"][name], strict=True):
                view.copy_(value)
        for name, tensor in (("step", self.steps), ("lr", self.lr), ("skipped", self.skipped)):
            tensor.copy_(state[name])

    @torch.no_grad()
    def forget(self, param: nn.Parameter, rows: Tensor) -> None:
        """Zero the moments of the rows of `param` that are True in `rows`, bool `(len(param),)`."""
        index = next(i for i, own in enumerate(self.params) if own is param)
        for flat in self._moments.values():
            moment = self._views_of(flat)[index]
            moment.masked_fill_(rows.view(-1, *[1] * (moment.dim() - 1)), 0.0)

    def _views_of(self, flat: Tensor) -> list[Tensor]:
        """Return the slice of a flat tensor that belongs to each parameter, in its shape."""
        chunks = flat.split([_padded(p) for p in self.params])
        return [chunk[: p.numel()].view_as(p) for chunk, p in zip(chunks, self.params, strict=True)]


def per_parameter_state(step: FlatAdam) -> dict[str, Any]:
    """Return the state of torch.optim.Adam over the single parameters, for checkpoints of other libraries."""
    state = step.state_dict()
    entries = {
        index: {"step": state["step"].clone()} | {name: values[index] for name, values in state["moments"].items()}
        for index in range(len(step.params))
    }
    reference = torch.optim.Adam(step.params, lr=float(step.lr), betas=step.betas, eps=step.eps)
    return {"state": entries, "param_groups": reference.state_dict()["param_groups"]}


def load_per_parameter_state(step: FlatAdam, state: Mapping[str, Any]) -> None:
    """Restore the output of `per_parameter_state`; the learning rate is taken from the first group."""
    entries: Sequence[Mapping[str, Tensor]] = [state["state"][index] for index in sorted(state["state"])]
    if not entries:  # saved before its first step
        step.lr.fill_(float(state["param_groups"][0]["lr"]))
        return
    step.load_state_dict(
        {
            "moments": {name: [entry[name] for entry in entries] for name in MOMENTS},
            "step": torch.as_tensor(entries[0]["step"]),
            "lr": torch.as_tensor(state["param_groups"][0]["lr"], dtype=torch.float64),
            "skipped": step.skipped.clone(),
        }
    )


def _padded(param: Tensor) -> int:
    return -(-param.numel() // ALIGNMENT) * ALIGNMENT
