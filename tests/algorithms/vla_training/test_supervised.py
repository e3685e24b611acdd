"""Supervised learning of VLA policies: any number of processes, exact resume, KL, frozen parts, memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from forked import be_rank, exit_code, forked, free_port
from RoboRenForce.algorithms.vla_training import SFTAlgorithmCfg, VLAPretrainAlgorithmCfg
from RoboRenForce.algorithms.vla_training.memory import memory_shortage
from RoboRenForce.components import EMACfg, OptimizerCfg, ParamGroupCfg, ScheduleCfg
from RoboRenForce.components.action_heads import FlowHeadCfg, RegressionHeadCfg
from RoboRenForce.components.image_augmentation import ImageAugmentationCfg
from RoboRenForce.components.vla_preprocessing import VLAPreprocessingCfg
from RoboRenForce.data import DataLoaderCfg, LeRobotDatasetCfg
from RoboRenForce.networks import MLPDenoiserCfg, ResidualMLPCfg
from RoboRenForce.runners import VLAPretrainRunner
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.errors import CheckpointError, ConfigError, NotEnoughMemory
from RoboRenForce.utils.parallelize import ParallelCfg
from torch import Tensor
from vla_cases import OUT_OF_MEMORY
from vla_demonstrations import CHUNK, policy, record, runner_cfg

SGD = OptimizerCfg(kind="sgd", learning_rate=0.02, momentum=0.9, max_grad_norm=0.5)
"""Unlike Adam's, its steps are smooth in the gradient, so that rounding stays rounding."""


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("demonstrations") / "data")


def weights(runner: VLAPretrainRunner) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in runner.algorithm.policy_model.named_parameters()}


def same(one: Any, two: Any) -> bool:
    """Whether two states are equal, bit for bit."""
    if isinstance(one, Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(value, two[name]) for name, value in one.items())
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


# ------------------------------------------------------------------------------------------------ several processes


def be_trained(rank: int, port: int, root: Path, folder: Path) -> None:
    be_rank(rank, port)
    for kind in ("ddp", "fsdp"):
        parallel = ParallelCfg(kind=kind, blocks=["ResidualMLP"])
        cfg = runner_cfg(
            root, batch_size=3, max_iterations=2, algorithm=VLAPretrainAlgorithmCfg(optimizer=SGD, parallel=parallel)
        )
        cfg.validation_interval, cfg.dataset.split, cfg.callbacks = 2, "train", []
        runner = cfg.build(log_dir=folder / kind)
        runner.learn()
        if rank == 0:
            (folder / f"{kind}.json").write_text(json.dumps(runner.metrics))
    runner.distributed.close()


def test_two_processes_learn_what_one_learns_and_one_goes_on(root: Path, tmp_path: Path) -> None:
    """With DDP and with FSDP2: a global batch is a global batch, however padding falls on ranks and micro-batches."""
    port, log = free_port(), tmp_path / "log"
    with (
        forked(be_trained, 1, port, root, tmp_path, log=log),
        forked(be_trained, 0, port, root, tmp_path, log=log) as main,
    ):
        assert exit_code(main) == 0, log.read_text()[-3000:]

    def one(accumulation_steps: int = 1, **changes: Any) -> VLAPretrainRunner:
        optimizer = SGD.replace(accumulation_steps=accumulation_steps)
        options = {"batch_size": 6 // accumulation_steps, "updates_per_iteration": 4 * accumulation_steps}
        cfg = runner_cfg(root, algorithm=VLAPretrainAlgorithmCfg(optimizer=optimizer), **(options | changes))
        cfg.validation_interval, cfg.dataset.split = 2, "train"
        return cfg.build(log_dir=tmp_path / f"one{accumulation_steps}")

    straight = one()
    straight.learn(2)
    assert straight.loader is not None
    padded = [batch["action_is_pad"].view(2, -1).sum(1).tolist() for batch in straight.loader]
    assert any(first != second for first, second in padded)  # otherwise a mean of means would do
    accumulated = one(2)
    accumulated.learn(2)
    at_two = weights(straight)
    for name, value in weights(accumulated).items():
        torch.testing.assert_close(value, at_two[name], rtol=0, atol=1e-6)
    straight = one()
    straight.learn()
    expected, saved = weights(straight), json.loads((tmp_path / "ddp.json").read_text())
    assert json.loads((tmp_path / "fsdp.json").read_text())["Loss/grad_norm"] == pytest.approx(
        saved["Loss/grad_norm"], abs=1e-6
    )
    for path in (tmp_path / "ddp" / "model_2.pt", tmp_path / "fsdp" / "global_step_2"):
        resumed = one()
        resumed.load(path)
        for name, value in weights(resumed).items():
            torch.testing.assert_close(value, at_two[name], rtol=0, atol=1e-6, msg=f"{path.name}: {name}")
        resumed.learn()
        assert resumed.loader is not None and straight.loader is not None
        assert resumed.loader.state_dict() == straight.loader.state_dict()
        for name, value in weights(resumed).items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6, msg=f"{path.name}: {name}")
    assert (tmp_path / "fsdp" / "latest").read_text() == "global_step_2\n"


