"""What a published folder says beside its weights is taken as it is said, or refused in a sentence."""

import json

import pytest
import torch
import vla_cases
from openpi_cases import DIMS, small_cfg, small_policy
from RoboRenForce.components.openpi_config import read_object
from RoboRenForce.components.openpi_convert import from_published, write_published
from RoboRenForce.components.openpi_description import described_policy
from RoboRenForce.components.openpi_folder import inspect_model, memory, published_policy
from RoboRenForce.components.openpi_policy import OpenPIPolicyCfg, paligemma
from RoboRenForce.components.openpi_weights import LAYOUTS
from RoboRenForce.components.vla_export import load_vla
from RoboRenForce.components.vla_normalizer import VectorNormalizerCfg
from RoboRenForce.components.vla_spec import VectorSpec, VLASpec
from RoboRenForce.configclass import ConfigError
from RoboRenForce.networks.vlm import LoRACfg
from RoboRenForce.networks.vlm.paligemma_prompt import WORDS, PaliGemmaPrompt
from RoboRenForce.utils.errors import CheckpointError, UserError
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.contract

NORMALIZER = "policy_preprocessor_step_2_normalizer_processor.safetensors"
SMALL = {"instructions": ("wait",), "tokenizer": WORDS}


def folder(tmp_path, config, variant="pi05", layout="openpi"):
    """A published folder with that `config.json`."""
    write_published(small_policy(variant), tmp_path, LAYOUTS[layout])
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return tmp_path


def said(path, **options):
    """What the folder becomes."""
    return published_policy(inspect_model(path), **SMALL, cameras=("base",), **options)[0]


# -------------------------------------------------------------------------------------------------------- config.json


def test_openpis_horizon_and_prompt_are_read(tmp_path):
    """pi05_libero: chunks of ten, and no state in the prompt."""
    cfg = said(folder(tmp_path, {"action_dim": 32, "action_horizon": 10, "discrete_state_input": False}))
    assert cfg.head.chunk_size == 10 and not cfg.backbone.state_in_prompt
    assert cfg.backbone.prompt_state_dim is None  # openpi writes the robot's numbers alone


def test_what_a_folder_does_not_say_can_be_told(tmp_path):
    """openpi's converter writes no discrete_state_input, and nobody writes which actions are relative."""
    path = folder(tmp_path, {"action_horizon": 10})
    assert inspect_model(path).state_in_prompt is None
    assert said(path).backbone.state_in_prompt
    cfg = said(path, chunk_size=7, state_in_prompt=False, relative_actions=(3, 0))
    assert cfg.head.chunk_size == 7 and not cfg.backbone.state_in_prompt
    assert cfg.preprocessing.relative_actions == [(0, 0), (3, 3)]
    spec = published_policy(inspect_model(path), **SMALL, cameras=("base",), relative_actions=(3, 0))[1]
    assert spec.action.relative == (0, 3)
    folder(tmp_path, {}, "pi0")
    with pytest.raises(UserError, match="leave --state_in_prompt out"):
        said(tmp_path, state_in_prompt=True)
    folder(tmp_path, {"use_relative_actions": True})
    with pytest.raises(UserError, match=r"use_relative_actions = true.*give --relative_actions"):
        said(tmp_path)
    assert said(tmp_path, relative_actions=(1,)).preprocessing.relative_actions == [(1, 1)]


