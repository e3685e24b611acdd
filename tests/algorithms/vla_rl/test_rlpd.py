"""Demonstrations in half of every batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import frozen_runs as runs
import numpy as np
import pytest
import torch
from frozen_runs import algorithm_cfg, collect, learner
from RoboRenForce.algorithms.vla_rl import DSRLCfg, ResidualChunkCfg, RLPDCfg
from RoboRenForce.algorithms.vla_rl.demonstration_replay import chunk_returns, encode_demonstrations
from RoboRenForce.data import DatasetFileError, LeRobotWriter
from RoboRenForce.utils.errors import ConfigError

LENGTHS = (5, 1, 7)
_VECTORS = {"observation.state": 3, "action": 2}
_FEATURES = {
    "observation.state": {"dtype": "float32", "shape": [3], "names": ["x", "y", "z"]},
    "action": {"dtype": "float32", "shape": [2], "names": ["dx", "dy"]},
    "observation.images.front": {"dtype": "image", "shape": [16, 16, 3], "names": ["height", "width", "channels"]},
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, np.ndarray]]]:
    root, draw, frames = tmp_path_factory.mktemp("data") / "demos", np.random.default_rng(0), []
    with LeRobotWriter.create(root, fps=10, features=_FEATURES) as writer:
        for length in LENGTHS:
            for _ in range(length):
                frame = {name: draw.uniform(-1, 3, width).astype(np.float32) for name, width in _VECTORS.items()}
                frame["observation.images.front"] = draw.integers(0, 256, (16, 16, 3)).astype(np.uint8)
                writer.add_frame(frame, runs.TEXT)
                frames.append(frame)
            writer.save_episode()
    return root, frames


@pytest.mark.oracle
@pytest.mark.parametrize("chunk", [1, 3, 4, 10])
def test_chunks_of_demonstrations_are_worth_what_walking_through_them_gives(chunk: int) -> None:
    reward, discount, successor = chunk_returns(torch.tensor(LENGTHS), chunk, 0.9, 2.0)
    row = 0
    for length in LENGTHS:
        for frame in range(length):
            worth, gamma = 0.0, 1.0
            for step in range(frame, min(frame + chunk, length)):
                worth, gamma = worth + gamma * 2.0 * (step == length - 1), gamma * 0.9
            ends = frame + chunk >= length
            assert reward[row].item() == pytest.approx(worth)
            assert discount[row].item() == pytest.approx(0.0 if ends else gamma)
            assert ends or successor[row] == row + chunk
            row += 1


@pytest.mark.oracle
def test_demonstrations_are_encoded_as_the_environment_shows_them(tmp_path: Path, recorded: Any) -> None:
    root, frames = recorded
    built, _ = learner(algorithm_cfg(tmp_path, actions=ResidualChunkCfg(scale=10.0)))
    options = {"gamma": 0.9, "final_reward": 1.0, "batch_size": 8}
    demonstrations = encode_demonstrations(str(root), built.features, **options)
    ids = next(iter(built.model.preprocessing.instructions.table))
    stacked = {name: torch.from_numpy(np.stack([frame[name] for frame in frames])) for name in frames[0]}
    obs = {"front": stacked["observation.images.front"], "proprio": stacked["observation.state"]}
    obs["instruction_id"] = torch.full((len(frames), 1), ids)
    seen = built.features(obs)
    torch.testing.assert_close(demonstrations.features, seen.features)
    # What was demonstrated is what the environment would get.
    again = built.features.env_actions(demonstrations.latent, seen)[:, 0]
    torch.testing.assert_close(again, stacked["action"], rtol=1e-4, atol=1e-4)


@pytest.mark.contract
def test_half_of_every_batch_is_demonstrated(tmp_path: Path, recorded: Any) -> None:
    cfg = algorithm_cfg(
        tmp_path,
        RLPDCfg,
        demonstrations=str(recorded[0]),
        learner=runs.sac(gradient_steps=3, policy_delay=3, target_members=2),
        networks=runs.small_networks(5),
    )
    built, env = learner(cfg)
    collect(built, env, 8)
    assert built.learner.num_updates and len(built.learner.networks.critic.head.mean(torch.zeros(5, 1, 1))) == 5
    replay = {tuple(row) for row in built.learner.stored_steps(100)["obs/features"].flatten(0, 1).tolist()}
    batch = built.learner.experience.sample()
    online = [tuple(row) in replay for row in batch.obs["features"].tolist()]
    assert online == [True] * 8 + [False] * 8
    assert batch.valid is not None and bool((batch.valid[8:] == 1).all())


@pytest.mark.oracle
def test_targets_come_from_the_drawn_critics_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, recorded: Any
) -> None:
    """With the draw fixed, critics outside of it could be anything."""
    cfg = algorithm_cfg(
        tmp_path, learner=runs.sac(target_members=2, learning_starts=10_000), networks=runs.small_networks(4)
    )
    built, env = learner(cfg)
    collect(built, env, 8)
    batch, losses = built.learner.experience.sample(), []
    target: Any = built.learner.target_critic
    for shift in (0.0, 50.0):
        drawn = torch.Tensor.argsort
        monkeypatch.setattr(torch.Tensor, "argsort", lambda *_: torch.tensor([2, 0, 1, 3]))
        with torch.no_grad():
            last = [parameter for parameter in target.ensemble.parameters() if parameter.shape[0] == 4][-1]
            last[torch.tensor([1, 3])] += shift
        torch.manual_seed(3)
        losses.append(built.learner.critic_loss(batch)[0].detach())
        monkeypatch.setattr(torch.Tensor, "argsort", drawn)
    assert torch.equal(losses[0], losses[1])


@pytest.mark.contract
def test_what_has_no_demonstrations_is_named(tmp_path: Path, recorded: Any) -> None:
    with pytest.raises(ConfigError, match="demonstrations: is empty"):
        RLPDCfg(init_from="run").validate()
    built, env = learner(algorithm_cfg(tmp_path, DSRLCfg, runs.FLOW, demonstrations="nowhere"), runs.FLOW)
    with pytest.raises(DatasetFileError, match="'nowhere': there is no such folder"):
        collect(built, env, 1)  # long before learning begins
    built, env = learner(algorithm_cfg(tmp_path, DSRLCfg, runs.FLOW, demonstrations=str(recorded[0])), runs.FLOW)
    with pytest.raises(ConfigError, match="hold actions and no noise"):
        collect(built, env, 6)
