"""pi0 and pi0.5 are fine-tuned by what exists: two processes learn what one learns, and the expert alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import be_rank, exit_code, forked, free_port
from RoboRenForce.algorithms.vla_training import VLAPretrainAlgorithmCfg
from RoboRenForce.components import OptimizerCfg
from RoboRenForce.components.action_heads import FlowHead
from RoboRenForce.components.action_heads.denoising import Corrupted
from RoboRenForce.components.action_tokens import ActionTokensCfg
from RoboRenForce.components.image_augmentation import ImageAugmentationCfg
from RoboRenForce.components.openpi_policy import OpenPIPolicyCfg
from RoboRenForce.configclass import ConfigError
from RoboRenForce.data import LeRobotDatasetCfg, LeRobotWriter, MixtureDatasetCfg, MixturePartCfg
from RoboRenForce.utils.parallelize import ParallelCfg
from torch import Tensor
from vla_demonstrations import CHUNK, record, runner_cfg

pytest.importorskip("pyarrow")

SGD = OptimizerCfg(kind="sgd", learning_rate=0.02, momentum=0.9, max_grad_norm=0.5)
PLAIN: dict[str, Any] = {"variant": "pi0"}
TOKENS: dict[str, Any] = {"variant": "pi05", "tokens": True}
SPREAD = {
    "ddp": ("ddp", PLAIN),
    "fsdp": ("fsdp", PLAIN),
    "ddp_tokens": ("ddp", TOKENS),
    "fsdp_tokens": ("fsdp", TOKENS),
}
"""Name of a run -> how it is spread, and what it learns."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("demonstrations") / "data")


def cfg_of(
    root: Path, variant: str, *, batch_size: int = 6, kind: str = "none", freeze: bool = False, tokens: bool = False
) -> Any:
    policy = OpenPIPolicyCfg(variant=variant, size="tiny")
    if tokens:
        policy.action_tokens, policy.head.network.insulated = ActionTokensCfg(), True
    policy.head.chunk_size, policy.backbone.vision.image_size = CHUNK, 32
    parallel = ParallelCfg(kind=kind, blocks=["GemmaLayer", "SigLIPLayer"])
    algorithm = VLAPretrainAlgorithmCfg(optimizer=SGD, parallel=parallel, freeze_backbone=freeze)
    cfg = runner_cfg(root, batch_size=batch_size, policy=policy, algorithm=algorithm, max_iterations=1)
    cfg.dataset.split, cfg.callbacks = "train", []
    return cfg.replace(updates_per_iteration=2, save_interval=1)


def without_draws(self: FlowHead, actions: Tensor, mask: Tensor, generator: Any) -> Corrupted:
    """Noise that depends on the actions alone, so that it is the same wherever a sample lands."""
    noise, time = torch.sin(7.0 * actions), 0.5 * torch.ones(len(actions))
    return Corrupted(noise + 0.5 * (actions - noise), time, actions - noise, mask)


def be_trained(rank: int, port: int, root: Path, folder: Path) -> None:
    be_rank(rank, port)
    FlowHead.corrupt = without_draws  # in this process alone
    for name, (kind, options) in SPREAD.items():
        runner = cfg_of(root, batch_size=3, kind=kind, **options).build(log_dir=folder / name)
        runner.learn()
    runner.distributed.close()


