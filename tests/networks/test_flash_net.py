"""FlashSAC's network: its arithmetic, its constraints, and which passes its statistics follow."""

import copy
import math
import pickle

import numpy as np
import pytest
import torch
from RoboRenForce.components import BoundedRewardScaler, FlatAdam, QNetworkCfg, TanhGaussianActorCfg
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.networks import (
    BatchNorm,
    FlashNetCfg,
    MLPCfg,
    RNNCfg,
    batch_statistics,
    constrain_,
    constrained_parts,
    uses_batch_statistics,
)
from RoboRenForce.networks.constraints import scale_to_norm_
from RoboRenForce.networks.flash_net import RMSNorm, UnitLinear
from torch import nn

pytestmark = pytest.mark.oracle

CFG = FlashNetCfg(width=8, num_blocks=2, expansion=4)
SPEC = EnvSpec("Toy", 4, {"policy": (5,)}, ActionSpec("continuous", 2, (-1.0,) * 2, (1.0,) * 2), 10)


def build(members: int | None = None) -> nn.Module:
    """A network whose parameters and running statistics are not where they started."""
    net = CFG.build(5, 3) if members is None else CFG.build_ensemble(members, 5, 3)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for name, buffer in net.named_buffers():
            buffer.copy_(torch.rand_like(buffer) + (0.5 if "var" in name else -0.5))
    constrain_(net)
    return net


def by_hand(net: nn.Module, x: np.ndarray, member: int | None, batch: bool) -> np.ndarray:
    """The formula of the module's docstring in float64."""

    def value(name: str) -> np.ndarray:
        tensor = dict(net.state_dict())[name].double()
        return (tensor if member is None else tensor[member]).numpy()

    def norm(x: np.ndarray, name: str) -> np.ndarray:
        mean, var = (x.mean(0), x.var(0)) if batch else (value(f"{name}.running_mean"), value(f"{name}.running_var"))
        return (x - mean) / np.sqrt(var + 1e-5) * value(f"{name}.weight") + value(f"{name}.bias")

    x = norm(x, "input_norm") @ value("embedding.weight").T
    for block in ("blocks.0", "blocks.1"):
        hidden = np.maximum(norm(x @ value(f"{block}.up.weight").T, f"{block}.up_norm"), 0)
        x = x + np.maximum(norm(hidden @ value(f"{block}.down.weight").T, f"{block}.down_norm"), 0)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * value("output_norm.weight")
    return x @ value("head.weight").T + value("head.bias")


@pytest.mark.parametrize("batch", [False, True], ids=["running", "batch"])
@pytest.mark.parametrize("members", [None, 3], ids=["one", "ensemble"])
def test_the_network_is_its_formula(members, batch):
    net, x = build(members), torch.randn(64, 5) * 2 + 1
    expected = [by_hand(net, x.double().numpy(), m, batch) for m in (range(members) if members else [None])]
    if batch:
        with batch_statistics(net):
            y = net(x)
    else:
        y = net(x)
    assert y.shape == ((64, 3) if members is None else (3, 64, 3))
    np.testing.assert_allclose(y.detach().numpy(), np.stack(expected) if members else expected[0], atol=2e-4)


def test_leading_dimensions_are_one_batch():
    net, x = build(2), torch.randn(6, 7, 5)
    with batch_statistics(net):
        nested = net(x)
    net = copy.deepcopy(net)
    with batch_statistics(net):
        torch.testing.assert_close(nested.flatten(1, 2), net(x.flatten(0, 1)))
    assert nested.shape == (2, 6, 7, 3)


def test_constraints_hold_after_every_step_and_only_then():
    net = CFG.build_ensemble(2, 5, 3)
    step = FlatAdam({"net": net.parameters()}, learning_rate=0.05)
    for _ in range(5):
        with batch_statistics(net):
            step.backward(net(torch.randn(32, 5)).square().mean() + net.blocks[0].up_norm.bias.sum())
        step.apply()
        assert (net.embedding.weight.norm(dim=-1) - 1).abs().max() > 1e-4
        constrain_(net)
        for module in net.modules():
            if isinstance(module, UnitLinear):
                norms = module.weight.detach().double().norm(dim=-1)
                np.testing.assert_allclose(norms.numpy(), 1.0, atol=1e-5)
            elif isinstance(module, BatchNorm):
                squares = module.weight.detach().square().sum(-1) + module.bias.detach().square().sum(-1)
                np.testing.assert_allclose(squares.numpy(), module.features, rtol=1e-5)
            elif isinstance(module, RMSNorm):
                np.testing.assert_allclose(module.weight.detach().square().sum(-1).numpy(), 8.0, rtol=1e-5)
    assert net.head.bias.abs().sum() > 0  # biases of the head are free


