"""Action distributions against closed forms, numerical integration and torch.distributions (values and gradients)."""

import math

import numpy as np
import pytest
import torch
from RoboRenForce.components.bounded import bounded
from RoboRenForce.components.distributions import Beta, Categorical, DiagGaussian, TanhGaussian
from torch.distributions import Beta as TorchBeta
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Normal, TransformedDistribution, kl_divergence

pytestmark = pytest.mark.oracle


def _tensor(values, requires_grad=False):
    return torch.tensor(values, dtype=torch.float64, requires_grad=requires_grad)


def _gradients(value, *inputs):
    return list(torch.autograd.grad(value.sum(), inputs, retain_graph=True, materialize_grads=True))


def _tanh_density(action, mean, std):
    """Density of tanh(u), u ~ N(mean, std), by the change of variables formula in float64 NumPy."""
    u = np.arctanh(action)
    return np.exp(-0.5 * ((u - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi)) / (1 - action**2)


# Gaussian


@pytest.mark.parametrize("shared_std", [True, False])
def test_gaussian_log_prob_entropy_and_gradients_equal_torch(shared_std):
    torch.manual_seed(0)
    mean = torch.randn(5, 7, 3, dtype=torch.float64, requires_grad=True)
    std = torch.rand((3,) if shared_std else (5, 7, 3), dtype=torch.float64).add(0.1).requires_grad_()
    action = torch.randn(5, 7, 3, dtype=torch.float64)
    ours, reference = DiagGaussian(mean, std), Normal(mean, std)
    for value, expected in (
        (ours.log_prob(action), reference.log_prob(action).sum(-1)),
        (ours.entropy(), reference.entropy().sum(-1)),
    ):
        assert value.shape == (5, 7)
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(_gradients(value, mean, std), _gradients(expected, mean, std))


def test_gaussian_kl_has_the_known_value_and_direction():
    # Reference numbers: KL(N(0,1) || N(.1,1.2)) = log 1.2 + (1 + .01) / 2.88 - 1/2.
    old = {"mean": _tensor([[0.0]]), "std": _tensor([[1.0]])}
    new = DiagGaussian(_tensor([[0.1]]), _tensor([1.2]))
    assert new.kl_from(old).item() == pytest.approx(0.033016, abs=1e-6)
    reverse = DiagGaussian(old["mean"], old["std"]).kl_from(new.params).item()
    assert reverse == pytest.approx(math.log(1 / 1.2) + (1.44 + 0.01) / 2 - 0.5, abs=1e-12)


def test_gaussian_kl_and_its_gradient_equal_torch_and_vanish_for_equal_parameters():
    torch.manual_seed(1)
    mean = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    std = torch.rand(4, dtype=torch.float64).add(0.2).requires_grad_()
    old_mean, old_std = torch.randn(6, 4, dtype=torch.float64), torch.rand(6, 4, dtype=torch.float64) + 0.2
    ours = DiagGaussian(mean, std).kl_from({"mean": old_mean, "std": old_std})
    expected = kl_divergence(Normal(old_mean, old_std), Normal(mean, std)).sum(-1)
    torch.testing.assert_close(ours, expected)
    for gradient, wanted in zip(_gradients(ours, mean, std), _gradients(expected, mean, std), strict=True):
        torch.testing.assert_close(gradient, wanted)
    same = DiagGaussian(mean.float(), std.float())
    assert same.kl_from({name: value.detach() for name, value in same.params.items()}).eq(0).all()


@pytest.mark.parametrize("shape", [(3, 2), (64, 12)])  # below and above the size from which the CPU draws vectors
@pytest.mark.parametrize("shared_std", [True, False])
def test_gaussian_samples_are_those_of_torch_normal_bit_for_bit(shape, shared_std):
    torch.manual_seed(2)
    mean = torch.randn(shape)
    std = torch.rand(shape[-1:] if shared_std else shape) + 0.1
    torch.manual_seed(7)
    ours = DiagGaussian(mean, std).sample()
    torch.manual_seed(7)
    expected = torch.normal(mean, std.expand(shape))
    assert torch.equal(ours, expected)
    torch.manual_seed(7)
    assert torch.equal(ours, DiagGaussian(mean, std).rsample())


def test_samples_carry_no_gradient_and_rsamples_carry_the_pathwise_one():
    mean, std = _tensor([[0.5, -1.0]], True), _tensor([0.3, 2.0], True)
    distribution = DiagGaussian(mean, std)
    assert not distribution.sample().requires_grad
    torch.manual_seed(3)
    sample = distribution.rsample()
    noise = (sample - mean) / std
    gradient_mean, gradient_std = _gradients(sample, mean, std)
    torch.testing.assert_close(gradient_mean, torch.ones_like(mean))
    torch.testing.assert_close(gradient_std, noise.detach()[0])


# Tanh-Gaussian


def test_tanh_gaussian_log_prob_has_the_known_values():
    distribution = TanhGaussian(_tensor([[0.3], [0.3]]), _tensor([0.7]))
    expected = [-0.338004, -2.106391]
    assert distribution.log_prob(_tensor([[0.5], [-0.9]])).tolist() == pytest.approx(expected, abs=1e-6)


def test_tanh_gaussian_density_integrates_to_one():
    grid = torch.linspace(-1, 1, 200_003, dtype=torch.float64)[1:-1, None]
    density = TanhGaussian(_tensor([[0.3]]), _tensor([0.7])).log_prob(grid).exp()
    assert torch.trapezoid(density, grid[:, 0]).item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(("mean", "std"), [(0.3, 0.7), (-2.0, 0.05), (0.0, 1.5), (1.0, 4.0)])
def test_tanh_gaussian_entropy_and_gradient_equal_numerical_integration(mean, std):
    def integral(mean, std):
        u = np.linspace(mean - 14 * std, mean + 14 * std, 400_001)
        p = np.exp(-0.5 * ((u - mean) / std) ** 2) / (std * math.sqrt(2 * math.pi))
        log_p = -0.5 * ((u - mean) / std) ** 2 - math.log(std) - 0.5 * math.log(2 * math.pi)
        log_jacobian = 2 * (math.log(2) - np.abs(u) - np.log1p(np.exp(-2 * np.abs(u))))  # even in u
        return -np.trapezoid(p * (log_p - log_jacobian), u)

    mean_t, std_t = _tensor([[mean]], True), _tensor([std], True)
    entropy = TanhGaussian(mean_t, std_t).entropy()
    tolerance = 1e-5 if std < 2 else 5e-3
    assert entropy.item() == pytest.approx(integral(mean, std), abs=tolerance)
    gradient_mean, gradient_std = _gradients(entropy, mean_t, std_t)
    step = 1e-4
    slope_mean = (integral(mean + step, std) - integral(mean - step, std)) / (2 * step)
    slope_std = (integral(mean, std + step) - integral(mean, std - step)) / (2 * step)
    assert gradient_mean.item() == pytest.approx(slope_mean, abs=max(1e-5, 4 * tolerance))
    assert gradient_std.item() == pytest.approx(slope_std, abs=max(1e-5, 4 * tolerance))


def test_tanh_gaussian_entropy_has_the_known_value():
    assert TanhGaussian(_tensor([[0.3]]), _tensor([0.7])).entropy().item() == pytest.approx(0.585291, abs=1e-6)


def test_an_entropy_first_needed_in_inference_mode_can_be_trained_later():
    mean, std = torch.zeros(2, 3, dtype=torch.float32), torch.ones(3, requires_grad=True)
    with torch.inference_mode():
        first = TanhGaussian(mean, std).entropy()
    later = TanhGaussian(mean, std).entropy()
    (gradient,) = _gradients(later, std)
    assert torch.equal(first, later.detach()) and gradient.any()


def test_tanh_gaussian_log_prob_and_gradient_equal_the_change_of_variables():
    torch.manual_seed(4)
    mean = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    std = torch.rand(8, 3, dtype=torch.float64).add(0.2).requires_grad_()
    action = torch.rand(8, 3, dtype=torch.float64) * 1.9 - 0.95
    value = TanhGaussian(mean, std).log_prob(action)
    expected = np.log(_tanh_density(action.numpy(), mean.detach().numpy(), std.detach().numpy())).sum(-1)
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=1e-10)
    reference = TransformedDistribution(Normal(mean, std), [torch.distributions.TanhTransform()])
    wanted = _gradients(reference.log_prob(action).sum(-1), mean, std)
    for gradient, want in zip(_gradients(value, mean, std), wanted, strict=True):
        torch.testing.assert_close(gradient, want)


