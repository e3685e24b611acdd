"""On a GPU: acting and learning wait for nothing, and acting in a CUDA graph gives the same actions."""

import pytest
import torch
from head_cases import CASES, DENSITIES, H, random_chunks, trained_looking
from RoboRenForce.components.action_heads.denoising import DenoisingHead

pytestmark = pytest.mark.gpu


def _on_gpu(name):
    head, prefix = trained_looking(name)
    return head.cuda(), prefix.map(torch.Tensor.cuda)


@pytest.mark.parametrize("name", CASES | DENSITIES)
def test_acting_and_learning_wait_for_nothing(name):
    head, prefix = _on_gpu(name)
    actions = random_chunks(6).cuda()
    mask = torch.ones(6, H, 2, dtype=torch.bool, device="cuda")

    def everything():
        for deterministic in (True, False):
            _, record = head.act(prefix, deterministic=deterministic)
            if record:
                head.evaluate(prefix, record)
                head.record_divergence(prefix, head, prefix, record)
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


@pytest.mark.parametrize("name", DENSITIES)
@pytest.mark.parametrize("autocast", [False, True])
def test_evaluating_finds_what_exploring_in_a_cuda_graph_drew(name, autocast):
    """Also in smaller batches, whose kernels round otherwise; draws go on from replay to replay."""
    head, prefix = _on_gpu(name)
    prefix = prefix.repeat(8)

    def explore():
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=autocast, cache_enabled=False):
            return head.act(prefix, deterministic=False)[1]

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            explore()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = explore()
    before = None
    for _ in range(2):
        graph.replay()
        record = {key: value.clone() for key, value in captured.items()}
        with torch.no_grad(), torch.autocast("cuda", torch.bfloat16, enabled=autocast):
            for rows in torch.arange(48, device="cuda").chunk(3):
                part = {key: value[rows] for key, value in record.items()}
                found = head.evaluate(prefix.rows(rows), part).log_prob
                torch.testing.assert_close(found, part["log_prob"], atol=0.1 if autocast else 1e-4, rtol=0)
        assert before is None or not torch.equal(record["log_prob"], before)
        before = record["log_prob"]
