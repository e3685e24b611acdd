"""Recurrent networks: step by step equals the whole sequence, episodes do not leak into one another."""

import numpy as np
import pytest
import torch
from RoboRenForce.configclass import ConfigError
from RoboRenForce.networks import MLPCfg, RNNCfg, StackCfg, TransformerCfg
from torch import nn

pytestmark = pytest.mark.oracle

T, N = 11, 5

CFGS = {
    "stack": StackCfg(window=3, head_cfg=MLPCfg(hidden_features=[8])),
    "stack-long-window": StackCfg(window=20, head_cfg=MLPCfg(hidden_features=[8])),
    "gru": RNNCfg(hidden_size=8),
    "gru-2-layers-head": RNNCfg(hidden_size=8, num_layers=2, head_cfg=MLPCfg(hidden_features=[6])),
    "gru-shortcut": RNNCfg(hidden_size=8, shortcut=True, head_cfg=MLPCfg(hidden_features=[6])),
    "lstm": RNNCfg(cell="lstm", hidden_size=8),
    "lstm-2-layers": RNNCfg(cell="lstm", hidden_size=8, num_layers=2),
    "transformer": TransformerCfg(dim=16, num_heads=2, num_layers=2, window=4),
    "transformer-head": TransformerCfg(dim=8, num_heads=2, window=3, head_cfg=MLPCfg(hidden_features=[6])),
    "transformer-long-window": TransformerCfg(dim=16, num_heads=4, num_layers=1, window=32),
}
every_network = pytest.mark.parametrize("cfg", CFGS.values(), ids=CFGS.keys())


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _inputs(starts_at=0.3):
    x = torch.randn(T, N, 3, dtype=torch.float64)
    return x, torch.rand(T, N) < starts_at


def _by_step(net, x, state, starts):
    outputs = []
    for t in range(len(x)):
        y, state = net(x[t], state, None if starts is None else starts[t])
        outputs.append(y)
    return torch.stack(outputs), state


def _visited_state(net):
    """A state in which every row has seen another number of observations."""
    x, starts = _inputs(0.4)
    return net(x, net.initial_state(N), starts)[1].detach()


@every_network
@pytest.mark.parametrize("starts_at", [None, 0.0, 0.3, 1.0])
def test_a_sequence_equals_its_steps_in_output_state_and_gradient(cfg, starts_at):
    net = cfg.build(3, 2).double()
    state = _visited_state(net).requires_grad_()
    x, starts = _inputs(starts_at or 0.0)
    x.requires_grad_()
    starts = None if starts_at is None else starts
    y, last = net(x, state, starts)
    y_steps, last_steps = _by_step(net, x, state, starts)
    torch.testing.assert_close(y, y_steps, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(last, last_steps, rtol=1e-10, atol=1e-12)
    wanted = [x, state, *net.parameters()]
    gradients = [
        torch.autograd.grad(out.square().sum() + end.sum(), wanted, allow_unused=True, materialize_grads=True)
        for out, end in ((y, last), (y_steps, last_steps))
    ]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-11)


@every_network
def test_an_episode_knows_nothing_of_the_one_before(cfg):
    net = cfg.build(3, 2).double()
    x, _ = _inputs()
    starts = torch.zeros(T, N, dtype=torch.bool)
    cuts = torch.tensor([0, 3, 4, 9, 10])  # another first step in every row
    starts[cuts, torch.arange(N)] = True
    y, last = net(x, _visited_state(net), starts)
    for row, cut in enumerate(cuts.tolist()):
        alone, alone_last = net(x[cut:, row : row + 1], net.initial_state(1))
        torch.testing.assert_close(y[cut:, row : row + 1], alone)
        # The final state holds the same memory; what a transformer keeps in slots of the past must be empty.
        probe = torch.randn(1, 3, dtype=torch.float64)
        torch.testing.assert_close(net(probe, last[:, row : row + 1])[0], net(probe, alone_last)[0])