def test_constraints_keep_directions_and_addresses():
    layer = UnitLinear(3, 2, ())
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[3.0, 0.0, 4.0], [0.0, 0.0, -2.0]]))
    address = layer.weight.data_ptr()
    constrain_(layer)
    np.testing.assert_allclose(layer.weight.detach().numpy(), [[0.6, 0.0, 0.8], [0.0, 0.0, -1.0]], atol=1e-7)
    assert layer.weight.data_ptr() == address
    scale, bias = torch.tensor([1.0, 1.0]), torch.tensor([1.0, 1.0])
    scale_to_norm_(math.sqrt(2.0), scale, bias)
    np.testing.assert_allclose(torch.cat([scale, bias]).numpy(), [math.sqrt(0.5)] * 4, rtol=1e-6)
    zero = torch.zeros(3)
    scale_to_norm_(1.0, zero)
    assert torch.equal(zero, torch.zeros(3))


def test_a_new_network_satisfies_its_constraints_and_others_have_none():
    net = CFG.build(5, 3)
    before = copy.deepcopy(net.state_dict())
    constrain_(net)
    for name, value in net.state_dict().items():
        torch.testing.assert_close(value, before[name])
    assert constrained_parts(net) and uses_batch_statistics(net)
    other = MLPCfg().build(5, 3)
    assert not constrained_parts(other) and not uses_batch_statistics(other)


def test_running_statistics_follow_only_batches_inside_the_block():
    norm = BatchNorm(2, momentum=0.1)
    x = torch.tensor([[1.0, 10.0], [3.0, 30.0]])
    norm.train()
    norm(x)
    assert torch.equal(norm.running_mean, torch.zeros(2)) and torch.equal(norm.running_var, torch.ones(2))
    norm.eval()  # nor do they depend on the mode of the module
    with batch_statistics(norm):
        y = norm(x)
    np.testing.assert_allclose(y.detach().numpy(), [[-1, -1], [1, 1]], atol=1e-4)
    # Means 2 and 20; unbiased variances 2 and 200.
    np.testing.assert_allclose(norm.running_mean.numpy(), [0.2, 2.0], rtol=1e-6)
    np.testing.assert_allclose(norm.running_var.numpy(), [0.9 + 0.2, 0.9 + 20.0], rtol=1e-6)
    assert not norm.uses_batch


def test_statistics_and_gradients_are_those_of_torch():
    ours, theirs = BatchNorm(4, momentum=0.05), nn.BatchNorm1d(4, momentum=0.05)
    for _ in range(20):
        x = torch.randn(16, 4) * torch.arange(1.0, 5.0) + 3
        mine, other = x.clone().requires_grad_(), x.clone().requires_grad_()
        with batch_statistics(ours):
            y = ours(mine)
        z = theirs(other)
        y.pow(3).sum().backward()
        z.pow(3).sum().backward()
        np.testing.assert_allclose(y.detach().numpy(), z.detach().numpy(), atol=1e-5)
        np.testing.assert_allclose(mine.grad.numpy(), other.grad.numpy(), atol=2e-3)
    torch.testing.assert_close(ours.running_mean, theirs.running_mean)
    torch.testing.assert_close(ours.running_var, theirs.running_var)
    torch.testing.assert_close(ours(x), theirs.eval()(x))


@pytest.mark.parametrize(
    "carried", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))], ids=["copy", "pickle"]
)
def test_what_a_network_knows_of_its_layers_is_about_itself_wherever_it_goes(carried):
    net, x = build(), torch.randn(16, 5)
    names = list(net.state_dict())
    assert uses_batch_statistics(net)  # it has searched itself
    other = carried(net).double()
    other.load_state_dict(build().state_dict())
    before = [buffer.clone() for buffer in net.buffers()]
    expected = copy.deepcopy(net.state_dict())
    with batch_statistics(other):
        assert not net.input_norm.uses_batch and other.input_norm.uses_batch
        other(x.double())
    assert all(torch.equal(old, new) for old, new in zip(before, net.buffers(), strict=True))
    assert not torch.equal(other.input_norm.running_mean.float(), net.input_norm.running_mean)
    assert list(net.state_dict()) == list(other.state_dict()) == names
    other.load_state_dict(expected)
    torch.testing.assert_close(other(x.double()).float(), net(x), atol=1e-5, rtol=1e-5)


