"""DAgger in two corridors: what is cloned from where the expert went is lost elsewhere, what is corrected is not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from RoboRenForce.algorithms.vla_training import DAggerAlgorithmCfg
from RoboRenForce.components import OptimizerCfg
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg
from RoboRenForce.configclass import Cfg, ConfigError, configclass
from RoboRenForce.data import DataLoaderCfg, LeRobotDatasetCfg, LeRobotWriter, read_metadata
from RoboRenForce.envs import ActionSpec, EnvSpec, MultiModalCfg, VecEnv, VecEnvCfg
from RoboRenForce.networks import ResidualMLPCfg
from RoboRenForce.networks.vlm import MLPBaselineCfg
from RoboRenForce.runners import DAggerRunnerCfg, VLAPretrainRunnerCfg, evaluate
from RoboRenForce.runners.demonstrations import dataset_features, record_demonstrations
from RoboRenForce.utils.logging import read_metrics
from tensordict import TensorDict

TEXTS = ("take the left corridor", "take the right corridor")
LENGTH, WALL = 12, 0.25


class Corridors(VecEnv):
    """The place (x, y) moves away from the middle of its corridor unless it is steered; the wall ends the episode.

    In the right corridor steering is mirrored, so that who does not read the instruction fails in one of both.
    """

    def __init__(self, cfg: CorridorsCfg) -> None:
        self.cfg, self.device = cfg, torch.device(cfg.device)
        action = ActionSpec("continuous", 1, (-1.0,), (1.0,))
        extras = ("final_observations", "success", "instruction")
        groups, dtypes = {"place": (2,), "front": (16, 16, 3)}, {"front": "uint8"}
        self.spec = EnvSpec("Corridors", cfg.num_envs, groups, action, LENGTH, extras, dtypes, step_dt=0.1)
        self.dark = torch.zeros(cfg.num_envs, 16, 16, 3, dtype=torch.uint8)
        self.side = torch.where(torch.arange(cfg.num_envs) % 2 == 0, 1.0, -1.0)
        self.episode_length_buf = torch.zeros(cfg.num_envs, dtype=torch.int64)
        self.draw = torch.Generator()
        self.reset(seed=cfg.seed)

    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        if seed is not None:
            self.draw.manual_seed(seed)
        self.place = self._entrance()
        self.episode_length_buf = torch.zeros_like(self.episode_length_buf)
        return self.get_observations(), {"instruction": self._texts()}

    def get_observations(self) -> TensorDict:
        return TensorDict({"place": self.place.clone(), "front": self.dark}, [self.num_envs])

    def step(self, actions: torch.Tensor) -> Any:
        x, y = self.place.unbind(1)
        self.place = torch.stack([x + 1 / LENGTH, 1.35 * y + 0.3 * self.side * actions[:, 0].clamp(-1, 1)], 1)
        self.episode_length_buf = self.episode_length_buf + 1
        hits = self.place[:, 1].abs() > WALL
        success = (self.episode_length_buf >= LENGTH) & ~hits
        done, final = hits | success, self.get_observations()
        self.place = torch.where(done.unsqueeze(1), self._entrance(), self.place)
        self.episode_length_buf = torch.where(done, 0, self.episode_length_buf)
        extras = {"terminated": done, "time_outs": torch.zeros_like(done), "final_observations": final, "log": {}}
        extras |= {"success": success, "instruction": self._texts()}
        return self.get_observations(), success.float(), done.long(), extras

    def close(self) -> None:
        pass

    def _entrance(self) -> torch.Tensor:
        drawn = 2 * torch.rand(self.num_envs, generator=self.draw) - 1
        return torch.stack([torch.zeros(self.num_envs), self.cfg.spread * drawn], 1)

    def _texts(self) -> list[str]:
        return [TEXTS[row % 2] for row in range(self.num_envs)]


class Steering:
    """The expert: back to the middle."""

    def __init__(self, cfg: Cfg, env: Any) -> None:
        self.env: Corridors = env.unwrapped

    def __call__(self, obs: Any) -> torch.Tensor:
        return (-4.5 * self.env.side * self.env.place[:, 1]).clamp(-1, 1).unsqueeze(1)

    def reset(self, dones: torch.Tensor | None = None) -> None:
        pass


@configclass
class SteeringCfg(Cfg):
    class_type: type = Steering


@configclass
class CorridorsCfg(VecEnvCfg):
    class_type: type = Corridors
    num_envs = 8
    spread: float = 0.1
    """How far from the middle episodes begin."""
    multi_modal = MultiModalCfg(images={"front": "front"}, proprio=["place"], chunk_size=1)
    expert = SteeringCfg()


def demonstrations(root: Path, episodes: int) -> Path:
    env = CorridorsCfg(spread=0.02, multi_modal=MultiModalCfg(images={"front": "front"}, proprio=["place"])).build()
    with LeRobotWriter.create(root, fps=10, features=dataset_features(env.spec, "image")) as writer:
        record_demonstrations(env, SteeringCfg().build(env), writer, episodes, seed=0)
    return root


def dagger_cfg(root: Path, **changes: Any) -> DAggerRunnerCfg:
    backbone = MLPBaselineCfg(width=16, hidden=32, num_layers=1, image_size=[16, 16])
    head = RegressionHeadCfg(chunk_size=2, loss="l2", network=ResidualMLPCfg(dim=32, num_blocks=1))
    options: dict[str, Any] = {
        "dataset": LeRobotDatasetCfg(data_root=str(root)),
        "policy": MLPBaselinePolicyCfg(backbone=backbone, head=head),
        "algorithm": DAggerAlgorithmCfg(optimizer=OptimizerCfg(learning_rate=3e-3), beta_decay=0.5, beta_min=0.0),
        "loader": DataLoaderCfg(batch_size=64, num_workers=0),
        "updates_per_iteration": 150,
        "num_envs": 8,
        "episodes_per_round": 16,
        "logger": [],
        "report": False,
    }
    return DAggerRunnerCfg(**(options | changes))


def success_rate(runner: Any) -> float:
    runner.algorithm.eval()
    found = evaluate(runner.eval_env, runner.policy(), 64, seed=7).success_rate
    runner.algorithm.train()
    assert found is not None
    return found


@pytest.mark.long
def test_the_policy_learns_to_come_back(tmp_path: Path) -> None:
    root, env_cfg = demonstrations(tmp_path / "demonstrations", 10), CorridorsCfg()
    rounds, updates = 4, 80
    options = dagger_cfg(root)
    cloned = VLAPretrainRunnerCfg(
        policy=options.policy, algorithm=options.algorithm, dataset=options.dataset, loader=options.loader, epochs=None,
        max_iterations=rounds, updates_per_iteration=updates, validation_interval=0, logger=[], report=False,
    ).build(eval_env=env_cfg.build())  # fmt: skip
    cloned.learn()
    runner = dagger_cfg(root, updates_per_iteration=updates).build(
        log_dir=tmp_path / "run", env_cfg=env_cfg, eval_env=env_cfg.build()
    )
    runner.learn(rounds - 1)
    kept = read_metadata(tmp_path / "run" / "dagger_data")
    assert len(kept.episodes.length) == 16 * (rounds - 1)
    again = dagger_cfg(root, updates_per_iteration=updates, max_iterations=rounds).build(
        log_dir=tmp_path / "run", env_cfg=env_cfg, eval_env=env_cfg.build()
    )
    again.load(tmp_path / "run" / f"model_{rounds - 1}.pt")
    again.learn()
    assert len(read_metadata(tmp_path / "run" / "dagger_data").episodes.length) == 16 * rounds
    betas = read_metrics(tmp_path / "run" / "metrics.jsonl")["DAgger/beta"][1]
    assert betas == [1.0, 0.5, 0.25, 0.125]
    found = success_rate(cloned), success_rate(again)
    assert found[0] <= 0.6 and found[1] >= 0.95, found


def test_labels_are_the_experts_whoever_acts(tmp_path: Path) -> None:
    root, env_cfg = demonstrations(tmp_path / "demonstrations", 4), CorridorsCfg()
    algorithm = DAggerAlgorithmCfg(beta_start=0.0, beta_min=0.0)
    cfg = dagger_cfg(root, algorithm=algorithm, updates_per_iteration=1, max_iterations=1, window_frames=20)
    runner = cfg.build(log_dir=tmp_path / "run", env_cfg=env_cfg)
    runner.learn()
    data = LeRobotDatasetCfg(data_root=str(tmp_path / "run" / "dagger_data")).build()
    batch = data.get_batch(np.arange(len(data)))
    side = torch.tensor([1.0 if text == TEXTS[0] else -1.0 for text in batch["task"]])
    expected = (-4.5 * side * batch["observation.state"][:, 1]).clamp(-1, 1)
    torch.testing.assert_close(batch["action"][:, 0], expected)
    rolling = runner._loader().source.datasets[1]
    assert rolling.episodes.tolist()[-1] == 15 and len(rolling) <= 20 < len(data)  # the newest


def test_an_environment_without_an_expert_is_refused(tmp_path: Path) -> None:
    root = demonstrations(tmp_path / "demonstrations", 2)
    with pytest.raises(ConfigError, match=r"an environment with env\.multi_modal and env\.expert"):
        dagger_cfg(root).build(log_dir=tmp_path / "run", env_cfg=CorridorsCfg(expert=None))
