"""Optimizers of torch.optim behind the `Optimizer` interface, also for modules under DDP or FSDP2."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from typing_extensions import override

from ..configclass import Cfg, ConfigError, Range, configclass
from ..utils.distributed import DistributedContext
from ..utils.module_state import copy_into, local
from ..utils.parallelize import is_parallel, named_parameters, reshard, set_gradient_sync
from .ema import EMACfg
from .lr_schedule import ScheduleCfg
from .optimizer import FlatAdam, Optimizer
from .param_groups import ParamGroupCfg, Setting, matches, settings_of


class TorchOptimizer(Optimizer):
    """AdamW and others over the trained parameters of one module; gradients go through `.grad`.

    `backward` is called `accumulation_steps` times, then `step` once. Parameters that no loss reached stay. What is
    clipped together is all: `step` returns `{"all": norm}`, under FSDP the norm over all shards.

    With a count, `backward` takes sums: the gradient of the step is that of the mean over all elements of all
    micro-batches and ranks, however unevenly they are spread.
    """

    def __init__(self, cfg: OptimizerCfg, module: nn.Module, distributed: DistributedContext) -> None:
        self.cfg, self._module, self._distributed = cfg, module, distributed
        if distributed.is_distributed and not is_parallel(module):
            raise ConfigError(
                f"The optimizer got a module of its own on each of {distributed.world_size} processes, whose gradients "
                "nothing averages: call parallelize with kind 'ddp' or 'fsdp' first."
            )
        named = named_parameters(module)
        cfg.freeze(module)
        settings = settings_of(named, cfg)
        self.params = {name: named[name] for name in settings}
        self._require_trainable()
        device = next(iter(self.params.values())).device
        self.lr = torch.tensor(cfg.learning_rate, device=device)
        self.steps = torch.zeros((), device=device)
        self.skipped = torch.zeros((), device=device)
        self._optimizers = [
            self._torch_optimizer(kind, settings) for kind in dict.fromkeys(s.kind for s in settings.values())
        ]
        self.ema = None if cfg.ema is None else cfg.ema.build(module, self.params)
        self._create_state()
        self._backwards = 0
        self._count: Tensor | None = None
        self._announce_sync()

    @property
    def current_lr(self) -> Tensor:
        """Learning rate of the next step: `lr` times the schedule; groups multiply it."""
        return self.lr * self.cfg.schedule.factor(self.steps)

    def accumulate(self, micro_batches: int) -> None:
        """Expect so many calls of `backward` before the next step, and drop the gradients of those that came."""
        self.cfg.accumulation_steps = micro_batches
        self._start_step()

    @override
    def backward(self, loss: Tensor, count: Tensor | None = None) -> None:
        """Add the gradients of `loss`, a mean over a micro-batch, to those of the step as a mean over micro-batches.

        Args:
            loss: 0-dim.
            count: 0-dim number of elements that `loss` is a sum over; None: it is a mean.
        """
        (loss / self.cfg.accumulation_steps if count is None else loss).backward()
        if count is not None:
            self._count = count.detach().clone() if self._count is None else self._count + count.detach()
        self._backwards += 1
        self._announce_sync()

    @override
    @torch.no_grad()
    def step(self) -> dict[str, Tensor]:
        """Clip, update the parameters and zero the gradients."""
        if self._backwards != self.cfg.accumulation_steps:
            raise RuntimeError(
                f"step() came after {self._backwards} calls of backward(), expected accumulation_steps = "
                f"{self.cfg.accumulation_steps} of them."
            )
        grads = [param.grad for param in self.params.values() if param.grad is not None]
        scale = None
        if self._count is not None:  # DDP and FSDP have averaged sums over ranks
            scale = self._distributed.world_size / self._distributed.sum_(self._count).clamp(min=1.0)
        norm = nn.utils.get_total_norm(grads)
        if isinstance(norm, DTensor):
            norm = norm.full_tensor()
        norm = norm if scale is None else norm * scale
        # A norm over all ranks (or of averaged gradients): every rank comes to the same decision.
        bad = (~torch.isfinite(norm)).to(self.steps.dtype)
        if self.cfg.max_grad_norm is not None:
            clipping = (self.cfg.max_grad_norm / (norm + 1e-6)).clamp(max=1.0)
            scale = clipping if scale is None else scale * clipping
        if scale is not None:
            torch._foreach_mul_([local(g) for g in grads], scale)  # pyright: ignore[reportPrivateImportUsage]
        self._apply(self.current_lr, bad)
        reshard(self._module)  # gathered since an evaluation, parameters would be those before the step
        self.steps.add_(1.0 - bad)
        self.skipped.add_(bad)
        if self.ema is not None:
            self.ema.update(1.0 - bad)
        self._start_step()
        return {"all": norm}

    @override
    def state_dict(self) -> dict[str, Any]:
        """Return counters, learning rate, averages and state by parameter name: the tensors themselves, no copies."""
        state: dict[str, Any] = {"steps": self.steps, "lr": self.lr, "skipped": self.skipped, "params": self._state()}
        return state if self.ema is None else state | {"ema": self.ema.state_dict()}

    @override
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        copy_into(self.state_dict(), state, "optimizer")

    def _require_trainable(self) -> None:
        if not self.params:
            raise ConfigError("The optimizer got no trainable parameter: was everything frozen?")
        half = [name for name, p in self.params.items() if p.dtype in (torch.bfloat16, torch.float16)]
        if half and self.cfg.require_fp32:
            raise ConfigError(
                f"'{half[0]}' and {len(half) - 1} more trained parameters are {self.params[half[0]].dtype}, in which "
                "small steps are lost: hold them in float32 and compute in bfloat16 (ParallelCfg.mixed_precision), or "
                "set OptimizerCfg.require_fp32=False."
            )

    def _torch_optimizer(self, kind: str, settings: Mapping[str, Setting]) -> torch.optim.Optimizer:
        """Build torch's optimizer for the parameters of one kind, grouped by their settings."""
        cfg = self.cfg
        members: dict[Setting, list[nn.Parameter]] = defaultdict(list)
        for name, setting in settings.items():
            if setting.kind == kind:
                members[setting].append(self.params[name])
        groups: list[dict[str, Any]] = [
            {"params": params, "lr": cfg.learning_rate, "weight_decay": setting.weight_decay, "scale": setting.scale}
            for setting, params in members.items()
        ]
        if kind in ("adam", "adamw"):
            for group in groups:
                group["lr"] = self.lr.clone()  # the fused kernel reads it on the device
            of_torch = torch.optim.Adam if kind == "adam" else torch.optim.AdamW
            return of_torch(groups, betas=cfg.betas, eps=cfg.eps, fused=True)
        if kind == "sgd":
            return torch.optim.SGD(groups, momentum=cfg.momentum)
        return torch.optim.Muon(groups, momentum=cfg.momentum, adjust_lr_fn="match_rms_adamw")

    def _apply(self, rate: Tensor, bad: Tensor) -> None:
        """Take one step of torch's optimizers, or none."""
        on_host = None
        capturing = self.lr.is_cuda and torch.cuda.is_current_stream_capturing()
        for optimizer in self._optimizers:
            if isinstance(optimizer, torch.optim.Adam):  # and AdamW
                for group in optimizer.param_groups:
                    group["lr"].copy_(rate * group["scale"])
                    group["capturable"] = capturing  # the fused kernel always is, and torch asks for the word
                optimizer.found_inf = bad  # pyright: ignore[reportAttributeAccessIssue] - as torch's GradScaler skips
                optimizer.step()
                continue
            # SGD's and Muon's kernels can't skip, so that the host has to know, once per step.
            on_host = torch.stack([bad, rate]).tolist() if on_host is None else on_host
            for group in optimizer.param_groups:
                group["lr"] = on_host[1] * group["scale"]
            if not on_host[0]:
                optimizer.step()

    def _create_state(self) -> None:
        """Allocate the state that torch's optimizers create in their first step, so that a checkpoint can be loaded."""
        for param in self.params.values():
            param.grad = torch.zeros_like(param)
        self._apply(torch.zeros_like(self.lr), torch.zeros_like(self.skipped))  # at rate 0 no parameter moves
        for tensors in self._state().values():
            for tensor in tensors.values():
                local(tensor).zero_()
        for param in self.params.values():
            param.grad = None

    def _state(self) -> dict[str, dict[str, Tensor]]:
        states = {param: state for optimizer in self._optimizers for param, state in optimizer.state.items()}
        return {
            name: {key: value for key, value in states.get(param, {}).items() if isinstance(value, Tensor)}
            for name, param in self.params.items()
        }

    def _start_step(self) -> None:
        for param in self.params.values():
            param.grad = None
        self._backwards, self._count = 0, None
        self._announce_sync()

    def _announce_sync(self) -> None:
        """Average over ranks only in the last backward pass before a step; DDP asks in the forward pass."""
        set_gradient_sync(self._module, self._backwards == self.cfg.accumulation_steps - 1)


