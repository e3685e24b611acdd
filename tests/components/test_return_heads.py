"""Return heads: targets, losses and their fixed points against numbers computed another way."""

import copy
import math

import numpy as np
import pytest
import torch
from RoboRenForce import components, networks
from RoboRenForce.algorithms.functional import advantage_weight, expectile_loss
from RoboRenForce.components.return_heads import project, quantile_huber
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs.spec import ActionSpec, EnvSpec

pytestmark = pytest.mark.oracle

SPEC = EnvSpec(
    task="Toy",
    num_envs=3,
    obs_groups={"policy": (4,)},
    action=ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0)),
    max_episode_length=10,
)
SMALL = networks.MLPCfg(hidden_features=[8])
HEADS = {
    "scalar": components.ScalarHeadCfg(),
    "categorical": components.CategoricalHeadCfg(num_atoms=11),
    "quantile": components.QuantileHeadCfg(num_quantiles=5),
    "gaussian-v1": components.GaussianHeadCfg(version="v1"),
    "gaussian-T": components.GaussianHeadCfg(),
}
every_head = pytest.mark.parametrize("cfg", HEADS.values(), ids=HEADS.keys())


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _raw_std(std):
    """What the softplus turns into `std`."""
    return torch.expm1(torch.as_tensor(std, dtype=torch.get_default_dtype())).log()


def _batch(head, members=2, batch=7):
    """Output, next output, bonus, reward and discount of a random batch."""
    output, next_output = torch.randn(2, members, batch, head.out_features)
    return output, next_output, *torch.randn(2, batch), torch.rand(batch)


# What all heads share


@every_head
def test_a_target_is_of_the_shape_that_the_aggregate_says_and_has_no_gradient(cfg):
    head = cfg.build(num_members=2)
    output, next_output, bonus, reward, discount = _batch(head)
    for aggregate, leading in {"min": (7,), "mean": (7,), "own": (2, 7)}.items():
        target = head.target(next_output.requires_grad_(), bonus, reward, discount, aggregate)
        assert target.shape[: target.dim() - head.target_dims] == leading
        assert not target.requires_grad
        assert head.loss(output, target).shape == (2, 7)
    assert head.mean(output).shape == (2, 7)


@every_head
def test_heads_take_sequences_like_transitions(cfg):
    head = cfg.replace(**({"ema_rate": 1.0} if "ema_rate" in cfg.to_dict() else {})).build(num_members=2)
    output, next_output, bonus, reward, discount = _batch(head, batch=12)
    for aggregate in ("min", "mean", "own"):
        torch.manual_seed(1)
        flat = head.loss(output, head.target(next_output, bonus, reward, discount, aggregate))
        torch.manual_seed(1)
        rows = [x.unflatten(-1, (3, 4)) for x in (bonus, reward, discount)]
        target = head.target(next_output.unflatten(1, (3, 4)), *rows, aggregate)
        torch.testing.assert_close(head.loss(output.unflatten(1, (3, 4)), target), flat.unflatten(1, (3, 4)))


@every_head
def test_the_mean_of_a_targets_distribution_is_the_scalar_target(cfg):
    # Everything inside the support, so that no head clips anything.
    head = cfg.build(num_members=2)
    _, next_output, bonus, reward, discount = _batch(head)
    next_output = next_output * 0.3
    for aggregate in ("min", "mean", "own"):
        target = head.target(next_output, bonus, reward, discount, aggregate)
        if isinstance(cfg, components.CategoricalHeadCfg):
            target = (target * head.atoms).sum(-1)
        elif isinstance(cfg, components.QuantileHeadCfg):
            target = target.mean(-1)
        elif isinstance(cfg, components.GaussianHeadCfg):
            target = target[..., 0]
        value = head.mean(next_output)
        value = {"min": value.min(0).values, "mean": value.mean(0), "own": value}[aggregate]
        torch.testing.assert_close(target, reward + discount * (value + bonus), rtol=1e-5, atol=1e-5)


