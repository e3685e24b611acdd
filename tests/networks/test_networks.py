"""Feed-forward networks against hand-written NumPy forward passes and torch's own modules."""

import numpy as np
import pytest
import torch
from RoboRenForce.configclass import ConfigError
from RoboRenForce.networks import CNNCfg, EnsembleMLP, MLPCfg, build_activation
from RoboRenForce.networks.cnn import SpatialSoftmax
from torch import nn

pytestmark = pytest.mark.oracle


def _numpy(parameter):
    return parameter.detach().double().numpy()


def _elu(x):
    return np.where(x > 0, x, np.expm1(np.minimum(x, 0)))


# MLP


def test_mlp_equals_a_numpy_forward_pass_for_any_leading_dimensions():
    torch.manual_seed(0)
    net = MLPCfg(hidden_features=[8, 6], activations="ELU").build(5, 3)
    x = torch.randn(4, 7, 5)
    linears = [layer for layer in net.layers if isinstance(layer, nn.Linear)]
    y = x.double().numpy()
    for index, layer in enumerate(linears):
        y = y @ _numpy(layer.weight).T + _numpy(layer.bias)
        y = _elu(y) if index < 2 else y
    np.testing.assert_allclose(net(x).detach().numpy(), y, atol=1e-6)


def test_the_two_forms_of_activations_describe_the_same_network():
    x = torch.randn(4, 5)
    outputs = []
    for activations in ("ELU", [[("ELU", {})]] * 2 + [[]], [[("elu", {"alpha": 1.0})]] * 2 + [[]]):
        torch.manual_seed(1)
        outputs.append(MLPCfg(hidden_features=[8, 6], activations=activations).build(5, 3)(x))
    assert torch.equal(outputs[0], outputs[1]) and torch.equal(outputs[0], outputs[2])


def test_activations_with_arguments_several_per_layer_and_on_the_output_are_applied_in_order():
    activations = [[("LeakyReLU", {"negative_slope": 0.5}), ("Tanh", {})], [("Sigmoid", {})]]
    net = MLPCfg(hidden_features=[3], activations=activations).build(2, 1)
    x = torch.randn(6, 2)
    hidden = x.double().numpy() @ _numpy(net.layers[0].weight).T + _numpy(net.layers[0].bias)
    hidden = np.tanh(np.where(hidden > 0, hidden, 0.5 * hidden))
    output = hidden @ _numpy(net.layers[3].weight).T + _numpy(net.layers[3].bias)
    np.testing.assert_allclose(net(x).detach().numpy(), 1 / (1 + np.exp(-output)), atol=1e-6)
    assert net.output_layer is None


def test_default_initialization_is_torchs_so_that_seeds_carry_over():
    torch.manual_seed(2)
    net = MLPCfg(hidden_features=[8]).build(5, 3)
    torch.manual_seed(2)
    first, second = nn.Linear(5, 8), nn.Linear(8, 3)
    assert torch.equal(net.layers[0].weight, first.weight) and torch.equal(net.layers[2].bias, second.bias)


def test_output_gain_scales_the_default_output_layer_only():
    torch.manual_seed(3)
    plain = MLPCfg(hidden_features=[8]).build(5, 3)
    torch.manual_seed(3)
    scaled = MLPCfg(hidden_features=[8], output_gain=0.01).build(5, 3)
    x = torch.randn(4, 5)
    torch.testing.assert_close(scaled(x), 0.01 * plain(x))


def test_orthogonal_initialization_has_the_gains_and_zero_biases():
    net = MLPCfg(hidden_features=[8, 8], init="orthogonal", hidden_gain=1.5, output_gain=0.01).build(8, 8)
    for layer, gain in zip(net.layers[::2], (1.5, 1.5, 0.01), strict=True):
        torch.testing.assert_close(layer.weight @ layer.weight.T, gain**2 * torch.eye(8), atol=1e-5, rtol=1e-5)
        assert not layer.bias.any()


def test_layer_norm_stands_between_linear_layer_and_activation():
    net = MLPCfg(hidden_features=[6], activations="ReLU", layer_norm=True).build(4, 2)
    x = torch.randn(5, 4)
    hidden = x.double().numpy() @ _numpy(net.layers[0].weight).T + _numpy(net.layers[0].bias)
    hidden = (hidden - hidden.mean(-1, keepdims=True)) / np.sqrt(hidden.var(-1, keepdims=True) + 1e-5)
    output = np.maximum(hidden, 0) @ _numpy(net.layers[3].weight).T + _numpy(net.layers[3].bias)
    np.testing.assert_allclose(net(x).detach().numpy(), output, atol=1e-6)


