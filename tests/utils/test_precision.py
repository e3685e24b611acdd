"""Weights that several passes share are cast once, and are what they were afterwards, whatever happens."""

import pytest
import torch
from RoboRenForce.networks.dit import DiTCfg
from RoboRenForce.utils.precision import weights_cast_once
from torch import nn

pytestmark = pytest.mark.contract


def held(module):
    return {name: id(parameter) for name, parameter in module.named_parameters()}


def test_only_autocast_without_gradients_finds_other_weights():
    module = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    before = held(module)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), weights_cast_once(module):
        assert module[0].weight.dtype == module[2].weight.dtype == torch.bfloat16
        assert module[1].weight.dtype == module[0].bias.dtype == torch.float32
    assert held(module) == before
    with torch.autocast("cpu", torch.bfloat16), weights_cast_once(module):
        assert held(module) == before
    with torch.no_grad(), weights_cast_once(module):
        assert held(module) == before


@pytest.mark.parametrize("when", ["while weights are cast", "in a pass"])
def test_a_failure_leaves_the_weights_as_they_were(when, monkeypatch):
    module = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    before, order = held(module), list(module.state_dict())
    if when == "while weights are cast":
        cast, calls = torch.Tensor.to, []

        def out_of_memory(tensor, *args):
            calls.append(tensor)
            if len(calls) == 2:
                raise torch.OutOfMemoryError
            return cast(tensor, *args)

        monkeypatch.setattr(torch.Tensor, "to", out_of_memory)
    autocast = torch.autocast("cpu", torch.bfloat16)
    with torch.no_grad(), autocast, pytest.raises(torch.OutOfMemoryError), weights_cast_once(module):
        raise torch.OutOfMemoryError
    assert held(module) == before and list(module.state_dict()) == order


def test_a_dit_says_the_same_to_the_last_bit():
    torch.manual_seed(0)
    network = DiTCfg(dim=16, num_heads=2, num_layers=2).build(chunk_size=3, action_dim=2, width=8, state_dim=0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    x, time = torch.randn(4, 3, 2), torch.rand(4)
    mask = torch.ones(4, 1, 1, 5, dtype=torch.bool)
    context = {f"key_value.{number}": torch.randn(4, 2, 2, 5, 8) for number in range(2)} | {"mask": mask}
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        plain = network(x, time, context)
        with network.many_passes():
            assert network.blocks[0].qkv.weight.dtype == torch.bfloat16
            assert torch.equal(network(x, time, context), plain)
    assert plain.std() > 0.1
