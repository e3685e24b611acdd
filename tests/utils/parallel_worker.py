"""Run in `test_parallelize.py`, once per rank: what two processes do, for one process to compare with."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from RoboRenForce.utils.checkpoint import load_checkpoint, save_checkpoint
from RoboRenForce.utils.distributed import DistributedContext
from RoboRenForce.utils.errors import UserError
from RoboRenForce.utils.module_state import export_safetensors, local
from RoboRenForce.utils.parallelize import make_mesh
from transformer_training import BLOCKS, MICRO_BATCHES, Learner, evaluate, micro_batch, train

FOLDER = Path(sys.argv[1])
distributed = DistributedContext.from_environment()
mesh = make_mesh(distributed, "cpu")
mean = distributed.mean_
found: dict[str, Any] = {}


def weights(learner: Learner) -> list[torch.Tensor]:
    return [local(p).detach().clone() for p in learner.optimizer.params.values()]


for kind in ("ddp", "fsdp"):
    learner = Learner(BLOCKS.replace(kind=kind), mesh)
    losses = train(learner, 0, 3, mean=mean)
    name = "global_step_3" if kind == "fsdp" else "model_3.pt"
    if kind == "fsdp" or distributed.is_main:  # every rank writes a directory, one of them a file
        (FOLDER / kind).mkdir(exist_ok=True)
        save_checkpoint(FOLDER / kind / name, learner.state_dict() | {"losses": losses})
    distributed.barrier()
    losses += train(learner, 3, 6, mean=mean)
    found[kind] = {
        "losses": losses,
        "ema": evaluate(learner, ema=True, mean=mean),
        "after": evaluate(learner, ema=False, mean=mean),
    }

    resumed = Learner(BLOCKS.replace(kind=kind), mesh)
    resumed.load_state_dict(load_checkpoint(FOLDER / kind / name, into=resumed.state_dict()))
    found[kind]["resumed"] = train(resumed, 3, 6, mean=mean)

    # One rank alone sees a NaN, in one of four micro-batches: no rank moves.
    before = weights(resumed)
    for index in range(MICRO_BATCHES):
        loss = resumed.loss(micro_batch(6, index))
        resumed.optimizer.backward(loss * (torch.nan if index == 1 and distributed.rank == 1 else 1.0))
    resumed.optimizer.step()
    kept = all(map(torch.equal, before, weights(resumed)))
    found[kind]["skipped"] = [float(resumed.optimizer.skipped), float(resumed.optimizer.steps), kept]

# What fsdp wrote, read on ranks that hold whole copies; and what one process wrote, on two that hold shards.
copies = Learner(BLOCKS.replace(kind="ddp"), mesh)
copies.load_state_dict(load_checkpoint(FOLDER / "fsdp" / "global_step_3"))
found["fsdp_to_ddp"] = train(copies, 3, 6, mean=mean)
shards = Learner(BLOCKS.replace(kind="fsdp"), mesh)
shards.load_state_dict(load_checkpoint(FOLDER / "one" / "model_3.pt", into=shards.state_dict()))
found["one_to_two"] = train(shards, 3, 6, mean=mean)
export_safetensors(shards.module, FOLDER / "export", {"dim": 256}, write=distributed.is_main)

for kind in ("ddp", "fsdp"):
    cfg = BLOCKS.replace(kind=kind, mixed_precision="bf16", activation_checkpointing=True)
    learner = Learner(cfg, mesh)
    found[f"{kind}_bf16"] = [*train(learner, 0, 1, mean=mean), evaluate(learner, ema=False, mean=mean)]
    found[f"{kind}_masters"] = sorted({str(p.dtype) for p in learner.optimizer.params.values()})

# Ranks fail together: a shard that only the second one reads is damaged, a folder can't be made by the first.
distributed.barrier()
if distributed.is_main:
    (FOLDER / "damaged").mkdir()
save_checkpoint(FOLDER / "damaged" / "global_step_1", shards.state_dict())
if distributed.is_main:
    file = FOLDER / "damaged" / "global_step_1" / "shard_00001.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    (FOLDER / "a_file").write_text("")
distributed.barrier()


def refusal(call: Callable[[], Any]) -> str:
    try:
        call()
    except UserError as error:
        return str(error)
    return ""


errors = {
    "damaged": refusal(lambda: load_checkpoint(FOLDER / "damaged" / "global_step_1", into=shards.state_dict())),
    "unwritable": refusal(lambda: save_checkpoint(FOLDER / "a_file" / "global_step_1", shards.state_dict())),
    "drift": refusal(lambda: Learner(BLOCKS, mesh)),
}
gathered = distributed.gather_objects(errors)
if distributed.is_main:
    found["errors"] = gathered
    (FOLDER / "result.json").write_text(json.dumps(found))
distributed.close()
