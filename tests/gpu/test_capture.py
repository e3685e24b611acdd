"""A captured step draws the random numbers that an eager one would, also from its first replay on."""

import pytest
import torch
from RoboRenForce.utils.cuda_graph import GraphedStep

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DEVICE = torch.device("cuda:0")
TENTH_OF_A_SECOND = 200_000_000
"""Clock cycles."""


def test_the_first_replay_draws_what_is_next_even_if_the_capturing_stream_is_late(monkeypatch):
    noise, drawn = torch.zeros(1000, device=DEVICE), []

    def draw() -> None:
        torch.cuda._sleep(TENTH_OF_A_SECOND)  # between the offset that a replay sets and the kernel that reads it
        noise.normal_()

    begin = torch.cuda.CUDAGraph.capture_begin

    def late_begin(*args, **kwargs) -> None:
        torch.cuda._sleep(TENTH_OF_A_SECOND // 2)  # torch sets the offset to 0 behind this
        begin(*args, **kwargs)

    monkeypatch.setattr(torch.cuda.CUDAGraph, "capture_begin", late_begin)
    step = GraphedStep(draw, DEVICE, "on", "draw")
    torch.manual_seed(0)
    for _ in range(5):
        step()
        drawn.append(noise.clone())
    assert step.captured
    torch.manual_seed(0)
    for index, found in enumerate(drawn):
        torch.testing.assert_close(found, noise.normal_(), msg=f"draw {index}")


def test_an_expanded_result_of_one_graph_may_be_replaced_for_the_next():
    """What a graph returns stays where it is, and the next graph reads it there; expanded, nothing can be copied in."""
    first = GraphedStep(lambda x: (2 * x).expand(4, 3), DEVICE, "on", "expand", warmup=1)
    second = GraphedStep(lambda x: x + 1, DEVICE, "on", "add", warmup=1)
    for value in (1.0, 2.0, 3.0):
        expanded = first(torch.full((1, 3), value, device=DEVICE))
        assert torch.equal(second(expanded), torch.full((4, 3), 2 * value + 1, device=DEVICE))
    assert first.captured and second.captured
    assert torch.equal(second(torch.full((4, 3), 7.0, device=DEVICE)), torch.full((4, 3), 8.0, device=DEVICE))
