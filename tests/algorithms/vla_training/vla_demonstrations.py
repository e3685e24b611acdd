"""Small demonstrations and small policies, for the tests of supervised learning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from RoboRenForce.algorithms.vla_training import VLAPretrainAlgorithmCfg
from RoboRenForce.components import OptimizerCfg
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg
from RoboRenForce.data import DataLoaderCfg, LeRobotDatasetCfg, LeRobotWriter
from RoboRenForce.networks import ResidualMLPCfg
from RoboRenForce.networks.vlm import MLPBaselineCfg
from RoboRenForce.runners import VLAPretrainRunnerCfg

TEXTS = ("go to the red square", "go to the blue square")
CHUNK = 4
_FEATURES = {
    "observation.state": {"dtype": "float32", "shape": [2], "names": ["x", "y"]},
    "action": {"dtype": "float32", "shape": [2], "names": ["dx", "dy"]},
    "observation.images.front": {"dtype": "image", "shape": [16, 16, 3], "names": ["height", "width", "channels"]},
}


def record(root: Path, episodes: int = 8, length: int = 7, *, seed: int = 0, shift: float = 0.0) -> Path:
    """A point steps towards the square that is named; `shift` is added to the actions that are recorded."""
    draw = np.random.default_rng(seed)
    with LeRobotWriter.create(root, fps=10, features=_FEATURES) as writer:
        for episode in range(episodes):
            squares, point = draw.integers(0, 14, (2, 2)), draw.uniform(-1, 1, 2)
            image = np.zeros((16, 16, 3), np.uint8)
            for color, (row, column) in zip(((255, 0, 0), (0, 0, 255)), squares, strict=True):
                image[row : row + 2, column : column + 2] = color
            goal = squares[episode % 2] / 7 - 1
            for _ in range(length + episode % 3):
                action = 0.3 * (goal - point) + shift
                frame = {"observation.state": point, "action": action, "observation.images.front": image}
                writer.add_frame(
                    {k: v.astype(np.float32) if v.dtype == float else v for k, v in frame.items()}, TEXTS[episode % 2]
                )
                point = point + action - shift
            writer.save_episode()
    return root


def policy(**backbone: Any) -> MLPBaselinePolicyCfg:
    size = {"image_size": [16, 16], "channels": 8, "looks": 2, "width": 16, "hidden": 16, "num_layers": 1}
    return MLPBaselinePolicyCfg(
        backbone=MLPBaselineCfg(**(size | backbone)),
        head=RegressionHeadCfg(chunk_size=CHUNK, network=ResidualMLPCfg(dim=16, num_blocks=1)),
    )


def runner_cfg(root: Path, *, batch_size: int = 6, **changes: Any) -> VLAPretrainRunnerCfg:
    """A run of four iterations of four updates."""
    options: dict[str, Any] = {
        "max_iterations": 4,
        "epochs": None,
        "updates_per_iteration": 4,
        "save_interval": 2,
        "logger": [],
        "report": False,
        "validation_interval": 0,
        "policy": policy(),
        "algorithm": VLAPretrainAlgorithmCfg(optimizer=OptimizerCfg(learning_rate=1e-2)),
        "dataset": LeRobotDatasetCfg(data_root=str(root)),
        "loader": DataLoaderCfg(batch_size=batch_size, num_workers=0),
    }
    return VLAPretrainRunnerCfg(**(options | changes))
