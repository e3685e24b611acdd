"""DDP and FSDP2 on two processes: the losses of one process, and checkpoints that any number of them continues."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce.components import OptimizerCfg, ParamGroupCfg
from RoboRenForce.configclass import ConfigError
from RoboRenForce.utils.checkpoint import load_checkpoint, save_checkpoint
from RoboRenForce.utils.distributed import DistributedContext
from RoboRenForce.utils.module_state import module_state
from RoboRenForce.utils.parallelize import ParallelCfg, named_parameters, parallelize
from safetensors_content import content_of
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor
from transformer_training import BLOCKS, Learner, evaluate, train

pytestmark = pytest.mark.oracle

SUMS = 1e-5
"""Relative tolerance: two ranks add the same float32 numbers in another order."""
BF16 = 5e-3
"""Products are rounded to 8 bits (4e-3) in other places: autocast leaves norms in float32, FSDP does not."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], dict[str, Any], Path]:
    """What one process found, what two found, and the folder of their checkpoints."""
    folder = tmp_path_factory.mktemp("two")
    learner = Learner(BLOCKS)
    losses = train(learner, 0, 3)
    (folder / "one").mkdir()
    save_checkpoint(folder / "one" / "model_3.pt", learner.state_dict())
    losses += train(learner, 3, 6)
    one = {"losses": losses, "ema": evaluate(learner, ema=True), "after": evaluate(learner, ema=False)}
    one["weights"] = module_state(learner.module)["tensors"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, str(Path(__file__).with_name("parallel_worker.py")), str(folder)]
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment = os.environ | variables | {"PYTHONPATH": os.pathsep.join([p for p in sys.path if p])}
    ranks = [
        subprocess.Popen(
            command, env=environment | {"RANK": rank, "LOCAL_RANK": rank}, stderr=subprocess.PIPE, text=True
        )
        for rank in ("0", "1")
    ]
    for rank in ranks:
        _, errors = rank.communicate()
        assert rank.returncode == 0, errors[-3000:]
    return one, json.loads((folder / "result.json").read_text()), folder


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_have_the_losses_of_one_on_the_joint_batch(runs: Any, kind: str) -> None:
    one, two, _ = runs
    assert two[kind]["losses"] == pytest.approx(one["losses"], rel=SUMS)
    assert one["losses"][5] < 0.7 * one["losses"][0]
    assert two[kind]["ema"] == pytest.approx(one["ema"], rel=SUMS)
    assert two[kind]["after"] == pytest.approx(one["after"], rel=SUMS)
    assert abs(one["ema"] - one["after"]) > 1e-2  # the average is swapped in, and out again


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_an_interrupted_run_goes_on_with_the_same_losses(runs: Any, kind: str) -> None:
    assert runs[1][kind]["resumed"] == runs[1][kind]["losses"][3:]


@pytest.mark.parametrize("saved", ["ddp/model_3.pt", "fsdp/global_step_3"])
def test_one_process_continues_what_two_began(runs: Any, saved: str) -> None:
    one, _, folder = runs
    learner = Learner(BLOCKS)
    state = load_checkpoint(folder / saved)
    learner.load_state_dict(state)
    assert state["losses"] == pytest.approx(one["losses"][:3], rel=SUMS)
    assert train(learner, 3, 6) == pytest.approx(one["losses"][3:], rel=SUMS)


def test_two_processes_continue_what_one_or_another_kind_began(runs: Any) -> None:
    one, two, _ = runs
    assert two["one_to_two"] == pytest.approx(one["losses"][3:], rel=SUMS)
    assert two["fsdp_to_ddp"] == pytest.approx(two["fsdp"]["losses"][3:], rel=SUMS)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_nan_on_one_rank_stops_the_step_of_all(runs: Any, kind: str) -> None:
    assert runs[1][kind]["skipped"] == [1.0, 6.0, True]


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_bf16_compute_with_fp32_masters_and_frozen_bf16_weights(runs: Any, kind: str) -> None:
    learner = Learner(BLOCKS.replace(mixed_precision="bf16", activation_checkpointing=True))
    alone = [*train(learner, 0, 1), evaluate(learner, ema=False)]
    assert runs[1][f"{kind}_bf16"] == pytest.approx(alone, rel=BF16)
    assert runs[1][f"{kind}_bf16"][0] != pytest.approx(runs[0]["losses"][0], rel=1e-6)  # it is bfloat16 indeed
    assert runs[1][f"{kind}_masters"] == ["torch.float32"]


def test_all_ranks_refuse_what_one_can_not_do(runs: Any) -> None:
    for errors in runs[1]["errors"]:
        assert "shard_00001.safetensors' is damaged" in errors["damaged"] and "fails the checksum" in errors["damaged"]
        assert "can't be written (Not a directory); earlier checkpoints are untouched" in errors["unwritable"]
        assert "copies would drift apart" in errors["drift"]


