"""Published weights: every name and shape has its place, and what is wrong is said in a sentence."""

from pathlib import Path

import pytest
import torch
from openpi_cases import chunks, fill, inputs, small_cfg, small_policy
from RoboRenForce.components.openpi_convert import from_published, to_published, write_published
from RoboRenForce.components.openpi_folder import inspect_model, published_policy
from RoboRenForce.components.openpi_policy import OpenPIPolicyCfg, expert_head, paligemma
from RoboRenForce.components.openpi_weights import LAYOUTS, load_weights, rename_weights, require_same
from RoboRenForce.components.vla_export import export_vla, load_vla
from RoboRenForce.networks.vlm.paligemma_prompt import WORDS
from RoboRenForce.utils.errors import CheckpointError, UserError
from safetensors.torch import load_model, save_file
from torch import nn

pytestmark = pytest.mark.contract


def published(variant):
    """Names and shapes of openpi's files, written down from them."""
    names = {}
    for line in Path(__file__).with_name("openpi_names.txt").read_text().splitlines()[1:]:
        who, name, layers, shape = line.split()
        if who in (variant, "both"):
            for number in range(int(layers)):
                names[name.replace("#", str(number))] = tuple(map(int, shape.split("x")))
    return names


@pytest.fixture(scope="module", params=["pi05", "pi0"])
def full_size(request):
    """Variant, and a policy of the published size without memory."""
    cfg = paligemma(request.param).replace(tokenizer=WORDS)
    head = expert_head(request.param)
    policy = nn.Module()
    with torch.device("meta"):
        policy.backbone = cfg.build(num_cameras=3, state_dim=32, taps=head.taps(32))
        policy.head = head.build(width=2048, state_dim=32, action_dim=32)
    return request.param, policy


def test_published_names_and_shapes_are_ours(full_size):
    variant, policy = full_size
    theirs = {name: torch.empty(shape, device="meta") for name, shape in published(variant).items()}
    targets = dict(policy.named_parameters())
    for layout, prefix in (("openpi", ""), ("lerobot", "model.")):
        renamed = rename_weights({prefix + name: value for name, value in theirs.items()})
        require_same(targets, renamed, layout)
        written = [*LAYOUTS[layout].to_theirs(targets), *LAYOUTS[layout].zeros]
        assert len(set(written)) == len(written)
        # Their model has the tied embeddings under two names, their file under one.
        assert set(written) == {prefix + name for name in theirs if not name.endswith("embed_tokens.weight")}
    tied = {name: value for name, value in theirs.items() if not name.endswith("embed_tokens.weight")}
    require_same(targets, rename_weights(tied), "a file that holds the tied embeddings under their other name")


def test_parameters_are_accounted_for(full_size):
    """3.35 billion; what others count beyond that is a head of the expert that nothing trains."""
    variant, policy = full_size
    count = {name: sum(p.numel() for p in part.parameters()) for name, part in policy.backbone.named_children()}
    assert count["vision"] == 412_442_352
    assert count["projector"] == 1152 * 2048 + 2048
    assert count["words"] == 257_152 * 2048
    assert count["language"] == 1_981_884_416
    expert = sum(p.numel() for p in policy.head.parameters())
    assert expert == {"pi05": 430_098_464, "pi0": 314_713_120}[variant]
    unused = 257_152 * 1024
    theirs = sum(torch.Size(shape).numel() for name, shape in published(variant).items()) - 257_152 * 2048  # tied
    assert sum(count.values()) + expert + unused == theirs


def test_weights_come_back_from_every_layout(tmp_path):
    policy = small_policy("pi0")
    for layout in LAYOUTS.values():
        names = layout.to_theirs(dict(policy.named_parameters()))
        tensors = {theirs: policy.get_parameter(mine).detach().clone() for theirs, mine in names.items()}
        if layout.name == "lerobot":
            tensors["model.paligemma_with_expert.gemma_expert.lm_head.weight"] = torch.zeros(2, 2)
        save_file(tensors, tmp_path / "model.safetensors")
        again = small_policy("pi0")
        fill(again, seed=5)
        load_weights(again, tmp_path)
        assert all(torch.equal(p, again.get_parameter(name)) for name, p in policy.named_parameters())


class Named(nn.Module):
    """A model with these parameters, its embeddings tied, as openpi builds its own."""

    def __init__(self, shapes):
        super().__init__()
        for path, shape in shapes.items():
            *parents, last = path.split(".")
            part = self
            for name in parents:
                if name not in dict(part.named_children()):
                    part.add_module(name, nn.Module())
                part = part.get_submodule(name)
            part.register_parameter(last, nn.Parameter(torch.full(shape, torch.nan)))

    def tie(self, first, second):
        self.get_submodule(second.rpartition(".")[0]).weight = self.get_parameter(first)