@every_head
def test_shapes_that_would_broadcast_to_something_else_are_refused(cfg):
    head = cfg.build(num_members=2)
    output, next_output, bonus, reward, discount = _batch(head)
    with pytest.raises(ValueError, match=r"got reward of shape \(7, 1\).*expected \(7,\)"):
        head.target(next_output, bonus, reward.unsqueeze(-1), discount)
    with pytest.raises(ValueError, match=r"got bonus of shape \(2, 7\)"):
        head.target(next_output, bonus.expand(2, 7), reward, discount)
    target = head.target(next_output, 0.0, reward, discount)
    with pytest.raises(ValueError, match="got a target of shape"):
        head.loss(output, target.unsqueeze(1))
    with pytest.raises(ValueError, match="Unknown aggregate 'minimum'; did you mean 'min'"):
        head.target(next_output, bonus, reward, discount, "minimum")


@every_head
def test_compiled_heads_equal_eager_ones(cfg):
    head = cfg.build(num_members=2)
    other = copy.deepcopy(head)
    output, next_output, bonus, reward, discount = _batch(head)
    output.requires_grad_()

    torch._dynamo.reset()
    make_target, loss = (torch.compile(f, fullgraph=True, backend="aot_eager") for f in (head.target, head.loss))
    torch.manual_seed(1)
    target = make_target(next_output, bonus, reward, discount)
    torch.manual_seed(1)
    torch.testing.assert_close(target, other.target(next_output, bonus, reward, discount))
    results = []
    for function in (loss, other.loss):
        losses = function(output, target)
        results.append((losses, *torch.autograd.grad(losses.sum(), output)))
    torch._dynamo.reset()
    torch.testing.assert_close(*results)
    torch.testing.assert_close(head.metrics(), other.metrics())
    torch.testing.assert_close(head.state_dict(), other.state_dict())


# Scalar


def test_scalar_numbers():
    head = components.ScalarHeadCfg().build(num_members=2)
    next_output = torch.tensor([[1.0, 4.0], [2.0, 3.0]]).unsqueeze(-1)
    reward, discount, bonus = torch.tensor([10.0, 20.0]), torch.tensor([0.5, 0.0]), torch.tensor([0.2, 9.0])
    assert head.target(next_output, bonus, reward, discount, "min").tolist() == pytest.approx([10.6, 20.0])
    assert head.target(next_output, 1.0, reward, discount, "mean").tolist() == pytest.approx([11.25, 20.0])
    own = head.target(next_output, 0.0, reward, discount, "own")
    assert own.flatten().tolist() == pytest.approx([10.5, 20.0, 11.0, 20.0])
    assert head.loss(next_output, own).flatten().tolist() == pytest.approx([9.5**2, 16.0**2, 81.0, 17.0**2])


# Categorical


def _five_atoms(reward, discount, probability=(0.1, 0.2, 0.4, 0.2, 0.1)):
    head = components.CategoricalHeadCfg(num_atoms=5, v_min=-2.0, v_max=2.0).build(num_members=1)
    logits = torch.tensor(probability).log().view(1, 1, 5)
    return head, head.target(logits, 0.0, torch.tensor([reward]), torch.tensor([discount]))[0]


def test_projection_numbers():
    head, target = _five_atoms(0.3, 0.9)
    assert target.tolist() == pytest.approx([0.05, 0.17, 0.36, 0.28, 0.14], abs=1e-6)
    assert (target * head.atoms).sum().item() == pytest.approx(0.29, abs=1e-6)


def test_projection_onto_the_atoms_themselves_loses_nothing():
    assert _five_atoms(0.0, 1.0)[1].tolist() == pytest.approx([0.1, 0.2, 0.4, 0.2, 0.1], abs=1e-7)
    assert _five_atoms(1.0, 1.0)[1].tolist() == pytest.approx([0.0, 0.1, 0.2, 0.4, 0.3], abs=1e-7)
    assert _five_atoms(-3.0, 1.0)[1].tolist() == pytest.approx([0.9, 0.1, 0.0, 0.0, 0.0], abs=1e-7)


@pytest.mark.parametrize(
    ("reward", "expected"),
    [
        (0.3, [0, 0, 0.7, 0.3, 0]),
        (-1.0, [0, 1, 0, 0, 0]),
        (2.0, [0, 0, 0, 0, 1]),
        (-2.0, [1, 0, 0, 0, 0]),
        (50.0, [0, 0, 0, 0, 1]),
    ],
)
def test_a_terminal_target_is_all_mass_around_the_reward(reward, expected):
    assert _five_atoms(reward, 0.0)[1].tolist() == pytest.approx(expected, abs=1e-6)