def test_exported_shards_are_a_whole_model_in_the_safetensors_format(runs: Any) -> None:
    one, _, folder = runs
    exported = content_of(folder / "export" / "model.safetensors")
    torch.testing.assert_close(exported, one["weights"], rtol=0, atol=2e-5)
    assert json.loads((folder / "export" / "config.json").read_text()) == {"dim": 256}


# ------------------------------------------------------------------------------------------------------- one process


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.inner(x).tanh()


def stack() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Block(), Block(), nn.Linear(8, 1))


def gradients(module: nn.Module) -> list[torch.Tensor]:
    module(torch.linspace(-1, 1, 24).view(3, 8)).sum().backward()
    return [p.grad for p in module.parameters() if p.grad is not None]


def test_recomputed_blocks_are_those_that_the_pattern_names_and_gradients_stay() -> None:
    plain, module = stack(), stack()
    calls = []
    for index in (0, 1):
        module[index].inner.register_forward_hook(lambda *_, index=index: calls.append(index))
    parallelize(module, None, ParallelCfg(blocks=["Block"], activation_checkpointing=["1"]))
    torch.testing.assert_close(gradients(module), gradients(plain), rtol=0, atol=0)
    assert calls == [0, 1, 1]
    assert module.state_dict().keys() == plain.state_dict().keys()


def test_compiled_blocks_keep_names_and_numbers() -> None:
    plain, module = stack(), stack()
    frames = torch._dynamo.utils.counters["frames"]
    before = frames["ok"]
    parallelize(module, None, ParallelCfg(blocks=["Block"], compile_blocks=True, activation_checkpointing=True))
    torch.testing.assert_close(gradients(module), gradients(plain))
    assert module.state_dict().keys() == plain.state_dict().keys()
    assert frames["ok"] > before


class Policy(nn.Module):
    """Runs its network in `act` too."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.ModuleList([Block(), Block()])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            x = block(x)
        return x

    def act(self, x: torch.Tensor) -> torch.Tensor:
        return self(x).detach() + self.blocks[0].inner(x)


@pytest.mark.parametrize("spread", [False, True])
def test_methods_beside_forward_compute_in_bf16_and_see_whole_parameters(mesh: DeviceMesh, spread: bool) -> None:
    x = torch.linspace(-1, 1, 8).view(1, 8)
    expected = Policy().act(x)
    cfg = ParallelCfg(kind="fsdp", blocks=["blocks.1"], mixed_precision="bf16", forward_methods=["act"])
    module = parallelize(Policy(), mesh if spread else None, cfg)
    actual = module.act(x)
    torch.testing.assert_close(actual.float(), expected, rtol=0, atol=2e-2)
    assert not torch.equal(actual.float(), expected)
    with torch.no_grad():
        module(x)
    parameters = named_parameters(module)  # the shards, although the forward pass has gathered them
    assert list(parameters) == list(Policy().state_dict())
    assert {isinstance(p, DTensor) for p in parameters.values()} == {spread}


def test_a_forward_pass_between_backward_and_step_does_not_see_old_weights_afterwards(mesh: DeviceMesh) -> None:
    x = torch.linspace(-1, 1, 8).view(1, 8)
    outputs = []
    for spread in (None, mesh):
        module = parallelize(Policy(), spread, ParallelCfg(kind="fsdp", blocks=["blocks.1"]))
        optimizer = OptimizerCfg(learning_rate=0.1).build(module)
        optimizer.backward(module(x).square().sum())
        with torch.no_grad():
            module(x)
            optimizer.step()
            outputs.append(module(x))
    torch.testing.assert_close(outputs[1], outputs[0])


def test_parameters_are_frozen_before_they_are_sharded(mesh: DeviceMesh) -> None:
    cfg = OptimizerCfg(groups=[ParamGroupCfg(pattern="blocks.0.*", frozen=True)])
    module = parallelize(Policy(), mesh, ParallelCfg(kind="fsdp", blocks=["Block"]))
    with pytest.raises(ConfigError, match=r"'blocks\.0\.inner\.weight' and 1 more parameters are to be frozen"):
        cfg.build(module)


def test_ranks_with_modules_of_their_own_are_refused() -> None:
    with pytest.raises(
        ConfigError, match="a module of its own on each of 2 processes, whose gradients nothing averages"
    ):
        OptimizerCfg().build(Policy(), distributed=DistributedContext(rank=0, local_rank=0, world_size=2))


def test_a_pattern_without_a_submodule_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(ConfigError, match=r"blocks: 'Blocks' names no submodule; did you mean 'Block'\?"):
        parallelize(stack(), None, ParallelCfg(blocks=["Blocks"]))
    with pytest.raises(ConfigError, match="compile_blocks: is True, but blocks is empty"):
        parallelize(stack(), None, ParallelCfg(compile_blocks=True))