@every_network
def test_no_output_depends_on_the_future_or_on_another_row(cfg):
    net = cfg.build(3, 2).double()
    x, starts = _inputs()
    x.requires_grad_()
    y, _ = net(x, _visited_state(net), starts)
    (gradient,) = torch.autograd.grad(y[5, 2].sum(), x)
    assert gradient[5, 2].any()
    assert not gradient[6:].any()
    gradient[:, 2] = 0
    assert not gradient.any()


@every_network
def test_rows_can_be_cut_permuted_and_reset_from_outside_through_dimension_one_of_the_state(cfg):
    net = cfg.build(3, 2).double()
    state = _visited_state(net)
    assert state.dim() == 3 and state.shape == net.state_shape(N) and net.initial_state(N).shape == state.shape
    assert not net.initial_state(N).any()
    x = torch.randn(N, 3, dtype=torch.float64)
    y, after = net(x, state)
    order = torch.tensor([4, 0, 2])
    y_cut, after_cut = net(x[order], state[:, order])
    torch.testing.assert_close(y_cut, y[order])
    torch.testing.assert_close(after_cut, after[:, order])
    starts = torch.tensor([True, False, True, False, False])
    wiped = state.clone()
    wiped[:, starts] = 0
    torch.testing.assert_close(net(x, wiped)[0], net(x, state, starts)[0])


@every_network
def test_the_masked_loop_for_accelerators_equals_the_path_of_the_cpu(cfg):
    net = cfg.build(3, 2).double()
    x, starts = _inputs()
    state = _visited_state(net)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x, state, starts), net(x, state, starts), rtol=1e-10, atol=1e-12)
    torch._dynamo.reset()


@pytest.mark.parametrize(("cell", "library"), [("gru", nn.GRU), ("lstm", nn.LSTM)])
def test_cells_weights_and_seeds_are_those_of_torchs_own_modules(cell, library):
    torch.manual_seed(1)
    net = RNNCfg(cell=cell, hidden_size=8, num_layers=2).build(3, 2)
    torch.manual_seed(1)
    reference = library(3, 8, 2)
    assert all(torch.equal(net.get_parameter(name), value) for name, value in reference.named_parameters())
    x = torch.randn(T, N, 3)
    expected, _ = reference(x)
    torch.testing.assert_close(net(x, net.initial_state(N))[0], net.head(expected))


def test_the_gru_equals_a_numpy_recurrence_with_resets():
    net = RNNCfg(hidden_size=4).build(3, 2).double()
    x, starts = _inputs()
    w_ih, w_hh, b_ih, b_hh = (
        net.get_parameter(f"{name}_l0").detach().numpy() for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    )
    hidden, outputs = np.zeros((N, 4)), []
    for t in range(T):
        hidden = np.where(starts[t].numpy()[:, None], 0.0, hidden)
        (r_x, z_x, n_x), (r_h, z_h, n_h) = (
            np.split(value @ weight.T + bias, 3, axis=1)
            for value, weight, bias in ((x[t].numpy(), w_ih, b_ih), (hidden, w_hh, b_hh))
        )
        reset, update = 1 / (1 + np.exp(-r_x - r_h)), 1 / (1 + np.exp(-z_x - z_h))
        hidden = (1 - update) * np.tanh(n_x + reset * n_h) + update * hidden
        outputs.append(hidden)
    y, state = net(x, net.initial_state(N), starts)
    torch.testing.assert_close(y, net.head(torch.tensor(np.stack(outputs))))
    np.testing.assert_allclose(state[0].detach().numpy(), hidden, atol=1e-12)


def test_a_shortcut_shows_the_head_the_input_beside_the_memory():
    net = RNNCfg(hidden_size=4, shortcut=True).build(3, 2).double()
    plain = RNNCfg(hidden_size=4).build(3, 2).double()
    plain.load_state_dict({**net.state_dict(), **plain.head.state_dict(prefix="head.")})
    x, starts = _inputs()
    memories = []
    plain.head.register_forward_pre_hook(lambda _, inputs: memories.append(inputs[0]))
    plain(x, plain.initial_state(N), starts)
    y, _ = net(x, net.initial_state(N), starts)
    torch.testing.assert_close(y, net.head(torch.cat([memories[0], x], dim=-1)))