def test_two_processes_learn_what_one_learns(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With DDP, and with FSDP2 layer by layer: keys and values and their gradients cross the layers' borders, and
    layers run twice where the model also predicts tokens of actions."""
    port, log = free_port(), tmp_path / "log"
    with (
        forked(be_trained, 1, port, root, tmp_path, log=log),
        forked(be_trained, 0, port, root, tmp_path, log=log) as main,
    ):
        assert exit_code(main) == 0, log.read_text()[-3000:]
    monkeypatch.setattr(FlowHead, "corrupt", without_draws)
    for names, options in ((("ddp", "fsdp"), PLAIN), (("ddp_tokens", "fsdp_tokens"), TOKENS)):
        one = cfg_of(root, **options).build(log_dir=tmp_path / f"one_{names[0]}")
        start = {name: p.detach().clone() for name, p in one.algorithm.policy_model.named_parameters()}
        one.learn()
        expected = dict(one.algorithm.policy_model.named_parameters())
        moved = {name for name, p in expected.items() if not torch.equal(p, start[name])}
        assert {name.split(".")[1] for name in moved if name.startswith("backbone.")} == {
            *("vision", "projector", "words", "language")
        }
        for name in names:
            saved = "model_1.pt" if name.startswith("ddp") else "global_step_1"
            other = cfg_of(root, **options).build(log_dir=tmp_path / "other")
            other.load(tmp_path / name / saved)
            for weight, value in other.algorithm.policy_model.named_parameters():
                torch.testing.assert_close(value, expected[weight], rtol=0, atol=1e-6, msg=f"{name}: {weight}")


def test_interrupted_and_resumed_equals_uninterrupted(root: Path, tmp_path: Path) -> None:
    """Draws of noise and images, momenta and the vocabulary of tokens go on where they stopped."""

    def build(name: str) -> Any:
        cfg = cfg_of(root, batch_size=3, **TOKENS)
        cfg.algorithm.augmentation = ImageAugmentationCfg()
        return cfg.replace(max_iterations=2, updates_per_iteration=1).build(log_dir=tmp_path / name)

    build("straight").learn()
    build("halves").learn(1)
    torch.rand(7)
    second = build("halves")
    second.load(tmp_path / "halves" / "model_1.pt")
    second.learn()
    one, two = (torch.load(tmp_path / name / "model_2.pt", weights_only=True) for name in ("straight", "halves"))
    one, two = one["algorithm"]["policy"]["tensors"], two["algorithm"]["policy"]["tensors"]
    assert one.keys() == two.keys() and any(name.startswith("action_tokens.") for name in one)
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_tokens_of_actions_need_a_model_that_learns(root: Path) -> None:
    with pytest.raises(ConfigError, match="teaches the backbone, and nothing of it is trained"):
        cfg_of(root, "pi05", tokens=True, freeze=True).build()


def test_the_expert_alone_learns_from_kept_features(root: Path, tmp_path: Path) -> None:
    """The model is computed once per sample; its weights stay as they were and out of the checkpoint."""
    cfg = cfg_of(root, "pi05", freeze=True)
    cfg.algorithm.cache_features = "ram"
    runner = cfg.build(log_dir=tmp_path / "cached")
    before = {name: p.detach().clone() for name, p in runner.algorithm.policy_model.named_parameters()}
    runner.learn()
    moved = {name for name, p in runner.algorithm.policy_model.named_parameters() if not torch.equal(p, before[name])}
    assert moved and all(name.startswith("head.network.") for name in moved)
    saved = torch.load(tmp_path / "cached" / "model_1.pt", weights_only=True)["algorithm"]["policy"]
    assert not any(name.startswith("backbone.") for name in saved["tensors"])


@pytest.fixture
def two_sets(tmp_path: Path) -> MixtureDatasetCfg:
    """Demonstrations with a camera less, and with a much longer text."""
    picture = {"dtype": "image", "shape": [16, 16, 3], "names": ["height", "width", "channels"]}
    vector, draw, parts = {"dtype": "float32", "shape": [2]}, np.random.default_rng(0), []
    for text, cameras in (("go", ["front", "wrist"]), ("go " * 20, ["front"])):
        keys = [f"observation.images.{camera}" for camera in cameras]
        features = {"observation.state": vector, "action": vector, **dict.fromkeys(keys, picture)}
        root = tmp_path / str(len(cameras))
        with LeRobotWriter.create(root, fps=10, features=features) as writer:
            for _ in range(6):
                numbers = dict(zip(("observation.state", "action"), draw.normal(size=(2, 2)).astype("f4"), strict=True))
                images = {key: draw.integers(0, 255, (16, 16, 3), dtype=np.uint8) for key in keys}
                writer.add_frame(numbers | images, task=text)
            writer.save_episode()
        parts.append(MixturePartCfg(dataset=LeRobotDatasetCfg(data_root=str(root))))
    return MixtureDatasetCfg(parts=parts)


@pytest.mark.parametrize(
    ("rows", "pictures", "tokens"),
    [((0, 1, 2), 6, 8 + 8), ((6, 7, 8), 3, 4 + 28), ((0, 7, 8), 4, 8 + 24)],  # a picture has four, a sum is of eights
)
def test_updates_leave_out_pictures_and_texts_that_a_batch_lacks_and_learn_the_same(
    two_sets: MixtureDatasetCfg, rows: tuple[int, ...], pictures: int, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless shapes are fixed, as those of a captured update: then all is computed, and masked."""
    monkeypatch.setattr(FlowHead, "corrupt", without_draws)
    found, counts = [], []
    for graph in ("off", "auto"):
        cfg = cfg_of(Path(), "pi0").replace(dataset=two_sets)
        adamw = OptimizerCfg(learning_rate=1e-3, eps=1e-2)
        cfg.algorithm = cfg.algorithm.replace(optimizer=adamw, cuda_graph=graph)
        runner = cfg.build()
        backbone = runner.algorithm.policy_model.backbone
        backbone.vision.register_forward_pre_hook(lambda module, args: counts.append(len(args[0])))
        backbone.language.register_forward_pre_hook(lambda module, args: counts.append(args[0].shape[1]))
        metrics = runner.algorithm.update(runner.dataset.get_batch(np.asarray(rows)))
        found.append((metrics, weights_of(backbone)))
    assert counts == [pictures, tokens, 6, 8 + 24]
    (metrics, weights), (fixed, others) = found
    torch.testing.assert_close(metrics["loss"], fixed["loss"], rtol=1e-5, atol=0)
    for name, weight in weights.items():
        torch.testing.assert_close(weight, others[name], rtol=0, atol=1e-6, msg=name)


def weights_of(module: torch.nn.Module) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
