"""How busy the GPU is, and how much of its memory is used, as metrics of each iteration."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import torch

from ..configclass import configclass
from ..utils.errors import MissingPackageError
from ..utils.optional import require_package
from .callbacks import Callback, CallbackCfg

if TYPE_CHECKING:
    from .trainer import Trainer

logger = logging.getLogger(__name__)

_INTERVAL = 0.2
"""Seconds between two samples; the driver itself averages over a similar time."""


class GpuBusy:
    """Samples in a thread the share of time in which the device ran a kernel, which costs the device nothing.

    Args:
        device: A CUDA device.

    Raises:
        MissingPackageError: NVIDIA's management library for Python is not installed.
        RuntimeError: It does not know the device, a part of a GPU for example.
    """

    def __init__(self, device: torch.device) -> None:
        self._nvml: Any = require_package("pynvml", purpose="measurements of a GPU", distribution="nvidia-ml-py")
        uuid = torch.cuda.get_device_properties(device).uuid
        try:
            self._nvml.nvmlInit()
            self._handle = self._nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        except self._nvml.NVMLError as error:
            raise RuntimeError(f"NVIDIA's library knows no device of this kind ({error})") from error
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._sum, self._count = 0.0, 0
        self._thread = threading.Thread(target=self._sample, name="GpuBusy", daemon=True)
        self._thread.start()

    def share(self) -> float | None:
        """Return the mean since the last call; None if there was no sample."""
        with self._lock:
            share = self._sum / self._count if self._count else None
            self._sum, self._count = 0.0, 0
        return share

    def close(self) -> None:
        """End the thread."""
        self._stop.set()
        self._thread.join()
        self._nvml.nvmlShutdown()

    def _sample(self) -> None:
        while not self._stop.wait(_INTERVAL):
            try:
                percent = self._nvml.nvmlDeviceGetUtilizationRates(self._handle).gpu
            except self._nvml.NVMLError as error:
                logger.warning("How busy the GPU is can't be measured any more: %s", error)
                return
            with self._lock:
                self._sum += percent / 100.0
                self._count += 1


class GpuMetricsCallback(Callback):
    """Adds `Perf/gpu_busy_share` and `Perf/gpu_memory_peak_gib` on a CUDA device; of the main process."""

    def __init__(self, cfg: CallbackCfg | None = None) -> None:
        super().__init__(cfg)
        self._busy: GpuBusy | None = None

    def on_start(self, runner: Trainer) -> None:
        """Begin to sample."""
        if runner.device.type != "cuda" or not runner.is_main:
            return
        try:
            self._busy = GpuBusy(runner.device)
        except (MissingPackageError, RuntimeError) as error:  # the run needs no measurement
            logger.info("Perf/gpu_busy_share is not measured: %s", error)

    def after_iteration(self, runner: Trainer, metrics: dict[str, float]) -> None:
        """Add what was measured since the last iteration."""
        if runner.device.type != "cuda" or not runner.is_main:
            return
        share = None if self._busy is None else self._busy.share()
        if share is not None:
            metrics["Perf/gpu_busy_share"] = share
        metrics["Perf/gpu_memory_peak_gib"] = torch.cuda.max_memory_allocated(runner.device) / 2**30

    def close(self, runner: Trainer) -> None:
        """End the sampling."""
        if self._busy is not None:
            self._busy.close()
            self._busy = None


@configclass
class GpuMetricsCfg(CallbackCfg):
    """Configuration of `GpuMetricsCallback`."""

    class_type: type = GpuMetricsCallback
