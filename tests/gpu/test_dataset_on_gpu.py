"""A data set on a GPU: captured draws equal eager ones, and nothing waits for the host."""

import numpy as np
import pytest
import torch
from RoboRenForce.buffer import DatasetBuffer, TransitionDataset
from RoboRenForce.utils.cuda_graph import GraphedStep

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DEVICE = torch.device("cuda:0")
ROWS, BATCH = 1000, 256


def buffer() -> DatasetBuffer:
    draw = np.random.default_rng(0)
    arrays = {
        "observations": draw.normal(size=(ROWS, 5)),
        "actions": draw.uniform(-1, 1, (ROWS, 2)),
        "rewards": draw.normal(size=ROWS),
        "terminals": np.arange(ROWS) % 70 == 69,
        "timeouts": np.arange(ROWS) % 50 == 49,
    }
    return DatasetBuffer(TransitionDataset.from_rows(arrays, source="synthetic"), 0.9, BATCH, DEVICE)


class Draw:
    """Samples into tensors whose addresses stay."""

    def __init__(self, mode: str) -> None:
        self.buffer = buffer()
        self.index = torch.zeros(BATCH, dtype=torch.int64, device=DEVICE)
        self.obs = torch.zeros(BATCH, 5, device=DEVICE)
        self.step = GraphedStep(self._step, DEVICE, "on", "draw") if mode == "on" else self._step

    def _step(self) -> None:
        batch = self.buffer.sample()
        self.index.copy_(batch.index)
        self.obs.copy_(batch.obs["policy"])


def test_captured_draws_equal_eager_ones_and_differ_from_one_another() -> None:
    eager, captured = Draw("off"), Draw("on")
    seen = []
    for number in range(6):
        for draw in (eager, captured):
            torch.cuda.manual_seed(number)
            draw.step()
        assert torch.equal(eager.index, captured.index) and torch.equal(eager.obs, captured.obs)
        seen.append(captured.index.tolist())
    assert captured.step.captured
    assert len({tuple(index) for index in seen}) == 6
    whole = captured.buffer.gather(torch.arange(len(captured.buffer), device=DEVICE))
    assert torch.equal(captured.obs, whole.obs["policy"][captured.index])


def test_a_draw_does_not_wait_for_the_host() -> None:
    draw = Draw("off")
    draw.step()
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            draw.step()
    finally:
        torch.cuda.set_sync_debug_mode("default")
