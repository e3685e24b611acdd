"""PPO of a vision-language-action policy as RLinf organizes it, on our networks: the peer of `vla_rl_step.py`.

It follows RLinf 0.4.0 in what costs time:

- three images and 200 text tokens in every row, whatever there is; eager attention with an additive mask,
- raw uint8 frames on the CPU, resized by PIL sample by sample in 8 threads, in the rollout and in every micro-batch,
- features of the frozen backbone computed anew in every micro-batch of every epoch,
- one denoising index for the whole batch, and one more complete prediction for the value of the last observation,
- a copy of the weights that acts, synchronized before every rollout, and `empty_cache` after every mini-batch.

Losses, advantages, optimizer, precision and mini-batches are ours, so that both compute the same gradients
(`tests/benchmarks/test_vla_rl_step.py`). Where RLinf loses time elsewhere, it does not here: no other processes, no
serialization, no tokenizing, batched SDPA in the vision tower, copies of weights within the device.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from RoboRenForce.algorithms.vla_rl import VLAPPO
from RoboRenForce.algorithms.vla_rl.chunk_collector import OBS, PREFIX, RECORD
from RoboRenForce.algorithms.vla_rl.chunk_epochs import ChunkEpochs
from RoboRenForce.algorithms.vla_rl.chunk_rollout import ChunkRollout
from RoboRenForce.algorithms.vla_rl.sample_store import SampleStore
from RoboRenForce.buffer.transition import ActOut
from RoboRenForce.components.action_heads.noisy_steps import OneNoisyStep, step_times
from RoboRenForce.components.action_heads.normal import normal_log_prob
from RoboRenForce.components.vla_policy import VLAPolicy
from RoboRenForce.networks.vlm import Prefix, VLMInputs
from RoboRenForce.utils.precision import autocast
from tensordict import TensorDict
from torch import Tensor, nn

IMAGES, TEXT_TOKENS, THREADS = 3, 200, 8
STATE, INSTRUCTION = "proprio", "instruction_id"


class RLinfLikePPO(VLAPPO):
    """`VLAPPO` with the other organization; built like it, for a Qwen backbone and a Flow-SDE head."""

    def __init__(self, cfg: Any, **runtime: Any) -> None:
        super().__init__(cfg, **runtime)
        language: Any = self.model.backbone.get_submodule("language")
        language.config._attn_implementation = "eager"
        lay_out: Any = self.model.backbone
        lay_out._lay_out(IMAGES)
        self.model.to(self.device)
        learned: dict[str, Any] = {"policy": self.model, "value": self.value}
        self.learned = nn.ModuleDict(learned)
        self.acting: Any = copy.deepcopy(self.learned)
        self.pictures = Pictures(self.model.preprocessing.image_size, self.device)
        self.collector: Any = PaddedCollector(self)
        self.epochs = EmptyingEpochs(cfg, self.module, self.optimizer, self.context.distributed, None)
        self._checked = True  # the check acts by other means

    @torch.no_grad()
    def synchronize(self) -> None:
        """Copy the weights to the policy that acts."""
        torch._foreach_copy_([*self.acting.parameters()], [*self.learned.parameters()])  # pyright: ignore[reportPrivateImportUsage]

    @property
    def rollout(self) -> ChunkRollout:
        """The current rollout, whose samples are frames on the CPU."""
        if self._rollout is None:
            rollout = super().rollout
            rollout.store = FrameStore(rollout.store.capacity, self.device, lambda obs: self.encode(self.model, obs))
        return super().rollout

    @torch.no_grad()
    def encode(self, policy: VLAPolicy, obs: Mapping[str, Tensor]) -> Prefix:
        """Compute the features of frames on the CPU."""
        with autocast(self.cfg.parallel.mixed_precision, self.device):
            return padded_prefix(policy.backbone, padded_inputs(policy, obs, self.pictures))


class PaddedCollector:
    """Acts with the copy of the weights; everything recorded goes to the CPU."""

    def __init__(self, learner: RLinfLikePPO) -> None:
        self.learner, self.spec, self.device = learner, learner.context.spec, learner.device
        self.groups = (*learner.model.spec.cameras, STATE, INSTRUCTION)
        self.policy_version = torch.zeros((), dtype=torch.int64, device=self.device)
        self.rows: Tensor | None = None

    @torch.no_grad()
    def act(self, obs: TensorDict) -> ActOut:
        """Sample chunks for all rows."""
        policy, value = self.learner.acting["policy"], self.learner.acting["value"]
        prefix = self.learner.encode(policy, {name: obs[name] for name in self.groups})
        with autocast(self.learner.cfg.parallel.mixed_precision, self.device):
            normalized, drawn = draw_one_index(policy, prefix)
            actions = policy.preprocessing.env_actions(normalized, policy.raw_state(prefix))
            record: dict[str, Tensor] = {"value": value(prefix)}
        record |= {RECORD + name: tensor.cpu() for name, tensor in drawn.items()}
        record |= {OBS + name: obs[name].cpu() for name in self.groups}
        record |= {"rows": torch.arange(self.spec.num_envs, device=self.device), "policy_version": self.policy_version}
        return ActOut(actions[:, : self.spec.action.chunk], record)

    def values(self, obs: TensorDict, rows: Tensor | None = None, *, keep: bool = False) -> Tensor:
        """Values, by a complete prediction for all rows."""
        value = self.act(obs).record["value"]
        return value if rows is None else value[rows]

    def end_step(self, done: Tensor) -> None:
        """Nothing is kept between two steps."""

    def release(self) -> None:
        """Nothing is captured."""


class FrameStore(SampleStore):
    """Keeps frames, and computes features whenever they are read."""

    def __init__(self, capacity: int, device: torch.device, encode: Any) -> None:
        super().__init__(capacity, device, "host")
        self.encode = encode

    def take(self, index: Tensor) -> dict[str, Tensor]:
        """Gather a micro-batch, with features."""
        rows = index.cpu()
        chosen = {name: stored[rows] for name, stored in self.rows.items()}
        prefix = self.encode({name.removeprefix(OBS): t for name, t in chosen.items() if name.startswith(OBS)})
        found = {name: t.to(self.device) for name, t in chosen.items() if name.startswith(RECORD)}
        return found | {PREFIX + name: tensor for name, tensor in prefix.to_tensors().items()}


class EmptyingEpochs(ChunkEpochs):
    """Gives cached memory back after every mini-batch."""

    def _backward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        metrics = super()._backward(*args, **kwargs)
        torch.cuda.empty_cache()
        return metrics


class Pictures:
    """Frames uint8 `(B, H, W, 3)` of each camera on the CPU -> `(B, IMAGES, *size, 3)` on the device."""

    def __init__(self, size: tuple[int, int], device: torch.device) -> None:
        self.size, self.device = size, device
        self._threads = ThreadPoolExecutor(THREADS)

    def __call__(self, cameras: list[Tensor]) -> Tensor:
        """Resize; absent images are black."""
        samples = zip(*[camera.cpu().numpy() for camera in cameras], strict=True)
        return torch.from_numpy(np.stack(list(self._threads.map(self._sample, samples)))).to(self.device)

    def _sample(self, frames: tuple[np.ndarray, ...]) -> np.ndarray:
        size = self.size[1], self.size[0]
        there = [np.asarray(Image.fromarray(f).resize(size, Image.Resampling.BICUBIC)) for f in frames]
        return np.stack(there + [np.zeros_like(there[0])] * (IMAGES - len(there)))


def padded_inputs(policy: VLAPolicy, obs: Mapping[str, Tensor], pictures: Pictures) -> VLMInputs:
    """Prepare observations on the CPU: `IMAGES` images and `TEXT_TOKENS` tokens of text per row."""
    preprocessing, device = policy.preprocessing, pictures.device
    images = pictures([obs[camera] for camera in policy.spec.cameras])
    there = torch.arange(IMAGES, device=device) < len(policy.spec.cameras)
    ids, mask = preprocessing.instructions(obs[INSTRUCTION].to(device).flatten())
    room = (0, TEXT_TOKENS - ids.shape[1])
    state = preprocessing.state(obs[STATE].to(device))
    return VLMInputs(images, there.expand(len(ids), -1), F.pad(ids, room), F.pad(mask, room), state)


def padded_prefix(backbone: Any, inputs: VLMInputs) -> Prefix:
    """Run a Qwen backbone over all tokens, with what is absent masked."""
    hidden, valid = backbone._sequence(inputs)
    images, deepstack = backbone._see(inputs.images)
    slots, language = backbone.image_slots, backbone.language
    hidden = hidden.index_copy(1, slots, images.to(hidden.dtype))
    extra = [torch.zeros_like(hidden).index_copy(1, slots, part.to(hidden.dtype)) for part in deepstack]
    length = valid.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
    lowest = torch.finfo(hidden.dtype).min
    mask = torch.where(causal & valid.unsqueeze(1), 0.0, lowest).to(hidden.dtype).unsqueeze(1)
    rotation = language.rotary_emb(hidden, backbone._positions(valid, before=0))
    for number, layer in enumerate(language.layers):
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotation)
        if number < len(extra):
            hidden = hidden + extra[number]
    is_image = torch.zeros(length, dtype=torch.bool, device=valid.device).index_fill(0, slots, True)
    return Prefix(language.norm(hidden), valid, is_image.expand(len(valid), -1), inputs.state)


def draw_one_index(policy: VLAPolicy, prefix: Prefix) -> tuple[Tensor, dict[str, Tensor]]:
    """Sample normalized chunks with the noise in one step, the same for all rows; returns them and the record."""
    head: Any = policy.head
    steps: OneNoisyStep = head._noisy(prefix)
    x = head.draw_noise(prefix)
    noisy = int(torch.randint(steps.num_steps, ()))
    record: dict[str, Tensor] = {}
    for number, time in enumerate(step_times(steps.num_steps, x.device)):
        time = time.expand(len(x))
        velocity = steps.velocity(x, time)
        following = x + velocity / steps.num_steps
        if number == noisy:
            mean, log_std = steps.law(x, velocity, time)
            following = mean + log_std.exp() * torch.randn_like(x)
            log_prob = normal_log_prob(following, mean, log_std)
            record = {"before": x, "after": following, "log_prob": log_prob}
        x = following
    return x, record | {"step": torch.full((len(x),), noisy, device=x.device)}