def test_the_stack_equals_windows_put_together_by_hand():
    net = StackCfg(window=3, head_cfg=MLPCfg(hidden_features=[])).build(1, 1).double()
    a, b, c, d, e = x = torch.arange(1.0, 6.0, dtype=torch.float64)
    starts = torch.tensor([False, False, True, False, False]).unsqueeze(1)
    y, state = net(x.view(5, 1, 1), net.initial_state(1), starts)
    windows = torch.tensor([[0, 0, a], [0, a, b], [0, 0, c], [0, c, d], [c, d, e]], dtype=torch.float64)
    torch.testing.assert_close(y[:, 0], net.head(windows))
    assert state.flatten().tolist() == [4.0, 5.0]


SHORT_SIGHTED = {
    "stack": (StackCfg(window=4), [5, 6, 7, 8]),
    "transformer": (TransformerCfg(dim=16, num_heads=2, num_layers=1, window=4), [5, 6, 7, 8]),
    # Every layer looks three steps back.
    "transformer-2-layers": (TransformerCfg(dim=16, num_heads=2, num_layers=2, window=4), [2, 3, 4, 5, 6, 7, 8]),
}


@pytest.mark.parametrize(("cfg", "seen"), SHORT_SIGHTED.values(), ids=SHORT_SIGHTED.keys())
def test_exactly_the_inputs_of_the_window_matter(cfg, seen):
    net = cfg.build(3, 2).double()
    x = torch.randn(T, 1, 3, dtype=torch.float64, requires_grad=True)
    y, _ = net(x, net.initial_state(1))
    (gradient,) = torch.autograd.grad(y[8].sum(), x)
    assert gradient.flatten(1).any(1).nonzero().flatten().tolist() == seen


@pytest.mark.parametrize("cfg", CFGS.values(), ids=CFGS.keys())
def test_a_single_row_step_by_step_in_float32_equals_the_sequence_of_a_batch(cfg):
    net = cfg.build(3, 2)
    x = torch.randn(60, N, 3)
    starts = torch.rand(60, N) < 0.05
    y, _ = net(x, net.initial_state(N), starts)
    alone, _ = _by_step(net, x[:, 2:3], net.initial_state(1), starts[:, 2:3])
    torch.testing.assert_close(alone[:, 0], y[:, 2], rtol=1e-5, atol=1e-5)


def test_transformer_positions_are_relative_but_the_order_counts():
    net = TransformerCfg(dim=16, num_heads=2, num_layers=1, window=6).build(3, 2).double()
    x = torch.randn(6, 1, 3, dtype=torch.float64)
    later = torch.cat([torch.randn(7, 1, 3, dtype=torch.float64), x])
    starts = torch.zeros(13, 1, dtype=torch.bool)
    starts[7] = True
    last = net(x, net.initial_state(1))[0][-1]
    torch.testing.assert_close(net(later, net.initial_state(1), starts)[0][-1], last)
    swapped = x[[1, 0, 2, 3, 4, 5]]
    assert (net(swapped, net.initial_state(1))[0][-1] - last).abs().max() > 1e-4


def test_wrong_shapes_and_sizes_are_refused_in_words():
    net = RNNCfg(hidden_size=4).build(3, 2)
    state = net.initial_state(N)
    with pytest.raises(ValueError, match=r"expected \(N, 3\) for one step or \(T, N, 3\)"):
        net(torch.zeros(1, T, N, 3), state)
    with pytest.raises(ValueError, match=r"got starts of shape \(4,\).*expected \(5,\)"):
        net(torch.zeros(N, 3), state, torch.zeros(4, dtype=torch.bool))
    with pytest.raises(ConfigError, match="dim: 20 is not a multiple of 2"):
        TransformerCfg(dim=20, num_heads=4).validate()
    for cfg in (TransformerCfg(window=1), StackCfg(window=1)):
        with pytest.raises(ConfigError, match="window"):
            cfg.validate()
