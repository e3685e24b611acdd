"""The check before learning: what passes, what is caught, and that a run goes on as if nothing had happened."""

import pytest
import torch
from RoboRenForce.algorithms.vla_rl.parity import evaluation_mode, require_parity
from RoboRenForce.components.action_heads import (
    BinsHeadCfg,
    DiffusionHeadCfg,
    FASTHeadCfg,
    FlowHeadCfg,
    FlowSDECfg,
    RegressionHeadCfg,
)
from RoboRenForce.networks import TokenDecoderCfg
from RoboRenForce.networks.vlm import MLPBaselineCfg
from RoboRenForce.utils.errors import UserError
from torch import nn
from vla_cases import CHUNK, observed, policy, recorded

DECODER = TokenDecoderCfg(dim=16, num_layers=1, num_heads=2)
HEADS = {
    "regression": RegressionHeadCfg(chunk_size=CHUNK),
    "bins": BinsHeadCfg(chunk_size=CHUNK),
    "autoregressive": BinsHeadCfg(chunk_size=CHUNK, num_bins=32, decoding="autoregressive", decoder=DECODER),
    "fast": FASTHeadCfg(chunk_size=CHUNK, vocabulary=160, num_levels=128, decoder=DECODER),
    "sde": FlowHeadCfg(chunk_size=CHUNK, density="sde"),
    "chain": FlowHeadCfg(chunk_size=CHUNK, density="sde", sde=FlowSDECfg(noisy_steps="all")),
    "noise": FlowHeadCfg(chunk_size=CHUNK, density="noise"),
}


def _policy(head, rows=8):
    built, batch = policy(head=head, backbone=MLPBaselineCfg(image_size=[32, 32])), recorded(rows)
    built.head.fit(built.targets(built.encode(batch), batch["action"])[0])
    with torch.no_grad():
        for parameter in built.head.parameters():  # fresh output layers are zero
            parameter.add_(0.05 * torch.randn_like(parameter))
    return built, observed(batch)


@pytest.mark.contract
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", HEADS)
def test_every_head_with_a_density_passes(name, precision):
    built, obs = _policy(HEADS[name])
    assert require_parity(built, obs, precision=precision) <= (1e-5 if precision == "fp32" else 0.05)


class _Noisy(nn.Module):
    """Draws numbers also in evaluation mode."""

    def forward(self, x):
        return x + 0.01 * torch.randn_like(x)


class _Mixing(nn.Module):
    """Lets the rows of a batch see one another."""

    def forward(self, x):
        return x + 0.1 * x.mean(0)


def _spoil(built, module):
    output = built.head.network.output
    built.head.network.output = nn.Sequential(output, module)


@pytest.mark.contract
@pytest.mark.parametrize("module", [_Noisy, _Mixing, lambda: nn.BatchNorm1d(CHUNK, track_running_stats=False)])
def test_random_numbers_and_rows_that_see_one_another_are_caught(module):
    built, obs = _policy(RegressionHeadCfg(chunk_size=CHUNK))
    _spoil(built, module())
    with pytest.raises(UserError, match=r"RegressionHead does not find the log-probabilities .* off in fp32"):
        require_parity(built, obs)


@pytest.mark.contract
def test_dropout_is_off_for_acting_and_for_evaluating_and_every_mode_comes_back():
    built, obs = _policy(RegressionHeadCfg(chunk_size=CHUNK))
    _spoil(built, nn.Dropout(0.5))
    built.train()
    built.backbone.eval()
    modes = [part.training for part in built.modules()]
    assert require_parity(built, obs) < 1e-5
    assert [part.training for part in built.modules()] == modes
    with pytest.raises(ZeroDivisionError), evaluation_mode(built):
        assert not any(part.training for part in built.modules())
        _ = 1 / 0
    assert [part.training for part in built.modules()] == modes


@pytest.mark.contract
def test_the_random_numbers_of_the_run_stay_as_they_were():
    built, obs = _policy(HEADS["sde"])
    torch.manual_seed(5)
    expected = torch.randn(3)
    torch.manual_seed(5)
    require_parity(built, obs)
    assert torch.equal(torch.randn(3), expected)


@pytest.mark.contract
def test_numbers_that_are_none_and_heads_without_density_are_refused():
    built, obs = _policy(HEADS["regression"])
    with torch.no_grad():
        built.head.network.output.bias.fill_(torch.nan)
    with pytest.raises(UserError, match="up to nan off"):
        require_parity(built, obs)
    with pytest.raises(UserError, match=r"FlowHead has no log-probabilities .* set policy\.head\.density=sde"):
        require_parity(*_policy(FlowHeadCfg(chunk_size=CHUNK)))
    pytest.importorskip("diffusers")
    with pytest.raises(UserError, match=r"DiffusionHead has no log-probabilities .* set policy\.head\.density=dppo"):
        require_parity(*_policy(DiffusionHeadCfg(chunk_size=CHUNK)))
