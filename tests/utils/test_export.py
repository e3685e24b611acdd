"""Exported files compute what the policy computes, normalizer and memory included, and say what they are."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
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

pytestmark = pytest.mark.contract

SPEC = EnvSpec(
    task="Robot",
    num_envs=4,
    obs_groups={"policy": (3,), "command": (2,), "gauge": (), "camera": (3, 64, 64)},
    action=ActionSpec("continuous", 2),
    max_episode_length=10,
    obs_dtypes={"camera": "uint8"},
    step_dt=0.05,
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
        "gauge": torch.randn(num),
        "camera": torch.randint(0, 256, (num, 3, 64, 64)).to(torch.uint8),
    }
    return TensorDict(groups, batch_size=[num])


def onnx_session(folder: Path) -> Any:
    return onnxruntime.InferenceSession(str(folder / "policy.onnx"), providers=["CPUExecutionProvider"])


def pt2_session(folder: Path) -> Any:
    return torch.export.load(folder / "policy.pt2").module()


def flat(obs: TensorDict, *groups: str) -> torch.Tensor:
    return torch.cat([obs[group] for group in groups or ("policy", "command")], dim=1)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> tuple[ActorPolicy, Path]:
    """A policy and the folder with its file in every format."""
    torch.manual_seed(0)
    policy, folder = ActorPolicy(actor()), tmp_path_factory.mktemp("exported")
    known = {"joint_names": "hip,knee", "gains": [1, 2]}
    result = export_policy(policy.exportable(), folder, known, formats=["torchscript", "onnx", "pt2"])
    assert sorted(path.name for path in result.paths) == sorted(path.name for path in folder.iterdir())
    assert result.errors.keys() == {"policy.onnx", "policy.pt", "policy.pt2"}
    return policy, folder


@pytest.mark.filterwarnings("ignore:`torch.jit")
@pytest.mark.parametrize("num", [1, 2, 17])
def test_all_files_compute_the_policy_with_its_normalizer(exported: tuple[ActorPolicy, Path], num: int) -> None:
    policy, folder = exported
    obs = observations(num)
    expected = policy(obs)
    assert expected.std() > 1e-3
    (actions,) = onnx_session(folder).run(["actions"], {"obs": flat(obs).numpy()})
    for got in (
        torch.from_numpy(actions),
        pt2_session(folder)(flat(obs)),
        torch.jit.load(str(folder / "policy.pt"))(flat(obs)),
    ):
        torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=0)
    # Without the normalizer the numbers would be far off, so this comparison can fail.
    raw = policy.actor.backbone(flat(obs))
    assert (raw - expected).abs().max() > 0.1


@pytest.mark.filterwarnings("ignore:`torch.jit")
def test_all_files_say_what_they_are(exported: tuple[ActorPolicy, Path]) -> None:
    _, folder = exported
    model = onnx.load(str(folder / "policy.onnx"))
    found = {entry.key: entry.value for entry in model.metadata_props}
    assert found["task"] == "Robot" and found["joint_names"] == "hip,knee"
    assert json.loads(found["obs_groups"]) == ["policy", "command"] and json.loads(found["obs_sizes"]) == [3, 2]
    assert json.loads(found["action_dim"]) == 2 and json.loads(found["gains"]) == [1, 2]
    assert EnvSpec.from_dict(json.loads(found["spec"])) == SPEC
    assert json.loads(found["metadata_version"]) == 1 and found["normalization"] == "inside"
    assert json.loads(found["inputs"]) == [{"name": "obs", "shape": ["batch", 5], "dtype": "float32"}]
    assert json.loads(found["outputs"]) == [{"name": "actions", "shape": ["batch", 2], "dtype": "float32"}]
    assert json.loads(found["memory"]) is None and json.loads(found["step_dt"]) == 0.05
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert [entry.dim_param for entry in model.graph.input[0].type.tensor_type.shape.dim] == ["batch", ""]
    extra = {"metadata.json": ""}
    torch.jit.load(str(folder / "policy.pt"), _extra_files=extra)
    assert json.loads(extra["metadata.json"]) == found
    torch.export.load(folder / "policy.pt2", extra_files=extra)
    assert json.loads(extra["metadata.json"]) == found


@pytest.mark.parametrize(
    "backbone",
    [
        networks.RNNCfg(hidden_size=8),
        networks.RNNCfg(cell="lstm", hidden_size=8),
        networks.TransformerCfg(num_layers=1),
    ],
    ids=["gru", "lstm", "transformer"],
)
def test_recurrent_policies_carry_their_memory_through_inputs_and_outputs(
    tmp_path: Path, backbone: networks.NetworkCfg
) -> None:
    policy = ActorPolicy(actor(backbone))
    exportable = policy.exportable()
    export_policy(exportable, tmp_path)
    session, module = onnx_session(tmp_path), pt2_session(tmp_path)
    assert [entry.name for entry in session.get_inputs()] == ["obs", "state_in"]
    assert [entry.name for entry in session.get_outputs()] == ["actions", "state_out"]
    memory = json.loads(session.get_modelmeta().custom_metadata_map["memory"])
    layers, batch, size = memory.pop("shape")
    assert memory == {"input": "state_in", "output": "state_out", "start": "zeros"} and batch == "batch"
    assert [layers, size] == session.get_inputs()[1].shape[::2]
    state, other = torch.zeros(layers, 3, size).numpy(), torch.zeros(layers, 3, size)
    for _ in range(4):
        obs = observations(3)
        actions, state = session.run(["actions", "state_out"], {"obs": flat(obs).numpy(), "state_in": state})
        expected = policy(obs)
        torch.testing.assert_close(torch.from_numpy(actions), expected, atol=1e-5, rtol=1e-5)
        actions, other = module(flat(obs), other)
        torch.testing.assert_close(actions, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("pooling", ["flatten", "spatial_softmax"])
def test_images_are_inputs_of_their_own(tmp_path: Path, pooling: str) -> None:
    policy = ActorPolicy(actor(groups=("policy", "gauge", "camera"), cnn_cfg=networks.CNNCfg(pooling=pooling)))
    exportable = policy.exportable()
    export_policy(exportable, tmp_path)
    obs = observations(2)
    numbers = torch.cat([obs["policy"], obs["gauge"].unsqueeze(1)], dim=1)
    inputs = {"obs": numbers.numpy(), "camera": obs["camera"].numpy()}
    (actions,) = onnx_session(tmp_path).run(None, inputs)
    torch.testing.assert_close(torch.from_numpy(actions), policy(obs), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(pt2_session(tmp_path)(numbers, obs["camera"]), policy(obs), atol=TOLERANCE, rtol=0)
    *_, gauge, camera = (exportable.metadata or {})["observations"]
    assert (gauge["input"], gauge["column"], gauge["size"], gauge["shape"]) == ("obs", 3, 1, [])
    assert (camera["input"], camera["column"], camera["shape"], camera["dtype"]) == (
        "camera",
        None,
        [3, 64, 64],
        "uint8",
    )


SMALL = networks.MLPCfg(hidden_features=[8])
KINDS = {
    "gaussian": components.StateIndStdActorCfg(backbone_cfg=SMALL),
    "state-dependent-std": components.StateDepStdActorCfg(backbone_cfg=SMALL),
    "tanh": components.TanhGaussianActorCfg(backbone_cfg=SMALL),
    "tanh-one-std": components.TanhGaussianActorCfg(backbone_cfg=SMALL, state_dependent_std=False),
    "beta": components.BetaActorCfg(backbone_cfg=SMALL),
    "deterministic": components.DeterministicActorCfg(backbone_cfg=SMALL),
    "categorical": components.CategoricalActorCfg(backbone_cfg=SMALL),
}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_policy_is_exported(tmp_path: Path, kind: str) -> None:
    spec = replace(SPEC, action=ActionSpec("discrete", 5)) if kind == "categorical" else SPEC
    made = KINDS[kind].build(spec=spec, groups=["command", "policy"])
    with torch.no_grad():  # far from the start, where means and spreads are nearly 0
        for parameter in made.backbone.parameters():
            parameter.copy_(torch.randn(parameter.shape))
    made.update_normalizer(observations(100))
    policy = ActorPolicy(made)
    export_policy(
        policy.exportable(), tmp_path, formats=["onnx", "pt2"] if kind in ("beta", "categorical") else ["pt2"]
    )
    obs = observations(50)
    expected, numbers = policy(obs), flat(obs, "command", "policy")
    assert len(expected.unique()) > 1
    got = pt2_session(tmp_path)(numbers)
    assert got.dtype == expected.dtype
    torch.testing.assert_close(got, expected, atol=TOLERANCE, rtol=TOLERANCE)
    if (tmp_path / "policy.onnx").is_file():
        (actions,) = onnx_session(tmp_path).run(None, {"obs": numbers.numpy()})
        torch.testing.assert_close(torch.from_numpy(actions), expected, atol=TOLERANCE, rtol=TOLERANCE)


def test_exporting_leaves_the_policy_as_it_was(tmp_path: Path) -> None:
    runner = ppo_cfg().build(env=scripted())
    runner.algorithm.train()
    export_policy(runner.policy().exportable(), tmp_path, formats=["pt2"])
    assert runner.policy().actor.training
    runner.learn(1)  # the weights are still the learner's


# ------------------------------------------------------------------------------------------------- the comparison


def test_a_file_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exportable = ActorPolicy(actor()).exportable()
    for deviation in (0.1, float("inf"), float("nan")):
        monkeypatch.setattr(module, "parity", lambda policy, session, value=deviation: value)
        with pytest.raises(UserError, match=rf"'policy.pt2' deviates from the policy by {deviation}"):
            export_policy(exportable, tmp_path)
        assert list(tmp_path.iterdir()) == []


def test_parity_measures_the_deviation() -> None:
    exportable = ActorPolicy(actor()).exportable()
    shifted = lambda inputs: {"actions": exportable.call(inputs)["actions"] + 0.25}  # noqa: E731
    assert module.parity(exportable, exportable.call) == 0.0
    assert module.parity(exportable, shifted) == pytest.approx(0.25, rel=1e-4)


def spoiled(values: torch.Tensor, number: float) -> torch.Tensor:
    return values.index_fill(0, torch.tensor([len(values) - 1]), number)


WRONG = {
    "nan": lambda inputs, out: {"actions": spoiled(out["actions"], torch.nan)},
    "infinity": lambda inputs, out: {"actions": spoiled(out["actions"], torch.inf)},
    "zeros": lambda inputs, out: {"actions": torch.zeros_like(out["actions"])},
    "one row for all": lambda inputs, out: {"actions": out["actions"][:1].expand_as(out["actions"])},
    "a row that would be broadcast": lambda inputs, out: {"actions": out["actions"][:1]},
    "batches of one only": lambda inputs, out: {"actions": out["actions"] * (1.0 if len(out["actions"]) == 1 else 1.1)},
    "columns swapped": lambda inputs, out: {"actions": out["actions"].flip(1)},
    "another type": lambda inputs, out: {"actions": out["actions"].double()},
    "nothing": lambda inputs, out: {},
    "another name": lambda inputs, out: {"action": out["actions"]},
    "usual observations only": lambda inputs, out: {"actions": out["actions"].clamp(-30.0, 30.0)},
}


@pytest.mark.parametrize("mistake", WRONG)
def test_parity_sees_a_wrong_file(mistake: str) -> None:
    exportable = ActorPolicy(actor(networks.MLPCfg(hidden_features=[]))).exportable()
    for parameter in exportable.module.parameters():
        parameter.requires_grad_(False).copy_(torch.arange(1.0, 1.0 + parameter.numel()).view(parameter.shape))
    wrong = lambda inputs: WRONG[mistake](inputs, exportable.call(inputs))  # noqa: E731
    assert module.parity(exportable, exportable.call) == 0.0
    assert module.parity(exportable, wrong) > 1e-2


def test_parity_sees_nan_of_the_policy_that_the_file_does_not_have() -> None:
    exportable = ActorPolicy(actor()).exportable()
    good, call = exportable.call, exportable.call
    object.__setattr__(exportable, "call", lambda inputs: {"actions": spoiled(call(inputs)["actions"], torch.nan)})
    assert module.parity(exportable, good) == float("inf")
    assert module.parity(exportable, exportable.call) == 0.0


def test_parity_sees_a_lost_clip_of_the_normalizer() -> None:
    cfg = components.EmpiricalNormalizerCfg(clip=5.0)
    exportable = ActorPolicy(actor(normalizer_cfg=cfg)).exportable()
    broken = copy.deepcopy(exportable)
    broken.module.actor.normalizer.cfg.clip = None
    assert module.parity(exportable, broken.call) > 1e-2


MEMORY_MISTAKES = {
    "memory not read": lambda inputs, call: call({**inputs, "state_in": torch.zeros_like(inputs["state_in"])}),
    "memory not advanced": lambda inputs, call: {**call(inputs), "state_out": inputs["state_in"]},
    "memory decays": lambda inputs, call: (out := call(inputs)) | {"state_out": 0.9 * out["state_out"]},
    "rows of the memory swapped": lambda inputs, call: (out := call(inputs)) | {"state_out": out["state_out"].flip(1)},
    "memory is nan": lambda inputs, call: (out := call(inputs)) | {"state_out": out["state_out"] * torch.nan},
    "memory without a batch": lambda inputs, call: (out := call(inputs)) | {"state_out": out["state_out"][:, :1]},
}


@pytest.mark.parametrize("mistake", MEMORY_MISTAKES)
def test_parity_advances_the_memory_and_compares_it(mistake: str) -> None:
    exportable = ActorPolicy(actor(networks.RNNCfg(hidden_size=8))).exportable()
    assert module.parity(exportable, exportable.call) == 0.0
    assert module.parity(exportable, lambda inputs: MEMORY_MISTAKES[mistake](inputs, exportable.call)) > 1e-3


def test_a_file_is_given_the_memory_that_it_returned() -> None:
    """Not the policy's: a file whose own memory drifts only ever sees it."""
    exportable = ActorPolicy(actor(networks.RNNCfg(hidden_size=8))).exportable()
    returned: list[torch.Tensor] = []

    def session(inputs: Any) -> dict[str, torch.Tensor]:
        fresh = not inputs["state_in"].any()
        assert fresh or inputs["state_in"] is returned[-1]
        out = exportable.call(inputs)
        returned.append(out["state_out"].clone())
        return {**out, "state_out": returned[-1]}

    assert module.parity(exportable, session) == 0.0
    assert len(returned) >= 9


