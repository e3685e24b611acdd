"""An exported policy is what learning may begin with, with exploration of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from RoboRenForce.algorithms.vla_training.initial_weights import policy_of_run
from RoboRenForce.cli.vla_rl import policy_of
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_export import export_vla
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg
from RoboRenForce.utils.errors import CheckpointError
from vla_cases import CHUNK, policy, recorded

pytest.importorskip("safetensors")
pytestmark = pytest.mark.contract


@pytest.mark.parametrize("own", [True, False])
def test_an_exported_policy_acts_and_may_explore_otherwise(tmp_path: Path, own: bool) -> None:
    built = policy(MLPBaselinePolicyCfg, head=RegressionHeadCfg(chunk_size=CHUNK, std=0.1))
    folder = str(export_vla(built, tmp_path / "exported"))
    cfg = policy_of(folder)
    assert cfg.head.chunk_size == CHUNK
    cfg.head = cfg.head.replace(std=0.3)  # pyright: ignore
    begun, loaded = policy_of_run(cfg, folder, own_exploration=own)
    assert torch.equal(begun(recorded()), built(recorded())) and begun.spec == built.spec
    std = begun.state_dict()["head.log_std"].exp()
    assert torch.allclose(std, torch.full_like(std, 0.3 if own else 0.1))
    assert ("head.log_std" in loaded) is not own


def test_another_policy_is_refused(tmp_path: Path) -> None:
    folder = str(export_vla(policy(MLPBaselinePolicyCfg), tmp_path / "exported"))
    cfg = policy_of(folder)
    cfg.head = cfg.head.replace(chunk_size=CHUNK + 1)
    with pytest.raises(CheckpointError, match="configure the policy as in"):
        policy_of_run(cfg, folder)