def test_an_mlp_without_hidden_layers_is_a_linear_map():
    net = MLPCfg(hidden_features=[]).build(4, 2)
    x = torch.randn(3, 4)
    torch.testing.assert_close(net(x), x @ net.output_layer.weight.T + net.output_layer.bias)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"activations": "EUL"}, ["unknown activation 'EUL'", "ELU"]),
        ({"activations": [[("ELU", {})]] * 2}, ["activations", "2 entries", "3"]),
        ({"activations": [[("ELU", {"slope": 1.0})]] * 2 + [[]]}, ["activations: in entry 0", "slope"]),
        ({"activations": [["ELU"]] * 2 + [[]]}, ["activations"]),
        ({"hidden_features": [8, 0]}, ["hidden_features: entry 1 is 0"]),
        ({"init": "xavier"}, ["init", "xavier", "orthogonal"]),
    ],
)
def test_wrong_mlp_configurations_are_refused_in_words(changes, words):
    cfg = MLPCfg(hidden_features=[8, 6]).replace(**changes)
    with pytest.raises(ConfigError) as error:
        cfg.validate()
    assert all(word in str(error.value) for word in words), str(error.value)


def test_activation_names_ignore_case_and_unknown_ones_get_the_nearest():
    assert isinstance(build_activation("silu"), nn.SiLU)
    assert isinstance(build_activation("Swish"), nn.SiLU)
    assert build_activation("LeakyReLU", negative_slope=0.3).negative_slope == 0.3
    with pytest.raises(ValueError, match="did you mean Sigmoid"):
        build_activation("Sigmoyd")


def test_mlp_configuration_survives_the_round_trip_through_yaml():
    cfg = MLPCfg(hidden_features=[8, 6], activations=[[("LeakyReLU", {"negative_slope": 0.2})]] * 2 + [[]])
    again = MLPCfg.from_yaml(cfg.to_yaml())
    assert again == cfg
    outputs = []
    for config in (cfg, again):
        torch.manual_seed(4)
        outputs.append(config.build(3, 2)(torch.ones(2, 3)))
    assert torch.equal(*outputs)


# Ensemble


