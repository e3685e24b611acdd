"""Diffusion of action chunks (Diffusion Policy, arXiv 2303.04137) on the schedulers of diffusers.

DDPM (arXiv 2006.11239) trains at `train_steps` noise levels; sampling takes `num_steps` of them by DDIM
(arXiv 2010.02502), which draws no noise but the first, or by DDPM.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from ...configclass import Range, configclass
from ...networks.vlm import Prefix
from ...utils.optional import require_package
from .action_head import LossSum
from .denoising import Corrupted, DenoisingHead, DenoisingHeadCfg
from .dppo import DPPOCfg, step_std
from .masking import share
from .noisy_steps import NoisyChain


class DiffusionHead(DenoisingHead):
    """A network that predicts the noise of a chunk (or the clean chunk, or v), and a scheduler that removes it."""

    cfg: DiffusionHeadCfg
    density_advice = "set policy.head.density=dppo"

    def __init__(self, cfg: DiffusionHeadCfg, *, width: int, state_dim: int, action_dim: int) -> None:
        super().__init__(cfg, width=width, state_dim=state_dim, action_dim=action_dim)
        # Two objects: that of training moves its table to the device, that of sampling keeps scalars on the host, where
        # reading them neither waits for the device nor hinders the capture of a CUDA graph.
        self._training, self._sampling = build_scheduler(cfg, "ddpm"), build_scheduler(cfg, cfg.sampler)
        self._sampling.set_timesteps(cfg.num_steps)
        self._timesteps: list[int] = self._sampling.timesteps.tolist()
        self._step_options: dict[str, Any] = {"use_clipped_model_output": True} if cfg.sampler == "ddim" else {}
        self.has_density = cfg.density != "none"
        levels, stride = self._sampling.alphas_cumprod.tolist(), cfg.train_steps // cfg.num_steps
        self._log_stds = [
            math.log(step_std(levels[t], levels[t - stride] if t >= stride else 1.0, cfg.dppo.eta, cfg.dppo.min_std))
            for t in self._timesteps
        ]

    @override
    def corrupt(self, actions: Tensor, mask: Tensor, generator: torch.Generator | None) -> Corrupted:
        cfg = self.cfg
        noise = torch.empty_like(actions).normal_(generator=generator)
        step = torch.randint(cfg.train_steps, (len(actions),), device=actions.device, generator=generator)
        match cfg.prediction:
            case "epsilon":
                target = noise
            case "sample":
                target = actions
            case "v_prediction":
                target = self._training.get_velocity(actions, noise, step)
        return Corrupted(self._training.add_noise(actions, noise, step), step / cfg.train_steps, target, mask)

    @override
    def loss(
        self, prefix: Prefix, actions: Tensor, mask: Tensor, *, generator: torch.Generator | None = None
    ) -> LossSum:
        """As in the base class; `clipped` is the share of demonstrated actions that sampling can't reach."""
        loss = super().loss(prefix, actions, mask, generator=generator)
        if self.cfg.clip is not None:
            loss.metrics["clipped"] = share(actions.abs() > self.cfg.clip, mask)
        return loss

    @override
    def _noisy(self, prefix: Prefix) -> NoisyChain:
        context = self.network.encode(prefix)

        def step(x: Tensor, number: int) -> tuple[Tensor, Tensor]:
            timestep = self._timesteps[number]
            time = torch.full((len(x),), timestep / self.cfg.train_steps, device=x.device)
            options = {**self._step_options, "eta": self.cfg.dppo.eta, "variance_noise": torch.zeros_like(x)}
            output = self.network(x, time, context)
            mean = self._sampling.step(output, timestep, x, return_dict=False, **options)[0]
            return mean, torch.full_like(x, self._log_stds[number])

        return NoisyChain(self.cfg.num_steps, step, self.cfg.average_steps)

    @override
    def sample(self, prefix: Prefix, noise: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
        context, x = self.network.encode(prefix), self._with_padding(noise)
        for step in self._timesteps:
            time = torch.full((len(x),), step / self.cfg.train_steps, device=x.device)
            output = self.network(x, time, context)
            x = self._sampling.step(output, step, x, generator=generator, return_dict=False, **self._step_options)[0]
        return self._robots(x)


@configclass
class DiffusionHeadCfg(DenoisingHeadCfg):
    """Configuration of a `DiffusionHead`."""

    class_type: type = DiffusionHead

    train_steps: Annotated[int, Range(ge=2, le=10_000)] = 100
    """Noise levels of training, on the squared-cosine schedule."""
    prediction: Literal["epsilon", "sample", "v_prediction"] = "epsilon"
    """Prediction of the network: the noise, the clean chunk, or v = sqrt(abar) noise - sqrt(1 - abar) chunk. The clean
    chunk (as in DP3, arXiv 2403.03954) takes far fewer updates: at high noise levels, where one of several ways is
    chosen, an error of the noise counts sqrt((1 - abar) / abar) times in the chunk that follows from it."""
    sampler: Literal["ddim", "ddpm"] = "ddim"
    """Sampler."""
    num_steps: Annotated[int, Range(ge=1, le=10_000)] = 10
    """Noise levels that sampling visits."""
    spacing: Literal["leading", "trailing"] = "leading"
    """Choice of the steps: from 0 in equal steps, or from the last one down in equal steps (arXiv 2305.08891)."""
    clip: Annotated[float, Range(gt=0)] | None = 1.0
    """Bound of predicted clean chunks while sampling: 1 for actions normalized to [-1, 1]; None for others."""
    density: Literal["none", "dppo"] = "none"
    """Exploration with a log-probability, for reinforcement learning: by noisy steps of DDIM. What demonstrations teach
    and acting without exploration do not depend on it."""
    dppo: DPPOCfg = DPPOCfg()
    """Read if `density` is `dppo`."""
    average_steps: bool = False
    """Take the mean of the log-probabilities of steps and start noise instead of the sum. Ratios are then no longer
    those of chunks, but leave the clip range less soon."""

    def check(self) -> Iterable[str]:
        """Sentences on steps that contradict one another, and on densities that there are not."""
        if self.num_steps > self.train_steps:
            yield f"num_steps: {self.num_steps} is more than train_steps={self.train_steps}; take at most as many"
        if self.density == "dppo" and self.sampler != "ddim":
            yield f"density: 'dppo' explores by steps of DDIM, got sampler='{self.sampler}'; set sampler=ddim"


def build_scheduler(cfg: DiffusionHeadCfg, kind: Literal["ddim", "ddpm"]) -> Any:
    """Build a scheduler of diffusers with the head's noise levels.

    Raises:
        MissingPackageError: diffusers is not installed.
    """
    module = require_package(f"diffusers.schedulers.scheduling_{kind}", extra="vla", purpose="diffusion heads")
    return getattr(module, f"{kind.upper()}Scheduler")(
        num_train_timesteps=cfg.train_steps,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=cfg.prediction,
        clip_sample=cfg.clip is not None,
        clip_sample_range=cfg.clip or 1.0,
        timestep_spacing=cfg.spacing,
    )
