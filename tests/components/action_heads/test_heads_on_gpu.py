"""On a GPU: acting and learning wait for nothing, and acting in a CUDA graph gives the same actions."""

import pytest
import torch
from head_cases import CASES, H, random_chunks, trained_looking
from RoboRenForce.components.action_heads.denoising import DenoisingHead

pytestmark = pytest.mark.gpu


def _on_gpu(name):
    head, prefix = trained_looking(name)
    return head.cuda(), prefix.map(torch.Tensor.cuda)


@pytest.mark.parametrize("name", CASES)
def test_acting_and_learning_wait_for_nothing(name):
    head, prefix = _on_gpu(name)
    actions = random_chunks(6).cuda()
    mask = torch.ones(6, H, 2, dtype=torch.bool, device="cuda")

    def everything():
        for deterministic in (True, False):
            _, record = head.act(prefix, deterministic=deterministic)
            if record:
                head.evaluate(prefix, record)
        if name != "fast":  # byte-pair encoding happens on the host
            head.loss(prefix, actions, mask).mean.backward()

    everything()  # tables and libraries are set up by the first call
    torch.cuda.set_sync_debug_mode("error")
    try:
        everything()
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("name", [name for name in CASES if "ddpm" not in name])  # that one draws noise at every step
def test_acting_in_a_cuda_graph_gives_the_same_actions(name):
    head, prefix = _on_gpu(name)
    noise = torch.randn(6, H, 2, device="cuda")

    def act():
        with torch.no_grad():
            return head.sample(prefix, noise) if isinstance(head, DenoisingHead) else head.act(prefix)[0]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            act()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = act()
    for _ in range(2):
        noise.normal_()
        prefix.state.normal_()
        graph.replay()
        torch.testing.assert_close(captured, act(), atol=1e-4, rtol=1e-4)