@pytest.mark.parametrize("layer_norm", [False, True])
def test_every_ensemble_member_equals_the_single_network_with_its_weights(layer_norm):
    torch.manual_seed(5)
    cfg = MLPCfg(hidden_features=[8, 6], activations="ReLU", layer_norm=layer_norm)
    ensemble = EnsembleMLP(cfg, 3, 5, 2)
    with torch.no_grad():
        for parameter in ensemble.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    x = torch.randn(4, 7, 5, requires_grad=True)
    outputs = ensemble(x)
    assert outputs.shape == (3, 4, 7, 2)
    for member in range(3):
        single = cfg.build(5, 2)
        with torch.no_grad():
            for ours, theirs in zip(single.parameters(), ensemble.parameters(), strict=True):
                ours.copy_(theirs[member].T.reshape(ours.shape) if ours.dim() == 2 else theirs[member].flatten())
        torch.testing.assert_close(outputs[member], single(x), atol=1e-6, rtol=1e-5)
        (gradient,) = torch.autograd.grad(outputs[member].square().sum(), x, retain_graph=True)
        (expected,) = torch.autograd.grad(single(x).square().sum(), x)
        torch.testing.assert_close(gradient, expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("bf16", [False, True])
def test_a_compiled_ensemble_is_the_eager_one_in_value_gradient_and_type(layer_norm, bf16):
    torch.manual_seed(7)
    ensemble = EnsembleMLP(MLPCfg(hidden_features=[8, 6], activations="ReLU", layer_norm=layer_norm), 3, 5, 2)
    compiled, x, seen = torch.compile(ensemble, backend="aot_eager"), torch.randn(16, 5), []
    for layer in ensemble.layers[1:]:
        layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    found, types = [], []
    for network in (ensemble, compiled):
        seen.clear()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            output = network(x)
        found.append([output, *torch.autograd.grad(output.float().square().sum(), [*ensemble.parameters()])])
        types.append([*seen, output.dtype])
    assert types[0] == types[1] and types[0][-1] == (torch.bfloat16 if bf16 else torch.float32)
    tolerance = 0.05 if bf16 else 1e-5
    for eager, other in zip(*found, strict=True):
        torch.testing.assert_close(other, eager, atol=tolerance * eager.abs().max().item(), rtol=tolerance)


def test_ensemble_members_start_different_and_each_like_a_torch_layer():
    torch.manual_seed(6)
    ensemble = EnsembleMLP(MLPCfg(hidden_features=[64]), 2, 16, 1)
    weight = ensemble.layers[0].weight
    assert not torch.equal(weight[0], weight[1])
    assert weight.abs().max().item() <= 1 / 4  # uniform in +-1/sqrt(fan_in)
    assert weight.std().item() == pytest.approx(0.25 / np.sqrt(3), rel=0.1)


def test_the_loss_of_one_member_moves_no_other():
    ensemble = EnsembleMLP(MLPCfg(hidden_features=[8]), 3, 4, 1)
    ensemble(torch.randn(5, 4))[1].sum().backward()
    for parameter in ensemble.parameters():
        assert parameter.grad[1].any() and not parameter.grad[0].any() and not parameter.grad[2].any()


# CNN


def test_cnn_equals_direct_correlation():
    torch.manual_seed(7)
    net = CNNCfg(channels=[2], kernel_sizes=3, strides=2, paddings=1, activation="ReLU").build((3, 6, 5), 4)
    x = torch.rand(2, 3, 6, 5)
    padded = np.pad(x.double().numpy(), ((0, 0), (0, 0), (1, 1), (1, 1)))
    weight, bias = _numpy(net.layers[0].weight), _numpy(net.layers[0].bias)
    rows, columns = range(0, 6, 2), range(0, 5, 2)
    feature = np.array(
        [
            [[[(image[:, r : r + 3, c : c + 3] * kernel).sum() for c in columns] for r in rows] for kernel in weight]
            for image in padded
        ]
    )
    feature = np.maximum(feature + bias[:, None, None], 0).reshape(2, -1)
    head = net.output_layer
    expected = feature @ _numpy(head.weight).T + _numpy(head.bias)
    np.testing.assert_allclose(net(x).detach().numpy(), expected, atol=1e-6)


def test_uint8_images_are_scaled_to_unit_range():
    net = CNNCfg(channels=[4], kernel_sizes=3, strides=1).build((3, 8, 8), 2)
    image = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    torch.testing.assert_close(net(image), net(image.float() / 255))


@pytest.mark.parametrize("leading", [(), (6,), (3, 2)])
def test_cnn_takes_any_leading_dimensions(leading):
    net = CNNCfg(channels=[4, 4], kernel_sizes=3, strides=1, norm="group").build((1, 8, 8), 3)
    x = torch.rand(*leading, 1, 8, 8)
    flat = net(x.reshape(-1, 1, 8, 8)).reshape(*leading, 3)
    assert net(x).shape == (*leading, 3)
    torch.testing.assert_close(net(x), flat)


@pytest.mark.parametrize(("pooling", "reduce"), [("average", np.mean), ("max", np.max)])
def test_pooling_leaves_one_value_per_channel(pooling, reduce):
    cfg = CNNCfg(channels=[4], kernel_sizes=3, strides=1, pooling=pooling)
    net = cfg.build((1, 6, 6), None)
    x = torch.rand(2, 1, 6, 6)
    feature = net.layers[1](net.layers[0](x)).detach().numpy()
    assert net.out_features == 4
    np.testing.assert_allclose(net(x).detach().numpy(), reduce(feature, axis=(2, 3)), atol=1e-6)


def test_spatial_softmax_is_the_expected_position_of_each_channel():
    features = torch.zeros(1, 2, 2, 3)
    features[0, 0, 0, 2] = np.log(4.0)  # weights 4/9 at the upper right pixel, 1/9 at each of the five others
    features[0, 1, 1, 0] = 100.0  # all weight at the lower left pixel
    pool = SpatialSoftmax(2, 3, temperature=1.0)
    # Rows are at -1 and 1: channel 0 has (3 - 6) / 9; columns at -1, 0 and 1: (4 + 1 - 2) / 9.
    np.testing.assert_allclose(pool(features).numpy(), [[-3 / 9, 3 / 9, 1.0, -1.0]], atol=1e-6)
    # Temperature 1/2 squares the weights: 16/21 and 1/21 each.
    np.testing.assert_allclose(
        SpatialSoftmax(2, 3, temperature=0.5)(features)[0, :2].numpy(), [-15 / 21, 15 / 21], atol=1e-6
    )


def test_a_network_with_spatial_softmax_gives_two_numbers_per_channel():
    cfg = CNNCfg(channels=[4], kernel_sizes=3, strides=1, pooling="spatial_softmax", softmax_temperature=0.1)
    net = cfg.build((1, 6, 5), None)
    x = torch.rand(2, 1, 6, 5)
    feature = net.layers[1](net.layers[0](x)).detach().double().numpy() / 0.1
    weights = np.exp(feature - feature.max(axis=(2, 3), keepdims=True))
    weights /= weights.sum(axis=(2, 3), keepdims=True)
    columns, rows = np.linspace(-1, 1, 3), np.linspace(-1, 1, 4)
    expected = np.stack([weights.sum(3) @ rows, weights.sum(2) @ columns], axis=-1).reshape(2, 8)
    assert net.out_features == 8
    np.testing.assert_allclose(net(x).detach().numpy(), expected, atol=1e-5)
    net(x).square().sum().backward()
    assert net.layers[0].weight.grad.abs().sum() > 0


def test_without_an_output_size_the_feature_map_is_the_output():
    net = CNNCfg(channels=[4], kernel_sizes=3, strides=2).build((1, 9, 7), None)
    assert net.out_features == 4 * 4 * 3 and net(torch.rand(5, 1, 9, 7)).shape == (5, 48)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ((64, 64, 64), "cnn_cfg.layout='hwc' or 'chw'"),
        ((64, 7, 7), "which may be (H, W, C) or (C, H, W)"),
        ((4, 64, 64, 64), "cnn_cfg.layout='hwc' or 'chw'"),
        ((3, 16, 16), "leaves 0x0 pixels"),
        ((16,), "expected an image (C, H, W)"),
        (12, "Use MLPCfg"),
    ],
)
def test_images_that_do_not_fit_are_refused_in_words(shape, words):
    with pytest.raises(ValueError) as error:
        CNNCfg(channels=[8, 8], kernel_sizes=[8, 4], strides=[4, 2]).build(shape, 4)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("layout", "shape", "words"),
    [
        ("chw", (64, 48, 3), "looks like (H, W, C): set cnn_cfg.layout='hwc'"),
        ("hwc", (4, 84, 84), "looks like (C, H, W): set cnn_cfg.layout='chw'"),
        ("hwc", (2, 3, 84, 84), "looks like (C, H, W): set cnn_cfg.layout='chw'"),
    ],
)
def test_a_layout_that_contradicts_the_shape_is_refused(layout, shape, words):
    with pytest.raises(ValueError) as error:
        CNNCfg(layout=layout).build(shape, 4)
    assert words in str(error.value)


