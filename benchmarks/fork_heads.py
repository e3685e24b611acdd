"""Two equally good ways around a post: which action heads keep both, cloned from the same demonstrations.

    python benchmarks/fork_heads.py --output benchmarks/results/fork_heads.json
    python benchmarks/fork_heads.py --heads flow,regression_l2 --seed 7

The expert of the Fork task passes left or right by chance. Policies act in whole chunks of actions: with a new chunk
every few actions, the mean of both ways may leave the fork before the post, and heads would hardly differ. Success is
that of the policy's mode, in scenes that were not demonstrated. The ways are those of samples from the same start, for
several starts: `right_least` and `right_most` are the shares where the fewest and where the most passed on the right.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from report import environment_report, write_json
from RoboRenForce.algorithms.vla_training import VLAPlayPolicy
from RoboRenForce.cli.demonstration_run import collect_demos_parser, prepare_demonstrations
from RoboRenForce.components.action_heads import (
    ActionHeadCfg,
    BinsHeadCfg,
    DiffusionHeadCfg,
    FASTHeadCfg,
    FlowHeadCfg,
    RegressionHeadCfg,
)
from RoboRenForce.components.chunk_execution import RecedingHorizonCfg
from RoboRenForce.components.vla_policy import VLAPolicy
from RoboRenForce.data import DataLoaderCfg, LeRobotDataset, LeRobotDatasetCfg
from RoboRenForce.envs import GroupVecCfg
from RoboRenForce.networks import TokenDecoderCfg
from RoboRenForce.networks.vlm import MLPBaselineCfg
from RoboRenForce.runners import VLAPretrainRunnerCfg
from RoboRenForce.runners.evaluation import evaluate, playing
from RoboRenForce.utils.registry import load_task

TASK = "RoboRenForce-Tabletop-Fork-BC"
CHUNK = 8
PIXELS = 32
"""Of the task's 64, so that a core learns seven heads in minutes."""
BACKBONE = MLPBaselineCfg(image_size=[PIXELS, PIXELS], shift=2, looks=2, width=64, hidden=128, num_layers=1)
"""A quarter of a million parameters: the scenes of this task are simple."""
DECODER = TokenDecoderCfg(dim=64, num_layers=2)
HEADS: dict[str, ActionHeadCfg] = {
    "flow": FlowHeadCfg(draws_per_feature=4),
    "diffusion": DiffusionHeadCfg(prediction="sample", draws_per_feature=4),
    "diffusion_epsilon": DiffusionHeadCfg(prediction="epsilon", draws_per_feature=4),
    "bins": BinsHeadCfg(decoding="autoregressive", num_bins=32, decoder=DECODER),
    "fast": FASTHeadCfg(vocabulary=256, num_levels=128, decoder=DECODER),
    "regression_l1": RegressionHeadCfg(loss="l1"),
    "regression_l2": RegressionHeadCfg(loss="l2"),
}
UPDATES = 800
FLOW_UPDATES = 2000
"""A velocity contains the noise, which takes longer to learn than the clean chunk."""
EPISODES, STARTS, PER_START = 200, 4, 100


class InMemory(LeRobotDataset):
    """A small data set, of which all frames are decoded once for all heads."""

    def get_batch(self, indices: np.ndarray) -> dict[str, Any]:
        """Look the frames up."""
        return {key: frames[indices] for key, frames in decoded(self.cfg.data_root).items()}


@cache
def decoded(data_root: str) -> dict[str, torch.Tensor]:
    """Read every frame with its chunk of actions."""
    data = LeRobotDatasetCfg(data_root=data_root).for_policy(CHUNK, (), "all").build()
    frames = data.get_batch(np.arange(len(data)))
    return {key: values for key, values in frames.items() if isinstance(values, torch.Tensor)}


def record(folder: Path, episodes: int, seed: int) -> None:
    """Write demonstrations, as `scripts/data/collect_demos.py` does."""
    options = ["--task", TASK, "--output", str(folder), "--num_episodes", str(episodes), "--seed", str(seed)]
    run = prepare_demonstrations(
        collect_demos_parser(None).parse(
            [*options, "--images", "--noise", "0.1", "--num_envs", "50", f"env.image_size={PIXELS}"]
        )
    )
    try:
        run.record()
    finally:
        run.env.close()


