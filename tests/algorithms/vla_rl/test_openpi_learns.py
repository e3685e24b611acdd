"""A tiny pi0.5 learns to reach from scratch: images and the state in its prompt are all that it has."""

from __future__ import annotations

import pytest
import torch
from cloned_tabletop import demonstrations, fit, reach_cfg, spec_of
from RoboRenForce.algorithms.vla_training.vla_policy import VLAPlayPolicy
from RoboRenForce.components.openpi_policy import OpenPIPolicyCfg
from RoboRenForce.runners import evaluate

pytestmark = pytest.mark.learning


@pytest.mark.long
def test_demonstrations_teach_seven_of_ten() -> None:
    torch.manual_seed(0)
    cfg = OpenPIPolicyCfg(variant="pi05", size="tiny")
    cfg.backbone.vision = cfg.backbone.vision.replace(image_size=32, patch=8)
    cfg.head = cfg.head.replace(chunk_size=4, num_steps=4)
    data = demonstrations(800, 4, speed=0.6, noise=0.3)
    policy = cfg.build(spec_of(data, reach_cfg(1).build()))
    fit(policy, data, 1200)
    policy.eval()
    env = reach_cfg(64, seed=10_000).build()
    found = evaluate(env, VLAPlayPolicy(policy, env.spec), 128, deterministic=True, seed=10_000).success_rate
    assert found is not None and found >= 0.7, found