def test_lerobots_normalization_and_steps_are_read(tmp_path):
    features = {"observation.images.base": {}, "observation.images.empty_camera_0": {}, "observation.state": {}}
    config = {"chunk_size": 20, "num_inference_steps": 4, "max_state_dim": 40, "input_features": features}
    config["normalization_mapping"] = {"VISUAL": "IDENTITY", "STATE": "MIN_MAX", "ACTION": "MEAN_STD"}
    path = folder(tmp_path, config, layout="lerobot")
    model = inspect_model(path)
    assert model.cameras == ("base",)  # an empty one is masked
    cfg = said(path)
    assert (cfg.head.chunk_size, cfg.head.num_steps) == (20, 4)
    assert (cfg.preprocessing.state.method, cfg.preprocessing.action.method) == ("min_max", "mean_std")
    assert cfg.backbone.state_in_prompt and cfg.backbone.prompt_state_dim == 40
    for variant, method in (("pi05", "quantile"), ("pi0", "mean_std")):
        cfg = said(folder(tmp_path, {}, variant, "lerobot"))
        assert (cfg.preprocessing.state.method, cfg.head.num_steps, cfg.head.chunk_size) == (method, 10, 50)
        assert cfg.backbone.prompt_state_dim == (32 if variant == "pi05" else None)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"chunk_size": "x"}, 'chunk_size = "x", expected a whole number above 0: correct the file'),
        ({"chunk_size": True}, "chunk_size = true, expected a whole number"),
        ({"action_horizon": None}, "action_horizon = null, expected a whole number"),
        ({"num_inference_steps": 0}, "num_inference_steps = 0, expected a whole number above 0"),
        ({"discrete_state_input": "no"}, 'discrete_state_input = "no", expected true or false'),
        ({"input_features": [1]}, r"input_features = \[1\], expected an object"),
        ({"normalization_mapping": {"STATE": "QUANTILE10"}}, 'STATE = "QUANTILE10", expected MEAN_STD or MIN_MAX or'),
        ({"normalization_mapping": {"ACTION": []}}, r"ACTION = \[\], expected MEAN_STD"),
        ({"normalization_mapping": {"VISUAL": "MEAN_STD"}}, 'VISUAL = "MEAN_STD", expected IDENTITY'),
        ("[1]", "holds a list, expected an object: download"),
        ("{", "can't be read"),
    ],
)
def test_what_is_no_description_is_refused_by_name(tmp_path, config, words):
    with pytest.raises(CheckpointError, match=f"config.json' .*{words}"):
        inspect_model(folder(tmp_path, config))


def test_null_is_nothing(tmp_path):
    model = inspect_model(folder(tmp_path, {"input_features": None, "normalization_mapping": None}))
    assert model.cameras == () and model.methods["state"] == "quantile"


@pytest.mark.parametrize(
    "stats",
    [
        [1],
        None,
        {"state": [1]},
        {"state": {"q01": "x"}},
        {"state": {"q01": [1.0], "q99": [1.0, 2.0]}},
        {"state": {"q01": [float("nan")]}},
        {"state": {"q01": []}},
    ],
)
def test_statistics_that_are_none_are_refused_by_name(tmp_path, stats):
    path = folder(tmp_path, {})
    (path / "assets" / "norm_stats.json").write_text(json.dumps({"norm_stats": stats}))
    with pytest.raises(CheckpointError, match=r"norm_stats.json' holds no statistics under '.*download the model"):
        inspect_model(path)


# --------------------------------------------------------------------------------------------------------- statistics


