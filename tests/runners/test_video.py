"""Videos of action chunks: a picture per executed action, with instruction and outcome."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce.envs import MultiModalCfg, ScriptedEnvCfg
from RoboRenForce.envs.scripted_env import ScriptedEnv
from RoboRenForce.runners import record_video, video
from small_runs import ZeroPolicy
from tensordict import TensorDict
from torch import Tensor

pytestmark = pytest.mark.contract


class Drawn(ScriptedEnv):
    """A frame is as bright as the step of its episode; the buffer is reused."""

    buffer = np.zeros((16, 64, 3), np.uint8)

    def render(self) -> Any:
        self.buffer[:] = int(self._steps[0])
        return self.buffer


class Idle(ZeroPolicy):
    def forward(self, obs: TensorDict) -> Tensor:
        return torch.zeros(len(obs), *self.shape)


def filmed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chunk: int | None, steps: int) -> list[tuple[Any, ...]]:
    """Film episodes of 6 and then 5 steps; return (brightness, step, outcome) of each frame."""
    captions: list[tuple[Any, ...]] = []
    written: list[tuple[Any, ...]] = []

    def add_caption(picture: Any, text: str, step: int, success: bool | None = None) -> Any:
        assert text == "go on"
        captions.append((int(picture[0, 0, 0]), step, success))
        return len(captions) - 1

    def write_mp4(path: Path, frames: Any, fps: float) -> int:
        written.extend(captions[frame] for frame in frames)
        return len(written)

    monkeypatch.setattr(video, "add_caption", add_caption)
    monkeypatch.setattr(video, "write_mp4", write_mp4)
    chain = MultiModalCfg(proprio=["policy"], instruction="go on", chunk_size=chunk)
    script = [["terminated@6", "time_out@5"], ["time_out@3"]]
    env = ScriptedEnvCfg(class_type=Drawn, num_envs=2, script=script, extras=["success"], multi_modal=chain).build()
    shape = (2,) if chunk is None else (chunk, 2)
    assert record_video(env, Idle(shape), tmp_path / "a.mp4", steps=steps, seed=0) == len(written)
    return written


@pytest.mark.parametrize("chunk", [None, 1, 4])
def test_every_executed_action_has_its_picture(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, chunk: int | None
) -> None:
    hold = 5  # half a second at 10 frames a second
    first = [(step, step, None) for step in range(6)] + [(5, 5, True)] * hold
    second = [(step, step, None) for step in range(5)] + [(4, 4, False)] * hold
    assert filmed(monkeypatch, tmp_path, chunk, steps=11) == first + second
    assert filmed(monkeypatch, tmp_path, chunk, steps=7) == [*first, (0, 0, None)]
    assert filmed(monkeypatch, tmp_path, chunk, steps=5) == first[:5], "the end is cut, and not told"


def test_a_captioned_video_is_written(tmp_path: Path) -> None:
    import av

    chain = MultiModalCfg(proprio=["policy"], instruction="go on", chunk_size=4)
    env = ScriptedEnvCfg(class_type=Drawn, script=[["terminated@6"]], extras=["success"], multi_modal=chain).build()
    assert record_video(env, Idle((4, 2)), tmp_path / "a.mp4", steps=6) == 6 + 5
    with av.open(str(tmp_path / "a.mp4")) as file:
        frames = [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]
    assert len(frames) == 11 and frames[0].shape[0] > 16 and frames[0].shape[1] == 64
    assert frames[0][16:].max() > 150, "there is writing below the picture"