@pytest.mark.parametrize("layout", ["openpi", "lerobot"])
def test_a_strict_reader_with_tied_embeddings_takes_what_is_written(tmp_path, layout):
    """openpi reads by `safetensors.torch.load_model`, which wants every name once."""
    policy = small_policy("pi05")
    file = write_published(policy, tmp_path, LAYOUTS[layout])
    prefix = {"openpi": "", "lerobot": "model."}[layout] + "paligemma_with_expert."
    head, words = f"{prefix}paligemma.lm_head.weight", f"{prefix}paligemma.model.language_model.embed_tokens.weight"
    names = LAYOUTS[layout].to_theirs(dict(policy.named_parameters()))
    shapes = {theirs: policy.get_parameter(mine).shape for theirs, mine in names.items()}
    shapes |= {words: shapes[head], f"{prefix}gemma_expert.lm_head.weight": (320, 32)}
    model = Named(shapes)
    model.tie(words, head)
    load_model(model, file, strict=True)
    assert torch.equal(model.get_parameter(words), policy.backbone.words.weight)
    assert not model.get_parameter(f"{prefix}gemma_expert.lm_head.weight").any()
    assert not any(parameter.isnan().any() for parameter in model.parameters())
    again = small_policy("pi05")
    fill(again, seed=5)
    load_weights(again, tmp_path)
    assert all(torch.equal(p, again.get_parameter(name)) for name, p in policy.named_parameters())


def test_unused_names_are_left_out_before_any_is_renamed():
    for layout, name in (
        ("transformers", "model.dit.embed_tokens.weight"),
        ("openpi", "paligemma_with_expert.gemma_expert.model.embed_tokens.weight"),
        ("lerobot", "model.paligemma_with_expert.gemma_expert.model.embed_tokens.weight"),
    ):
        assert LAYOUTS[layout].from_theirs([name]) == {}


def test_rlinfs_file_is_read_without_running_code(tmp_path):
    policy = small_policy("pi05")
    names = LAYOUTS["openpi"].to_theirs(dict(policy.named_parameters()))
    tensors = {theirs: policy.get_parameter(mine).detach() for theirs, mine in names.items()}
    folder = tmp_path / "actor" / "model_state_dict"
    folder.mkdir(parents=True)
    torch.save(tensors | {"value_head.mlp.0.weight": torch.zeros(3)}, folder / "full_weights.pt")
    cfg = small_cfg("pi05")
    again = small_policy("pi05", cfg=cfg)
    fill(again, seed=5)
    load_weights(again, tmp_path)
    assert torch.equal(again.backbone.projector.weight, policy.backbone.projector.weight)
    torch.save(policy, folder / "full_weights.pt")
    with pytest.raises(CheckpointError, match="no file of tensors alone"):
        load_weights(again, tmp_path)


def test_wrong_weights_are_named(tmp_path):
    policy = small_policy("pi0")
    with pytest.raises(CheckpointError, match="holds no weights"):
        load_weights(policy, tmp_path)
    save_file({"model.layers.0.weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"holds no pi0 or pi0\.5"):
        load_weights(policy, tmp_path)
    other = small_policy("pi05")
    names = LAYOUTS["openpi"].to_theirs(dict(other.named_parameters()))
    tensors = {theirs: other.get_parameter(mine).detach().clone() for theirs, mine in names.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match="set variant to that of the weights"):
        load_weights(policy, tmp_path)
    save_file(tensors | {"something.else": torch.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"'something\.else' is no name of the layout 'openpi'"):
        load_weights(other, tmp_path)


def test_the_gated_tokenizer_is_asked_for_in_a_sentence(tmp_path):
    cfg = OpenPIPolicyCfg(variant="pi05", size="tiny")
    cfg.backbone.tokenizer = ""
    with pytest.raises(UserError, match=r"backbone\.tokenizer is empty.*accept its licence"):
        small_policy("pi05", cfg=cfg)
    cfg.backbone.tokenizer = str(tmp_path)
    with pytest.raises(UserError, match=r"has no tokenizer\.json"):
        small_policy("pi05", cfg=cfg)


def test_a_policy_goes_out_and_comes_back(tmp_path, monkeypatch):
    """Ours -> openpi -> inspected -> ours: the same actions, in the same units."""
    policy = small_policy("pi05")
    export_vla(policy, tmp_path / "ours")
    to_published(tmp_path / "ours", tmp_path / "theirs", LAYOUTS["openpi"])
    found = inspect_model(tmp_path / "theirs")
    assert (found.layout, found.variant, found.action_dim) == ("openpi", "pi05", 32)
    assert any(".layers.10." in name for name in found.missing) and found.unexpected  # smaller than what is published
    assert found.statistics["action"]["q99"] == policy.spec.action.statistics["q99"]
    small = small_cfg("pi05")
    monkeypatch.setattr("RoboRenForce.components.openpi_folder.paligemma", lambda _: small.backbone)
    monkeypatch.setattr("RoboRenForce.components.openpi_folder.expert_head", lambda _: small.head)
    cameras, texts = policy.spec.cameras, policy.spec.instructions
    from_published(tmp_path / "theirs", tmp_path / "back", tokenizer=WORDS, cameras=cameras, instructions=texts)
    again = load_vla(tmp_path / "back")
    assert again.spec.action.statistics == policy.spec.action.statistics and again.spec.cameras == cameras
    noise, _, _ = chunks()
    with torch.no_grad():
        expected, got = (p.head.sample(p.backbone(inputs()), noise) for p in (policy, again))
    assert torch.equal(got, expected)


def test_a_base_model_has_no_units(tmp_path):
    policy = small_policy("pi0")
    write_published(policy, tmp_path, LAYOUTS["lerobot"])
    (tmp_path / "policy_preprocessor_step_2_normalizer_processor.safetensors").unlink()
    (tmp_path / "config.json").write_text('{"input_features": {"observation.images.base": {}}, "chunk_size": 50}')
    found = inspect_model(tmp_path)
    assert found.cameras == ("base",) and found.variant == "pi0"
    with pytest.raises(UserError, match="holds no statistics of state and action"):
        published_policy(found, tokenizer=WORDS, instructions=("wait",))