@pytest.mark.parametrize("u", [-20.0, 20.0])
def test_tanh_gaussian_is_exact_in_saturation(u):
    # In float32 tanh(20) is 1. The exact log-probability is that of the Gaussian minus log(1 - tanh^2 u), and the last
    # is log 4 - 2|u| up to 1e-17.
    raw = torch.tensor([[u]], requires_grad=True)
    mean, std = torch.tensor([[0.3]], requires_grad=True), torch.tensor([0.7], requires_grad=True)
    value = TanhGaussian(mean, std).log_prob_raw(raw)
    z = (u - 0.3) / 0.7
    expected = -0.5 * z**2 - math.log(0.7) - 0.5 * math.log(2 * math.pi) - (math.log(4) - 2 * abs(u))
    assert value.item() == pytest.approx(expected, rel=1e-6)
    gradient_raw, gradient_mean, gradient_std = (g.item() for g in _gradients(value, raw, mean, std))
    assert gradient_raw == pytest.approx(-z / 0.7 + 2 * math.tanh(u), rel=1e-5)
    assert gradient_mean == pytest.approx(z / 0.7, rel=1e-5)
    assert gradient_std == pytest.approx(z**2 / 0.7 - 1 / 0.7, rel=1e-5)


@pytest.mark.parametrize("action", [-1.0, 1.0])
def test_a_saturated_stored_action_gives_a_finite_ratio_of_one_point(action):
    # A stored action of exactly 1 has no pre-image: both policies must be evaluated at the same stand-in.
    limit = math.copysign(1 - torch.finfo(torch.float32).eps, action)
    stored = torch.tensor([[action]])
    first = TanhGaussian(torch.tensor([[0.3]]), torch.tensor([0.7]))
    second = TanhGaussian(torch.tensor([[0.5]]), torch.tensor([0.6]))
    difference = (first.log_prob(stored) - second.log_prob(stored)).item()
    expected = np.log(_tanh_density(limit, 0.3, 0.7)) - np.log(_tanh_density(limit, 0.5, 0.6))
    assert difference == pytest.approx(expected, rel=1e-3)


