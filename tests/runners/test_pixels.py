"""Images reach a network that can read them, or the run says why not before it begins."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from RoboRenForce import networks
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from small_runs import ppo_cfg, scripted
from test_off_policy_runs import sac_cfg

pytestmark = pytest.mark.contract

CNN = networks.CNNCfg(channels=[4, 4], kernel_sizes=4, strides=2, features=8)


def test_groups_that_nothing_reads_are_named_at_start(caplog: pytest.LogCaptureFixture) -> None:
    env = ScriptedEnvCfg(num_envs=4, image_shape=[8, 6, 3]).build()
    for build in (ppo_cfg, sac_cfg):
        caplog.clear()
        build().build(env=env)
        (warning,) = [record.getMessage() for record in caplog.records]
        assert "'image' (8, 6, 3)" in warning and "obs_groups.actor=[" in warning
        caplog.clear()
        build(obs_groups={"actor": ["policy"], "critic": ["critic"]}).build(env=scripted())
        assert not caplog.records


def test_an_image_without_a_cnn_is_refused_with_what_to_use() -> None:
    env = ScriptedEnvCfg(num_envs=4, image_shape=[8, 6, 3]).build()
    with pytest.raises(ValueError, match=r"'image' is an image \(8, 6, 3\) and has no network: .*cnn_cfg=CNNCfg"):
        ppo_cfg(obs_groups={"actor": ["policy", "image"]}).build(env=env)


@pytest.mark.parametrize("shape", [[12, 10, 3], [3, 12, 10]])
def test_ppo_learns_from_images_of_either_layout(shape: list[int]) -> None:
    cfg = ppo_cfg(obs_groups={"actor": ["policy", "image"], "critic": ["image"]}, max_iterations=2)
    cfg.policy.actor_cfg.cnn_cfg = cfg.policy.critic_cfg.cnn_cfg = CNN
    runner = cfg.build(env=ScriptedEnvCfg(num_envs=4, image_shape=shape).build())
    (encoder,) = runner.algorithm.actor.encoder.image_encoders
    before = encoder.layers[0].weight.clone()
    assert before.shape == (4, 3, 4, 4)  # 3 channels
    runner.learn()
    assert not torch.equal(encoder.layers[0].weight, before)


def test_the_pixel_agent_learns_from_the_pictures_of_a_gymnasium_environment(tmp_path: Path) -> None:
    package = pytest.importorskip("RRF_gym_tasks")
    pytest.importorskip("pygame")
    from RRF_gym_tasks.agents import ppo

    env_cfg = package.GymEnvCfg(env_id="CartPole-v1", num_envs=2, image_group="camera", image_size=[24, 32])
    cfg = ppo.pixels("camera", "discrete", CNN).replace(num_steps_per_env=8, max_iterations=2, logger=[], report=False)
    runner = cfg.build(env=env_cfg.build(), log_dir=tmp_path)
    actor = runner.algorithm.actor
    assert actor.encoder.image_groups == ["camera"] and not actor.encoder.flat_groups
    before = actor.encoder.image_encoders[0].layers[0].weight.clone()
    runner.learn()
    assert not torch.equal(actor.encoder.image_encoders[0].layers[0].weight, before)
    again = cfg.build(env=env_cfg.build())
    again.load(tmp_path / "model_2.pt", resume=False)
    obs = runner.env.get_observations()
    torch.testing.assert_close(again.policy()(obs), runner.policy()(obs))
