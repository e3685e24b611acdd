"""Episodes of an expert, recorded as a LeRobot dataset for imitation.

What is recorded is what a vision-language-action policy will get: the cameras and `proprio` as `MultiModal` gives them,
the instruction as the task. The expert itself may see anything.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from tensordict import TensorDict
from torch import Tensor

from ..data import Feature, LeRobotWriter
from ..envs.multi_modal import MultiModal
from ..envs.spec import EnvSpec
from ..envs.vec_env import EvalPolicy
from ..utils.errors import EnvContractError, UserError

IMAGES, STATE, ACTION = "observation.images.", "observation.state", "action"
"""Keys of the dataset; the name of the camera follows the first."""
_PROPRIO = "proprio"
_MOST_FAILURES = 20
"""Failed episodes per successful one at which the expert is no expert; ten times that are allowed at the beginning."""


@dataclass
class Recorded:
    """Progress of a recording."""

    wanted: int
    saved: int = 0
    """Episodes in the dataset."""
    failed: int = 0
    """Episodes that did not succeed, whether they were kept or not."""
    frames: int = 0

    def __str__(self) -> str:
        length = self.frames / max(1, self.saved)
        return f"{self.saved:,} of {self.wanted:,} episodes, {self.failed:,} failed, mean length {length:.0f}"


def dataset_features(spec: EnvSpec, cameras: str = "video") -> dict[str, Feature]:
    """Features of recordings of an environment that `MultiModal` wraps; `cameras` is `video` or `image`.

    Raises:
        UserError: there is nothing that a policy could act on, or actions are no vectors.
    """
    if spec.action.kind != "continuous" or spec.action.chunk:
        raise UserError(
            f"{spec.task} has {spec.action.kind} actions in chunks of {spec.action.chunk}, expected single continuous "
            f"ones: record with env.multi_modal.chunk_size=null."
        )
    features = {
        IMAGES + name: Feature(cameras, shape, ["height", "width", "channels"])
        for name, shape in spec.obs_groups.items()
        if spec.dtype_of(name) == torch.uint8 and len(shape) == 3
    }
    if _PROPRIO in spec.obs_groups:
        features[STATE] = Feature("float32", spec.obs_groups[_PROPRIO])
    if not features:
        raise UserError(f"{spec.task} observes neither images nor proprio: name some in env.multi_modal.")
    features[ACTION] = Feature("float32", (spec.action.dim,))
    return features


@torch.no_grad()
def record_demonstrations(
    env: MultiModal,
    expert: EvalPolicy,
    writer: LeRobotWriter,
    episodes: int,
    *,
    seed: int,
    noise: float = 0.0,
    include_failures: bool = False,
    execute: Callable[[TensorDict, Tensor], Tensor] | None = None,
    on_episode: Callable[[Recorded], None] | None = None,
) -> Recorded:
    """Let the expert act until the dataset holds `episodes` episodes; those of earlier recordings count.

    Every environment contributes its share: to take the first episodes that end would prefer short ones.

    Args:
        env: single actions, no chunks.
        expert: gets the observations of `env` and returns actions `(num_envs, action dim)`.
        writer: of a dataset with `dataset_features(env.spec)`; not finalized here.
        episodes: in the dataset at the end.
        seed: of the episodes; those that a resumed recording adds are others.
        noise: standard deviation of what is added to the executed actions, as a part of half their range. The recorded
            ones are the expert's, so the data shows how to come back (DART, arXiv 1703.09327).
        include_failures: whether episodes without success are kept.
        execute: the actions that are executed, of an observation and the expert's ones, which are recorded all the
            same; None: those.
        on_episode: told after each episode.

    Raises:
        UserError: the expert hardly ever succeeds.
        EnvContractError: the environment doesn't say what success is, and failures are not kept.
    """
    spec = env.spec
    if "success" not in spec.extras and not include_failures:
        raise EnvContractError(
            f"{spec.task} doesn't say which episodes succeed: declare the extra 'success', or keep all episodes with "
            f"--include_failures."
        )
    result = Recorded(episodes, writer.saved_episodes, 0, writer.saved_frames)
    missing = max(0, episodes - writer.saved_episodes)
    quota = [missing // spec.num_envs + (row < missing % spec.num_envs) for row in range(spec.num_envs)]
    keys = {key: _group(key) for key in writer.features if key != ACTION}
    takes = [_Take() for _ in quota]
    generator = torch.Generator(env.device).manual_seed(seed)
    obs, _ = env.reset(seed=seed + writer.saved_episodes)
    expert.reset()
    while any(quota):
        seen = {key: obs[group].cpu().numpy() for key, group in keys.items()}
        texts = env.instructions
        actions = _within(spec, expert(obs))
        executed = actions if execute is None else _within(spec, execute(obs, actions))
        executed = _within(spec, executed + _disturbance(spec, actions, noise, generator)) if noise else executed
        obs, _, dones, extras = env.step(executed)
        chosen = actions.cpu().numpy()
        for row, take in enumerate(takes):
            if quota[row]:
                take.add({**{key: values[row] for key, values in seen.items()}, ACTION: chosen[row]}, texts[row])
        ended = dones.nonzero().squeeze(1).tolist()
        succeeded = extras["success"].tolist() if ended and "success" in extras else [True] * spec.num_envs
        for row in ended:
            if not quota[row]:
                continue
            result.failed += not succeeded[row]
            if succeeded[row] or include_failures:
                takes[row].save(writer)
                quota[row] -= 1
                result.saved, result.frames = writer.saved_episodes, writer.saved_frames
            takes[row] = _Take()
            _require_success(result, include_failures)
            if on_episode is not None:
                on_episode(result)
        expert.reset(dones)
    return result


class _Take:
    """The running episode of one environment."""

    def __init__(self) -> None:
        self._frames: list[dict[str, np.ndarray]] = []
        self._texts: list[str] = []

    def add(self, frame: Mapping[str, np.ndarray], text: str) -> None:
        self._frames.append({key: value.copy() for key, value in frame.items()})
        self._texts.append(text)

    def save(self, writer: LeRobotWriter) -> None:
        for frame, text in zip(self._frames, self._texts, strict=True):
            writer.add_frame(frame, task=text)
        writer.save_episode()


def _group(key: str) -> str:
    """The observation group of a feature."""
    return _PROPRIO if key == STATE else key.removeprefix(IMAGES)


def _require_success(result: Recorded, include_failures: bool) -> None:
    if not include_failures and result.failed >= _MOST_FAILURES * (10 + result.saved):
        raise UserError(
            f"The expert failed in {result.failed:,} episodes and succeeded in {result.saved:,}: it is no expert for "
            f"this task; check its configuration, or record failures too with --include_failures."
        )


def _within(spec: EnvSpec, actions: Tensor) -> Tensor:
    """Actions as the environment executes them."""
    if spec.action.low is None or spec.action.high is None:
        return actions
    return actions.clamp(actions.new_tensor(spec.action.low), actions.new_tensor(spec.action.high))


def _disturbance(spec: EnvSpec, actions: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    drawn = torch.randn(actions.shape, generator=generator, device=actions.device)
    if spec.action.low is None or spec.action.high is None:
        return noise * drawn
    low, high = actions.new_tensor(spec.action.low), actions.new_tensor(spec.action.high)
    half = 0.5 * (high - low)
    return noise * drawn * torch.where(half < math.inf, half, 1.0)