def test_tanh_gaussian_samples_follow_the_density_and_their_log_prob():
    torch.manual_seed(5)
    distribution = TanhGaussian(torch.full((200_000, 1), 0.3), torch.tensor([0.7]))
    samples = distribution.sample()[:, 0]
    edges = np.linspace(-0.999, 0.999, 21)
    counts, _ = np.histogram(samples.numpy(), edges)
    fine = np.linspace(-0.999, 0.999, 20 * 500 + 1)
    density = _tanh_density(fine, 0.3, 0.7)
    mass = [np.trapezoid(density[i * 500 : i * 500 + 501], fine[i * 500 : i * 500 + 501]) for i in range(20)]
    # Each bin is a binomial count: five standard deviations around its mean.
    expected, spread = 200_000 * np.array(mass), 5 * np.sqrt(200_000 * np.array(mass)) + 1
    assert (np.abs(counts - expected) < spread).all()
    action, log_prob = distribution.rsample_with_log_prob()
    inside = action[:, 0].abs() < 0.99
    torch.testing.assert_close(log_prob[inside], distribution.log_prob(action)[inside], rtol=1e-3, atol=1e-3)


def test_tanh_gaussian_kl_is_that_before_the_squashing():
    old = TanhGaussian(_tensor([[0.0]]), _tensor([1.0]))
    new = TanhGaussian(_tensor([[0.1]]), _tensor([1.2]))
    grid = torch.linspace(-1, 1, 400_003, dtype=torch.float64)[1:-1, None]
    p, log_p, log_q = old.log_prob(grid).exp(), old.log_prob(grid), new.log_prob(grid)
    integral = torch.trapezoid(p * (log_p - log_q), grid[:, 0]).item()
    assert new.kl_from(old.params).item() == pytest.approx(integral, abs=1e-5)


# Categorical


def test_categorical_kl_has_the_known_value():
    p, q = _tensor([[0.5, 0.3, 0.2]]), _tensor([[0.2, 0.5, 0.3]])
    assert Categorical(q.log()).kl_from({"logits": p.log()}).item() == pytest.approx(0.223805, abs=1e-6)
    # Logits are defined up to a constant.
    assert Categorical(q.log() + 5).kl_from({"logits": p.log() - 3}).item() == pytest.approx(0.223805, abs=1e-6)


def test_categorical_values_and_gradients_equal_torch():
    torch.manual_seed(6)
    logits = torch.randn(4, 5, 6, dtype=torch.float64, requires_grad=True)
    old = torch.randn(4, 5, 6, dtype=torch.float64)
    action = torch.randint(0, 6, (4, 5))
    ours, reference = Categorical(logits), TorchCategorical(logits=logits)
    for value, expected in (
        (ours.log_prob(action), reference.log_prob(action)),
        (ours.entropy(), reference.entropy()),
        (ours.kl_from({"logits": old}), kl_divergence(TorchCategorical(logits=old), reference)),
    ):
        torch.testing.assert_close(value, expected)
        torch.testing.assert_close(_gradients(value, logits), _gradients(expected, logits))
    assert torch.equal(ours.mode, reference.mode)


def test_categorical_samples_have_the_right_frequencies():
    torch.manual_seed(7)
    probabilities = torch.tensor([0.5, 0.3, 0.15, 0.05])
    counts = Categorical(probabilities.log().expand(100_000, 4)).sample().bincount(minlength=4)
    spread = 5 * (100_000 * probabilities * (1 - probabilities)).sqrt()
    assert ((counts - 100_000 * probabilities).abs() < spread).all()


