"""From recorded batches and observations of environments to what a backbone reads; and from its actions back.

Both name the same things differently:

    what            a batch of recorded data            an observation
    camera          observation.images.<camera>         <camera>
    proprioception  observation.state                   proprio
    instruction     instruction_id (B,), or task        instruction_id (B, 1)

Recorded batches may also say on the host which cameras each row has (`present_cameras`) and what its text is (`task`):
then what no row has is left out, see `without_host_entries`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor, nn

from ..configclass import Cfg, ConfigError, Range, configclass
from ..envs.instructions import instruction_id
from ..networks.vlm import Backbone, VLMInputs
from ..utils.errors import SpecMismatch
from ..utils.images import resize
from .vla_instructions import TokenTable
from .vla_normalizer import VectorNormalizer, VectorNormalizerCfg, dimension
from .vla_spec import VLASpec

IMAGES, STATE = "observation.images.", "observation.state"
PRESENT = "present_cameras"
"""List of the keys of the cameras that each row has: as `<camera>_is_present`, but never on a device."""


class VLAPreprocessing(nn.Module):
    """See the module. Its statistics are buffers, so that they travel with the weights.

    Args:
        cfg: Options.
        spec: What the data holds.
        backbone: What reads the result: its image size and tokenizer.
    """

    def __init__(self, cfg: VLAPreprocessingCfg, spec: VLASpec, backbone: Backbone) -> None:
        super().__init__()
        self.cfg, self.spec = cfg, spec
        self.image_size = backbone.image_size
        self.state: VectorNormalizer = cfg.state.build(spec.state, "state")
        self.action: VectorNormalizer = cfg.action.build(spec.action, "action")
        self.instructions = TokenTable(backbone.tokenize)
        self.instructions.add(spec.instructions)
        for camera in (*cfg.camera_groups, *cfg.flipped_cameras):
            if camera not in spec.cameras:
                raise ConfigError(
                    f"preprocessing names the camera '{camera}'; the policy knows {_names(spec.cameras)}."
                )
        sign = torch.ones(spec.action.dim)
        sign[[dimension(which, spec.action, "preprocessing.flipped_actions") for which in cfg.flipped_actions]] = -1.0
        self.register_buffer("sign", sign, persistent=False)
        self.relative = [
            (
                dimension(action, spec.action, "preprocessing.relative_actions"),
                dimension(state, spec.state, "preprocessing.relative_actions"),
            )
            for action, state in cfg.relative_actions
        ]
        if sorted(action for action, _ in self.relative) != list(spec.action.relative):
            raise ConfigError(
                f"The policy learns the action dimensions {sorted(action for action, _ in self.relative)} relative to "
                f"the state, and the statistics are relative in {list(spec.action.relative)}: describe the data by "
                "relative_spec(spec, datasets, preprocessing.relative_actions)."
            )

    sign: Tensor

    def forward(self, batch: Mapping[str, Any]) -> VLMInputs:
        """Prepare a batch of recorded data or an observation, whose tensors lie on the policy's device.

        Raises:
            SpecMismatch: a camera is missing, or sizes are others than the policy's.
            UserError: an instruction is not known, see `TokenTable`.
        """
        keys = set(batch.keys())
        recorded = STATE in keys or any(key.startswith(IMAGES) for key in keys)
        images = [self._image(batch, keys, camera, recorded) for camera in self.spec.cameras]
        state = self._state(batch, keys, recorded)
        ids = self._instruction_ids(batch, keys, state.device)
        width = self.instructions.width(batch["task"]) if "task" in keys else None
        text_ids, text_mask = self.instructions(ids, width)
        there = torch.ones(len(ids), len(images), dtype=torch.bool, device=ids.device)
        for column, camera in enumerate(self.spec.cameras):
            if (flag := f"{IMAGES}{camera}_is_present") in keys:
                there[:, column] = batch[flag]
        present = None
        if PRESENT in keys:
            cameras = [f"{IMAGES}{camera}" for camera in self.spec.cameras]
            present = torch.tensor([[camera in row for camera in cameras] for row in batch[PRESENT]])
        return VLMInputs(torch.stack(images, 1), there, text_ids, text_mask, state, present)

    def normalize_actions(self, actions: Tensor, raw_state: Tensor) -> Tensor:
        """Actions of the data `(B, H, A)`, in its units -> those that heads learn."""
        return self.action(self._shifted(actions, raw_state, -1.0))

    def env_actions(self, normalized: Tensor, raw_state: Tensor) -> Tensor:
        """Turn a head's actions `(B, H, A)` into the environment's units."""
        return self._shifted(self.action.inverse(normalized), raw_state, 1.0) * self.sign

    def _shifted(self, actions: Tensor, raw_state: Tensor, sign: float) -> Tensor:
        if not self.relative:
            return actions
        shift = torch.zeros_like(actions[:, 0])
        for action, state in self.relative:
            shift[:, action] = sign * raw_state[:, state]
        return actions + shift.unsqueeze(1)

    def _image(self, batch: Mapping[str, Any], keys: set[str], camera: str, recorded: bool) -> Tensor:
        key = f"{IMAGES}{camera}" if recorded else self.cfg.camera_groups.get(camera, camera)
        if key not in keys:
            raise SpecMismatch(
                f"The policy reads the camera '{camera}', and '{key}' is not among {_names(sorted(keys))}: rename it "
                "(`rename` of a mixture, `preprocessing.camera_groups` for an environment), or train a policy without."
            )
        image = batch[key]
        if image.dim() != 4 or image.shape[-1] != 3 or image.dtype != torch.uint8:
            raise SpecMismatch(
                f"'{key}' is {image.dtype} {list(image.shape)}, expected uint8 (B, H, W, 3): one picture per sample, "
                "as cameras give them."
            )
        if not recorded and camera in self.cfg.flipped_cameras:
            image = image.flip(1, 2)
        return resize(image, self.image_size, self.cfg.resize)

    def _state(self, batch: Mapping[str, Any], keys: set[str], recorded: bool) -> Tensor:
        key = STATE if recorded else "proprio"
        if not self.spec.state.dim:
            reference = next(value for value in batch.values() if isinstance(value, Tensor))
            return torch.zeros(len(reference), 0, device=reference.device)
        if key not in keys or batch[key].dim() != 2 or batch[key].shape[1] != self.spec.state.dim:
            got = f"is {list(batch[key].shape)}" if key in keys else "is absent"
            raise SpecMismatch(f"'{key}' {got}, expected {self.spec.state.dim} numbers per sample, (B, S).")
        state = self.state(batch[key])
        mask = f"{STATE}_dim_mask"
        state = state * batch[mask] if mask in keys else state
        if not (self.cfg.state_dropout and recorded and self.training):
            return state
        return state * (torch.rand(len(state), 1, device=state.device) >= self.cfg.state_dropout)

    def _instruction_ids(self, batch: Mapping[str, Any], keys: set[str], device: torch.device) -> Tensor:
        if "instruction_id" in keys:
            return batch["instruction_id"].flatten()
        if "task" in keys:
            ids = {text: instruction_id(text) for text in set(batch["task"])}
            return torch.tensor([ids[text] for text in batch["task"]], device=device)
        raise SpecMismatch("The policy follows instructions, and there is neither 'instruction_id' nor 'task'.")


@configclass
class VLAPreprocessingCfg(Cfg):
    """Options of preprocessing, part of the policy's configuration and so of its checkpoint."""

    class_type: type = VLAPreprocessing
    resize: Literal["stretch", "pad"] = "stretch"
    """Resizing of images to the backbone's size: stretched, or in their proportions on black."""
    state: VectorNormalizerCfg = VectorNormalizerCfg()
    """Normalization of the proprioception."""
    state_dropout: Annotated[float, Range(ge=0, lt=1)] = 0.0
    """Share of the samples of a batch of demonstrations whose proprioception is zero while training. Posture and speed
    tell how a demonstration goes on: who reads them alone predicts well and sees nothing (de Haan et al. 2019, arXiv
    1905.11979)."""
    action: VectorNormalizerCfg = VectorNormalizerCfg()
    """Normalization of the actions."""
    relative_actions: list[tuple[int | str, int | str]] = []
    """Pairs (action dimension, state dimension): learned as the difference to the state when the chunk begins. The
    statistics of these actions have to be those of the differences: `algorithms.vla_training.relative_spec`."""
    camera_groups: dict[str, str] = {}
    """Camera -> image group of the environment, where it has another name."""
    flipped_cameras: list[str] = []
    """Cameras that the environment renders turned by 180 degrees to the recorded ones (LIBERO, for example)."""
    flipped_actions: list[int | str] = []
    """Dimensions whose sign in the environment is opposite to that in the data: a gripper, for example."""

    def check(self) -> Iterable[str]:
        """Sentences on dimensions that are named twice."""
        actions = [action for action, _ in self.relative_actions]
        if len(set(actions)) < len(actions):
            yield "relative_actions: names an action dimension twice"
        if actions and self.state_dropout:
            yield "state_dropout: actions relative to the state need it in every sample; set it to 0"


def without_host_entries(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded batch whose features have the same shapes whatever cameras and texts its rows have.

    A captured graph and a table of features need that: they would keep the shapes of the first batch for all others.
    """
    left_out = {PRESENT, "task"} if "instruction_id" in batch else {PRESENT}
    return {name: value for name, value in batch.items() if name not in left_out}


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"