@configclass
class OptimizerCfg(Cfg):
    """Optimizer, learning rate and parameter groups; `build(module)` creates it."""

    kind: Literal["flat_adam", "adam", "adamw", "sgd", "muon"] = "adamw"
    """`flat_adam` is `FlatAdam`, for small networks. `adam` and `sgd` add the weight decay to the gradient, `adamw`
    decouples it (Loshchilov and Hutter 2019, arXiv 1711.05101). `muon` (Jordan et al. 2024) moves matrices, at rates
    that suit AdamW (Liu et al. 2025, arXiv 2502.16982), and leaves the other parameters to AdamW."""
    learning_rate: Annotated[float, Range(gt=0)] = 1e-4
    """Base learning rate, before schedule and groups."""
    betas: tuple[Annotated[float, Range(ge=0, lt=1)], Annotated[float, Range(ge=0, lt=1)]] = (0.9, 0.95)
    """Decay of the first and second moment of Adam and AdamW."""
    eps: Annotated[float, Range(gt=0)] = 1e-8
    """Constant added to the root of the second moment."""
    momentum: Annotated[float, Range(ge=0, lt=1)] = 0.95
    """Momentum of SGD and Muon."""
    weight_decay: Annotated[float, Range(ge=0)] = 0.0
    """Weight decay of all parameters, or of matrices only."""
    decay_only_matrices: bool = True
    """True to apply no weight decay to parameters of fewer than two dimensions (norms, biases)."""
    groups: list[ParamGroupCfg] = []
    """Settings by patterns over parameter names; a parameter may match several that do not contradict."""
    schedule: ScheduleCfg = ScheduleCfg()
    """Schedule of the learning rate."""
    accumulation_steps: Annotated[int, Range(ge=1)] = 1
    """Number of micro-batches per step."""
    max_grad_norm: Annotated[float, Range(gt=0)] | None = 1.0
    """Maximum norm of the gradient of all parameters; None: no clipping."""
    ema: EMACfg | None = None
    """Exponential moving average of the weights, `optimizer.ema`."""
    require_fp32: bool = True
    """True to refuse training parameters in half precision."""

    def check(self) -> Iterable[str]:
        """Check for options that the flat Adam does not support."""
        if self.kind == "flat_adam":
            unable = {"groups": [], "schedule": ScheduleCfg(), "accumulation_steps": 1, "ema": None}
            for name, default in unable.items():
                if getattr(self, name) != default:
                    yield f"{name}: flat_adam has one group, no schedule and no accumulation; use kind 'adamw'"
            if self.weight_decay and self.decay_only_matrices:
                yield "decay_only_matrices: flat_adam decays all parameters; set it to False, or use kind 'adamw'"

    def freeze(self, module: nn.Module) -> None:
        """Freeze the parameters of groups with `frozen=True`; call it before `parallelize`.

        Raises:
            ConfigError: A pattern matches nothing, or the module is parallel already.
        """
        named = named_parameters(module)
        frozen = [
            name for name, says in matches(named, self).items() if says.get("frozen") and named[name].requires_grad
        ]
        if frozen and is_parallel(module):
            raise ConfigError(
                f"'{frozen[0]}' and {len(frozen) - 1} more parameters are to be frozen, but the module is parallel "
                "already: call OptimizerCfg.freeze(module) before parallelize."
            )
        for name in frozen:
            named[name].requires_grad_(False)

    def for_run(self, steps: int) -> OptimizerCfg:
        """The configuration for a run of so many steps, see `ScheduleCfg.total_steps`."""
        return self.replace(schedule=self.schedule.for_run(steps))

    @override
    def build(self, module: nn.Module, *, distributed: DistributedContext | None = None) -> Optimizer:
        """Build the optimizer of a module's trained parameters; call it after `parallelize`."""
        self.validate()
        if self.schedule.total_steps == "run":
            raise ConfigError("schedule.total_steps is 'run': build the optimizer of cfg.for_run(steps).")
        distributed = distributed or DistributedContext()
        if self.kind == "flat_adam":
            return FlatAdam(
                {"all": module.parameters()},
                learning_rate=self.learning_rate,
                max_grad_norm=self.max_grad_norm,
                betas=self.betas,
                eps=self.eps,
                weight_decay=self.weight_decay,
                distributed=distributed,
            )
        return TorchOptimizer(self.copy(), module, distributed)
