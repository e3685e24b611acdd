"""Run by torchrun in `test_distributed_run.py`: two processes train, one is asked to stop, and the run is resumed."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from RoboRenForce import runners
from RoboRenForce.configclass import configclass
from RoboRenForce.utils.checkpoint import load_checkpoint
from small_runs import ppo_cfg, scripted

RANK = int(os.environ["RANK"])
FOLDER = Path(sys.argv[1])


class StopOneProcess(runners.Callback):
    """Signals the second process alone, after iteration 2."""

    def after_iteration(self, runner: runners.Trainer, metrics: dict[str, float]) -> None:
        if runner.iteration == 2 and RANK == 1:
            os.kill(os.getpid(), signal.SIGTERM)


@configclass
class StopOneProcessCfg(runners.CallbackCfg):
    class_type: type = StopOneProcess


def build(folder: Path, **changes: Any) -> runners.Trainer:
    cfg = ppo_cfg(max_iterations=6, save_interval=6, **changes)
    eval_env = scripted(num_envs=2) if cfg.eval_interval and RANK == 0 else None  # as `TrainingRun` builds it
    return cfg.build(env=scripted(num_envs=4, seed=100 * RANK), eval_env=eval_env, log_dir=folder)


def weights(runner: runners.Trainer) -> list[float]:
    return [float(value.double().sum()) for value in runner.policy().state_dict().values()]


straight = build(FOLDER / "straight")
straight.learn()

stopped = build(FOLDER / "halves", callbacks=[StopOneProcessCfg()], eval_interval=1)
stopped.learn()

resumed = build(FOLDER / "halves")
resumed.load(FOLDER / "halves" / f"model_{stopped.iteration}.pt")
resumed.learn()

collected = straight.distributed.gather_objects(
    {
        "straight": weights(straight),
        "resumed": weights(resumed),
        "stopped": stopped.iteration,
        "noise": float(torch.rand(())),
    }
)
if collected is not None:
    saved = load_checkpoint(FOLDER / "straight" / "model_6.pt")
    result = {
        "ranks": collected,
        "steps": straight.steps,
        "seeds": [local["env"]["seeds"].tolist() for local in saved["local"]],
        "files": sorted(path.name for path in (FOLDER / "straight").iterdir()),
    }
    (FOLDER / "result.json").write_text(json.dumps(result))
straight.distributed.close()
