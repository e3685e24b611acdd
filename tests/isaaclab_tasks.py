"""Tasks of the fake Isaac Lab, in a package with run configurations, as a user's package has them."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import pytest
from doc_pages import ROOT, blocks
from isaaclab_adapter import IsaacLabCfg
from RoboRenForce.algorithms.vla_rl import GRPOCfg
from RoboRenForce.algorithms.vla_training import VLAPretrainAlgorithmCfg
from RoboRenForce.components import OptimizerCfg
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg
from RoboRenForce.configclass import yaml_text
from RoboRenForce.data import DataLoaderCfg
from RoboRenForce.envs import MultiModalCfg, ObsMappingCfg
from RoboRenForce.networks.vlm import MLPBaselineCfg
from RoboRenForce.runners import VLAPretrainRunnerCfg
from RoboRenForce.runners.vla_rl_runner import VLAGRPORunnerCfg
from RoboRenForce.utils import task_packages
from RoboRenForce.utils.registry import ENV_KEY, RUNNER_KEY

PAGE = ROOT / "docs/vla/rl_yaml.md"
PREFIX = "RoboRenForce-IsaacLab-Reach"


def example() -> str:
    """The YAML for Isaac Lab on the page."""
    return next(text for text in blocks(PAGE, "yaml") if PREFIX in text)


def add_package(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Announce a task package with the configuration of the page, and register its tasks."""
    configs = folder / "my_isaac_tasks" / "configs"
    configs.mkdir(parents=True)
    (configs.parent / "__init__.py").write_text("")
    (configs / "isaaclab_reach_grpo.yaml").write_text(example())
    monkeypatch.syspath_prepend(str(folder))
    announced = task_packages.announced()
    monkeypatch.setattr(task_packages, "announced", lambda group="": {**announced, "isaaclab": "my_isaac_tasks"})
    mapping = ObsMappingCfg.from_dict(yaml_text.load(example())["env"]["multi_modal"]["mapping"])
    policy = MLPBaselinePolicyCfg(
        backbone=MLPBaselineCfg(image_size=[16, 16], patch=4), head=RegressionHeadCfg(chunk_size=4)
    )
    imitation = VLAPretrainRunnerCfg(
        policy=policy,
        algorithm=VLAPretrainAlgorithmCfg(optimizer=OptimizerCfg(learning_rate=1e-3)),
        loader=DataLoaderCfg(batch_size=16, num_workers=0),
        validation_interval=0,
    )
    seen = IsaacLabCfg(multi_modal=MultiModalCfg(mapping=mapping, chunk_size=4))
    reinforcement = VLAGRPORunnerCfg(policy=policy, algorithm=GRPOCfg())
    for name, env_cfg, runner_cfg in (("BC", seen, imitation), ("GRPO", IsaacLabCfg(), reinforcement)):
        task = f"{PREFIX}-{name}"
        gym.register(id=task, entry_point="isaaclab_tasks:none", kwargs={ENV_KEY: env_cfg, RUNNER_KEY: runner_cfg})
        monkeypatch.setitem(gym.registry, task, gym.registry.pop(task))  # forgotten after the test
