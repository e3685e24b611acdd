"""Processes of a run under torchrun, and the few collectives that learning needs.

Every collective waits for the other processes for a limited time. If they do not answer, the error names them, and from
then on this process is alone: it can save its state, but do nothing else that needs the others.
"""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from .errors import ProcessesLostError

_NO_ANSWER = re.compile(r"tim(ed|e) ?out|connection|closed by peer|broken pipe|socket|reset by peer", re.IGNORECASE)
"""Messages of backends about processes that stopped, died or left; other errors of a collective are defects."""
_ROLL_CALL_SECONDS = 3.0


@dataclass
class _Group:
    """Process group of this process, beside torch's."""

    waits: bool = False
    """True while a collective runs."""
    is_lost: bool = False
    timeout: float | None = None


_GROUP = _Group()


@dataclass(frozen=True)
class DistributedContext:
    """Rank and size of the run; a single process by default, for which every collective is a no-op."""

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1

    @classmethod
    def from_environment(
        cls, device: torch.device | str = "cpu", *, timeout: float | None = None
    ) -> DistributedContext:
        """Join the process group that torchrun's variables describe; a single process if they are absent.

        Args:
            device: Device of the tensors of collectives.
            timeout: Seconds that a collective waits for the other processes; None: torch's default.
        """
        world_size = int(os.environ.get("WORLD_SIZE", "1"))
        if world_size == 1:
            return cls()
        context = cls(int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"]), world_size)
        device = torch.device(device)
        if not dist.is_initialized():
            limit = None if timeout is None else timedelta(seconds=timeout)
            _GROUP.is_lost, _GROUP.timeout = False, timeout
            if device.type == "cuda":
                torch.cuda.set_device(device)
                dist.init_process_group("nccl", device_id=device, timeout=limit)
            else:
                dist.init_process_group("gloo", timeout=limit)
        return context

    @property
    def is_main(self) -> bool:
        """True if this process writes logs and checkpoints."""
        return self.rank == 0

    @property
    def is_distributed(self) -> bool:
        """True if there is more than one process."""
        return self.world_size > 1

    @property
    def waits(self) -> bool:
        """True if this process is in a collective, which ends by itself."""
        return _GROUP.waits

    def mean_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Average `tensor` over all ranks in place."""
        if self.is_distributed:
            with self._collective():
                dist.all_reduce(tensor)
            tensor.div_(self.world_size)
        return tensor

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Sum `tensor` over all ranks in place."""
        if self.is_distributed:
            with self._collective():
                dist.all_reduce(tensor)
        return tensor

    def broadcast_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Overwrite `tensor` with rank 0's in place."""
        if self.is_distributed:
            with self._collective():
                dist.broadcast(tensor, 0)
        return tensor

    def gather_objects(self, value: Any) -> list[Any] | None:
        """Return the `value` of every rank in order, on rank 0; None on the others. Slow, because it pickles.

        If the other processes are lost, only rank 0's is returned.
        """
        if not self.is_distributed:
            return [value]
        if _GROUP.is_lost:
            return [value] if self.is_main else None
        gathered: list[Any] | None = [None] * self.world_size if self.is_main else None
        with self._collective():
            dist.gather_object(value, gathered)
        return gathered

    def broadcast_object(self, value: Any) -> Any:
        """Return rank 0's `value`, on every rank."""
        if not self.is_distributed:
            return value
        holder = [value]
        with self._collective():
            dist.broadcast_object_list(holder, 0)
        return holder[0]

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.is_distributed:
            with self._collective():
                dist.barrier()

    def give_up(self) -> None:
        """Stop using collectives, because this rank leaves their common order."""
        if self.is_distributed:  # a run of one process has nobody to lose, and others may follow it in this process
            _GROUP.is_lost = True

    def close(self) -> None:
        """Leave the process group."""
        if self.is_distributed and dist.is_initialized():
            dist.destroy_process_group()

    @contextmanager
    def _collective(self) -> Iterator[None]:
        """Turn failures of a collective into an error that names the missing ranks and the operation."""
        if _GROUP.is_lost:
            raise ProcessesLostError(f"Rank {self.rank} of {self.world_size} has lost the other processes.")
        _GROUP.waits = True
        try:
            yield
        except RuntimeError as error:
            if not _NO_ANSWER.search(str(error)):
                raise
            _GROUP.is_lost = True
            raise self._lost(error) from error
        finally:
            _GROUP.waits = False

    def _lost(self, error: RuntimeError) -> ProcessesLostError:
        frames = [frame for frame in traceback.extract_stack() if frame.filename != __file__]
        asked = [frame for frame in frames if not frame.filename.endswith("contextlib.py")][-1]
        silent = self._roll_call()
        named = (
            "other processes do not answer" if silent is None else f"rank {', '.join(map(str, silent))} does not answer"
        )
        limit = "" if _GROUP.timeout is None else f" (step_timeout {_GROUP.timeout:g} s)"
        return ProcessesLostError(
            f"Rank {self.rank} of {self.world_size} waited in {asked.name} ({os.path.basename(asked.filename)}:"
            f"{asked.lineno}) and {named}{limit}: {str(error).strip().splitlines()[0]}. Look for its last messages, "
            "then continue with --resume."
        )

    def _roll_call(self) -> list[int] | None:
        """Return the ranks that are not in the same situation as this one; None if they can't be asked."""
        try:
            store = dist.TCPStore(  # pyright: ignore[reportPrivateImportUsage] - documented
                os.environ["MASTER_ADDR"],
                int(os.environ["MASTER_PORT"]),
                is_master=False,
                timeout=timedelta(seconds=_ROLL_CALL_SECONDS),
            )
            store.set(f"lost/{self.rank}", "1")
        except (RuntimeError, KeyError, ValueError):  # the store has gone with its process
            return None
        others = [rank for rank in range(self.world_size) if rank != self.rank]
        return [rank for rank in others if not _appears(store, f"lost/{rank}")] or None


def _appears(store: Any, key: str) -> bool:
    try:
        store.wait([key], timedelta(seconds=_ROLL_CALL_SECONDS))
    except RuntimeError:
        return False
    return True