def test_the_comparison_uses_observations_like_those_of_training() -> None:
    exportable = ActorPolicy(actor()).exportable()
    usual = exportable.example(1000, torch.Generator().manual_seed(1))["obs"]
    torch.testing.assert_close(usual.mean(0), torch.tensor([50.0, 50, 50, -3, -3]), atol=2.0, rtol=0)
    torch.testing.assert_close(usual.std(0), torch.tensor([7.0, 7, 7, 0.1, 0.1]), atol=1.5, rtol=0)


def test_a_policy_that_is_nan_itself_is_refused(tmp_path: Path) -> None:
    made = actor()
    with torch.no_grad():
        next(made.backbone.parameters())[0, 0] = torch.nan
    with pytest.raises(UserError, match=r"'actions' is NaN or infinite.*earlier checkpoint"):
        export_policy(ActorPolicy(made).exportable(), tmp_path / "exported")
    assert not (tmp_path / "exported").exists()


# ------------------------------------------------------------------------------------------------------ wrong input


def test_formats_are_checked_before_anything_is_written(tmp_path: Path) -> None:
    exportable = ActorPolicy(actor()).exportable()
    with pytest.raises(UserError, match=r"no export format 'onx'.*onnx"):
        export_policy(exportable, tmp_path / "exported", formats=["pt2", "onx"])
    with pytest.raises(UserError, match=r"No export format.*onnx, pt2, torchscript"):
        export_policy(exportable, tmp_path / "exported", formats=[])
    assert not (tmp_path / "exported").exists()


def test_a_folder_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"policy.pt2' can't be written: File exists"):
        export_policy(ActorPolicy(actor()).exportable(), tmp_path / "file")
    (tmp_path / "taken" / "policy.pt2").mkdir(parents=True)
    with pytest.raises(UserError, match=r"policy.pt2' can't be written: .*directory"):
        export_policy(ActorPolicy(actor()).exportable(), tmp_path / "taken")
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["policy.pt2"]


def test_without_onnx_the_other_file_is_written_and_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(name: str, **options: Any) -> None:
        raise MissingPackageError(f"ONNX files need {name}, which is not installed: {options['extra']}")

    monkeypatch.setattr(module, "require_package", missing)
    with pytest.raises(MissingPackageError, match="export"):
        export_policy(ActorPolicy(actor()).exportable(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["policy.pt2"]


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
    (actions,) = onnx_session(tmp_path).run(["actions"], {"obs": flat(obs).numpy()})
    torch.testing.assert_close(torch.from_numpy(actions), policy(obs), atol=1e-4, rtol=0)
    torch.testing.assert_close(pt2_session(tmp_path)(flat(obs)), policy(obs), atol=1e-4, rtol=0)