def learn(head: ActionHeadCfg, data: Path, *, updates: int, batch_size: int, seed: int) -> tuple[VLAPolicy, float]:
    """Clone the demonstrations with the optimizer of the task; returns the seconds of CPU time, too."""
    cfg: VLAPretrainRunnerCfg = load_task(TASK).runner_cfg
    cfg.dataset = LeRobotDatasetCfg(class_type=InMemory, data_root=str(data))
    cfg.policy.backbone = BACKBONE
    cfg.policy.head = head.replace(chunk_size=CHUNK)
    cfg.loader = DataLoaderCfg(batch_size=batch_size, num_workers=0)
    cfg.updates_per_iteration = updates
    cfg.set_length(1)
    cfg = cfg.replace(seed=seed, validation_interval=0, logger=[], report=False)
    with tempfile.TemporaryDirectory() as folder:
        runner = cfg.build(log_dir=folder)
        started = time.process_time()
        runner.learn()
        seconds = time.process_time() - started
        runner.close()
    runner.algorithm.eval()
    return runner.algorithm.policy_model, seconds


def success(policy: VLAPolicy, seed: int) -> dict[str, float]:
    """Play whole chunks of the mode in `EPISODES` scenes."""
    env = _env(num_envs=50, seed=seed, chunk_size=CHUNK)
    policy.add_instructions(env.instruction_table.values())
    found = evaluate(env, VLAPlayPolicy(policy, env.spec), EPISODES, seed=seed).success
    assert found is not None  # the task says what success is
    return {"success": found.rate, "low": found.low, "high": found.high}


@torch.no_grad()
def ways(policy: VLAPolicy, seed: int) -> list[float | None]:
    """Share of samples that pass the post on the right, of those that pass it, for each start; None if none does."""
    env = _env(num_envs=STARTS * PER_START, seed=seed, chunk_size=None, groups=GroupVecCfg(group_size=PER_START))
    policy.add_instructions(env.instruction_table.values())
    player = VLAPlayPolicy(policy, env.spec, execution=RecedingHorizonCfg())
    side = torch.zeros(env.num_envs)  # -1 left, 1 right, 0 not yet
    plays = torch.ones(env.num_envs, dtype=torch.bool)
    with playing(player, deterministic=False, seed=seed):
        obs, _ = env.reset(seed=seed)
        while plays.any():
            obs, _, dones, _ = env.step(player(obs))
            plays &= ~dones.bool()
            off = env.unwrapped.scene.hand - env.unwrapped.scene.posts[:, 0]
            side = torch.where(plays & (side == 0) & (off[:, 1] > 0), off[:, 0].sign(), side)
    right, passed = (count.view(STARTS, -1).sum(1).tolist() for count in (side == 1, side != 0))
    return [some / all_ if all_ else None for some, all_ in zip(right, passed, strict=True)]


def _env(*, chunk_size: int | None, **options: Any) -> Any:
    cfg = load_task(TASK).env_cfg
    cfg.multi_modal.chunk_size, cfg.image_size = chunk_size, PIXELS
    return cfg.replace(**options).build()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--heads", default=",".join(HEADS), help=f"of {', '.join(HEADS)}")
    parser.add_argument("--demonstrations", type=int, default=1000, help="episodes")
    parser.add_argument("--updates", type=int, help=f"default: {UPDATES}, and {FLOW_UPDATES} of flow matching")
    parser.add_argument("--batch_size", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0, help="of demonstrations, weights and evaluation")
    parser.add_argument("--output", type=Path, help="JSON file")
    args = parser.parse_args()
    names = args.heads.split(",")
    if unknown := set(names) - set(HEADS):
        parser.error(f"--heads names {', '.join(sorted(unknown))}, expected some of {', '.join(HEADS)}")
    torch.set_num_threads(1)
    results, shares = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "fork"
        record(data, args.demonstrations, args.seed)
        for name in names:
            results[name], shares[name] = measure(name, data, args)
            print(f"{name:15s}", results[name], shares[name], flush=True)
    if args.output is not None:
        options = {name: value for name, value in vars(args).items() if name not in ("output", "updates")}
        facts = {"arguments": options | {"chunk_size": CHUNK}, "results": results, "right_shares": shares}
        write_json(args.output, {"benchmark": "fork_heads", **facts, **environment_report()})


def measure(name: str, data: Path, args: argparse.Namespace) -> tuple[dict[str, Any], list[float | None]]:
    """Learn and play with one head: its row of the table, and the shares behind it."""
    updates = args.updates or (FLOW_UPDATES if name == "flow" else UPDATES)
    policy, seconds = learn(HEADS[name], data, updates=updates, batch_size=args.batch_size, seed=args.seed)
    found, right = success(policy, args.seed + 1000), ways(policy, args.seed + 2000)
    known = [share for share in right if share is not None]
    if known:
        found |= {"right_least": min(known), "right_most": max(known)}
    return {**found, "updates": updates, "cpu_seconds": round(seconds)}, right


if __name__ == "__main__":
    main()