# ------------------------------------------------------------------------------------------------------------ images


def test_augmented_images_are_for_learning_alone(root: Path) -> None:
    """The first loss and the first step are others; what is validated and played is not."""

    def build(**options: Any) -> VLAPretrainRunner:
        cfg = runner_cfg(root, algorithm=VLAPretrainAlgorithmCfg(optimizer=SGD, **options))
        return cfg.build()

    plain, augmented = build(), build(augmentation=ImageAugmentationCfg())
    batch = next(iter(plain.loader))
    for mode in ("train", "eval"):
        getattr(plain.algorithm, mode)(), getattr(augmented.algorithm, mode)()
        assert torch.equal(augmented.algorithm.validate(batch)[0], plain.algorithm.validate(batch)[0])
    losses = [float(runner.algorithm.update(batch)["loss"]) for runner in (plain, augmented)]
    assert losses[0] != losses[1]


# ------------------------------------------------------------------------------------------------------------- graphs


def test_what_a_graph_can_not_hold_is_refused_before_training(root: Path) -> None:
    """How a captured update compares with an eager one is `test_captured_update.py`."""
    adamw = OptimizerCfg(learning_rate=1e-2)
    for optimizer, words in (
        (SGD, "sgd waits for the host"),
        (adamw.replace(accumulation_steps=2), "set optimizer.accumulation_steps=1"),
    ):
        with pytest.raises(ConfigError, match=words):
            VLAPretrainAlgorithmCfg(optimizer=optimizer, cuda_graph="auto").validate()
    cfg = runner_cfg(root, algorithm=VLAPretrainAlgorithmCfg(optimizer=adamw, cuda_graph="on"))
    with pytest.raises(ConfigError, match="needs a CUDA device"):
        cfg.build().learn()
    cfg.algorithm.cuda_graph = "auto"
    eager, auto = cfg.replace(algorithm=cfg.algorithm.replace(cuda_graph="off")).build(), cfg.build()
    eager.learn(), auto.learn()
    assert same(weights(auto), weights(eager))


# ------------------------------------------------------------------------------------------------------------ resume