def test_projection_against_brute_force():
    rng = np.random.default_rng(0)
    batch, atoms, v_min, v_max = 40, 21, -3.0, 7.0
    support, step = np.linspace(v_min, v_max, atoms), (v_max - v_min) / (atoms - 1)
    probability = rng.dirichlet(np.full(atoms, 0.3), batch)
    shift = rng.normal(0, 4, batch)
    shift[:8] = step * np.arange(-4, 4)  # positions on the atoms
    discount = np.where(rng.random(batch) < 0.3, 0.0, rng.random(batch))
    discount[:8] = 1.0
    expected = np.zeros_like(probability)
    for b in range(batch):
        for j in range(atoms):
            moved = min(max(shift[b] + discount[b] * support[j], v_min), v_max)
            for i in range(atoms):
                expected[b, i] += probability[b, j] * max(0.0, 1.0 - abs(moved - support[i]) / step)
    arguments = [torch.as_tensor(x) for x in (probability, shift, discount)]
    projected = project(*arguments, v_min, v_max)
    np.testing.assert_allclose(projected, expected, atol=1e-12)
    np.testing.assert_allclose(projected.sum(-1), 1.0, atol=1e-12)
    single = project(*(x.float() for x in arguments), v_min, v_max)
    np.testing.assert_allclose(single, expected, atol=1e-5)


def test_min_takes_the_whole_distribution_of_one_member():
    head = components.CategoricalHeadCfg(num_atoms=3, v_min=-1.0, v_max=1.0).build(num_members=2)
    wide, narrow = [0.5, 0.0, 0.5], [0.0, 0.9, 0.1]  # means 0 and 0.1; in sample 1 the members change places
    probability = torch.tensor([[wide, narrow], [narrow, wide]])
    logits, zeros = probability.clamp(min=1e-30).log(), torch.zeros(2)
    target = head.target(logits, 0.0, zeros, zeros + 1, "min")
    torch.testing.assert_close(target, torch.tensor([wide, wide]))
    torch.testing.assert_close(head.target(logits, 0.0, zeros, zeros + 1, "own"), probability)
    mixture = head.target(logits, 0.0, zeros, zeros + 1, "mean")
    torch.testing.assert_close(mixture, torch.tensor([[0.25, 0.45, 0.3]] * 2))


