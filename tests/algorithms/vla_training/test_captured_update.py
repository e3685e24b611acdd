"""An update of supervised learning as a CUDA graph learns what eager updates learn."""

from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce.algorithms.vla_training import VLAPretrainAlgorithmCfg
from RoboRenForce.components import EMACfg, OptimizerCfg, ScheduleCfg
from RoboRenForce.components.action_heads import FlowHeadCfg
from RoboRenForce.components.openpi_policy import OpenPIPolicyCfg
from RoboRenForce.components.vla_policy import Qwen3VLPolicyCfg
from RoboRenForce.data import to_device
from RoboRenForce.networks import DiTCfg
from RoboRenForce.networks.vlm import Qwen3VLCfg
from RoboRenForce.utils.cuda_graph import GraphedStep
from RoboRenForce.utils.parallelize import ParallelCfg
from vla_demonstrations import CHUNK, policy, record, runner_cfg

pytest.importorskip("pyarrow")
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DEVICE = "cuda:0"
OPTIMIZER = OptimizerCfg(
    learning_rate=1e-3, ema=EMACfg(decay=0.9), schedule=ScheduleCfg(kind="cosine", warmup_steps=3, total_steps=12)
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("demonstrations") / "data")


def policies() -> dict[str, Any]:
    pi0 = OpenPIPolicyCfg(variant="pi0", size="tiny")
    pi0.head.chunk_size, pi0.backbone.vision.image_size = CHUNK, 32
    backbone = Qwen3VLCfg(model_name="tiny", image_size=[64, 64], finetune="full")
    head = FlowHeadCfg(chunk_size=CHUNK, network=DiTCfg(dim=32, num_layers=2))
    return {"mlp": policy(), "pi0": pi0, "qwen3_vl": Qwen3VLPolicyCfg(backbone=backbone, head=head)}


@pytest.mark.parametrize("name", ["mlp", "pi0", "qwen3_vl"])
def test_captured_updates_equal_eager_ones(name: str, root: Path) -> None:
    """Same losses, gradients and rates with the same draws, in bfloat16, and a smaller batch in between."""
    found = {}
    for mode in ("off", "on"):
        algorithm = VLAPretrainAlgorithmCfg(
            optimizer=OPTIMIZER, parallel=ParallelCfg(mixed_precision="bf16"), cuda_graph=mode
        )
        runner = runner_cfg(root, policy=policies()[name], algorithm=algorithm).build(device=DEVICE)
        batches = [to_device(batch, torch.device(DEVICE)) for batch, _ in zip(runner.loader, range(2), strict=False)]
        smaller = {key: value[:2] if torch.is_tensor(value) else value for key, value in batches[0].items()}
        rows = []
        for number in range(8):
            torch.cuda.manual_seed(number)
            rows.append(runner.algorithm.update(smaller if number == 5 else batches[number % 2]))
        graph = runner.algorithm._graph
        assert (mode == "on") == (isinstance(graph, GraphedStep) and graph.captured)
        assert float(runner.algorithm.optimizer.steps) == 8
        found[mode] = {key: torch.stack([row[key] for row in rows]).tolist() for key in rows[0]}
    assert len(set(found["on"]["loss"])) == 8
    for key, values in found["off"].items():
        assert found["on"][key] == pytest.approx(values, rel=2e-2 if key != "learning_rate" else 1e-6), key
