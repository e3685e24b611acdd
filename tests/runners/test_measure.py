"""What an environment measures beside returns: averaged by the runner, passed on by wrappers, absent by default."""

from __future__ import annotations

import pytest
import torch
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.envs.wrapper import VecEnvWrapper
from RoboRenForce.runners.evaluation import measure
from small_runs import ZeroPolicy

pytestmark = pytest.mark.contract


class Measuring(VecEnvWrapper):
    """Measures how long each row has been running, and describes itself in exports."""

    def measurements(self) -> dict[str, dict[str, torch.Tensor]]:
        length = self.env.episode_length_buf.float()
        return {"distance": {"near": length, "far": length + 10.0}}

    def export_metadata(self, run: str) -> dict[str, str]:
        return {"joint_names": "hip,knee", "run_path": run}


def test_the_mean_is_over_steps_and_rows() -> None:
    # Row 0 ends after 2 steps, row 1 after 3: lengths after each of 4 steps are 1 0 1 0 and 1 2 0 1.
    env = Measuring(ScriptedEnvCfg(num_envs=2, script=[["time_out@2"], ["time_out@3"]]).build())
    policy = ZeroPolicy(env.spec.action.shape)
    policy.deterministic = False
    measured = measure(VecEnvWrapper(env), policy, 4)
    assert measured == {"distance": {"near": 6 / 8, "far": 10 + 6 / 8, "num_envs": 2, "steps": 4}}
    assert policy.deterministic is False  # as it was
    assert len(policy.resets) == 6 and policy.resets[2].tolist() == [1, 0]


def test_an_environment_that_measures_nothing_is_not_stepped() -> None:
    env = ScriptedEnvCfg(num_envs=2).build()
    before = env.get_observations()["policy"].clone()
    assert measure(env, ZeroPolicy(env.spec.action.shape), 4) == {}
    assert torch.equal(env.get_observations()["policy"], before)


def test_wrappers_pass_the_description_on() -> None:
    env = VecEnvWrapper(Measuring(ScriptedEnvCfg().build()))
    assert env.export_metadata("a run") == {"joint_names": "hip,knee", "run_path": "a run"}
    assert VecEnvWrapper(ScriptedEnvCfg().build()).export_metadata("a run") == {}
