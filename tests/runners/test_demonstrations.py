"""Recording demonstrations: what is in the data set is what a policy would have observed, and what the expert chose."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce.configclass import Cfg, configclass
from RoboRenForce.data import LeRobotDatasetCfg, LeRobotWriter
from RoboRenForce.envs import MultiModalCfg, ScriptedEnvCfg
from RoboRenForce.runners.demonstrations import dataset_features, record_demonstrations
from RoboRenForce.utils.errors import EnvContractError, UserError

pytest.importorskip("pyarrow")
pytestmark = pytest.mark.contract

ACTION = (0.25, -0.5)


class ConstantExpert:
    """The same action always."""

    def __init__(self, cfg: ConstantExpertCfg, env: Any) -> None:
        self.env, self.resets = env, 0

    def __call__(self, obs: Any) -> torch.Tensor:
        return torch.tensor(ACTION).expand(self.env.num_envs, 2)

    def reset(self, dones: torch.Tensor | None = None) -> None:
        self.resets += 1


@configclass
class ConstantExpertCfg(Cfg):
    class_type: type = ConstantExpert


def env_cfg(script: list[list[str]], **options: Any) -> ScriptedEnvCfg:
    """Episodes that end in success where they say `terminated`; images tell the step, `proprio` the episode."""
    chain = MultiModalCfg(images={"front": "image"}, proprio=["policy"], instruction="count", **options)
    return ScriptedEnvCfg(
        num_envs=len(script),
        script=script,
        image_shape=[8, 8, 3],
        extras=["success", "final_observations"],
        multi_modal=chain,
        expert=ConstantExpertCfg(),
    )


def recorded(folder: Path, cfg: ScriptedEnvCfg, episodes: int, *, resume: bool = False, **options: Any) -> Any:
    env: Any = cfg.build()
    if resume:
        writer = LeRobotWriter.resume(folder)
    else:
        writer = LeRobotWriter.create(folder, fps=10, features=dataset_features(env.spec, "image"))
    assert cfg.expert is not None
    with writer:
        result = record_demonstrations(env, cfg.expert.build(env), writer, episodes, **{"seed": 3, **options})
    return result, LeRobotDatasetCfg(data_root=str(folder)).build()


def lengths(data: Any) -> list[int]:
    """Frames of each episode."""
    return data.metadata.episodes.length.tolist()


def test_frames_are_what_the_expert_saw_and_did(tmp_path: Path) -> None:
    result, data = recorded(tmp_path / "d", env_cfg([["terminated@2", "terminated@3"]]), 3)
    assert (result.saved, result.failed, result.frames) == (3, 0, 7) and lengths(data) == [2, 3, 2]
    items = [data[index] for index in range(len(data))]
    steps = [0, 1, 0, 1, 2, 0, 1]
    for item, step, episode in zip(items, steps, [0, 0, 1, 1, 1, 2, 2], strict=True):
        assert item["observation.images.front"].unique().tolist() == [step]
        # Seed 3, and the sum of the actions so far.
        expected = [300.0 + episode, float(step), step * sum(ACTION)]
        assert item["observation.state"].tolist() == pytest.approx(expected)
        assert item["action"].tolist() == list(ACTION) and item["task"] == "count"


def test_only_successes_are_kept_unless_failures_are_wanted(tmp_path: Path) -> None:
    script = [["time_out@2", "terminated@3"], ["terminated@4"]]
    result, data = recorded(tmp_path / "d", env_cfg(script), 4)
    assert sorted(lengths(data)) == [3, 3, 4, 4] and result.failed == 2
    result, data = recorded(tmp_path / "all", env_cfg(script), 4, include_failures=True)
    assert sorted(lengths(data)) == [2, 3, 4, 4] and result.failed == 1


def test_each_environment_contributes_its_share_though_others_end_sooner(tmp_path: Path) -> None:
    _, data = recorded(tmp_path / "d", env_cfg([["terminated@1"], ["terminated@9"]]), 4)
    assert sorted(lengths(data)) == [1, 1, 9, 9]


def test_a_resumed_recording_adds_other_episodes(tmp_path: Path) -> None:
    cfg = env_cfg([["terminated@2"]])
    recorded(tmp_path / "d", cfg, 2)
    result, data = recorded(tmp_path / "d", cfg, 5, resume=True)
    assert result.saved == 5 and len(lengths(data)) == 5
    starts = [float(data[2 * episode]["observation.state"][0]) for episode in range(5)]
    assert len(set(starts)) == 5
    again, _ = recorded(tmp_path / "d", cfg, 5, resume=True)
    assert again.saved == 5


def test_noise_disturbs_what_is_executed_and_not_what_is_recorded(tmp_path: Path) -> None:
    _, data = recorded(tmp_path / "d", env_cfg([["terminated@9"]]), 1, noise=0.5)
    assert all(data[index]["action"].tolist() == list(ACTION) for index in range(9))
    sums = torch.stack([torch.as_tensor(data[index]["observation.state"])[2] for index in range(9)])
    executed = sums.diff()
    assert (executed - sum(ACTION)).abs().min() > 1e-4 and executed.abs().max() <= 2.0


def test_who_is_no_expert_is_told_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"failed in 200 episodes and succeeded in 0: it is no expert for this task"):
        recorded(tmp_path / "d", env_cfg([["time_out@1"]] * 4), 10)


def test_environments_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="chunks of 3, expected single continuous ones"):
        recorded(tmp_path / "a", env_cfg([["terminated@2"]], chunk_size=3), 1)
    cfg = env_cfg([["terminated@2"]])
    cfg.extras = ["final_observations"]
    with pytest.raises(EnvContractError, match="doesn't say which episodes succeed"):
        recorded(tmp_path / "b", cfg, 1)
    cfg.action_kind, cfg.extras = "discrete", ["success", "final_observations"]
    with pytest.raises(UserError, match="discrete actions"):
        recorded(tmp_path / "c", cfg, 1)
    bare = env_cfg([["terminated@2"]])
    bare.multi_modal = MultiModalCfg(keep=["policy"], instruction="count")
    with pytest.raises(UserError, match="neither images nor proprio"):
        recorded(tmp_path / "d", bare, 1)
