"""A policy that was cloned from few and noisy demonstrations on the tabletop, in memory: where RL begins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce.components.action_heads import ActionHeadCfg
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg, VLAPolicy
from RoboRenForce.components.vla_spec import VectorSpec, VLASpec
from RoboRenForce.envs import MultiModalCfg, VecEnv
from RoboRenForce.networks.vlm import MLPBaselineCfg
from RoboRenForce.utils.checkpoint import save_checkpoint
from torch import Tensor

pytest.importorskip("RRF_tabletop_tasks", reason="policies of the tabletop need RRF_tabletop")
from RRF_tabletop_tasks import ExpertCfg, TabletopCfg

COLOURS = ["red", "blue"]


def reach_cfg(num_envs: int, *, chunk: int | None = 4, seed: int = 0, **options: Any) -> TabletopCfg:
    """Reach with one block of two colours and one sentence, small pictures and short episodes."""
    chain = MultiModalCfg(images={"front": "front"}, proprio=["robot"], chunk_size=chunk)
    defaults: dict[str, Any] = {
        "colours": COLOURS,
        "num_blocks": 1,
        "num_templates": 1,
        "image_size": 32,
        "reward": "sparse",
    }
    return TabletopCfg(task="Reach", num_envs=num_envs, seed=seed, multi_modal=chain, **(defaults | options))


def small_policy(head: ActionHeadCfg) -> MLPBaselinePolicyCfg:
    """A quarter of a million parameters, for pictures of 32 pixels."""
    backbone = MLPBaselineCfg(image_size=[32, 32], patch=4, channels=24, looks=2, width=64, hidden=128, num_layers=1)
    return MLPBaselinePolicyCfg(backbone=backbone, head=head)


def demonstrations(
    episodes: int,
    chunk: int,
    *,
    seed: int = 1000,
    noise: float = 0.1,
    speed: float = 0.35,
    label_noise: float = 0.0,
) -> dict[str, Tensor]:
    """Frames with the chunks of the expert's actions that follow, noisy themselves if asked for; a row per frame."""
    env = reach_cfg(episodes, chunk=None, seed=seed).build()
    expert = ExpertCfg(speed=speed, seed=seed, noise=label_noise).build(env)
    generator = torch.Generator().manual_seed(seed)
    running = torch.ones(episodes, dtype=torch.bool)
    frames: list[dict[str, Tensor]] = []
    obs = env.get_observations()
    while running.any():
        wanted = expert()
        seen = {name: obs[name].clone() for name in ("front", "proprio", "instruction_id")}
        frames.append(seen | {"action": wanted, "runs": running})
        disturbed = wanted + noise * torch.randn(wanted.shape, generator=generator) * torch.tensor([1.0, 1.0, 0.0])
        obs, _, dones, _ = env.step(disturbed)
        running = running & ~dones.bool()
    stacked = {name: torch.stack([frame[name] for frame in frames]) for name in frames[0]}  # (T, N, ...)
    length = len(frames)
    ahead = (torch.arange(length).unsqueeze(1) + torch.arange(chunk)).clamp(max=length - 1)  # (T, H)
    actions, alive = stacked["action"][ahead], stacked["runs"][ahead]  # (T, H, N, ...)
    past = torch.arange(length).unsqueeze(1) + torch.arange(chunk) >= length
    keep = stacked["runs"]
    return {
        "observation.images.front": stacked["front"][keep],
        "observation.state": stacked["proprio"][keep],
        "instruction_id": stacked["instruction_id"][keep].squeeze(-1),
        "action": actions.transpose(1, 2)[keep],
        "action_is_pad": (~alive | past.unsqueeze(-1)).transpose(1, 2)[keep],
    }


def clone(
    head: ActionHeadCfg, folder: Path, *, episodes: int = 300, steps: int = 180, seed: int = 0, **expert: float
) -> Path:
    """Write a checkpoint as a run of supervised learning writes it; `expert` as in `demonstrations`."""
    torch.manual_seed(seed)
    data, env = demonstrations(episodes, head.chunk_size, **expert), reach_cfg(1).build()
    policy = small_policy(head).build(spec_of(data, env))
    fit(policy, data, steps)
    return save_policy(policy, folder)


def save_policy(policy: VLAPolicy, folder: Path) -> Path:
    """Write a checkpoint as a run of supervised learning writes it."""
    state = {
        "spec": policy.spec.to_dict(),
        "policy": {"tensors": dict(policy.state_dict()), "left_out": []},
        "optimizer": {},
        "frozen": {},
    }
    path = folder / "model_1.pt"
    save_checkpoint(path, {"algorithm": state})
    return path


def fit(
    policy: VLAPolicy,
    data: dict[str, Tensor],
    steps: int,
    batch: int = 64,
    *,
    rate: Callable[[int], float] | None = None,
) -> None:
    """Behavior cloning at a rate of 1e-3 after a warm-up, or at `rate(step)` times that."""
    optimizer = torch.optim.AdamW(policy.parameters(), 1e-3, weight_decay=1e-4, fused=True)
    schedules = torch.optim.lr_scheduler
    schedule = schedules.LambdaLR(optimizer, rate) if rate else schedules.LinearLR(optimizer, 0.02, total_iters=50)
    for _ in range(steps):
        index = torch.randint(len(data["action"]), (batch,))
        rows = {name: tensor[index] for name, tensor in data.items()}
        policy.loss(policy.encode(rows), rows["action"], rows["action_is_pad"]).mean.backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()


def spec_of(data: dict[str, Tensor], env: VecEnv) -> VLASpec:
    texts = tuple(env.instruction_table.values())
    return VLASpec(("front",), _vector(data["observation.state"]), _vector(data["action"].flatten(0, 1)), texts)


def _vector(values: Tensor) -> VectorSpec:
    statistics = {
        "min": values.amin(0),
        "max": values.amax(0),
        "mean": values.mean(0),
        "std": values.std(0),
        "q01": values.quantile(0.01, 0),
        "q99": values.quantile(0.99, 0),
    }
    return VectorSpec(values.shape[1], (), {name: tuple(row.tolist()) for name, row in statistics.items()})