def test_images_of_every_layout_are_the_same_channels_first():
    """Values differ along every axis, so an axis in the wrong place changes the output."""
    cfg = CNNCfg(channels=[4], kernel_sizes=[3], strides=[2])
    chw = torch.rand(5, 6, 12, 9)  # 6 channels: 2 frames of 3
    frames = chw.unflatten(1, (2, 3))
    nets = {
        "chw": (cfg.build((6, 12, 9), 4), chw),
        "hwc": (cfg.build((12, 9, 6), 4), chw.permute(0, 2, 3, 1)),
        "frames chw": (cfg.build((2, 3, 12, 9), 4), frames),
        "frames hwc": (cfg.build((2, 12, 9, 3), 4), frames.permute(0, 1, 3, 4, 2)),
        "square hwc": (cfg.replace(layout="hwc").build((12, 9, 9), 4), None),
    }
    reference, image = nets["chw"]
    expected = reference(image)
    torch.testing.assert_close(expected, reference.layers(image))
    for name in ("hwc", "frames chw", "frames hwc"):
        net, image = nets[name]
        net.load_state_dict(reference.state_dict())
        torch.testing.assert_close(net(image), expected)
        torch.testing.assert_close(net(torch.stack([image, 2 * image]))[0], expected)  # and with (T, B)
        torch.testing.assert_close(net(image[0]), expected[0])
    assert nets["square hwc"][0](torch.rand(2, 12, 9, 9)).shape == (2, 4)
    grey, same = cfg.build((12, 9), 4), cfg.build((1, 12, 9), 4)
    same.load_state_dict(grey.state_dict())
    torch.testing.assert_close(grey(chw[:, 0]), same(chw[:, :1]))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strides": [1, 2]}, ["strides", "2 entries", "3 channels"]),
        ({"channels": []}, ["channels", "MLPCfg"]),
        ({"kernel_sizes": 0}, ["kernel_sizes", "at least 1"]),
        ({"paddings": -1}, ["paddings", "at least 0"]),
        ({"activation": "RELUU"}, ["activation", "ReLU"]),
        ({"pooling": "mean"}, ["pooling", "average"]),
        ({"softmax_temperature": 0.0}, ["softmax_temperature", "0"]),
    ],
)
def test_wrong_cnn_configurations_are_refused_in_words(changes, words):
    with pytest.raises(ConfigError) as error:
        CNNCfg().replace(**changes).validate()
    assert all(word in str(error.value) for word in words), str(error.value)


def test_loading_weights_of_another_size_names_the_parameter_and_both_shapes():
    small, large = MLPCfg(hidden_features=[4]).build(3, 2), MLPCfg(hidden_features=[5]).build(3, 2)
    with pytest.raises(RuntimeError, match=r"layers\.0\.weight.*\[4, 3\].*\[5, 3\]"):
        large.load_state_dict(small.state_dict())
