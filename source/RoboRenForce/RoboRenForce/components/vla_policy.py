"""A vision-language-action policy: preprocessing, backbone and head.

obs --encode--> prefix --act--------> actions (B, H, A), record
|------evaluate(prefix, record)--> log-probability, entropy
'------loss(prefix, actions, mask)--> supervised loss
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from ..configclass import MISSING, Cfg, configclass
from ..envs.spec import EnvSpec
from ..networks.vlm import Backbone, BackboneCfg, MLPBaselineCfg, Prefix, Qwen2VLCfg, Qwen3VLCfg
from ..utils.errors import SpecMismatch
from .action_heads import (
    ActionHead,
    ActionHeadCfg,
    Continuation,
    Evaluation,
    FlowHead,
    LossSum,
    RegressionHeadCfg,
)
from .action_tokens import ActionTokens, ActionTokensCfg
from .vla_preprocessing import VLAPreprocessing, VLAPreprocessingCfg
from .vla_spec import VLASpec


class VLAPolicy(nn.Module):
    """Images, instruction and proprioception in, chunks of actions out, in the units of data and environment.

    Args:
        cfg: Its configuration.
        spec: What the data holds; it is part of every checkpoint (`spec.to_dict()`), and names what the policy reads.
    """

    def __init__(self, cfg: VLAPolicyCfg, spec: VLASpec) -> None:
        super().__init__()
        self.cfg = cfg
        cameras = tuple(cfg.cameras) or spec.cameras
        if not set(cameras) <= set(spec.cameras):
            raise SpecMismatch(f"The policy reads the cameras {list(cameras)}, and the data has {list(spec.cameras)}.")
        if not cameras:
            raise SpecMismatch("The data has no camera, and a vision-language-action policy reads at least one.")
        self._spec = replace(spec, cameras=cameras)
        self.backbone: Backbone = cfg.backbone.build(
            num_cameras=len(cameras), state_dim=spec.state.dim, taps=cfg.head.taps(spec.action.dim)
        )
        self.head: ActionHead = cfg.head.build(
            width=self.backbone.width, state_dim=spec.state.dim, action_dim=spec.action.dim
        )
        self.action_tokens: ActionTokens | None = None
        if cfg.action_tokens is not None:
            sizes = {"chunk_size": cfg.head.chunk_size, "action_dim": spec.action.dim}
            self.action_tokens = cfg.action_tokens.build(self.backbone, **sizes)
        self.preprocessing: VLAPreprocessing = cfg.preprocessing.build(self._spec, self.backbone)

    @property
    def spec(self) -> VLASpec:
        """Inputs and outputs of the policy, with every instruction that it knows."""
        return replace(self._spec, instructions=tuple(self.preprocessing.instructions.table.values()))

    @property
    def chunk_size(self) -> int:
        """H, actions per chunk."""
        return self.cfg.head.chunk_size

    @property
    def obs_groups(self) -> tuple[str, ...]:
        """Observation groups of an environment that the policy reads."""
        renamed = self.cfg.preprocessing.camera_groups
        cameras = [renamed.get(camera, camera) for camera in self._spec.cameras]
        return (*cameras, *(["proprio"] if self._spec.state.dim else []), "instruction_id")

    def add_instructions(self, texts: Iterable[str]) -> None:
        """Tokenize more instructions, for example those of an environment: once, before acting."""
        self.preprocessing.instructions.add(texts)

    def forward(self, obs: Mapping[str, Any], *, deterministic: bool = True) -> Tensor:
        """Choose a chunk of actions for each observation, `(B, H, A)` in the environment's units."""
        return self.act(self.encode(obs), deterministic=deterministic)[0]

    def encode(self, obs: Mapping[str, Any]) -> Prefix:
        """Compute the features of a batch of recorded data or of an observation, see `vla_preprocessing`."""
        inputs = self.preprocessing(obs)
        device = inputs.images.device.type
        if torch.is_autocast_enabled(device) and self.backbone.is_bfloat16:
            with torch.autocast(device, enabled=False):
                return self.backbone(inputs)
        return self.backbone(inputs)

    def act(self, prefix: Prefix, *, deterministic: bool = True) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Choose actions.

        Returns:
            `(B, H, A)` in the environment's units, and the record for `evaluate`, empty if `deterministic`.
        """
        normalized, record = self.head.act(prefix, deterministic=deterministic)
        return self.preprocessing.env_actions(normalized, self.raw_state(prefix)), record

    def go_on(self, prefix: Prefix, running: Continuation) -> Tensor:
        """Choose chunks that go on from running ones, for flow heads; both `(B, H, A)` in the environment's units."""
        state, head = self.raw_state(prefix), cast(FlowHead, self.head)
        actions = self.preprocessing.normalize_actions(running.actions * self.preprocessing.sign, state)
        normalized, _ = head.act(prefix, continuation=replace(running, actions=actions))
        return self.preprocessing.env_actions(normalized, state)

    def evaluate(self, prefix: Prefix, record: Mapping[str, Tensor]) -> Evaluation:
        """Return the log-probabilities of recorded (normalized) actions under the current weights."""
        return self.head.evaluate(prefix, record)

    def loss(
        self, prefix: Prefix, actions: Tensor, is_pad: Tensor | None = None, dim_mask: Tensor | None = None
    ) -> LossSum:
        """Compare with demonstrated actions.

        Args:
            prefix: Features of B observations.
            actions: `(B, H, A)` in the units of the data.
            is_pad: bool `(B, H)`, True after the end of an episode.
            dim_mask: bool `(B, A)`, False in dimensions that a data set of a mixture lacks.
        """
        return self.target_loss(prefix, *self.targets(prefix, actions, is_pad, dim_mask))

    def target_loss(self, prefix: Prefix, targets: Tensor, mask: Tensor) -> LossSum:
        """Compare with what `targets` returned: the head's loss, and that of action tokens if there are any."""
        loss = self.head.loss(prefix, targets, mask)
        if self.action_tokens is None:
            return loss
        return self.action_tokens.add_loss(loss, self.backbone, prefix, targets, mask)

    def targets(
        self, prefix: Prefix, actions: Tensor, is_pad: Tensor | None = None, dim_mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the targets of heads: normalized actions and their mask, `(B, H, A)`; arguments as of `loss`."""
        expected = (prefix.tokens.shape[0], self.chunk_size, self._spec.action.dim)
        if actions.shape != expected:
            raise SpecMismatch(
                f"The actions of the batch are {list(actions.shape)}, and the policy learns (batch, chunk, dimensions) "
                f"{list(expected)}: give the dataset delta_timestamps for 'action' of {self.chunk_size} steps, or set "
                "head.chunk_size."
            )
        mask = torch.ones(expected, dtype=torch.bool, device=actions.device)
        if is_pad is not None:
            mask &= ~is_pad.unsqueeze(-1)
        if dim_mask is not None:
            mask &= dim_mask.unsqueeze(1)
        return self.preprocessing.normalize_actions(actions, self.raw_state(prefix)), mask

    def raw_state(self, prefix: Prefix) -> Tensor:
        """Proprioception in its units, `(B, S)`."""
        return self.preprocessing.state.inverse(prefix.state)

    def require_data(self, data: VLASpec) -> None:
        """Raise a SpecMismatch with a table of both if the policy can't learn from such data."""
        _require_same(self.spec.differences(data), "learn from this data")

    def require_env(self, env: EnvSpec) -> None:
        """Raise a SpecMismatch with a table of both if the policy can't act in such an environment."""
        groups = self.cfg.preprocessing.camera_groups
        _require_same(self.spec.env_differences(env, groups), f"act in '{env.task}'")


@configclass
class VLAPolicyCfg(Cfg):
    """Configuration of a `VLAPolicy`; build it with `build(spec)`."""

    class_type: type = VLAPolicy
    backbone: BackboneCfg = MISSING
    """The vision-language model."""
    head: ActionHeadCfg = MISSING
    """From its features to actions."""
    preprocessing: VLAPreprocessingCfg = VLAPreprocessingCfg()
    """Everything before and after."""
    action_tokens: ActionTokensCfg | None = None
    """A loss on action tokens that the backbone predicts, beside the head's: knowledge insulation, of PaliGemma."""
    cameras: list[str] = []
    """Cameras in the order of the policy; empty: all of the data."""

    @property
    def is_pretrained(self) -> bool:
        """True if it comes with trained weights, the head's too."""
        return False


@configclass
class MLPBaselinePolicyCfg(VLAPolicyCfg):
    """A policy that learns from scratch on one CPU core."""

    backbone: BackboneCfg = MLPBaselineCfg()
    head: ActionHeadCfg = RegressionHeadCfg()


@configclass
class Qwen2VLPolicyCfg(VLAPolicyCfg):
    """A policy on Qwen2-VL."""

    backbone: BackboneCfg = Qwen2VLCfg()
    head: ActionHeadCfg = RegressionHeadCfg()


@configclass
class Qwen3VLPolicyCfg(VLAPolicyCfg):
    """A policy on Qwen3-VL."""

    backbone: BackboneCfg = Qwen3VLCfg()
    head: ActionHeadCfg = RegressionHeadCfg()


def _require_same(table: list[str], what: str) -> None:
    if table:
        raise SpecMismatch(f"The policy can't {what}, because they differ:\n" + "\n".join(table))
