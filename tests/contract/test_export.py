"""Exported files compute what the policy computes, normalizer and memory included, and say what they are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms.actor_policy import ActorPolicy
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.utils import export as module
from RoboRenForce.utils.errors import MissingPackageError, UserError
from RoboRenForce.utils.export import TOLERANCE, export_policy
from small_runs import ppo_cfg, scripted
from tensordict import TensorDict

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

SPEC = EnvSpec(
    task="Robot",
    num_envs=4,
    obs_groups={"policy": (3,), "command": (2,), "camera": (3, 64, 64)},
    action=ActionSpec("continuous", 2),
    max_episode_length=10,
    obs_dtypes={"camera": "uint8"},
)


def actor(
    backbone: networks.NetworkCfg | None = None, groups: tuple[str, ...] = ("policy", "command"), **options: Any
) -> components.Actor:
    """An actor whose normalizer has seen observations far from mean 0 and deviation 1."""
    cfg = components.StateIndStdActorCfg(backbone_cfg=backbone or networks.MLPCfg(hidden_features=[16]), **options)
    made = cfg.build(spec=SPEC, groups=list(groups))
    made.update_normalizer(observations(100))
    return made


def observations(num: int) -> TensorDict:
    groups = {
        "policy": 50.0 + 7.0 * torch.randn(num, 3),
        "command": -3.0 + 0.1 * torch.randn(num, 2),
        "camera": torch.randint(0, 256, (num, 3, 64, 64)).to(torch.uint8),
    }
    return TensorDict(groups, batch_size=[num])


def sessions(folder: Path) -> Any:
    return onnxruntime.InferenceSession(str(folder / "policy.onnx"), providers=["CPUExecutionProvider"])


@pytest.mark.parametrize("num", [1, 2, 17])
def test_both_files_compute_the_policy_with_its_normalizer(tmp_path: Path, num: int) -> None:
    policy = ActorPolicy(actor())
    export_policy(policy.exportable(), tmp_path)
    obs = observations(num)
    expected = policy(obs)
    flat = torch.cat([obs["policy"], obs["command"]], dim=1)
    assert expected.std() > 1e-3
    (actions,) = sessions(tmp_path).run(["actions"], {"obs": flat.numpy()})
    torch.testing.assert_close(torch.from_numpy(actions), expected, atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(torch.jit.load(str(tmp_path / "policy.pt"))(flat), expected, atol=TOLERANCE, rtol=0)
    # Without the normalizer the numbers would be far off, so this comparison can fail.
    raw = policy.actor.backbone(flat)
    assert (raw - expected).abs().max() > 0.1


@pytest.mark.parametrize(
    "backbone",
    [networks.RNNCfg(hidden_size=8), networks.RNNCfg(cell="lstm", hidden_size=8), networks.TransformerCfg()],
    ids=["gru", "lstm", "transformer"],
)
def test_recurrent_policies_carry_their_memory_through_inputs_and_outputs(
    tmp_path: Path, backbone: networks.NetworkCfg
) -> None:
    policy = ActorPolicy(actor(backbone))
    export_policy(policy.exportable(), tmp_path)
    session = sessions(tmp_path)
    assert [entry.name for entry in session.get_inputs()] == ["obs", "state_in"]
    assert [entry.name for entry in session.get_outputs()] == ["actions", "state_out"]
    layers, _, size = session.get_inputs()[1].shape
    state = torch.zeros(layers, 3, size).numpy()
    for _ in range(4):
        obs = observations(3)
        flat = torch.cat([obs["policy"], obs["command"]], dim=1).numpy()
        actions, state = session.run(["actions", "state_out"], {"obs": flat, "state_in": state})
        torch.testing.assert_close(torch.from_numpy(actions), policy(obs), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["flatten", "spatial_softmax"])
def test_images_are_inputs_of_their_own(tmp_path: Path, pooling: str) -> None:
    policy = ActorPolicy(actor(groups=("policy", "camera"), cnn_cfg=networks.CNNCfg(pooling=pooling)))
    export_policy(policy.exportable(), tmp_path)
    session, obs = sessions(tmp_path), observations(2)
    (actions,) = session.run(None, {"obs": obs["policy"].numpy(), "camera": obs["camera"].numpy()})
    torch.testing.assert_close(torch.from_numpy(actions), policy(obs), atol=TOLERANCE, rtol=0)


def test_discrete_policies_export_their_choice(tmp_path: Path) -> None:
    from dataclasses import replace

    spec = replace(SPEC, action=ActionSpec("discrete", 5))
    made = components.CategoricalActorCfg().build(spec=spec, groups=["policy"])
    made.update_normalizer(observations(100))
    policy = ActorPolicy(made)
    export_policy(policy.exportable(), tmp_path)
    obs = observations(50)
    (actions,) = sessions(tmp_path).run(None, {"obs": obs["policy"].numpy()})
    assert actions.tolist() == policy(obs).tolist() and len(set(actions.tolist())) > 1


def test_the_file_says_what_it_is(tmp_path: Path) -> None:
    export_policy(ActorPolicy(actor()).exportable(), tmp_path, {"joint_names": "hip,knee", "gains": [1, 2]})
    model = onnx.load(str(tmp_path / "policy.onnx"))
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert found["task"] == "Robot" and found["joint_names"] == "hip,knee"
    assert json.loads(found["obs_groups"]) == ["policy", "command"] and json.loads(found["obs_sizes"]) == [3, 2]
    assert json.loads(found["action_dim"]) == 2 and json.loads(found["gains"]) == [1, 2]
    assert EnvSpec.from_dict(json.loads(found["spec"])) == SPEC
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert [entry.dim_param for entry in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", ""]
    extra = {"metadata.json": ""}
    torch.jit.load(str(tmp_path / "policy.pt"), _extra_files=extra)
    assert json.loads(extra["metadata.json"]) == found


def test_exporting_leaves_the_policy_as_it_was(tmp_path: Path) -> None:
    runner = ppo_cfg().build(env=scripted())
    runner.algorithm.train()
    export_policy(runner.policy().exportable(), tmp_path)
    assert runner.policy().actor.training
    runner.learn(1)  # the weights are still the learner's


def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "parity", lambda policy, session: 0.1)
    with pytest.raises(UserError, match=r"'policy.pt' deviates from the policy by 0.1"):
        export_policy(ActorPolicy(actor()).exportable(), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_parity_measures_the_deviation() -> None:
    exportable = ActorPolicy(actor()).exportable()
    shifted = lambda inputs: {"actions": exportable.call(inputs)["actions"] + 0.25}  # noqa: E731
    assert module.parity(exportable, shifted) == pytest.approx(0.25, rel=1e-4)


def test_without_onnx_the_other_file_is_written_and_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, **options: Any) -> None:
        raise MissingPackageError(f"ONNX files need {name}, which is not installed: {options['extra']}")

    monkeypatch.setattr(module, "require_package", missing)
    with pytest.raises(MissingPackageError, match="export"):
        export_policy(ActorPolicy(actor()).exportable(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["policy.pt"]


def test_policies_that_cannot_be_exported_say_so() -> None:
    class Odd(algorithms.Policy):
        def forward(self, obs: TensorDict) -> torch.Tensor:
            return obs["policy"]

    with pytest.raises(UserError, match="Odd can't be exported"):
        Odd().exportable()


def test_a_network_with_batch_statistics_exports_its_running_ones(tmp_path: Path) -> None:
    policy = ActorPolicy(actor(networks.FlashNetCfg(width=8, momentum=0.5), normalizer_cfg=None))
    with networks.batch_statistics(policy.actor):
        policy(observations(200))
    export_policy(policy.exportable(), tmp_path)
    obs = observations(5)
    flat = torch.cat([obs["policy"], obs["command"]], dim=1)
    (actions,) = sessions(tmp_path).run(["actions"], {"obs": flat.numpy()})
    torch.testing.assert_close(torch.from_numpy(actions), policy(obs), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.jit.load(str(tmp_path / "policy.pt"))(flat), policy(obs), atol=1e-4, rtol=0)