def test_published_statistics_are_used_as_they_are():
    """The first dimension hardly moves beside the second, and its weights know it in its own scale."""
    statistics = {
        "q01": (-0.004, -1.0, 0.0),
        "q99": (0.004, 1.0, 0.0),
        "min": (-2.0, -1.0, 0.0),
        "max": (2.0, 1.0, 1.0),
    }
    spec = VectorSpec(3, (), statistics | {"mean": (0.0, 0.5, 0.3), "std": (0.001, 2.0, 0.0)})
    x = torch.tensor([0.002, 0.5, 0.0])
    exact = VectorNormalizerCfg(as_published=True).build(spec, "state")
    expected = (x - torch.tensor([-0.004, -1.0, 0.0])) / (torch.tensor([0.008, 2.0, 0.0]) + 1e-6) * 2 - 1
    torch.testing.assert_close(exact(x), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(exact.inverse(exact(x)), x)
    exact = VectorNormalizerCfg(method="mean_std", as_published=True).build(spec, "state")
    torch.testing.assert_close(exact(x), (x - torch.tensor([0.0, 0.5, 0.3])) / torch.tensor([0.001001, 2.000001, 1e-6]))
    floored = VectorNormalizerCfg(floor=0.05).build(spec, "state")
    assert float(floored.scale[0]) == 2.0  # what training does: minimum and maximum instead


def test_a_converted_policy_normalizes_as_its_statistics_say(tmp_path, monkeypatch):
    narrow = {"q01": [-0.004] + [-1.0] * 31, "q99": [0.004] + [1.0] * 31, "mean": [0.0] * 32, "std": [1.0] * 32}
    path = folder(tmp_path / "theirs", {"action_horizon": 4, "discrete_state_input": False})
    (path / "assets" / "norm_stats.json").write_text(json.dumps({"norm_stats": {"state": narrow, "actions": narrow}}))
    small = small_cfg("pi05")
    monkeypatch.setattr("RoboRenForce.components.openpi_folder.paligemma", lambda _: small.backbone)
    monkeypatch.setattr("RoboRenForce.components.openpi_folder.expert_head", lambda _: small.head)
    policy = load_vla(from_published(path, tmp_path / "ours", **SMALL, cameras=("base",)))
    for normalizer in (policy.preprocessing.state, policy.preprocessing.action):
        assert float(normalizer.scale[0]) == pytest.approx(0.0040005, rel=1e-5)
    # And goes out with the same statistics.
    write_published(policy, tmp_path / "again", LAYOUTS["openpi"])
    again = read_object(tmp_path / "again" / "assets" / "norm_stats.json")["norm_stats"]
    assert again["state"]["q01"] == narrow["q01"] and again["actions"]["q99"] == narrow["q99"]


# ------------------------------------------------------------------------------------------ what is written for others


def trained(variant="pi05", **preprocessing):
    """A policy with statistics that training does not take as they are."""
    state = VectorSpec(2, (), {"q01": (-0.004, -1.0), "q99": (0.004, 1.0), "mean": (0.5, 0.0), "std": (0.001, 1.0)})
    cfg = small_cfg(variant)
    for name, value in preprocessing.items():
        setattr(cfg.preprocessing, name, value)
    spec = VLASpec(cameras=("base", "wrist"), state=state, action=state, instructions=("wait",))
    return cfg.build(spec)


@pytest.mark.parametrize("variant", ["pi05", "pi0"])
def test_statistics_that_are_written_normalize_as_the_policy_does(tmp_path, variant):
    """Others know no floor and no dimensions that stay as they are."""
    identity = VectorNormalizerCfg(method="quantile", identity_dims=[1])
    policy = trained(variant, action=identity)
    write_published(policy, tmp_path, LAYOUTS["openpi"])
    found = read_object(tmp_path / "assets" / "norm_stats.json")["norm_stats"]
    x = torch.tensor([[0.3, -0.7]])
    for name, normalizer in (("state", policy.preprocessing.state), ("actions", policy.preprocessing.action)):
        values = {key: torch.tensor(numbers) for key, numbers in found[name].items()}
        if variant == "pi05":
            theirs = (x - values["q01"]) / (values["q99"] - values["q01"] + 1e-6) * 2 - 1
        else:
            theirs = (x - values["mean"]) / (values["std"] + 1e-6)
        torch.testing.assert_close(theirs, normalizer(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("variant", ["pi05", "pi0"])
def test_lerobot_gets_a_configuration_and_statistics(tmp_path, variant):
    policy = trained(variant)
    write_published(policy, tmp_path, LAYOUTS["lerobot"])
    config = read_object(tmp_path / "config.json")
    method = {"pi05": "QUANTILES", "pi0": "MEAN_STD"}[variant]
    assert config["type"] == variant and config["chunk_size"] == config["n_action_steps"] == 4
    assert config["normalization_mapping"] == {"VISUAL": "IDENTITY", "STATE": method, "ACTION": method}
    assert config["input_features"]["observation.images.wrist"] == {"type": "VISUAL", "shape": [3, 64, 64]}
    assert config["output_features"] == {"action": {"type": "ACTION", "shape": [2]}}
    assert config["max_action_dim"] == DIMS
    # The prompt of ours holds the robot's numbers alone; a pi0 has a projection of 32.
    assert config["max_state_dim"] == {"pi05": 2, "pi0": 32}[variant]
    statistics = load_file(tmp_path / NORMALIZER)
    assert {"observation.state.mean", "action.std", "action.q99"} <= statistics.keys()
    model = inspect_model(tmp_path)
    assert model.layout == "lerobot" and model.cameras == ("base", "wrist") and model.units("state") == 2
    assert model.prompt_state_dim == (2 if variant == "pi05" else None)


def test_what_no_file_says_is_warned_of(tmp_path, caplog):
    write_published(trained(), tmp_path, LAYOUTS["lerobot"])
    assert "LeRobot always writes the state into the prompt" in caplog.text
    cfg = small_cfg("pi05")
    cfg.preprocessing.relative_actions = [(1, 1)]
    state = VectorSpec(2, (), {"q01": (-1.0, -1.0), "q99": (1.0, 1.0)})
    action = VectorSpec(2, (), state.statistics, (1,))
    policy = cfg.build(VLASpec(cameras=("base",), state=state, action=action, instructions=("wait",)))
    write_published(policy, tmp_path, LAYOUTS["openpi"])
    assert "The actions [1] of this policy are relative to the state" in caplog.text
    with pytest.raises(
        CheckpointError, match=r"The policy has MLPBaselineCfg and .*, expected PaliGemma and a flow head"
    ):
        described_policy(vla_cases.policy(), LAYOUTS["openpi"])


# ------------------------------------------------------------------------------------------------------- the prompt


def test_the_state_can_be_padded_in_the_prompt():
    """LeRobot pads to 32 numbers before it writes them: zeros are bin 128."""
    short, padded = (PaliGemmaPrompt(WORDS, 4096, state_dim=dim) for dim in (3, 5))
    ids, mask = padded.tokenize(["lift"])
    state = torch.tensor([[-2.0, 0.25, 0.0]])
    found, there = padded(ids, mask, state)
    whole, _ = short(*short.tokenize(["lift"]), state)
    tail = len(padded.tail)
    zero = whole[:, -tail - 1 :][:, :1]
    assert torch.equal(found, torch.cat([whole[:, :-tail], zero, zero, whole[:, -tail:]], 1)) and there.all()
    cfg = OpenPIPolicyCfg(variant="pi05", size="tiny")
    cfg.backbone.prompt_state_dim = 2
    with pytest.raises(ConfigError, match=r"The state has 32 numbers, and backbone\.prompt_state_dim writes 2"):
        small_policy("pi05", cfg=cfg)


# ----------------------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize("variant", ["pi05", "pi0"])
def test_memory_is_what_the_built_model_takes(tmp_path, variant):
    """Against the policy of the published size, on the meta device: its dtypes, and 12 bytes more where it learns."""
    pytest.importorskip("transformers")  # peft imports it
    pytest.importorskip("peft")
    model = _published_model(tmp_path, variant)
    needs = memory(model)
    uses = {
        "acting": ("frozen", "frozen"),
        "expert only": ("frozen", "full"),
        f"LoRA of rank {LoRACfg().rank}": ("lora", "lora"),
        "all": ("full", "full"),
    }
    assert needs.keys() == uses.keys()
    for use, (language, expert) in uses.items():
        cfg = OpenPIPolicyCfg(variant=variant)
        cfg.backbone.tokenizer = WORDS
        cfg.backbone.language.finetune, cfg.head.network.gemma.finetune = language, expert
        cfg.backbone.language.lora = cfg.head.network.gemma.lora = LoRACfg()
        parameters = _meta_parameters(cfg)
        learned = [] if use == "acting" else [p for p in parameters if p.requires_grad]
        found = sum(p.numel() * p.element_size() for p in parameters) + 12 * sum(p.numel() for p in learned)
        assert needs[use] == pytest.approx(found / 1e9, rel=2e-3), use
    if variant == "pi05":
        assert (round(needs["acting"], 2), round(needs[f"LoRA of rank {LoRACfg().rank}"], 2)) == (7.57, 8.02)


def _meta_parameters(cfg):
    with torch.device("meta"):
        backbone = cfg.backbone.build(num_cameras=1, state_dim=32, taps=cfg.head.taps(32))
        head = cfg.head.build(width=2048, state_dim=32, action_dim=32)
    return [*backbone.parameters(), *head.parameters()]


def _published_model(tmp_path, variant):
    """Names and shapes of the published size, without their bytes."""
    cfg = OpenPIPolicyCfg(variant=variant, backbone=paligemma(variant).replace(tokenizer=WORDS))
    with torch.device("meta"):
        backbone = cfg.backbone.build(num_cameras=1, state_dim=32, taps=cfg.head.taps(32))
        head = cfg.head.build(width=2048, state_dim=32, action_dim=32)
    policy = torch.nn.Module()
    policy.backbone, policy.head = backbone, head
    names = LAYOUTS["openpi"].to_theirs(dict(policy.named_parameters()))
    save_file({"action_in_proj.bias": torch.zeros(1)}, tmp_path / "model.safetensors")
    shapes = {theirs: tuple(policy.get_parameter(mine).shape) for theirs, mine in names.items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("RoboRenForce.components.openpi_folder.read_shapes", lambda *_, **__: shapes)
        model = inspect_model(tmp_path)
    assert not model.missing and not model.unexpected
    return model