def test_interrupted_and_resumed_equals_uninterrupted(root: Path, tmp_path: Path) -> None:
    """Bit for bit, with noise of the head, a schedule, averages, accumulation and a validation in between."""
    head = FlowHeadCfg(chunk_size=CHUNK, network=MLPDenoiserCfg(network=ResidualMLPCfg(dim=16, num_blocks=1)))
    optimizer = OptimizerCfg(
        learning_rate=1e-2, accumulation_steps=2, ema=EMACfg(decay=0.9),
        schedule=ScheduleCfg(kind="cosine", warmup_steps=5, total_steps="run"),
    )  # fmt: skip

    def build(name: str) -> VLAPretrainRunner:
        algorithm = VLAPretrainAlgorithmCfg(optimizer=optimizer, augmentation=ImageAugmentationCfg())
        cfg = runner_cfg(root, policy=policy().replace(head=head), algorithm=algorithm)
        cfg.validation_interval = 1
        return cfg.build(log_dir=tmp_path / name)

    straight = build("straight")
    straight.learn()
    build("halves").learn(2)
    torch.rand(7)
    second = build("halves")
    second.load(tmp_path / "halves" / "model_2.pt")
    second.learn()
    one, two = (load_checkpoint(tmp_path / name / "model_4.pt") for name in ("straight", "halves"))
    for part in ("algorithm", "local", "shared"):
        assert same(one[part], two[part]), part
    files = [json.loads((tmp_path / name / "validation.json").read_text()) for name in ("straight", "halves")]
    assert files[0] == files[1]
    cfg = runner_cfg(root, policy=straight.cfg.policy, algorithm=straight.cfg.algorithm)
    played: VLAPretrainRunner = cfg.build(learns=False)
    played.load(tmp_path / "straight" / "model_4.pt", resume=False)
    averages = one["algorithm"]["optimizer"]["ema"]
    assert all(torch.equal(weights(played)[name], averages[name]) for name in averages)


# -------------------------------------------------------------------------------------------------------- validation


