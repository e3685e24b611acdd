"""Return heads on a GPU: captured steps equal eager ones, and nothing waits for the host."""

import copy

import pytest
import torch
from RoboRenForce import components

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DEVICE = torch.device("cuda:0")
HEADS = {
    "scalar": components.ScalarHeadCfg(),
    "categorical": components.CategoricalHeadCfg(num_atoms=21),
    "quantile": components.QuantileHeadCfg(num_quantiles=7, drop_top=2),
    "gaussian-v1": components.GaussianHeadCfg(version="v1"),
    "gaussian-T": components.GaussianHeadCfg(),
}
every_head = pytest.mark.parametrize("cfg", HEADS.values(), ids=HEADS.keys())


def _step(head, batch, aggregate):
    """Losses, gradient and target of one batch."""
    output, next_output, bonus, reward, discount, weight = batch
    target = head.target(next_output, bonus, reward, discount, aggregate)
    loss = head.loss(output, target, weight)
    return loss, torch.autograd.grad(loss.sum(), output)[0], target


def _batch(head, rows=300):
    output, next_output = torch.randn(2, 2, rows, head.out_features, device=DEVICE)
    reward, bonus = torch.randn(2, rows, device=DEVICE) * 4
    discount, weight = torch.rand(2, rows, device=DEVICE)
    return [output.requires_grad_(), next_output, bonus, reward, discount, weight]


@every_head
@pytest.mark.parametrize("aggregate", ["min", "mean", "own"])
def test_captured_heads_equal_eager_ones_without_a_word_to_the_host(cfg, aggregate):
    eager = cfg.build(num_members=2).to(DEVICE)
    captured = copy.deepcopy(eager)
    static, batches = _batch(eager), [_batch(eager) for _ in range(3)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for head in (captured, eager):
                _step(head, static, aggregate)
        torch.cuda.current_stream().wait_stream(side)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = _step(captured, static, aggregate)
    for batch in batches:
        with torch.no_grad():
            for slot, tensor in zip(static, batch, strict=True):
                slot.copy_(tensor)
        graph.replay()
        if isinstance(cfg, components.GaussianHeadCfg):
            # The noise differs; everything else is a function of the target.
            loss = eager.loss(batch[0], results[2].clone(), batch[5])
            expected = loss, torch.autograd.grad(loss.sum(), batch[0])[0], results[2]
        else:
            expected = _step(eager, batch, aggregate)
        torch.testing.assert_close(results, expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(captured.metrics(), eager.metrics())
        torch.testing.assert_close(captured.state_dict(), eager.state_dict())


@every_head
def test_heads_give_the_same_numbers_as_on_the_cpu(cfg):
    head = cfg.build(num_members=2).to(DEVICE)
    reference = copy.deepcopy(head).cpu()
    output, next_output, bonus, reward, discount, weight = batch = _batch(head)
    target = head.target(next_output, bonus, reward, discount)
    on_cpu = [x.detach().cpu() for x in batch]
    if not isinstance(cfg, components.GaussianHeadCfg):
        torch.testing.assert_close(target.cpu(), reference.target(*on_cpu[1:5]), rtol=1e-4, atol=1e-5)
    loss = head.loss(output, target, weight)
    torch.testing.assert_close(loss.cpu(), reference.loss(on_cpu[0], target.cpu(), on_cpu[5]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(head.mean(output).cpu(), reference.mean(on_cpu[0]), rtol=1e-4, atol=1e-5)
