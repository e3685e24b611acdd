"""DPPO: the noisy DDIM step against diffusers' own and its formula, and the law that is sampled."""

import pytest
import torch
from head_cases import DENSITIES
from prefixes import build, prefix_for
from RoboRenForce.components.action_heads import DiffusionHeadCfg, DPPOCfg
from RoboRenForce.components.action_heads.diffusion import build_scheduler
from RoboRenForce.configclass import ConfigError
from RoboRenForce.networks.denoiser import Denoiser

pytest.importorskip("diffusers")
TINY = DPPOCfg(min_std=1e-6)


def _levels():
    """The squared cosine (arXiv 2102.09672): abar = prod(1 - min(.999, 1 - f(t + 1) / f(t)))."""
    f = torch.cos((torch.arange(101, dtype=torch.float64) / 100 + 0.008) / 1.008 * torch.pi / 2) ** 2
    return (f[1:] / f[:-1]).clamp(min=0.001).cumprod(0)


@pytest.mark.oracle
def test_exploring_with_the_exact_noise_samples_the_published_law():
    """Data N(0.7, 0.3^2), 100 steps of DDPM with its posterior variance: mean .6998, std .2846 (algorithms.md 7.9)."""
    cfg = DiffusionHeadCfg(chunk_size=1, num_steps=100, clip=None, density="dppo", dppo=TINY)
    head, levels = build(cfg, action_dim=1), _levels().float()

    class Exact(Denoiser):
        def encode(self, prefix):
            return {}

        def forward(self, x, time, context):
            abar = levels[(time * 100).round().long()].view(-1, 1, 1)
            return (1 - abar).sqrt() * (x - abar.sqrt() * 0.7) / (abar * 0.09 + 1 - abar)

    head.network = Exact()
    actions, _ = head.act(prefix_for(cfg, 1).repeat(40_000), deterministic=False)
    assert float(actions.mean()) == pytest.approx(0.6998, abs=5e-3)
    assert float(actions.std()) == pytest.approx(0.2846, abs=4e-3)


@pytest.mark.oracle
@pytest.mark.parametrize("prediction", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("eta", [0.5, 1.0])
def test_the_steps_of_a_path_are_those_of_ddim_and_have_their_log_probability(prediction, eta):
    cfg = DENSITIES["diffusion-dppo"].replace(prediction=prediction, dppo=DPPOCfg(eta=eta, min_std=0.05))
    head, prefix = build(cfg), prefix_for(cfg, 4)
    with torch.no_grad():
        for parameter in head.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        actions, record = head.act(prefix, deterministic=False)
        scheduler, levels = build_scheduler(cfg, "ddim"), _levels()
        scheduler.set_timesteps(5)
        points = record["chain"].unbind(1)
        total = torch.distributions.Normal(0.0, 1.0).log_prob(points[0])
        assert torch.equal(points[-1], actions) and scheduler.timesteps.tolist() == [80, 60, 40, 20, 0]
        stds = []
        for before, after, step in zip(points, points[1:], scheduler.timesteps.tolist(), strict=False):
            output = head.network(before, torch.full((4,), step / 100), head.network.encode(prefix))
            moved = [
                scheduler.step(output, step, before, eta=eta, use_clipped_model_output=True, variance_noise=noise)[0]
                for noise in (torch.zeros_like(before), torch.ones_like(before))
            ]
            abar, following = levels[step], levels[step - 20] if step else torch.ones(())
            std = eta * ((1 - following) / (1 - abar) * (1 - abar / following)).sqrt()
            torch.testing.assert_close(moved[1] - moved[0], torch.full_like(before, float(std)), atol=1e-5, rtol=1e-4)
            stds.append(max(float(std), 0.05))
            total = total + torch.distributions.Normal(moved[0], stds[-1]).log_prob(after)
        assert stds[-1] == 0.05 < 0.3 < stds[0]  # the last step has no noise of its own
        torch.testing.assert_close(head.evaluate(prefix, record).log_prob, total, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(record["log_prob"], total, atol=1e-4, rtol=1e-4)


def test_the_sampler_has_to_be_ddim():
    with pytest.raises(ConfigError, match="density: 'dppo' explores by steps of DDIM, got sampler='ddpm'"):
        build(DiffusionHeadCfg(sampler="ddpm", density="dppo"))