def test_cross_entropy_is_smallest_at_the_target_and_per_member():
    head = components.CategoricalHeadCfg(num_atoms=4).build(num_members=2)
    target = torch.softmax(torch.randn(6, 4), -1)
    logits = torch.stack([target.log() + 3.0, torch.randn(6, 4)])  # logits are only defined up to a constant
    logits.requires_grad_()
    loss = head.loss(logits, target)
    torch.testing.assert_close(loss[0], torch.distributions.Categorical(target).entropy())
    assert (loss[1] > loss[0]).all()
    (gradient,) = torch.autograd.grad(loss.sum(), logits)
    torch.testing.assert_close(gradient[0], torch.zeros(6, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(gradient[1], logits[1].softmax(-1) - target)


def test_a_support_that_is_too_small_shows_in_the_metrics_and_in_words():
    head = components.CategoricalHeadCfg(num_atoms=51, v_min=-10.0, v_max=10.0).build(num_members=2)
    output, discount = torch.zeros(2, 10, 51), torch.full((10,), 0.99)

    def host_metrics(reward, weight=None):
        head.loss(output, head.target(output, 0.0, reward, discount), weight)
        return {name: value.item() for name, value in head.metrics().items()}

    fine = host_metrics(torch.zeros(10))
    assert fine["edge_mass_high"] == pytest.approx(1 / 51, abs=0.005)
    assert head.warning(fine) is None
    # Half of the targets lie beyond the largest atom.
    reward = torch.cat([torch.full((5,), 50.0), torch.zeros(5)])
    clipped = host_metrics(reward)
    assert clipped["edge_mass_high"] == pytest.approx(0.5 + 0.5 / 51, abs=0.005)
    sentence = head.warning(clipped)
    assert sentence is not None
    for part in ("51% of the probability at v_max=10", "expected at most 5%", "[-10, 10]", "Widen", "(1 - gamma)"):
        assert part in sentence
    assert "v_min=" not in sentence
    # Padding does not count.
    assert host_metrics(reward, (reward == 0).float())["edge_mass_high"] == pytest.approx(fine["edge_mass_high"])


def test_a_nan_becomes_a_nan_target_and_no_index_error():
    head = components.CategoricalHeadCfg(num_atoms=5).build(num_members=1)
    target = head.target(torch.zeros(1, 2, 5), 0.0, torch.tensor([float("nan"), 0.0]), torch.ones(2))
    assert target[0].isnan().any()
    torch.testing.assert_close(target[1], torch.full((5,), 0.2))


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match=r"v_min: 3\.0 is not below v_max=-3\.0"):
        components.CategoricalHeadCfg(v_min=3.0, v_max=-3.0).build(num_members=1)
    with pytest.raises(ConfigError, match="drop_top: 5 leaves none of num_quantiles=5"):
        components.QuantileHeadCfg(num_quantiles=5, drop_top=5).build(num_members=1)
    with pytest.raises(ConfigError, match='"ref" is a variant of version="T"'):
        components.GaussianHeadCfg(version="v1", std_loss="ref").build(num_members=1)


# Quantiles


def test_quantile_huber_against_a_loop():
    quantiles, target = torch.randn(2, 3, 4) * 2, torch.randn(3, 6) * 2
    levels, kappa = torch.tensor([0.125, 0.375, 0.625, 0.875]), 0.7
    expected = torch.zeros(2, 3)
    for e in range(2):
        for b in range(3):
            for i in range(4):
                for j in range(6):
                    u = (target[b, j] - quantiles[e, b, i]).item()
                    huber = 0.5 * u * u if abs(u) <= kappa else kappa * (abs(u) - 0.5 * kappa)
                    expected[e, b] += abs(levels[i].item() - (u < 0)) * huber / kappa / 24
    torch.testing.assert_close(quantile_huber(quantiles, target, levels, kappa), expected)


def test_quantiles_of_a_known_distribution_are_the_fixed_point():
    head = components.QuantileHeadCfg(num_quantiles=5, kappa=0.01).build(num_members=1)
    normal = torch.distributions.Normal(3.0, 2.0)
    target = normal.icdf((torch.arange(2000) + 0.5) / 2000).view(1, -1)
    output = torch.zeros(1, 1, 5, requires_grad=True)
    optimizer = torch.optim.Adam([output], lr=0.1)
    for step in range(500):
        optimizer.param_groups[0]["lr"] = 0.1 * (1.0 - step / 500)
        optimizer.zero_grad()
        head.loss(output, target).sum().backward()
        optimizer.step()
    torch.testing.assert_close(output[0, 0].detach(), normal.icdf(head.levels), atol=0.02, rtol=0)
    assert head.levels.tolist() == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.9])


def test_quantile_targets_select_pool_and_truncate():
    quantiles = torch.tensor([[[0.0, 1.0, 8.0]], [[2.0, 1.5, 2.5]]])  # means 3 and 2
    reward, discount = torch.tensor([10.0]), torch.tensor([0.5])

    def target(drop_top, aggregate):
        head = components.QuantileHeadCfg(num_quantiles=3, drop_top=drop_top).build(num_members=2)
        return head.target(quantiles, 0.0, reward, discount, aggregate)

    assert target(0, "min")[0].tolist() == [11.0, 10.75, 11.25]
    assert target(0, "mean")[0].sort().values.tolist() == [10.0, 10.5, 10.75, 11.0, 11.25, 14.0]
    assert target(1, "mean")[0].tolist() == [10.0, 10.5, 10.75, 11.0]
    assert target(1, "own")[:, 0].tolist() == [[10.0, 10.5], [10.75, 11.0]]


# Normal distributions


def _gaussian_batch(members=2, batch=50):
    output = torch.stack([torch.randn(members, batch) * 3, torch.randn(members, batch)], -1)
    target = torch.stack([torch.randn(batch) * 4, torch.randn(batch) * 8], -1)
    return output.double().requires_grad_(), target.double()


