"""SimNorm and the normalized layers of TD-MPC2 against their definitions."""

import pytest
import torch
import torch.nn.functional as F
from RoboRenForce.configclass import ConfigError
from RoboRenForce.networks import NormedMLPCfg, SimNorm

pytestmark = pytest.mark.oracle


def test_simnorm_is_a_softmax_of_each_group() -> None:
    x = torch.tensor([1.0, 2.0, 3.0, 4.0, 0.0, 0.0, 0.0, 0.0])
    expected = torch.tensor([0.032059, 0.087144, 0.236883, 0.643914, 0.25, 0.25, 0.25, 0.25])
    torch.testing.assert_close(SimNorm(4)(x), expected, atol=1e-6, rtol=0)
    moved = x + torch.tensor([5.0] * 4 + [-3.0] * 4)
    torch.testing.assert_close(SimNorm(4)(moved), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(SimNorm(8)(torch.randn(3, 5, 24)).unflatten(-1, (-1, 8)).sum(-1), torch.ones(3, 5, 3))


def test_layers_are_linear_norm_mish_and_a_simplicial_output_is_normalized_too() -> None:
    torch.manual_seed(0)
    net = NormedMLPCfg(hidden_features=[6], output="simnorm", simnorm_dim=4).build(3, 8)
    x = torch.randn(5, 3)
    first, norm, _ = net.hidden
    hidden = F.mish(F.layer_norm(x @ first.weight.T, (6,), norm.weight, norm.bias))
    expected = F.layer_norm(hidden @ net.output.weight.T, (8,)).unflatten(-1, (2, 4)).softmax(-1).flatten(-2)
    torch.testing.assert_close(net(x), expected)


def test_members_of_an_ensemble_start_apart_and_equal_single_networks() -> None:
    torch.manual_seed(0)
    ensemble = NormedMLPCfg(hidden_features=[6, 5]).build_ensemble(3, 4, 2)
    x = torch.randn(2, 7, 4)
    found = ensemble(x)
    assert found.shape == (3, 2, 7, 2)
    assert min((found[i] - found[j]).abs().max() for i, j in ((0, 1), (0, 2), (1, 2))) > 1e-3
    torch.testing.assert_close(ensemble.forward_members(x, torch.tensor([2, 0])), found[[2, 0]])
    single = NormedMLPCfg(hidden_features=[6, 5]).build(4, 2)
    for mine, its in zip(single.parameters(), ensemble.parameters(), strict=True):
        mine.data.copy_(its[1].T if mine.dim() == 2 else its[1].squeeze(0))
    torch.testing.assert_close(single(x), found[1])


def test_weights_start_as_a_truncated_normal_and_a_zero_output_is_zero() -> None:
    torch.manual_seed(0)
    net = NormedMLPCfg(hidden_features=[256, 256], zero_output=True).build_ensemble(2, 256, 4)
    weight = net.hidden[0].weight
    assert weight.abs().max() <= 0.04 and weight.std().item() == pytest.approx(0.0176, rel=0.02)  # cut at two stds
    assert not net(torch.randn(3, 256)).any()


def test_only_the_first_layer_has_dropout_and_only_in_training() -> None:
    net = NormedMLPCfg(hidden_features=[64, 64], dropout=0.5).build(8, 4)
    assert [type(layer).__name__ for layer in net.hidden].count("Dropout") == 1
    assert type(net.hidden[1]).__name__ == "Dropout"
    x = torch.randn(3, 8)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))


def test_wrong_widths_and_activations_are_named() -> None:
    with pytest.raises(ConfigError, match="hidden_features: entry 0 is 0"):
        NormedMLPCfg(hidden_features=[0]).build(2, 2)
    with pytest.raises(ConfigError, match="activation: unknown activation 'mush'"):
        NormedMLPCfg(activation="mush").build(2, 2)
