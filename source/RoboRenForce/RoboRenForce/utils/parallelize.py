"""One module on several GPUs: DDP or FSDP2, activation checkpointing, compiled blocks, mixed precision.

The order is torchtitan's: load the weights, freeze, `parallelize`, then build the optimizer.

    mesh = make_mesh(distributed, device)
    model = parallelize(model, mesh, ParallelCfg(kind="fsdp", blocks=["Block"]))
    optimizer = optimizer_cfg.build(model)
"""

from __future__ import annotations

import logging
import types
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any, Literal

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from ..configclass import Cfg, ConfigError, Problem, configclass
from .distributed import DistributedContext
from .errors import did_you_mean

logger = logging.getLogger(__name__)


@configclass
class ParallelCfg(Cfg):
    """Distribution of a module over the ranks of a mesh."""

    kind: Literal["none", "ddp", "fsdp"] = "none"
    """Parallelism over the ranks; `none` in a run of one process.

    `ddp`: a whole copy on every rank (DistributedDataParallel). `fsdp`: parameters, gradients and optimizer state are
    sharded (FSDP2, `fully_shard`; Zhao et al. 2023, arXiv 2304.11277).
    """
    blocks: list[str] = []
    """Repeated submodules, by the name of their class (`Block`) or a glob over their path (`encoder.layers.*`).

    They are the units that FSDP gathers, and that are compiled and recomputed.
    """
    mixed_precision: Literal["fp32", "bf16"] = "fp32"
    """Precision of the forward and backward pass.

    `bf16`: bfloat16, with trained parameters (the masters) and gradient sums in float32. By `MixedPrecisionPolicy`
    under FSDP, by autocast otherwise, which leaves norms and losses in float32.
    """
    activation_checkpointing: bool | list[str] = False
    """Recompute activations in the backward pass: of all `blocks`, or of those that match the given patterns."""
    compile_blocks: bool = False
    """True to compile every block separately, so that alike blocks are compiled once."""
    reshard_after_forward: bool = True
    """FSDP: free a block's gathered parameters after its forward pass and gather them again for the backward pass.

    False keeps them (faster, more memory).
    """
    forward_methods: list[str] = []
    """Methods beside `forward` that run the network, such as `encode` and `act`.

    They get the same precision, and under FSDP gathered parameters. Under DDP only `forward` averages gradients.
    """

    def check(self) -> Iterable[str]:
        """Check that options that need blocks have them."""
        for name in ("compile_blocks", "activation_checkpointing"):
            if getattr(self, name) is True and not self.blocks:
                yield f"{name}: is True, but blocks is empty; name the classes of the blocks"


def make_mesh(distributed: DistributedContext, device: torch.device | str) -> DeviceMesh | None:
    """Build a one-dimensional mesh of the run's ranks; None for a single process."""
    if not distributed.is_distributed:
        return None
    return init_device_mesh(torch.device(device).type, (distributed.world_size,), mesh_dim_names=("data",))


def parallelize(module: nn.Module, mesh: DeviceMesh | None, cfg: ParallelCfg) -> nn.Module:
    """Prepare a module on its device for training on the ranks of `mesh`; in place, except DDP, which wraps it.

    Call it when weights are loaded and frozen, before the optimizer is built.

    Raises:
        ConfigError: A pattern matches no submodule, or several ranks would train copies that nothing keeps equal.
    """
    cfg.validate()
    if mesh is not None and mesh.size() > 1 and cfg.kind == "none":
        raise ConfigError(
            f"ParallelCfg.kind is 'none' on {mesh.size()} processes, whose copies would drift apart; use 'ddp' or "
            "'fsdp'."
        )
    kind = cfg.kind if mesh is not None else "none"
    if kind != cfg.kind:
        logger.info("One process: kind='%s' has nothing to spread.", cfg.kind)
    blocks = matching_modules(module, cfg.blocks, "blocks")
    if cfg.mixed_precision == "bf16":
        _hold_masters(module)
    recomputed = cfg.activation_checkpointing
    if recomputed:
        names = blocks if recomputed is True else matching_modules(module, recomputed, "activation_checkpointing")
        for block in names.values():
            recompute(block)
    compile_blocks(module, cfg)
    if mesh is not None and kind == "fsdp":
        return _shard(module, mesh, cfg, list(blocks.values()))
    if cfg.mixed_precision == "bf16":
        autocast_methods(module, ["forward", *cfg.forward_methods])
    if mesh is not None and kind == "ddp":
        on_gpu = [torch.cuda.current_device()] if mesh.device_type == "cuda" else None
        return DistributedDataParallel(
            module, device_ids=on_gpu, process_group=mesh.get_group(), gradient_as_bucket_view=True
        )
    return module