@pytest.mark.parametrize("std_loss", ["paper", "ref"])
def test_dsac_t_gradient_is_the_hand_written_one(std_loss):
    head = components.GaussianHeadCfg(std_loss=std_loss, huber_delta=5.0).build(num_members=2).double()
    output, target = _gaussian_batch()
    (gradient,) = torch.autograd.grad(head.loss(output, target).sum(), output)
    mean, raw = output.detach().numpy()[..., 0], output.detach().numpy()[..., 1]
    std = np.log1p(np.exp(raw))
    average = std.mean(1, keepdims=True)  # the first batch
    weight = np.clip(average**2 / (std**2 + 0.1), 0.1, 10.0)
    error_mean = np.clip(target[:, 0].numpy() - mean, -5.0, 5.0)
    error_std = np.clip(target[:, 1].numpy() - mean, -3 * average, 3 * average)
    size = np.abs(error_std)
    square = error_std**2 if std_loss == "paper" else np.where(size < 5, 0.5 * size**2, 5 * (size - 2.5))
    assert (size >= 3 * average - 1e-9).any() and (size < average).any()  # both sides of the bound
    grad_std = -weight * (square - std**2) / (std + 0.1) / (1 + np.exp(-raw))
    np.testing.assert_allclose(gradient[..., 0], -weight * error_mean, rtol=1e-9)
    np.testing.assert_allclose(gradient[..., 1], grad_std, rtol=1e-9)


def test_dsac_t_is_a_scaled_likelihood_gradient_where_nothing_is_clipped():
    head = components.GaussianHeadCfg(eps=1e-9, bound_stds=1e3, huber_delta=1e3).build(num_members=2).double()
    output = torch.stack([torch.randn(2, 30), 1.0 + 0.5 * torch.rand(2, 30)], -1).double().requires_grad_()
    sample = torch.randn(30).double() * 3
    (gradient,) = torch.autograd.grad(head.loss(output, torch.stack([sample, sample], -1)).sum(), output)
    normal = torch.distributions.Normal(output[..., 0], head.std(output))
    (likelihood,) = torch.autograd.grad(-normal.log_prob(sample).sum(), output)
    scale = head.std_ema.square().view(2, 1, 1)
    torch.testing.assert_close(gradient, scale * likelihood, rtol=1e-6, atol=1e-6)


def test_dsac_v1_gradient_is_the_hand_written_one():
    head = components.GaussianHeadCfg(version="v1", bound=4.0).build(num_members=2).double()
    output, target = _gaussian_batch()
    (gradient,) = torch.autograd.grad(head.loss(output, target).sum(), output)
    mean, raw = output.detach().numpy()[..., 0], output.detach().numpy()[..., 1]
    std = np.log1p(np.exp(raw))
    error = target[:, 1].numpy() - mean  # the sample trains the mean, too, and is not clipped there
    bounded = np.clip(error, -4.0, 4.0)
    np.testing.assert_allclose(gradient[..., 0], -error / (std**2 + 0.1), rtol=1e-9)
    grad_std = -(bounded**2 - std**2) / (std**3 + 0.1) / (1 + np.exp(-raw))
    np.testing.assert_allclose(gradient[..., 1], grad_std, rtol=1e-9)


def test_min_takes_mean_and_sample_of_the_same_member():
    head = components.GaussianHeadCfg().build(num_members=2)
    # The member with the smaller mean is certain, the other one is not; sample 1 the other way around.
    mean, std = torch.tensor([[1.0, 5.0], [2.0, 4.0]]), torch.tensor([[1e-6, 1e-6], [3.0, 3.0]])
    output = torch.stack([mean, _raw_std(std)], -1).unsqueeze(2).expand(2, 2, 4000, 2)
    target = head.target(output, 0.0, torch.zeros(2, 4000), torch.ones(2, 4000), "min")
    torch.testing.assert_close(target[..., 0], torch.tensor([[1.0], [4.0]]).expand(2, 4000))
    torch.testing.assert_close(target[0, :, 1], torch.ones(4000), atol=1e-4, rtol=0)
    assert target[1, :, 1].std().item() == pytest.approx(3.0, rel=0.05)
    own = head.target(output, 0.0, torch.zeros(2, 4000), torch.ones(2, 4000), "own")
    assert own[1, ..., 1].std(-1).tolist() == pytest.approx([3.0, 3.0], rel=0.05)
    assert own[1, 0, :, 1].mean().item() == pytest.approx(2.0, abs=0.2)
    mixture = head.target(output, 0.0, torch.zeros(2, 4000), torch.ones(2, 4000), "mean")
    # Mixture of N(1, 0) and N(2, 9): variance 9 / 2 + 0.5^2.
    torch.testing.assert_close(mixture[0, :, 0], torch.full((4000,), 1.5))
    assert mixture[0, :, 1].var().item() == pytest.approx(4.75, rel=0.08)