def test_forbidden_choices_have_no_probability_and_no_nan():
    logits = torch.tensor([[0.3, -math.inf, 1.2]], requires_grad=True)
    allowed = torch.tensor([[0.3, 1.2]], requires_grad=True)
    masked, reference = Categorical(logits), TorchCategorical(logits=allowed)
    torch.testing.assert_close(masked.entropy(), reference.entropy())
    (gradient,) = _gradients(masked.entropy(), logits)
    (expected,) = _gradients(reference.entropy(), allowed)
    torch.testing.assert_close(gradient, torch.tensor([[expected[0, 0], 0.0, expected[0, 1]]]))
    assert masked.kl_from({"logits": logits.detach()}).item() == 0.0
    torch.manual_seed(8)
    assert (Categorical(logits.expand(10_000, 3)).sample() != 1).all()


# Beta


def test_beta_values_and_gradients_equal_torch_on_the_stretched_interval():
    torch.manual_seed(9)
    alpha, beta = ((torch.rand(6, 3, dtype=torch.float64) * 5 + 1.01).requires_grad_() for _ in range(2))
    old_alpha, old_beta = (torch.rand(6, 3, dtype=torch.float64) * 5 + 1.01 for _ in range(2))
    action = torch.rand(6, 3, dtype=torch.float64) * 1.98 - 0.99
    ours, reference = Beta(alpha, beta), TorchBeta(alpha, beta)
    # The action is 2 x - 1: densities shrink by 2, entropies grow by log 2 per dimension, the divergence stays.
    for value, expected in (
        (ours.log_prob(action), (reference.log_prob((action + 1) / 2) - math.log(2)).sum(-1)),
        (ours.entropy(), (reference.entropy() + math.log(2)).sum(-1)),
        (
            ours.kl_from({"alpha": old_alpha, "beta": old_beta}),
            kl_divergence(TorchBeta(old_alpha, old_beta), reference).sum(-1),
        ),
    ):
        torch.testing.assert_close(value, expected)
        for gradient, wanted in zip(_gradients(value, alpha, beta), _gradients(expected, alpha, beta), strict=True):
            torch.testing.assert_close(gradient, wanted)
    torch.testing.assert_close(ours.mode, 2 * reference.mode - 1)


def test_beta_samples_have_the_right_moments_and_stay_inside():
    torch.manual_seed(10)
    samples = Beta(torch.full((100_000, 1), 3.0), torch.full((100_000, 1), 1.5)).sample()
    mean, variance = 2 * 3 / 4.5 - 1, 4 * (3 * 1.5) / (4.5**2 * 5.5)
    assert samples.mean().item() == pytest.approx(mean, abs=5 * math.sqrt(variance / 100_000))
    assert samples.var().item() == pytest.approx(variance, rel=0.03)
    assert samples.abs().max().item() < 1.0


# What all have in common


@pytest.mark.parametrize(
    "distribution",
    [
        DiagGaussian(torch.randn(4, 2), torch.rand(2) + 0.1),
        TanhGaussian(torch.randn(4, 2), torch.rand(2) + 0.1),
        Categorical(torch.randn(4, 3)),
        Beta(torch.rand(4, 2) + 1.1, torch.rand(4, 2) + 1.1),
    ],
    ids=lambda distribution: type(distribution).__name__,
)
def test_parameters_rebuild_the_distribution_and_the_mode_is_the_densest_action(distribution):
    stored = {name: value.clone() for name, value in distribution.params.items()}
    assert all(value.shape[0] == 4 and value.dim() == 2 for value in stored.values())
    rebuilt = type(distribution).from_params(stored)
    torch.manual_seed(11)
    action = distribution.sample()
    assert torch.equal(rebuilt.log_prob(action), distribution.log_prob(action))
    assert torch.equal(rebuilt.entropy(), distribution.entropy())
    torch.testing.assert_close(rebuilt.kl_from(distribution.params), torch.zeros(4), atol=1e-6, rtol=0)
    if isinstance(distribution, TanhGaussian):
        assert torch.equal(distribution.mode, distribution.mean.tanh())  # by convention: densest before the squashing
    else:
        assert (distribution.log_prob(distribution.mode) >= distribution.log_prob(action)).all()


def test_bounded_clamps_infinite_and_nan_and_lets_the_gradient_lead_back():
    x = torch.tensor([-math.inf, -5.0, 0.5, 7.0, math.inf, math.nan], requires_grad=True)
    y = bounded(x, 0.1, 2.0)
    assert y.tolist() == pytest.approx([0.1, 0.1, 0.5, 2.0, 2.0, 0.1])
    # A descent step moves against the gradient: outside, only gradients that point outward pass.
    (down,) = torch.autograd.grad(y.sum(), x, retain_graph=True)
    assert down[:5].tolist() == [0.0, 0.0, 1.0, 1.0, 1.0]
    (up,) = torch.autograd.grad(-y.sum(), x)
    assert up[:5].tolist() == [-1.0, -1.0, -1.0, 0.0, 0.0]
