"""The Qwen3-VL that learns from scratch: its size, and that a gradient step lowers its loss, in every part."""

import pytest
import torch
from RoboRenForce.cli.vla_tasks import policy_named
from RoboRenForce.components.action_heads import FlowHeadCfg
from vla_cases import recorded, spec

pytest.importorskip("transformers")

pytestmark = pytest.mark.oracle


def test_it_has_tens_of_millions_of_parameters_which_all_learn():
    cfg = policy_named("qwen3_vl_small")
    cfg.backbone.image_size, cfg.head = [64, 64], FlowHeadCfg(chunk_size=4)
    policy = cfg.build(spec())
    backbone = dict(policy.backbone.named_parameters())
    assert 40e6 < sum(parameter.numel() for parameter in backbone.values()) < 45e6
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in backbone.values())

    batch = recorded()

    def loss():
        torch.manual_seed(0)  # of time and noise
        return policy.loss(policy.encode(batch), batch["action"], batch["action_is_pad"]).mean

    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-4)
    before = loss()
    before.backward()
    unused = [name for name, parameter in backbone.items() if parameter.grad is None or not parameter.grad.any()]
    assert not unused
    optimizer.step()
    with torch.no_grad():
        assert loss() < before
