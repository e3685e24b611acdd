"""What torchrun tells a process, and the few collectives that learning needs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist


@dataclass(frozen=True)
class DistributedContext:
    """Rank and size of the run; a single process by default, for which every collective is a no-op."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @classmethod
    def from_environment(cls, device: torch.device | str = "cpu") -> DistributedContext:
        """Join the process group that torchrun's variables describe; a single process if they are absent."""
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size == 1:
            return cls()
        context = cls(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), world_size)
        device = torch.device(device)
        if not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(device)
                dist.init_process_group("nccl", device_id=device)
            else:
                dist.init_process_group("gloo")
        return context

    @property
    def is_main(self) -> bool:
        """Whether this process writes logs and checkpoints."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """Whether there is more than one process."""
        return self.world_size > 1

    def mean_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Average `tensor` over all ranks in place."""
        if self.is_distributed:
            dist.all_reduce(tensor)
            tensor.div_(self.world_size)
        return tensor

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum `tensor` over all ranks in place."""
        if self.is_distributed:
            dist.all_reduce(tensor)
        return tensor

    def broadcast_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Overwrite `tensor` with rank 0's in place."""
        if self.is_distributed:
            dist.broadcast(tensor, 0)
        return tensor

    def gather_objects(self, value: Any) -> list[Any] | None:
        """The `value` of every rank in order, on rank 0; None on the others. Slow, because it pickles."""
        if not self.is_distributed:
            return [value]
        gathered: list[Any] | None = [None] * self.world_size if self.is_main else None
        dist.gather_object(value, gathered)
        return gathered

    def broadcast_object(self, value: Any) -> Any:
        """Rank 0's `value`, on every rank."""
        if not self.is_distributed:
            return value
        holder = [value]
        dist.broadcast_object_list(holder, 0)
        return holder[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.is_distributed:
            dist.barrier()

    def close(self) -> None:
        """Leave the process group."""
        if self.is_distributed and dist.is_initialized():
            dist.destroy_process_group()
