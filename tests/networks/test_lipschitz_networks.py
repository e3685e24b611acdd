"""LipsNet, SpectralMLP and FFTFilter: their bounds, their Jacobians, their place in actors and in the export."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms import ActorPolicy, RunContext
from RoboRenForce.algorithms.functional import jacobian_norm
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.networks.lipschitz import mlp_jacobian
from RoboRenForce.utils.export import export_policy
from tensordict import TensorDict

pytestmark = pytest.mark.oracle

ACTIVATIONS = ("Tanh", "Sigmoid", "ReLU", "LeakyReLU", "ELU", "SiLU", "Softplus")


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_jacobian_of_an_mlp_is_that_of_autograd(activation: str) -> None:
    torch.manual_seed(0)
    mlp = networks.MLPCfg(hidden_features=[8, 6], activations=activation).build(3, 2)
    x = torch.randn(5, 3)
    output, jacobian = mlp_jacobian(mlp, x)
    torch.testing.assert_close(output, mlp(x))
    expected = torch.stack([torch.autograd.functional.jacobian(mlp, row) for row in x])
    torch.testing.assert_close(jacobian, expected)
    # Its norm can be learned from: an ordinary backward pass has the gradient of the double one.
    weight = mlp.layers[0].weight
    (mine,) = torch.autograd.grad(jacobian.square().sum((1, 2)).sqrt().mean(), weight)
    (theirs,) = torch.autograd.grad(jacobian_norm(mlp, x).mean(), weight)
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_a_linear_network_has_its_weight_as_jacobian() -> None:
    mlp = networks.MLPCfg(hidden_features=[]).build(3, 2)
    assert torch.equal(mlp_jacobian(mlp, torch.randn(4, 5, 3))[1][1, 2], mlp.layers[0].weight)


def test_a_lips_net_ignores_the_scale_of_its_network() -> None:
    torch.manual_seed(0)
    net = networks.LipsNetCfg(initial=2.5).build(3, 2)
    x = torch.randn(6, 3)
    before = net(x)
    with torch.no_grad():
        for parameter in net.net.output_layer.parameters():
            parameter.mul_(7.0)
    torch.testing.assert_close(net(x), before, rtol=2e-3, atol=1e-4)
    torch.testing.assert_close(net.lipschitz(x), torch.full((6, 1), 2.5))


def test_the_slope_of_a_linear_lips_net_is_its_constant() -> None:
    net = networks.LipsNetCfg(net_cfg=networks.MLPCfg(hidden_features=[]), initial=0.7).build(3, 2)
    torch.testing.assert_close(jacobian_norm(net, torch.randn(4, 3)), torch.full((4,), 0.7), rtol=1e-3, atol=0)


def test_the_constant_may_depend_on_the_state() -> None:
    torch.manual_seed(0)
    cfg = networks.LipsNetCfg(initial=3.0, constant_cfg=networks.MLPCfg(hidden_features=[8], activations="Tanh"))
    net, x = cfg.build(3, 2), torch.randn(50, 3)
    torch.testing.assert_close(net.lipschitz(x), torch.full((50, 1), 3.0))
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(100):
        optimizer.zero_grad()
        (net.lipschitz(x) - (2.0 + x[:, :1].sign())).square().mean().backward()
        optimizer.step()
    assert (net.lipschitz(x)[x[:, 0] > 0.5] > 2.5).all() and (net.lipschitz(x)[x[:, 0] < -0.5] < 1.5).all()


@pytest.mark.parametrize("bound", [0.5, 3.0])
def test_a_spectral_mlp_keeps_its_bound_while_it_learns(bound: float) -> None:
    torch.manual_seed(0)
    net = networks.SpectralMLPCfg(hidden_features=[16, 16], activations="ELU", bound=bound).build(3, 2)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    for _ in range(200):
        x = torch.randn(64, 3)
        optimizer.zero_grad()
        (net(x) - 10.0 * x[:, :2]).square().mean().backward()
        optimizer.step()
        networks.constrain_(net)
    sigmas = [torch.linalg.matrix_norm(layer.weight, 2) for layer in net.layers if hasattr(layer, "weight")]
    assert max(sigmas) <= 1.05 * bound ** (1 / 3)
    a, b = torch.randn(2, 1000, 3)
    ratio = (net(a) - net(b)).norm(dim=1) / (a - b).norm(dim=1)
    assert 0.3 * bound < ratio.max() <= 1.05 * bound, "close to the bound, because the data asks for more"


def test_ppo_projects_its_constrained_networks() -> None:
    backbone = networks.SpectralMLPCfg(hidden_features=[8], bound=0.5)
    policy = components.ActorCriticPackCfg(actor_cfg=components.StateIndStdActorCfg(backbone_cfg=backbone))
    spec = EnvSpec("plane", 4, {"policy": (2,)}, ActionSpec("continuous", 2), 100, ("final_observations",))
    context = RunContext(spec=spec, device=torch.device("cpu"), rollout_steps=4)
    ppo = algorithms.LipsPPOCfg(loss_terms=[algorithms.LipsCfg(mode="spectral")]).build(policy=policy, context=context)
    weight = ppo.actor.backbone.layers[0].weight
    with torch.no_grad():
        weight.mul_(100.0)
    for _ in range(20):
        ppo._apply_gradients()
    assert torch.linalg.matrix_norm(weight, 2) <= 1.01 * 0.5**0.5


def test_a_filter_that_passes_everything_changes_nothing() -> None:
    torch.manual_seed(0)
    net = networks.FFTFilterCfg(window=4, head_cfg=networks.MLPCfg(hidden_features=[])).build(5, 2)
    x, state = torch.randn(7, 3, 5), net.initial_state(3)
    torch.testing.assert_close(net(x, state)[0], net.head(x))
    assert net.penalty() == 4 * 3


def test_a_filter_keeps_the_frequencies_of_its_kernel() -> None:
    """With the constant in time alone, the newest row is the mean over the window."""
    net = networks.FFTFilterCfg(window=4, head_cfg=networks.MLPCfg(hidden_features=[])).build(5, 2)
    with torch.no_grad():
        net.kernel[1:] = 0.0
    x = torch.randn(6, 2, 5)
    y, _ = net(x, net.initial_state(2))
    torch.testing.assert_close(y[5], net.head(x[2:6].mean(0)))
    # An episode that starts at step 4 has zeros before it.
    starts = torch.zeros(6, 2, dtype=torch.bool)
    starts[4] = True
    torch.testing.assert_close(net(x, net.initial_state(2), starts)[0][5], net.head(x[4:6].sum(0) / 4))


def test_a_sequence_is_filtered_as_its_steps() -> None:
    torch.manual_seed(0)
    net = networks.FFTFilterCfg(window=3).build(4, 2)
    with torch.no_grad():
        net.kernel.add_(torch.randn_like(net.kernel))
    x, starts = torch.randn(8, 3, 4), torch.rand(8, 3) < 0.3
    whole, last = net(x, net.initial_state(3), starts)
    state, steps = net.initial_state(3), []
    for t in range(8):
        y, state = net(x[t], state, starts[t])
        steps.append(y)
    torch.testing.assert_close(whole, torch.stack(steps))
    torch.testing.assert_close(last, state)


def test_what_a_network_cannot_bound_is_refused_in_words() -> None:
    for cfg, words in (
        (networks.SpectralMLPCfg(activations="SiLU"), r"activations: SiLU is not supported here; use one of Tanh"),
        (networks.SpectralMLPCfg(layer_norm=True), r"layer_norm: divides by the size of its input"),
        (networks.LipsNetCfg(net_cfg=networks.MLPCfg(activations="Mish")), r"net_cfg.activations: Mish is not supp"),
    ):
        with pytest.raises(ValueError, match=words):
            cfg.validate()
    pack = components.ActorQPackCfg(actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=networks.LipsNetCfg()))
    spec = EnvSpec("plane", 4, {"policy": (2,)}, ActionSpec("continuous", 2), 100, ("final_observations",))
    terms = [algorithms.LipsCfg(mode="mgn")]
    with pytest.raises(ValueError, match=r"LipsNet scales the action's mean.*state_dependent_std=False"):
        algorithms.SACCfg(loss_terms=terms).build(policy=pack, context=RunContext(spec, torch.device("cpu")))
    pack.actor_cfg.state_dependent_std = False
    algorithms.SACCfg(loss_terms=terms).build(policy=pack, context=RunContext(spec, torch.device("cpu")))


@pytest.mark.parametrize("kind", ["LipsNet", "SpectralMLP", "FFTFilter"])
def test_actors_with_these_networks_are_exported(kind: str, tmp_path: Any) -> None:
    cfg = {"LipsNet": networks.LipsNetCfg(), "SpectralMLP": networks.SpectralMLPCfg(), "FFTFilter": None}[kind]
    spec = EnvSpec("plane", 4, {"policy": (3,)}, ActionSpec("continuous", 2), 100, ())
    actor = components.StateIndStdActorCfg(backbone_cfg=cfg or networks.FFTFilterCfg(window=4)).build(
        spec=spec, groups=("policy",)
    )
    policy = ActorPolicy(actor)
    policy(TensorDict({"policy": torch.randn(2, 3)}, [2]))
    export_policy(policy.exportable(), tmp_path, {}, formats=("onnx",) if kind == "FFTFilter" else ("pt2",))