def test_validation_tells_what_is_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Errors with parts of other samples, and a warning at the end of a run that does not look."""
    root = record(tmp_path / "data", episodes=40)
    data = LeRobotDatasetCfg(data_root=str(root)).for_policy(CHUNK, [], "all").build()
    everything = data.get_batch(np.arange(sum(data.lengths)))
    pictures = [picture.numpy().tobytes() for picture in everything["observation.images.front"]]
    shown = set(zip(pictures, map(tuple, everything["action"].flatten(1).tolist()), strict=True))

    def seeing(batch: Any) -> tuple[Tensor, Tensor]:
        """Right up to 0.1 where the picture is that of the action."""
        action, images = batch["action"], batch["observation.images.front"]
        rows = zip(images, action.flatten(1).tolist(), strict=True)
        wrong = torch.tensor([(image.numpy().tobytes(), tuple(row)) not in shown for image, row in rows])
        return action + 0.1 + wrong.view(-1, 1, 1), torch.ones_like(action, dtype=torch.bool)

    def blind(batch: Any) -> tuple[Tensor, Tensor]:
        action = batch["action"]
        return batch["observation.state"].unsqueeze(1).expand_as(action), torch.ones_like(action, dtype=torch.bool)

    cfg = runner_cfg(root, max_iterations=1)
    cfg.validation_interval = 1
    found = {}
    for name, validate in {"blind": blind, "seeing": seeing}.items():
        runner = cfg.build(log_dir=tmp_path / name)
        runner.algorithm.validate = validate
        caplog.clear()
        runner.learn()
        found[name] = json.loads((tmp_path / name / "validation.json").read_text())["reads"]
        assert ("from the images of other samples" in caplog.text) == (name == "blind")
        assert "from the instruction of other samples (Val/reads/instruction is 1.00)" in caplog.text
    assert found["blind"]["images"] == found["blind"]["instruction"] == 1.0 != found["blind"]["state"]
    assert found["seeing"]["state"] == found["seeing"]["instruction"] == 1.0 and found["seeing"]["images"] > 2


# ---------------------------------------------------------------------------------------------------- frozen weights


def test_a_frozen_backbone_is_left_out_and_told_from_another(root: Path, tmp_path: Path) -> None:
    optimizer = OptimizerCfg(learning_rate=1e-2, groups=[ParamGroupCfg(pattern="backbone.*", frozen=True)])
    cfg = runner_cfg(root, max_iterations=2, algorithm=VLAPretrainAlgorithmCfg(optimizer=optimizer))
    runner = cfg.build(log_dir=tmp_path / "run")
    before = weights(runner)
    runner.learn()
    assert not runner.algorithm.policy_model.backbone.training and runner.algorithm.policy_model.head.training
    moved = {name.split(".")[0] for name, value in weights(runner).items() if not torch.equal(value, before[name])}
    assert moved == {"head"}
    saved = load_checkpoint(tmp_path / "run" / "model_2.pt")["algorithm"]["policy"]
    assert not [name for name in saved["tensors"] if name.startswith("backbone.")] and len(saved["left_out"]) > 10
    resumed = cfg.build(learns=False)
    resumed.load(tmp_path / "run" / "model_2.pt", resume=False)
    assert same(weights(resumed), weights(runner))
    with pytest.raises(CheckpointError, match=r"frozen weights 'backbone\.\S+' are not those .* same base model"):
        cfg.replace(seed=1).build().load(tmp_path / "run" / "model_2.pt")


def test_a_policy_plays_in_the_precision_that_it_was_trained_in(root: Path, tmp_path: Path) -> None:
    parallel = ParallelCfg(mixed_precision="bf16")
    cfg = runner_cfg(root, max_iterations=1, algorithm=VLAPretrainAlgorithmCfg(optimizer=SGD, parallel=parallel))
    runner = cfg.build(log_dir=tmp_path / "run")
    runner.learn()
    played = {}
    for precision in ("bf16", "fp32"):
        cfg.algorithm.parallel.mixed_precision = precision
        player = cfg.build(learns=False)
        player.load(tmp_path / "run" / "model_1.pt", resume=False)
        played[precision] = player.algorithm
    batch = next(iter(runner.loader))
    actions = {}
    for name, learner in {"trained": runner.algorithm, **played}.items():
        learner.eval()
        actions[name] = learner.policy_model(batch).detach()
    assert torch.equal(actions["bf16"], actions["trained"]) and not torch.equal(actions["fp32"], actions["trained"])


def test_learning_begins_with_the_weights_of_another_run(root: Path, tmp_path: Path) -> None:
    """Its averages, and its statistics: those of the new data would change what its weights mean."""
    first = runner_cfg(root, algorithm=VLAPretrainAlgorithmCfg(optimizer=OptimizerCfg(ema=EMACfg(decay=0.8))))
    runner = first.build(log_dir=tmp_path / "first")
    runner.learn(2)
    other = record(tmp_path / "other", shift=5.0)
    algorithm = SFTAlgorithmCfg(init_from=str(tmp_path / "first"))
    tuned = runner_cfg(other, algorithm=algorithm).build()
    runner.algorithm.eval()
    assert same(weights(tuned), weights(runner))
    centers = [r.algorithm.policy_model.preprocessing.action.center for r in (tuned, runner)]
    assert torch.equal(*centers)
    with pytest.raises(CheckpointError, match=r"holds 'backbone\..*configure the policy as in the run"):
        runner_cfg(other, policy=policy(width=24), algorithm=algorithm).build()


# -------------------------------------------------------------------------------------------------------- reference


def test_the_minimum_with_a_reference_is_where_the_closed_form_says(root: Path) -> None:
    """(target + kl_coef * reference) / (1 + kl_coef) for a policy that is a bias, with both terms (.)^2 / (2 std^2)."""
    kl_coef = 0.5
    head = RegressionHeadCfg(chunk_size=CHUNK, loss="nll", std=1.0, network=ResidualMLPCfg(dim=16, num_blocks=0))
    only_bias = ParamGroupCfg(pattern=r"re:(?!head\.network\.output\.bias).*", frozen=True)
    optimizer = OptimizerCfg(kind="sgd", learning_rate=1.0, momentum=0.0, max_grad_norm=None, groups=[only_bias])
    algorithm = VLAPretrainAlgorithmCfg(kl_coef=kl_coef, optimizer=optimizer)
    runner = runner_cfg(root, policy=policy().replace(head=head), algorithm=algorithm).build()
    learner = runner.algorithm
    batch = next(iter(runner.loader))
    for one in (learner.policy_model.head, learner.reference.head):
        one.network.output.weight.data.zero_()
    reference = learner.reference.head.network.output.bias.clone()
    for _ in range(40):
        found = learner.update(batch)
    actions, mask = learner.policy_model.targets(
        learner.policy_model.encode(batch), batch["action"], batch["action_is_pad"]
    )
    target = (actions * mask).sum((0, 1)) / mask.sum((0, 1))
    expected = (target + kl_coef * reference) / (1 + kl_coef)
    torch.testing.assert_close(learner.policy_model.head.network.output.bias.data, expected, rtol=0, atol=1e-4)
    assert float(found["kl"]) == pytest.approx(float((expected - reference).square().mean() / 2), abs=1e-4)


@pytest.mark.parametrize("trained", ["all", "head"])
def test_the_reference_stays_and_keeps_what_was_learned(tmp_path: Path, trained: str) -> None:
    """Task A, then B, which contradicts it: with the reference the loss on A stays low, without it does not."""
    first, second = record(tmp_path / "a"), record(tmp_path / "b", shift=0.3)
    head = RegressionHeadCfg(chunk_size=CHUNK, loss="l2", std=0.7, network=ResidualMLPCfg(dim=32, num_blocks=1))
    groups = [ParamGroupCfg(pattern="backbone.*", frozen=True)] if trained == "head" else []
    schedule = ScheduleCfg(kind="cosine", total_steps="run")
    fast = OptimizerCfg(learning_rate=3e-3, weight_decay=0.0, schedule=schedule)
    cfg = runner_cfg(
        first, policy=policy().replace(head=head), batch_size=16, updates_per_iteration=60, max_iterations=3
    )
    cfg.algorithm = VLAPretrainAlgorithmCfg(optimizer=fast)
    before = cfg.build(log_dir=tmp_path / "first")
    before.learn()

    def loss_on_first(runner: VLAPretrainRunner) -> float:
        with torch.no_grad():
            model = runner.algorithm.policy_model
            sums = [model.loss(model.encode(b), b["action"], b["action_is_pad"]) for b in before.loader]
        return float(sum(one.total for one in sums) / sum(one.count for one in sums))

    learned, kept = loss_on_first(before), {}
    for kl_coef in (0.0, 30.0):
        changes = {"init_from": str(tmp_path / "first"), "kl_coef": kl_coef}
        cfg.algorithm = VLAPretrainAlgorithmCfg(optimizer=fast.replace(groups=groups), **changes)
        cfg.dataset.data_root, cfg.max_iterations = str(second), 2
        tuned = cfg.build()
        tuned.learn()
        kept[kl_coef] = loss_on_first(tuned) / learned
    assert kept[30.0] < 1.5 and kept[0.0] > 3.0
    assert (
        tuned.algorithm.reference.backbone is None if trained == "head" else tuned.algorithm.reference.backbone.copies
    )
    with torch.no_grad():  # theta_0, though the policy has moved on
        batch = next(iter(before.loader))
        prefix = tuned.algorithm.reference.encode(tuned.algorithm.module, batch) or tuned.algorithm.policy_model.encode(
            batch
        )
        there = before.algorithm.policy_model.head.mean(before.algorithm.policy_model.encode(batch))
        torch.testing.assert_close(tuned.algorithm.reference.head.mean(prefix), there)


def test_the_reference_sees_what_the_policy_sees(root: Path, tmp_path: Path) -> None:
    """Images shifted and states dropped at random are the same for both: at equal weights the distance is 0."""
    changed = policy().replace(preprocessing=VLAPreprocessingCfg(state_dropout=0.5))
    changed.backbone = changed.backbone.replace(shift=4)
    cfg = runner_cfg(root, policy=changed, algorithm=VLAPretrainAlgorithmCfg(kl_coef=0.1))
    runner = cfg.build()
    assert runner.algorithm.reference.backbone is not None
    batches = iter(runner.loader)
    assert float(runner.algorithm.update(next(batches))["kl"]) == 0.0
    assert float(runner.algorithm.update(next(batches))["kl"]) > 0.0


# ----------------------------------------------------------------------------------------------------------- memory


def test_a_shortage_of_memory_is_told_from_other_errors() -> None:
    with pytest.raises(RuntimeError) as of_the_cpu:
        torch.empty(2**60, dtype=torch.uint8)
    found = memory_shortage(of_the_cpu.value)
    assert found == f"DefaultCPUAllocator: can't allocate memory: you tried to allocate {2**60} bytes"
    assert memory_shortage(torch.OutOfMemoryError("CUDA out of memory. Tried")) == "CUDA out of memory"
    assert memory_shortage(RuntimeError("could not create a primitive")) == "could not create a primitive"  # oneDNN
    for other in ("shapes differ. Tried", "could not create a primitive descriptor"):
        assert memory_shortage(RuntimeError(other)) is None


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_says_what_fits(root: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError) -> None:
    learner = runner_cfg(root).build().algorithm
    encode = type(learner.policy_model).encode

    def small(model: Any, batch: Any) -> Any:
        if len(batch["action"]) > 2:
            raise error
        return encode(model, batch)

    monkeypatch.setattr(type(learner.policy_model), "encode", small)
    before = [p.clone() for p in learner.policy_model.parameters()]
    batch = next(iter(runner_cfg(root).build().loader))
    with pytest.raises(
        NotEnoughMemory, match=r"A batch of 6 does not fit .*(out of|allocate) memory.*: 1 .*batch_size=1"
    ) as found:
        learner.update(batch)
    assert "\n" not in str(found.value)
    assert all(map(torch.equal, before, learner.policy_model.parameters()))
    assert all(p.grad is None for p in learner.policy_model.parameters())


def test_what_makes_no_sense(root: Path) -> None:
    cfg = runner_cfg(root, algorithm=VLAPretrainAlgorithmCfg(optimizer=OptimizerCfg(accumulation_steps=3)))
    with pytest.raises(ConfigError, match=r"updates_per_iteration: 4 is no multiple of .*accumulation_steps = 3"):
        cfg.build()
    with pytest.raises(ConfigError, match="flat_adam is for small networks"):
        VLAPretrainAlgorithmCfg(optimizer=OptimizerCfg(kind="flat_adam", decay_only_matrices=False)).validate()
    with pytest.raises(ConfigError, match="cache_features sees them once"):
        VLAPretrainAlgorithmCfg(augmentation=ImageAugmentationCfg(), cache_features="ram").validate()


# ------------------------------------------------------------------------------------------------- cached features


@pytest.mark.parametrize("place", ["device", "ram"])
def test_cached_features_change_nothing_but_the_time(root: Path, place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def learned(cache_features: str) -> dict[str, Tensor]:
        algorithm = VLAPretrainAlgorithmCfg(freeze_backbone=True, cache_features=cache_features, optimizer=SGD)
        cfg = runner_cfg(root, algorithm=algorithm, loader=DataLoaderCfg(batch_size=6, num_workers=int(place == "ram")))
        runner = cfg.build()
        runner.learn(2)
        calls = []
        encode = type(runner.algorithm.policy_model).encode
        monkeypatch.setattr(type(runner.algorithm.policy_model), "encode", lambda *a: calls.append(1) or encode(*a))
        runner.learn(1)
        monkeypatch.undo()
        assert len(calls) == (4 if cache_features == "no" else 2)  # once more for 58 samples, and never in a step
        runner.close()
        return weights(runner)

    expected = learned("no")
    for name, value in learned(place).items():
        torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-6)


def test_features_of_a_trained_backbone_are_not_cached(root: Path) -> None:
    runner = runner_cfg(root, algorithm=VLAPretrainAlgorithmCfg(cache_features="ram")).build()
    with pytest.raises(ConfigError, match=r"this one is trained: set algorithm\.freeze_backbone=true"):
        runner.learn()
