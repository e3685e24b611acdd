"""Run by torchrun in `test_distributed_run.py`: two processes learn from a replay each, and the run is resumed."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from RoboRenForce import algorithms, components, networks, runners
from small_runs import check_same, scripted
from test_off_policy_runs import SMALL, dsact, sac_cfg, with_memory

RANK = int(os.environ["RANK"])
FOLDER = Path(sys.argv[1])


def flash() -> runners.OffPolicyRunnerCfg:
    backbone, policy = networks.FlashNetCfg(width=8, num_blocks=1), algorithms.flash_sac_policy()
    policy.actor_cfg.backbone_cfg, policy.critic_cfg.backbone_cfg = backbone, backbone
    exploration = components.RepeatedNoiseCfg()
    return sac_cfg(algorithms.FlashSACCfg(**SMALL, precision="fp32", exploration=exploration), policy)


def build(cfg: runners.OffPolicyRunnerCfg, folder: Path) -> runners.Trainer:
    env = scripted(num_envs=4, seed=100 * RANK)
    return cfg.replace(max_iterations=6, save_interval=3).build(env=env, log_dir=folder)


result: dict[str, Any] = {}
for name, cfg in {"dsact": dsact(), "flash": flash(), "memory": with_memory("gru")}.items():
    straight = build(cfg, FOLDER / name)
    straight.learn()
    resumed = build(cfg, FOLDER / name)
    resumed.load(FOLDER / name / "model_3.pt")
    resumed.learn()
    check_same(straight.algorithm.state_dict(), resumed.algorithm.state_dict(), f"{name} of process {RANK}")
    state = straight.algorithm.state_dict()
    shared = {"networks": state["networks"], "parts": state["parts"]}
    rewards = torch.cat([rows.flatten().double() for rows in state["replay"]["contents"].values()]).sum()
    both = straight.distributed.gather_objects((shared, float(rewards)))
    if both is not None:
        check_same(both[0][0], both[1][0], name)
        result[name] = {"updates": straight.algorithm.num_updates, "experience": [float(both[0][1]), float(both[1][1])]}
if RANK == 0:
    (FOLDER / "result.json").write_text(json.dumps(result))
straight.distributed.close()