def test_sampled_returns_are_within_three_stds_and_discounted():
    head = components.GaussianHeadCfg().build(num_members=1)
    output = torch.tensor([2.0, _raw_std(0.5)]).expand(1, 100_000, 2)
    rows = torch.ones(100_000)
    noise = (head.target(output, 0.3, rows * 7.0, rows * 0.9)[:, 1] - (7.0 + 0.9 * 2.3)) / (0.9 * 0.5)
    assert noise.abs().max().item() == pytest.approx(3.0, abs=1e-4)
    assert (noise.abs() > 2.999).float().mean().item() == pytest.approx(0.0027, abs=6e-4)
    assert noise.std().item() == pytest.approx(1.0, abs=0.02)


def test_the_running_std_begins_with_the_first_batch_and_is_state():
    head = components.GaussianHeadCfg(ema_rate=0.1).build(num_members=2)
    first = torch.stack([torch.zeros(2, 3), _raw_std([[1.0, 2.0, 3.0], [4.0, 4.0, 4.0]])], -1)
    second = torch.stack([torch.zeros(2, 3), _raw_std([[12.0] * 3, [0.5] * 3])], -1)
    target, address = torch.zeros(3, 2), head.std_ema.data_ptr()
    head.eval()
    head.loss(first, target)
    assert head.std_ema.tolist() == [0.0, 0.0]
    head.train()
    head.loss(first, target)
    assert head.std_ema.tolist() == pytest.approx([2.0, 4.0])
    head.target(second, 0.0, torch.zeros(3), torch.ones(3))
    head.mean(second)
    head.eval()
    head.loss(second, target)
    assert head.std_ema.tolist() == pytest.approx([2.0, 4.0])
    head.train()
    head.loss(second, target)
    assert head.std_ema.tolist() == pytest.approx([3.0, 3.65])
    assert head.metrics()["return_std"].item() == pytest.approx(3.325)
    assert head.std_ema.data_ptr() == address
    other = components.GaussianHeadCfg(ema_rate=0.1).build(num_members=2)
    other.load_state_dict(head.state_dict())
    torch.testing.assert_close(other.loss(first, target), head.loss(first, target))


def test_padding_does_not_count_in_the_running_std():
    head = components.GaussianHeadCfg().build(num_members=2)
    output = torch.stack([torch.zeros(2, 3), _raw_std([[1.0, 3.0, 40.0], [2.0, 6.0, 40.0]])], -1)
    head.loss(output, torch.zeros(3, 2), weight=torch.tensor([1.0, 1.0, 0.0]))
    assert head.std_ema.tolist() == pytest.approx([2.0, 4.0])


def test_the_bound_of_the_std_target_is_three_running_stds_of_its_member():
    head = components.GaussianHeadCfg(bound_stds=3.0).build(num_members=2).eval()
    head.std_ema.copy_(torch.tensor([1.0, 2.0]))
    output = torch.tensor([0.0, _raw_std(1.0)]).expand(2, 4, 2)
    far, edge = torch.tensor([2.9, 3.1, 5.9, 600.0]), torch.tensor([[2.9, 3.0, 3.0, 3.0], [2.9, 3.1, 5.9, 6.0]])
    loss = head.loss(output, torch.stack([torch.zeros(4), far], -1))
    weight = (torch.tensor([[1.0], [4.0]]) / 1.1).clamp(0.1, 10.0)
    torch.testing.assert_close(loss, weight * (1.0 - edge.square()) / 1.1)


def test_loss_weights_are_limited():
    head = components.GaussianHeadCfg().build(num_members=1).eval()
    head.std_ema.fill_(2.0)
    std = torch.tensor([1e-3, 2.0, 100.0])
    output = torch.stack([torch.zeros(3), _raw_std(std)], -1)[None].double().requires_grad_()
    loss = head.loss(output, torch.tensor([[1.0, 0.0]] * 3).double())
    (gradient,) = torch.autograd.grad(loss.sum(), output)  # of the mean: -weight * (1 - 0)
    assert (-gradient[0, :, 0]).tolist() == pytest.approx([10.0, 4.0 / 4.1, 0.1])


