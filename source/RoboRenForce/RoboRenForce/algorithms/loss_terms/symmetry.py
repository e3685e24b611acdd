"""Symmetry of a robot (left-right or any other), as data augmentation and as a mirror loss.

Reference: Mittal et al. 2024, "Symmetry considerations for learning task symmetric robot policies" (arXiv 2403.04359).
KL divergence, entropy and normalizer statistics are those of the original samples; a mirrored sample has the old
log-prob, value and advantage of its original.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Annotated, Any

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from ...buffer.rollout import RolloutBatch
from ...configclass import MISSING, ConfigError, Range, configclass
from ..functional import masked_mse
from .loss_term import AnyBatch, Batch, LossTerm, LossTermCfg

MirrorFunction = Callable[[TensorDict | None, Tensor | None], tuple[TensorDict | None, Tensor | None]]
"""`(obs or None, actions or None) -> the same with a k-fold batch: the originals first, then their mirror images`."""


class Symmetry(LossTerm):
    """Mirrored copies of every sample, a penalty on asymmetric action means, or both."""

    name = "symmetry"

    def __init__(self, cfg: SymmetryCfg) -> None:
        self.cfg = cfg

    def check_fit(self, *, sequences: bool, actor: nn.Module, n_step: int = 1) -> None:
        """Refuse sequences: the mirror image of a recurrent state is unknown."""
        if sequences:
            raise ConfigError(
                "SymmetryCfg in loss_terms is not available for recurrent policies or sequences: use a feed-forward "
                "backbone and a replay of single transitions, or drop the term."
            )

    def augment(self, batch: Batch) -> Batch:
        """Append mirror images of observations, actions and successors; repeat the other fields."""
        if not self.cfg.use_data_augmentation:
            return batch
        obs, action = self.cfg.function(batch.obs, batch.action)
        if obs is None or action is None:
            raise ValueError("The symmetry function returned None for observations or actions that it was given.")
        copies = action.shape[0] // batch.action.shape[0]
        changed: dict[str, Any] = {"obs": obs, "action": action}
        if batch.next_obs is not None:
            changed["next_obs"] = self.cfg.function(batch.next_obs, None)[0]
        # A mirrored sample keeps log-prob, value and advantage of its original: a symmetric problem has the same ones.
        repeated: Any = batch.map(lambda tensor: tensor.repeat(copies, *[1] * (tensor.dim() - 1)))
        if isinstance(batch, RolloutBatch):
            changed["record"] = repeated.record | {f"dist/{name}": x for name, x in batch.dist_params.items()}
        elif batch.next_action is not None:
            changed["next_action"] = self.cfg.function(None, batch.next_action)[1]
        return replace(repeated, **changed)

    def loss(
        self,
        actor: nn.Module,
        critic: nn.Module,
        batch: AnyBatch,
        num_original: int,
        expert: AnyBatch | None = None,
    ) -> Tensor:
        """Return the mean squared distance between pi(mirror(s)) and mirror(pi(s)), with a detached target."""
        # Augmentation has already appended the mirrored observations.
        obs = batch.obs if self.cfg.use_data_augmentation else self.cfg.function(batch.obs, None)[0]
        mean = actor(obs)[0].mode
        with torch.no_grad():
            mirrored = self.cfg.function(None, mean[:num_original])[1]
        if mirrored is None:
            raise ValueError("The symmetry function returned None for actions that it was given.")
        images = mean[num_original:]
        # Images inherit the mask of their originals.
        mask = batch.mask[:num_original] if isinstance(batch, RolloutBatch) and batch.mask is not None else None
        mask = None if mask is None else mask.repeat(images.shape[0] // num_original)
        distance = masked_mse(images, mirrored[num_original:], mask)
        return self.cfg.mirror_loss_coef * distance if self.cfg.use_mirror_loss else torch.zeros_like(distance)


@configclass
class SymmetryCfg(LossTermCfg):
    """Symmetry of the robot; not available for recurrent policies."""

    class_type: type = Symmetry
    function: Callable = MISSING
    """Mirror function, see `MirrorFunction`; as text `"package.module:name"`."""
    use_data_augmentation: bool = True
    """Train on the mirrored samples as well."""
    use_mirror_loss: bool = False
    """Penalize asymmetric means."""
    mirror_loss_coef: Annotated[float, Range(ge=0)] = 0.0
    """Weight of the mirror loss."""

    def check(self) -> Iterable[str]:
        """Refuse a term that does nothing."""
        if not (self.use_data_augmentation or self.use_mirror_loss):
            yield "use_data_augmentation and use_mirror_loss are both off: set one, or remove the term from loss_terms"
        if self.use_mirror_loss and self.mirror_loss_coef == 0.0:
            yield "use_mirror_loss is on but mirror_loss_coef is 0: give it a positive weight"
