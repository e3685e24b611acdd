"""Diffusion: numbers of the exact denoiser of normal data, the head against diffusers step by step, its targets."""

import pytest
import torch
from prefixes import build, prefix_for
from RoboRenForce.components.action_heads import DiffusionHeadCfg, DiTHeadCfg
from RoboRenForce.configclass import ConfigError
from RoboRenForce.networks import DiTCfg
from RoboRenForce.networks.denoiser import Denoiser
from RoboRenForce.utils.errors import UserError

MEAN, STD = 0.7, 0.3


class ExactNoise(Denoiser):
    """The best prediction of the noise for actions ~ N(MEAN, STD^2)."""

    def __init__(self, alphas_cumprod):
        super().__init__()
        self.abar = alphas_cumprod.double()

    def encode(self, prefix):
        return {}

    def forward(self, x, time, context):
        abar = self.abar[(time * len(self.abar)).round().long()][:, None, None]
        return (1 - abar).sqrt() * (x - abar.sqrt() * MEAN) / (abar * STD**2 + 1 - abar)


@pytest.mark.parametrize(
    ("cfg", "mean", "std"),
    [
        (DiffusionHeadCfg(sampler="ddpm", num_steps=100), 0.7000, 0.2843),
        (DiffusionHeadCfg(sampler="ddim", num_steps=100), 0.6999, 0.2934),
        (DiffusionHeadCfg(sampler="ddim", num_steps=10), 0.676, 0.246),
    ],
    ids=["ddpm-100", "ddim-100", "ddim-10"],
)
def test_the_exact_noise_of_normal_data_gives_the_published_mean_and_std(cfg, mean, std):
    cfg = cfg.replace(clip=None, chunk_size=1)
    head, prefix = build(cfg, action_dim=1), prefix_for(cfg, 1)
    head.network = ExactNoise(head._training.alphas_cumprod)
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(200_000, 1, 1, generator=generator, dtype=torch.float64)
    samples = head.sample(prefix, noise, generator=generator)
    assert float(samples.mean()) == pytest.approx(mean, abs=3e-3)  # standard error 7e-4
    assert float(samples.std()) == pytest.approx(std, abs=3e-3)


def _taught(cfg):
    head = build(cfg)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return head, prefix_for(cfg, 3)


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("sampler", ["ddim", "ddpm"])
def test_sampling_is_that_of_diffusers_with_the_heads_network(prediction, sampler):
    diffusers = pytest.importorskip("diffusers")

    cfg = DiffusionHeadCfg(chunk_size=4, prediction=prediction, sampler=sampler, num_steps=5, clip=0.8)
    head, prefix = _taught(cfg)
    scheduler = (diffusers.DDIMScheduler if sampler == "ddim" else diffusers.DDPMScheduler)(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=prediction,
        clip_sample_range=0.8,
    )
    scheduler.set_timesteps(5)
    generator = torch.Generator().manual_seed(1)
    x, context = torch.randn(3, 4, 2, generator=generator), head.network.encode(prefix)
    options = {"use_clipped_model_output": True} if sampler == "ddim" else {}
    for step in scheduler.timesteps:
        output = head.network(x, torch.full((3,), float(step) / 100), context)
        x = scheduler.step(output, step, x, generator=generator, **options).prev_sample
    actions, record = head.act(prefix, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(actions, x)
    assert record == {} and actions.abs().max() <= 0.8 + 1e-6


@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
def test_targets_and_noisy_chunks_follow_their_formulas(prediction):
    head, _ = _taught(DiffusionHeadCfg(chunk_size=4, prediction=prediction))
    actions, mask = torch.randn(3, 4, 2), torch.ones(3, 4, 2, dtype=torch.bool)
    noisy = head.corrupt(actions, mask, torch.Generator().manual_seed(2))
    generator = torch.Generator().manual_seed(2)
    noise = torch.randn(3, 4, 2, generator=generator)
    step = torch.randint(100, (3,), generator=generator)
    # Squared cosine (arXiv 2102.09672): abar = prod(1 - min(.999, 1 - f(t + 1) / f(t)))
    f = torch.cos((torch.arange(101, dtype=torch.float64) / 100 + 0.008) / 1.008 * torch.pi / 2) ** 2
    abar = (f[1:] / f[:-1]).clamp(min=0.001).cumprod(0).float()[step][:, None, None]
    torch.testing.assert_close(noisy.time, step / 100)
    torch.testing.assert_close(noisy.x, abar.sqrt() * actions + (1 - abar).sqrt() * noise, atol=1e-5, rtol=1e-4)
    v = abar.sqrt() * noise - (1 - abar).sqrt() * actions
    expected = {"epsilon": noise, "sample": actions, "v_prediction": v}[prediction]
    torch.testing.assert_close(noisy.target, expected, atol=1e-5, rtol=1e-4)


def test_the_divergence_is_the_distance_of_predictions_and_zero_at_equality():
    cfg = DiffusionHeadCfg(chunk_size=4, network=DiTCfg(dim=16, num_layers=1, num_heads=2))
    head, prefix = _taught(cfg)
    other, _ = _taught(cfg)
    actions, mask = torch.randn(3, 4, 2), torch.rand(3, 4, 2) < 0.5
    assert head.divergence(prefix, head, prefix, actions, mask).total == 0
    noisy = head.corrupt(torch.where(mask, actions, 0.0), mask, torch.Generator().manual_seed(3))
    distance = head._predict(prefix, noisy) - other._predict(prefix, noisy)
    result = head.divergence(prefix, other, prefix, actions, mask, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(result.mean, distance[mask].square().mean())


def test_demonstrations_beyond_the_clip_are_counted():
    head, prefix = _taught(DiffusionHeadCfg(chunk_size=4))
    actions, mask = torch.full((3, 4, 2), 0.5), torch.ones(3, 4, 2, dtype=torch.bool)
    mask[:, 2:], actions[:, 2:], actions[:, 0] = False, 5.0, 1.5
    assert float(head.loss(prefix, actions, mask).metrics["clipped"]) == 0.5


def test_more_steps_than_levels_and_a_reference_of_another_kind_are_refused():
    with pytest.raises(ConfigError, match="num_steps: 200 is more than train_steps=100"):
        build(DiffusionHeadCfg(num_steps=200))
    head, prefix = _taught(DiffusionHeadCfg(chunk_size=4))
    actions = torch.zeros(3, 4, 2)
    with pytest.raises(UserError, match="The reference policy has a FlowHead, expected a DiffusionHead"):
        head.divergence(prefix, build(DiTHeadCfg(chunk_size=4)), prefix, actions, actions == 0)