def test_rewards_far_below_one_need_a_smaller_eps():
    output = torch.tensor([0.0, _raw_std(0.05)]).expand(1, 4, 2)
    weights = {}
    for eps in (0.1, 1e-5):
        mean = output.clone().requires_grad_()
        head = components.GaussianHeadCfg(eps=eps).build(num_members=1)
        (gradient,) = torch.autograd.grad(head.loss(mean, torch.tensor([[1.0, 0.0]] * 4)).sum(), mean)
        weights[eps] = -gradient[0, 0, 0].item()
    assert weights[0.1] == pytest.approx(0.1)  # the lower limit: eps hides how certain the return is
    assert weights[1e-5] == pytest.approx(1.0, abs=0.01)


def _bandit(cfg, scale=1.0):
    """Q and std that a head with one output per member learns from rewards N(1, 2^2) times `scale` at gamma 0."""
    head = cfg.build(num_members=2)
    output = torch.zeros(2, 1, 2, requires_grad=True)
    optimizer = torch.optim.Adam([output])
    discount = torch.zeros(512)
    steps, tail = 1200, []
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.03 * scale * (1.0 - step / steps)
        expanded = output.expand(2, 512, 2)
        target = head.target(expanded.detach(), 0.0, scale * (1.0 + 2.0 * torch.randn(512)), discount)
        optimizer.zero_grad()
        head.loss(expanded, target).mean(1).sum().backward()
        optimizer.step()
        if step >= steps - 100:
            tail.append(torch.stack([head.mean(output), head.std(output)]).detach())
    return torch.stack(tail).mean(0).squeeze(-1)  # (2, E): Q and std


@pytest.mark.parametrize(
    ("cfg", "std"),
    [
        (components.GaussianHeadCfg(), 2.0),
        (components.GaussianHeadCfg(std_loss="ref"), math.sqrt(2.0)),
        (components.GaussianHeadCfg(version="v1"), 2.0),
    ],
    ids=["T", "T-ref", "v1"],
)
def test_bandit_mean_and_std_are_learned(cfg, std):
    learned = _bandit(cfg)
    torch.testing.assert_close(learned[0], torch.full((2,), 1.0), atol=0.1, rtol=0)
    torch.testing.assert_close(learned[1], torch.full((2,), std), atol=0.1, rtol=0)


def test_ten_times_the_rewards_give_ten_times_mean_and_std():
    learned = _bandit(components.GaussianHeadCfg(), scale=10.0)
    torch.testing.assert_close(learned, torch.tensor([[10.0, 10.0], [20.0, 20.0]]), atol=1.0, rtol=0)


def test_a_two_step_chain_adds_up_means_and_variances():
    # The first reward is N(0.5, 1), the second return N(1, 2^2), so that gamma 0.8 gives N(1.3, 1 + 0.64 * 4).
    head = components.GaussianHeadCfg().build(num_members=1)
    output = torch.zeros(1, 1, 2, requires_grad=True)
    optimizer = torch.optim.Adam([output])
    successor, discount = torch.tensor([1.0, _raw_std(2.0)]).expand(1, 512, 2), torch.full((512,), 0.8)
    for step in range(1200):
        optimizer.param_groups[0]["lr"] = 0.03 * (1.0 - step / 1200)
        target = head.target(successor, 0.0, 0.5 + torch.randn(512), discount)
        optimizer.zero_grad()
        head.loss(output.expand(1, 512, 2), target).mean().backward()
        optimizer.step()
    assert head.mean(output).item() == pytest.approx(1.3, abs=0.1)
    assert head.std(output).item() == pytest.approx(math.sqrt(1 + 0.64 * 4), abs=0.1)


# Q networks with heads and histories