def test_blocks_nest_and_end_also_after_an_error():
    inner, outer = BatchNorm(2), BatchNorm(2)
    with batch_statistics(outer):
        with batch_statistics(inner, outer):
            pass
        assert outer.uses_batch and not inner.uses_batch
    with pytest.raises(RuntimeError), batch_statistics(outer):
        raise RuntimeError
    assert not outer.uses_batch


def test_half_precision_keeps_statistics_exact():
    norm = BatchNorm(1)
    x = (torch.arange(4096.0) / 4096 + 100).unsqueeze(1).bfloat16()
    with batch_statistics(norm):
        y = norm(x)
    assert y.dtype == torch.bfloat16 and norm.running_mean.dtype == torch.float32
    assert norm.running_mean.item() == pytest.approx(0.01 * x.double().mean().item(), rel=1e-5)


def test_critics_and_actors_are_built_from_it():
    critic = QNetworkCfg(backbone_cfg=CFG, num_q=3, normalizer_cfg=None).build(spec=SPEC, groups=["policy"])
    actor = TanhGaussianActorCfg(backbone_cfg=CFG, normalizer_cfg=None).build(spec=SPEC, groups=["policy"])
    obs = {"policy": torch.randn(6, 5)}
    distribution, _ = actor(obs)
    assert critic(obs, distribution.sample()).shape == (3, 6)
    with torch.no_grad():
        one = critic.ensemble(torch.cat([obs["policy"], distribution.mode], -1))
    np.testing.assert_allclose(critic(obs, distribution.mode).detach().numpy(), one.squeeze(-1).numpy(), atol=1e-6)


def test_members_are_independent_of_one_another():
    net, x = build(2), torch.randn(16, 5)
    with batch_statistics(net):
        gradient = torch.autograd.grad(net(x)[0].sum(), list(net.parameters()))
    for value in gradient:
        assert value[1].abs().max() == 0 and value.shape[0] == 2


def test_networks_without_a_batched_version_say_so():
    with pytest.raises(TypeError, match=r"RNNCfg has no batched version for an ensemble of 2; use MLPCfg or FlashNet"):
        RNNCfg().build_ensemble(2, 3, 1)
    with pytest.raises(ConfigError, match=r"width.*>= 1"):
        FlashNetCfg(width=0).build(3, 1)


# --- the reward scaler that belongs to it -----------------------------------------------------------------------------


def test_returns_are_scaled_to_fit_the_critics_range():
    scaler = BoundedRewardScaler(num_envs=2, gamma=0.5, max_return=5.0)
    rewards = torch.tensor([[4.0, 0.0], [8.0, 0.0], [2.0, -60.0]])
    dones = torch.tensor([[0, 0], [1, 0], [0, 0]])
    assert torch.equal(scaler(rewards), rewards)  # nothing seen, nothing done
    scaler.update(rewards, dones)
    # Returns: 4, then 0.5 * 4 + 8 = 10 where the episode ends, then 2; and 0, 0, -60.
    returns = np.array([4.0, 10.0, 2.0, 0.0, 0.0, -60.0])
    divisor = max(math.sqrt(returns.var() + 1e-8), 60.0 / 5.0)
    assert returns.std() > 12.0
    np.testing.assert_allclose(scaler(rewards).numpy(), rewards.numpy() / divisor, rtol=1e-6)
    for _ in range(200):  # the deviation shrinks, the largest return stays
        scaler.update(torch.zeros(2), torch.ones(2))
    np.testing.assert_allclose(scaler(rewards).numpy(), rewards.numpy() / 12.0, rtol=1e-6)


def test_scaling_changes_nothing_and_eval_learns_nothing():
    scaler = BoundedRewardScaler(num_envs=3, gamma=0.9)
    scaler.update(torch.tensor([1.0, 2.0, 3.0]), torch.zeros(3))
    state = copy.deepcopy(scaler.state_dict())
    scaler(torch.full((100,), 50.0))
    scaler.eval()
    scaler.update(torch.full((3,), 100.0), torch.zeros(3))
    for name, value in scaler.state_dict().items():
        assert torch.equal(value, state[name]), name
    assert state["largest"].item() == 3.0
