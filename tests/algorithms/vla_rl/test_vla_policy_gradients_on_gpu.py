"""GRPO and PPO of VLA policies on a GPU: with CUDA graphs and without, without waiting, without growing memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from frozen_runs import CHUNK, TEXT, policy_cfg, vector
from RoboRenForce.algorithms.vla_rl import GRPOCfg, VLAPPOCfg
from RoboRenForce.components import OptimizerCfg
from RoboRenForce.components.action_heads import FlowHeadCfg
from RoboRenForce.components.openpi_policy import OpenPIPolicyCfg, expert_head
from RoboRenForce.components.vla_policy import VLAPolicyCfg
from RoboRenForce.components.vla_spec import VLASpec
from RoboRenForce.components.vla_value import ValueHeadCfg
from RoboRenForce.envs import GroupVecCfg, MultiModalCfg
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.networks import DiTCfg, MLPCfg
from RoboRenForce.networks.action_expert import Variant
from RoboRenForce.networks.vlm import Qwen3VLCfg
from RoboRenForce.runners import VLAGRPORunnerCfg, VLAPPORunnerCfg
from RoboRenForce.utils.checkpoint import save_checkpoint
from RoboRenForce.utils.cuda_graph import GraphedStep
from RoboRenForce.utils.parallelize import ParallelCfg
from RoboRenForce.utils.precision import set_matmul_precision

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

DEVICE = "cuda:0"
ROWS, STEPS = 16, 4
HEAD = FlowHeadCfg(chunk_size=CHUNK, num_steps=4, density="sde", network=DiTCfg(dim=32, num_layers=2, num_heads=2))
# In chunks of three every list repeats after one or two of them, so that all iterations are alike.
SCRIPT = [["time_out@4"], ["terminated@2"], ["time_out@6"], ["terminated@5"]]
KINDS = [GRPOCfg, VLAPPOCfg]


def mlp_policy() -> VLAPolicyCfg:
    return policy_cfg(HEAD)


def qwen_policy() -> VLAPolicyCfg:
    backbone = Qwen3VLCfg(model_name="tiny", image_size=[64, 64], prompt="{images}{instruction}", frozen_dtype="fp32")
    return VLAPolicyCfg(backbone=backbone, head=HEAD)


def pi_policy(variant: Variant = "pi05") -> VLAPolicyCfg:
    head = expert_head(variant, "tiny").replace(chunk_size=CHUNK, num_steps=4, density="sde")
    return OpenPIPolicyCfg(variant=variant, size="tiny", head=head)


def saved(policy: VLAPolicyCfg, root: Path) -> str:
    """A checkpoint as supervised learning writes it, of random weights without zeros."""
    torch.manual_seed(3)
    built = policy.build(VLASpec(("front",), vector(3), vector(2), (TEXT,)))
    for parameter in built.head.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    kept = {"tensors": dict(built.state_dict()), "left_out": []}
    save_checkpoint(root / "model_1.pt", {"algorithm": {"spec": built.spec.to_dict(), "policy": kept, "optimizer": {}}})
    return str(root / "model_1.pt")


def build(kind: Any, root: Path, policy: VLAPolicyCfg, **options: Any) -> Any:
    """A run whose episodes end inside chunks, at times and by failures."""
    size = 64 if isinstance(policy.backbone, Qwen3VLCfg) else 16
    chain = MultiModalCfg(images={"front": "image"}, proprio=["policy"], instruction=TEXT, chunk_size=3)
    env = ScriptedEnvCfg(
        num_envs=ROWS,
        script=SCRIPT,
        max_episode_length=7,
        image_shape=[size, size, 3],
        seed=1,
        device=DEVICE,
        multi_modal=chain,
        groups=GroupVecCfg(group_size=4) if kind is GRPOCfg else None,
    )
    value: dict[str, Any] = {"value": ValueHeadCfg(network=MLPCfg(hidden_features=[16]))} if kind is VLAPPOCfg else {}
    # A large eps: without, Adam turns rounding in gradients of nearly zero into steps of full length.
    defaults: dict[str, Any] = {
        "optimizer": OptimizerCfg(learning_rate=1e-3, eps=1e-2),
        "num_mini_batches": 2,
        "clip_high": 0.2,
    }
    algorithm = kind(init_from=saved(policy, root), log_prob_level="chunk", **(defaults | value | options))
    cfg_type = VLAGRPORunnerCfg if kind is GRPOCfg else VLAPPORunnerCfg
    steps: dict[str, Any] = {} if kind is GRPOCfg else {"num_steps_per_env": STEPS}
    cfg = cfg_type(policy=policy, algorithm=algorithm, seed=0, logger=[], report=False, callbacks=[], **steps)
    return cfg.build(env=env.build(), device=DEVICE)


def weights(run: Any) -> dict[str, torch.Tensor]:
    named = run.learner.plain_module.named_parameters()
    return {name: p.detach().clone() for name, p in named if p.requires_grad}


def check_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    """float32, TF32 off: rounding of other kernels, over some gradient steps of 1e-3."""
    assert first.keys() == second.keys()
    for name, tensor in first.items():
        torch.testing.assert_close(second[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    allowed = torch.backends.cuda.matmul.allow_tf32
    set_matmul_precision("fp32", torch.device(DEVICE))
    yield
    set_matmul_precision("tf32" if allowed else "fp32", torch.device(DEVICE))


@pytest.mark.parametrize("policy", [mlp_policy, qwen_policy, pi_policy])
@pytest.mark.parametrize("kind", KINDS)
def test_captured_equals_eager(kind: Any, policy: Callable[[], VLAPolicyCfg], tmp_path: Path) -> None:
    if policy is qwen_policy:
        pytest.importorskip("transformers")
    found, metrics = [], []
    for mode in ("off", "on"):
        run = build(kind, tmp_path, policy(), cuda_graph=mode)
        before = weights(run)
        run.learn(4)
        found.append(weights(run))
        metrics.append(dict(run.metrics))
        graphs = run.learner.collector._graphs
        captured = {key for key, step in graphs.items() if isinstance(step, GraphedStep) and step.captured}
        assert ({("encode", ROWS), ("decide", ROWS)} <= captured) == (mode == "on")
        if kind is GRPOCfg and mode == "on":
            assert any(size < ROWS for _, size in captured)  # rows whose episode has ended are left out
        pools = {graphs[key].graph.pool() for key in captured}
        assert len(pools) <= 1  # graphs of all sizes compute in the same memory
        assert any(not torch.equal(before[name], tensor) for name, tensor in found[-1].items())
        run.close()
    check_close(*found)
    assert abs(metrics[1]["actor/ratio"] - metrics[0]["actor/ratio"]) < 1e-3
    assert abs(metrics[1]["rollout/returns_mean"] - metrics[0]["rollout/returns_mean"]) < 1e-3


@pytest.mark.parametrize("variant", ["pi0", "pi05"])
def test_a_captured_value_of_the_expert_equals_an_eager_one(variant: Variant, tmp_path: Path) -> None:
    """Of what is acted on, of final observations and of the last ones; and it teaches the expert."""
    value = ValueHeadCfg(features="expert", detach=False, network=MLPCfg(hidden_features=[16]))
    found, metrics = [], []
    for mode in ("off", "on"):
        run = build(VLAPPOCfg, tmp_path, pi_policy(variant), cuda_graph=mode, value=value)
        run.learn(4)
        found.append(weights(run))
        metrics.append(dict(run.metrics))
        graphs = run.learner.collector._graphs
        captured = {name for (name, _), step in graphs.items() if isinstance(step, GraphedStep) and step.captured}
        assert captured == ({"encode", "decide", "judge"} if mode == "on" else set())
        run.close()
    check_close(*found)
    for name in ("actor/ratio", "actor/value_loss", "critic/explained_variance"):
        assert metrics[1][name] == pytest.approx(metrics[0][name], rel=1e-3, abs=1e-3), name


@pytest.mark.parametrize("kind", KINDS)
def test_samples_in_pinned_memory_of_the_host_give_the_same_weights(kind: Any, tmp_path: Path) -> None:
    found = []
    for place in ("device", "host"):
        run = build(kind, tmp_path, mlp_policy(), sample_place=place)
        run.learn(3)
        rows = run.learner.rollout.store.rows.values()
        assert all(tensor.is_pinned() if place == "host" else tensor.is_cuda for tensor in rows)
        found.append(weights(run))
        run.close()
    check_close(*found)


@pytest.mark.parametrize("kind", KINDS)
def test_acting_storing_and_gradient_steps_do_not_wait_for_the_device(kind: Any, tmp_path: Path) -> None:
    run = build(kind, tmp_path, mlp_policy(), micro_batch_size=8, num_learning_epochs=2, cuda_graph="on")
    run.learn(4)
    learner, calls = run.learner, set()

    def strict(owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def never_waiting(*args: Any, **kwargs: Any) -> Any:
            calls.add(name)
            torch.cuda.set_sync_debug_mode("error")
            try:
                return function(*args, **kwargs)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        setattr(owner, name, never_waiting)

    # Which rows ended, or ran out of time, is read when the device has long known it: no copy waits.
    late = (learner, "_keep_final") if kind is VLAPPOCfg else (learner.waves, "end_step")
    strict(*late)
    strict(learner.collector, "act")
    strict(learner.rollout, "add")
    strict(learner.sums, "add")
    strict(learner.epochs, "_accumulate")
    strict(learner.optimizer, "step")
    run.learn(2)
    assert calls == {late[1], "act", "add", "_accumulate", "step"}
    assert run.metrics["actor/num_steps"] == 4
    run.close()


@pytest.mark.parametrize("kind", KINDS)
def test_memory_does_not_grow(kind: Any, tmp_path: Path) -> None:
    run = build(kind, tmp_path, mlp_policy(), micro_batch_size=8, kl_coef=0.1)
    run.learn(5)
    run.learn(5)

    def allocated() -> int:
        gc.collect()
        torch.cuda.synchronize()
        return torch.cuda.memory_allocated()

    before = allocated()
    run.learn(10)
    assert allocated() <= before
    run.close()


def test_half_precision_acts_and_learns_with_graphs(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    options: dict[str, Any] = {
        "num_learning_epochs": 1,
        "num_mini_batches": 1,
        "parallel": ParallelCfg(mixed_precision="bf16"),
    }
    run = build(VLAPPOCfg, tmp_path, qwen_policy(), cuda_graph="on", **options)
    run.learn(1)  # the check of log-probabilities accepts it
    assert abs(run.metrics["actor/ratio"] - 1.0) < 0.05
    assert run.learner.rollout.store.rows["prefix/tokens"].shape[0] == ROWS * STEPS
    run.close()