@every_head
def test_q_values_are_the_means_of_what_the_head_predicts(cfg):
    q = components.QNetworkCfg(backbone_cfg=SMALL, head_cfg=cfg, num_q=3).build(spec=SPEC, groups=["policy"])
    obs, action = {"policy": torch.randn(6, 4)}, torch.randn(6, 2)
    features, state = q.features(obs)
    output = q.outputs(features, action)
    assert state is None and not q.is_recurrent and q.initial_state(6) is None
    assert output.shape == (3, 6, q.head.out_features)
    torch.testing.assert_close(q(obs, action), q.head.mean(output))
    if isinstance(cfg, components.CategoricalHeadCfg):
        expected = (output.softmax(-1) * torch.linspace(-10, 10, 11)).sum(-1)
    else:
        expected = output.mean(-1) if isinstance(cfg, components.QuantileHeadCfg) else output[..., 0]
    torch.testing.assert_close(q(obs, action), expected)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_a_critic_with_a_history_reads_sequences_like_single_steps(cell):
    cfg = components.QNetworkCfg(
        backbone_cfg=SMALL, history_cfg=networks.RNNCfg(cell=cell, hidden_size=8), history_features=5
    )
    q = cfg.build(spec=SPEC, groups=["policy"])
    length, batch = 7, 3
    obs, action = torch.randn(length, batch, 4), torch.randn(length, batch, 2)
    start = torch.zeros(length, batch, dtype=torch.bool)
    start[0] = True
    start[4, 1] = True
    features, last = q.features({"policy": obs}, start)
    assert q.is_recurrent and features.shape == (length, batch, 5)
    values = q({"policy": obs}, action, start)
    torch.testing.assert_close(values, q.head.mean(q.outputs(features, action)))
    state = q.initial_state(batch)
    for t in range(length):
        step, state = q.features({"policy": obs[t]}, start[t], state)
        torch.testing.assert_close(step, features[t])
    torch.testing.assert_close(state, last)
    # A start makes the past invisible: row 1 from step 4 on is a sequence of its own.
    torch.testing.assert_close(q.features({"policy": obs[4:, 1:2]})[0], features[4:, 1:2])


def test_a_history_without_a_memory_is_refused():
    with pytest.raises(ValueError, match="history_cfg builds a MLP, which has no memory; expected a recurrent"):
        components.QNetworkCfg(history_cfg=networks.MLPCfg()).build(spec=SPEC, groups=["policy"])


# Expectiles and advantage weights


def _expectile(samples, tau, weights=None):
    """The value that gradient descent on the loss ends at."""
    value = torch.zeros((), dtype=torch.float64, requires_grad=True)
    weights = torch.full_like(samples, 1 / len(samples)) if weights is None else weights
    for _ in range(150):
        loss = (weights * expectile_loss(value.expand_as(samples), samples, tau)).sum()
        (gradient,) = torch.autograd.grad(loss, value)
        value = (value - 0.7 * gradient).detach().requires_grad_()
    return value.item()


@pytest.mark.parametrize(
    ("distribution", "tau", "expected"),
    [
        ("normal", 0.7, 0.337120),
        ("normal", 0.9, 0.861592),
        ("normal", 0.5, 0.0),
        ("uniform", 0.7, 0.604356),
        ("uniform", 0.9, 0.75),
        ("bernoulli", 0.7, 0.5),
        ("bernoulli", 0.9, 0.794118),
    ],
)
def test_expectiles_of_known_distributions(distribution, tau, expected):
    grid = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    if distribution == "bernoulli":
        weights = torch.tensor([0.7, 0.3], dtype=torch.float64)
        assert _expectile(torch.tensor([0.0, 1.0], dtype=torch.float64), tau, weights) == pytest.approx(expected)
        return
    samples = torch.special.ndtri(grid) if distribution == "normal" else grid
    assert _expectile(samples, tau) == pytest.approx(expected, abs=2e-5)


def test_expectile_loss_numbers():
    value, target = torch.zeros(2), torch.tensor([2.0, -2.0])
    assert expectile_loss(value, target, 0.9).tolist() == pytest.approx([3.6, 0.4])
    with pytest.raises(ValueError, match="must have one shape"):
        expectile_loss(value, target.unsqueeze(-1), 0.9)


def test_advantage_weights_are_bounded_and_without_gradient():
    advantage = torch.tensor([2.0, 0.0, -1.0, 1000.0], requires_grad=True)
    weight = advantage_weight(advantage, beta=3.0)
    assert weight.tolist() == pytest.approx([100.0, 1.0, math.exp(-3.0), 100.0])
    assert not weight.requires_grad
    assert advantage_weight(advantage[:1], beta=3.0, max_weight=1e3).item() == pytest.approx(403.4288, rel=1e-5)
