"""Observation encoders, and the base class of actors and critics: a dictionary of groups in, a network's output out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from tensordict import TensorDict
from torch import Tensor, nn

from ..configclass import Cfg, ConfigError, Range, configclass
from ..configclass.errors import did_you_mean
from ..envs.obs_groups import BLOCK
from ..envs.spec import EnvSpec
from ..networks.cnn import CNNCfg
from ..networks.mlp import MLPCfg
from ..networks.network import Network, NetworkCfg, RecurrentNetwork
from ..utils.distributed import DistributedContext
from .block_vectors import BlockVectors
from .normalizer import EmpiricalNormalizerCfg, Normalizer, NormalizerCfg

Observations = TensorDict | Mapping[str, Tensor]
"""Group -> tensor `(..., *group shape)` with batch dimensions `(B,)` or, for sequences, `(T, B)`."""


class ObservationEncoder(nn.Module):
    """Select observation groups and encode them into one feature vector `(..., out_features)`.

    Flat groups are concatenated in the order of `groups` and normalized together. Images are encoded by a CNN each
    and appended; they are never normalized by running statistics. A group is an image if it has three axes, is uint8
    with two or more, or has a CNN of its own. With `block_features` the group `block` is replaced by `BlockVectors`.
    """

    def __init__(
        self,
        spec: EnvSpec,
        groups: Sequence[str],
        normalizer_cfg: NormalizerCfg | None,
        cnn_cfg: CNNCfg | dict[str, CNNCfg] | None,
        block_features: int | None = None,
    ) -> None:
        super().__init__()
        has_vectors = block_features is not None and BLOCK in groups
        groups = [group for group in groups if not (has_vectors and group == BLOCK)]
        self.flat_groups, image_groups = _sort_groups(spec, groups, cnn_cfg)
        self._flatten = {
            group: len(spec.obs_groups[group]) for group in self.flat_groups if len(spec.obs_groups[group]) != 1
        }
        self._cast = {group for group in self.flat_groups if not spec.dtype_of(group).is_floating_point}
        self.flat_features = spec.obs_dim(self.flat_groups)
        self.normalizer: Normalizer | None = None
        if normalizer_cfg is not None and self.flat_features:
            self.normalizer = normalizer_cfg.build(self.flat_features)
        self.image_groups = image_groups
        self.image_encoders = nn.ModuleList()
        self.out_features = self.flat_features
        for group in image_groups:
            cfg = cnn_cfg.get(group) if isinstance(cnn_cfg, dict) else cnn_cfg
            if cfg is None:
                raise ConfigError(
                    f"Observation group '{group}' is an image {tuple(spec.obs_groups[group])} and has no network: "
                    f"give the actor or critic that reads it cnn_cfg=CNNCfg(...) or "
                    f"cnn_cfg={{'{group}': CNNCfg(...)}} (policy.actor_cfg, policy.critic_cfg)."
                )
            encoder: Network = cfg.build(spec.obs_groups[group], cfg.features)
            self.image_encoders.append(encoder)
            self.out_features += encoder.out_features
        self.blocks: BlockVectors | None = None
        if block_features is not None and has_vectors:
            self.blocks = BlockVectors(spec.num_blocks, block_features)
            self.out_features += block_features

    def flat(self, obs: Observations) -> Tensor:
        """Concatenate the flat groups, not normalized, `(..., flat_features)`."""
        parts = [self._flat_group(obs, group) for group in self.flat_groups]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def _flat_group(self, obs: Observations, group: str) -> Tensor:
        x: Tensor = obs[group]
        if group in self._cast:
            x = x.to(torch.get_default_dtype())
        if group in self._flatten:
            dims = self._flatten[group]
            x = x.unsqueeze(-1) if dims == 0 else x.flatten(-dims)
        return x

    def update_normalizer(
        self, obs: Observations, distributed: DistributedContext | None = None, mask: Tensor | None = None
    ) -> None:
        """Update the normalizer from observations `(...)` where `mask` is True; no effect in eval mode."""
        if self.normalizer is not None:
            self.normalizer.update(self.flat(obs), distributed, mask)

    def forward(self, obs: Observations) -> Tensor:
        """Return the features `(..., out_features)` of the observations."""
        parts = [net(obs[group]) for group, net in zip(self.image_groups, self.image_encoders, strict=True)]
        if self.flat_groups:
            parts = [self._normalized(self.flat(obs)), *parts]
        if self.blocks is not None:
            parts.append(self.blocks(obs.get(BLOCK, None), parts[0]))
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def encode_flat(self, x: Tensor) -> Tensor:
        """Return the features of `x = flat(obs)` if there are no images, of the leader where there are blocks."""
        features = self._normalized(x)
        return features if self.blocks is None else torch.cat([features, self.blocks(None, features)], dim=-1)

    def _normalized(self, x: Tensor) -> Tensor:
        return x if self.normalizer is None else self.normalizer(x)


class ObservationNetwork(nn.Module):
    """Observation encoder followed by a backbone; the base of actors and V critics.

    With a recurrent backbone, observations are `(B,)` for one step or `(T, B)` for a sequence, and `state` and
    `starts` are as in `RecurrentNetwork`; `state=None` is the zero state.
    """

    def __init__(self, cfg: ObservationNetworkCfg, spec: EnvSpec, groups: Sequence[str], out_features: int) -> None:
        super().__init__()
        self.cfg = cfg
        self.spec = spec
        self.groups = tuple(groups)
        self.encoder = ObservationEncoder(spec, groups, cfg.normalizer_cfg, cfg.cnn_cfg, cfg.block_features)
        self.backbone: Network = cfg.backbone_cfg.build(self.encoder.out_features, out_features)

    @property
    def is_recurrent(self) -> bool:
        """True if the backbone is recurrent."""
        return self.backbone.is_recurrent

    def initial_state(self, num_envs: int) -> Tensor | None:
        """Return the zero state `(L, num_envs, S)`, None if the network is not recurrent."""
        return self.backbone.initial_state(num_envs) if isinstance(self.backbone, RecurrentNetwork) else None

    @property
    def normalizer(self) -> Normalizer | None:
        """Normalizer of the flat observation groups."""
        return self.encoder.normalizer

    def update_normalizer(
        self, obs: Observations, distributed: DistributedContext | None = None, mask: Tensor | None = None
    ) -> None:
        """Update the normalizer from observations `(...)` where `mask` is True; no effect in eval mode."""
        self.encoder.update_normalizer(obs, distributed, mask)

    def evaluate(self, obs: Observations, state: Tensor | None, starts: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Return the backbone's output `(..., out)` in at least float32, and the next state."""
        return self.evaluate_features(self.encoder(obs), state, starts)

    def evaluate_flat(self, x: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Evaluate one step of flat observations `(B, obs_dim)`, the groups concatenated in their order."""
        if self.encoder.image_groups:
            raise ValueError(
                f"{type(self).__name__} reads the image groups {self.encoder.image_groups}, which a flat observation "
                f"can't hold: call it with a dictionary of groups."
            )
        return self.evaluate_features(self.encoder.encode_flat(x), state, None)

    def evaluate_features(
        self, features: Tensor, state: Tensor | None, starts: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Evaluate the backbone at encoded observations `(..., features)`; see `evaluate`."""
        if isinstance(self.backbone, RecurrentNetwork):
            if state is None:
                state = self.backbone.initial_state(features.shape[-2])
            output, state = self.backbone(features, state, starts)
        else:
            output, state = self.backbone(features), None
        # Log-probabilities and values stay in float32 under autocast.
        return (output.float() if output.dtype in (torch.bfloat16, torch.float16) else output), state


@configclass
class ObservationNetworkCfg(Cfg):
    """Settings that actors and critics share."""

    class_type: type = ObservationNetwork
    backbone_cfg: NetworkCfg = MLPCfg()
    """Feed-forward (`MLPCfg`) or recurrent (`RNNCfg`, `TransformerCfg`) network."""
    normalizer_cfg: NormalizerCfg | None = EmpiricalNormalizerCfg()
    """Normalizer of the flat observation groups, or None. Images are only ever scaled to [0, 1]."""
    cnn_cfg: CNNCfg | dict[str, CNNCfg] | None = None
    """Encoder of all image groups, or one for each by name."""
    block_features: Annotated[int, Range(ge=1)] | None = None
    """Width of the learned vector of each block that replaces the group `block`; None: it is a group like others."""


def flat_columns(
    spec: EnvSpec, groups: Sequence[str], cnn_cfg: CNNCfg | dict[str, CNNCfg] | None = None
) -> dict[str, list[int]]:
    """Return the columns of an encoder's features that hold each flat group, in their order."""
    columns, start = {}, 0
    for group in _sort_groups(spec, groups, cnn_cfg)[0]:
        columns[group] = list(range(start, start + spec.obs_dim([group])))
        start += spec.obs_dim([group])
    return columns


def _sort_groups(
    spec: EnvSpec, groups: Sequence[str], cnn_cfg: CNNCfg | dict[str, CNNCfg] | None
) -> tuple[list[str], list[str]]:
    """Return the flat and the image groups among `groups`, in their order."""
    if not groups:
        raise ConfigError(f"Got no observation groups to read; expected some of {sorted(spec.obs_groups)}.")
    flat, images = [], []
    for group in groups:
        if group not in spec.obs_groups:
            raise ConfigError(f"Unknown observation group '{group}'; {did_you_mean(group, spec.obs_groups)}")
        dims, pixels = len(spec.obs_groups[group]), spec.dtype_of(group) == torch.uint8
        own = isinstance(cnn_cfg, dict) and group in cnn_cfg
        (images if dims == 3 or (pixels and dims >= 2) or own else flat).append(group)
    return flat, images
