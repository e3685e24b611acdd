"""Tiles: the first episode of every environment, each with its own step, reward and outcome, and its last picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce.envs import MultiModalCfg, ScriptedEnvCfg
from RoboRenForce.runners import tiles
from RoboRenForce.runners.tiles import record_tiles
from RoboRenForce.utils.errors import UserError
from small_runs import ZeroPolicy
from tensordict import TensorDict
from torch import Tensor

pytestmark = pytest.mark.contract


class Idle(ZeroPolicy):
    def forward(self, obs: TensorDict) -> Tensor:
        return torch.zeros(len(obs), *self.shape)


def build(chunk: int | None, **options: Any) -> Any:
    """Rows whose first episodes take 3, 5 and 4 steps; pictures are as bright as the step."""
    chain = MultiModalCfg(images={"front": "image"}, instruction=["a", "b", "c"], chunk_size=chunk)
    script = [["terminated@3"], ["time_out@5"], ["terminated@4"]]
    extras = ["success", "final_observations"]
    cfg = ScriptedEnvCfg(num_envs=3, script=script, image_shape=[8, 6, 3], extras=extras, multi_modal=chain)
    return cfg.replace(**options).build()


def filmed(
    monkeypatch: pytest.MonkeyPatch, env: Any, path: Path, **options: Any
) -> tuple[list[np.ndarray], list[tuple[Any, ...]], float]:
    captions: list[tuple[Any, ...]] = []
    frames: list[np.ndarray] = []
    rates: list[float] = []

    def add_caption(picture: Any, text: str, step: int, success: bool | None = None, *, reward: float) -> Any:
        captions.append((text, int(picture[0, 0, 0]), step, success, reward))
        return picture

    def write_mp4(path: Path, pictures: Any, fps: float) -> int:
        frames.extend(pictures)
        rates.append(fps)
        return len(frames)

    monkeypatch.setattr(tiles, "add_caption", add_caption)
    monkeypatch.setattr(tiles, "write_mp4", write_mp4)
    shape = (2,) if env.spec.action.chunk == 0 else (env.spec.action.chunk, 2)
    assert record_tiles(env, Idle(shape), path, seed=0, **options) == len(frames)
    return frames, captions, rates[0]


@pytest.mark.parametrize("chunk", [None, 2])
def test_an_episode_of_every_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chunk: int | None) -> None:
    frames, captions, rate = filmed(monkeypatch, build(chunk), tmp_path / "a.mp4")
    ends = {text: outcome for text, *outcome in captions if outcome[2] is not None}
    # The environment pays 1 for each step, and tells the true last picture.
    assert ends == {"a": [3, 3, True, 3.0], "b": [5, 5, False, 5.0], "c": [4, 4, True, 4.0]}
    assert rate == pytest.approx(10 / (chunk or 1))
    acted = 5 if chunk is None else 3
    assert len(frames) == 1 + acted + round(rate), "the start, every step, a second of the end"
    height, width = 160, 120  # enlarged to be read
    assert {frame.shape for frame in frames} == {(2 * height, 2 * width, 3)}
    corners = [frame[::height, ::width, 0].ravel().tolist() for frame in frames]
    assert corners[0] == [0, 0, 0, 0] and corners[-1] == [3, 5, 4, 0]
    running = [(step, reward) for text, _, step, success, reward in captions if text == "b" and success is None]
    assert running[:2] == [(0, 0.0), (chunk or 1, float(chunk or 1))]


def test_captions_may_be_left_out_and_a_camera_chosen(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    frames, captions, _ = filmed(monkeypatch, build(2), tmp_path / "a.mp4", captions=False, camera="front", steps=1)
    assert not captions and len(frames) == 2 + 5


def test_a_real_file(tmp_path: Path) -> None:
    import av

    count = record_tiles(build(2), Idle((2, 2)), tmp_path / "a.mp4", seed=0)
    with av.open(str(tmp_path / "a.mp4")) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(frames) == count and frames[0].shape[0] > 2 * 160


def test_what_has_no_camera_is_refused(tmp_path: Path) -> None:
    env = ScriptedEnvCfg(num_envs=2).build()
    with pytest.raises(UserError, match=r"got none, expected one of \[\]: name it, or let the environment observe"):
        record_tiles(env, Idle((2,)), tmp_path / "a.mp4")
    with pytest.raises(UserError, match=r"got wrist, expected one of \['front'\]"):
        record_tiles(build(None), Idle((2,)), tmp_path / "a.mp4", camera="wrist")