def compile_blocks(module: nn.Module, cfg: ParallelCfg) -> None:
    """Compile the blocks of a module in place, if `cfg.compile_blocks` says so: also of one that only plays."""
    if cfg.compile_blocks:
        for block in matching_modules(module, cfg.blocks, "blocks").values():
            block.compile()


def matching_modules(module: nn.Module, patterns: list[str], field: str) -> dict[str, nn.Module]:
    """Return submodules by path whose class name or path matches one of `patterns`.

    Raises:
        ConfigError: A pattern matches none.
    """
    there = {path: part for path, part in module.named_modules() if path}
    found: dict[str, nn.Module] = {}
    problems = []
    for pattern in patterns:
        matched = {
            path: part for path, part in there.items() if type(part).__name__ == pattern or fnmatchcase(path, pattern)
        }
        found |= matched
        if not matched:
            names = {type(part).__name__ for part in there.values()} | set(there)
            problems.append(Problem(field, f"'{pattern}' names no submodule", did_you_mean(pattern, names)))
    if problems:
        raise ConfigError(problems, "ParallelCfg")
    return found


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the module inside DDP's wrapper, or `module` itself."""
    return module.module if isinstance(module, DistributedDataParallel) else module


def is_parallel(module: nn.Module) -> bool:
    """Return True if DDP or FSDP averages the gradients of `module` over ranks."""
    return isinstance(module, DistributedDataParallel | FSDPModule)


def named_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return parameters by name without DDP's wrapper; under FSDP the shards, which the optimizer updates."""
    reshard(module)
    return dict(unwrapped(module).named_parameters())


def reshard(module: nn.Module) -> None:
    """Free the parameters that FSDP has gathered, so that the module's parameters are the shards again.

    They stay gathered after a forward pass without a backward pass, and do not follow when the shards change.
    """
    for part in module.modules() if isinstance(module, FSDPModule) else ():
        if isinstance(part, FSDPModule):
            part.reshard()


def set_gradient_sync(module: nn.Module, on: bool) -> None:
    """Choose if the next forward and backward pass average gradients over ranks, or only add to this rank's."""
    if isinstance(module, DistributedDataParallel):
        module.require_backward_grad_sync = on  # what its no_sync() sets, for a forward pass that is not inside a block
    elif isinstance(module, FSDPModule):
        module.set_requires_gradient_sync(on)


def _hold_masters(module: nn.Module) -> None:
    """Convert trained parameters to float32 (steps of 1e-5 are lost in bfloat16's 8 bits), not frozen ones."""
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()


def recompute(block: nn.Module) -> None:
    """Let a module keep no activations in its forward pass, and compute them again in the backward pass."""
    # Around `forward` and not around the module: names of parameters stay, and FSDP gathers before the recomputation.
    block.forward = types.MethodType(_recomputed_forward, block)


def _recomputed_forward(block: nn.Module, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():  # `checkpoint` would read the generator's state, which a CUDA graph can't
        return type(block).forward(block, *args, **kwargs)
    return checkpoint(type(block).forward, block, *args, use_reentrant=False, **kwargs)


def autocast_methods(module: nn.Module, methods: list[str]) -> None:
    """Let methods of a module compute in bfloat16, whoever calls them."""
    device = next(module.parameters()).device.type
    for name in methods:
        cast = torch.autocast(device, torch.bfloat16)(getattr(type(module), name))
        setattr(module, name, types.MethodType(cast, module))  # a method, so that a copy of the module calls its own


def _shard(module: nn.Module, mesh: DeviceMesh, cfg: ParallelCfg, blocks: list[nn.Module]) -> nn.Module:
    options: dict[str, Any] = {"mesh": mesh, "reshard_after_forward": cfg.reshard_after_forward}
    if cfg.mixed_precision == "bf16":
        options["mp_policy"] = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in reversed(blocks):  # inner blocks before those that contain them
        fully_shard(block, **options)
    # What is outside of blocks stays gathered until the backward pass: methods of the root may call one another.
    fully_shard(module, **{**options, "reshard_after_forward": False})
    for name in cfg.forward_methods:
        register_fsdp_forward_method(module, name)
    return module
