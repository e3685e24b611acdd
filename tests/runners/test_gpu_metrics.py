"""The measurements of the GPU, with a fake of NVIDIA's library; and nothing at all on a CPU."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from RoboRenForce.runners import gpu_metrics as module
from RoboRenForce.runners.gpu_metrics import GpuBusy, GpuMetricsCallback, GpuMetricsCfg
from RoboRenForce.utils.errors import MissingPackageError
from small_runs import counting_cfg, scripted

pytestmark = pytest.mark.contract
CUDA = torch.device("cuda")


class NVMLError(Exception):
    pass


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch) -> Any:
    calls: list[Any] = []
    fake = SimpleNamespace(
        calls=calls,
        percents=[20, 60],
        NVMLError=NVMLError,
        nvmlInit=lambda: calls.append("init"),
        nvmlShutdown=lambda: calls.append("shutdown"),
        nvmlDeviceGetHandleByUUID=lambda uuid: calls.append(uuid) or "handle",
    )

    def rates(handle: str) -> Any:
        assert handle == "handle"
        if not fake.percents:
            raise NVMLError("lost")
        return SimpleNamespace(gpu=fake.percents.pop(0))

    fake.nvmlDeviceGetUtilizationRates = rates
    monkeypatch.setattr(module, "require_package", lambda name, **_: fake)
    monkeypatch.setattr(module, "_INTERVAL", 0.001)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="1-2"))
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 3 * 2**30)
    return fake


def test_the_share_is_the_mean_since_it_was_asked_for(library: Any, caplog: pytest.LogCaptureFixture) -> None:
    busy = GpuBusy(CUDA)
    busy._thread.join()  # it ends when the library fails
    assert "can't be measured any more: lost" in caplog.text
    assert busy.share() == pytest.approx(0.4) and busy.share() is None
    busy.close()
    assert library.calls == ["init", "GPU-1-2", "shutdown"]


def test_the_metrics_of_an_iteration(library: Any) -> None:
    library.percents = [50] * 10_000
    callback, metrics = GpuMetricsCallback(), {}
    runner: Any = SimpleNamespace(device=CUDA, is_main=True)
    callback.on_start(runner)
    while not library.calls[1:] or len(library.percents) == 10_000:
        time.sleep(0.001)
    time.sleep(0.01)
    callback.after_iteration(runner, metrics)
    callback.close(runner)
    callback.close(runner)
    assert metrics == {"Perf/gpu_busy_share": 0.5, "Perf/gpu_memory_peak_gib": 3.0}
    assert library.calls[-1] == "shutdown"


@pytest.mark.parametrize("fails", ["the package", "the driver"])
def test_without_the_library_memory_is_still_told(
    library: Any, fails: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def absent(name: str, **_: Any) -> Any:
        raise MissingPackageError("pynvml is not installed", name=name)

    def refuse() -> None:
        raise NVMLError("no driver")

    if fails == "the package":
        monkeypatch.setattr(module, "require_package", absent)
    library.nvmlInit = refuse
    caplog.set_level("INFO")
    callback, metrics = GpuMetricsCallback(), {}
    runner: Any = SimpleNamespace(device=CUDA, is_main=True)
    callback.on_start(runner)
    callback.after_iteration(runner, metrics)
    assert metrics == {"Perf/gpu_memory_peak_gib": 3.0} and "is not measured: " in caplog.text


def test_a_cpu_has_no_such_metrics(library: Any) -> None:
    runner = counting_cfg(max_iterations=1, callbacks=[GpuMetricsCfg()]).build(env=scripted())
    runner.learn()
    assert not any("gpu" in name for name in runner.metrics) and not library.calls
