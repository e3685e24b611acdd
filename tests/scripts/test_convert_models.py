"""`scripts/models/convert.py` as a user calls it, both ways."""

import runpy
import sys
from pathlib import Path

import pytest
from openpi_cases import small_cfg, small_policy
from RoboRenForce.components.openpi_config import read_object
from RoboRenForce.components.openpi_convert import write_published
from RoboRenForce.components.openpi_folder import inspect_model
from RoboRenForce.components.openpi_weights import LAYOUTS
from RoboRenForce.components.vla_export import export_vla, load_vla
from RoboRenForce.networks.vlm.paligemma_prompt import WORDS
from RoboRenForce.utils.errors import UserError

pytestmark = pytest.mark.contract

SCRIPT = Path(__file__).parents[2] / "scripts" / "models" / "convert.py"


@pytest.fixture
def convert(monkeypatch):
    """The script's `main` with a command line; the published size is that of `openpi_cases`."""

    def call(*words):
        small = small_cfg("pi05")  # anew each time: a conversion changes what it was given
        monkeypatch.setattr("RoboRenForce.components.openpi_folder.paligemma", lambda _: small.backbone)
        monkeypatch.setattr("RoboRenForce.components.openpi_folder.expert_head", lambda _: small.head)
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, words)])
        runpy.run_path(str(SCRIPT))["main"]()

    return call


def test_a_published_folder_becomes_a_policy(tmp_path, convert, capsys):
    write_published(small_policy("pi05"), tmp_path / "theirs", LAYOUTS["openpi"])
    (tmp_path / "theirs" / "config.json").write_text("{}")
    options = ["--tokenizer", WORDS, "--instructions", "lift it", "--cameras", "base", "wrist"]
    said = ["--chunk_size", "10", "--no-state_in_prompt", "--relative_actions", "0", "2"]
    convert(tmp_path / "theirs", tmp_path / "ours", *options, *said)
    assert str(tmp_path / "ours") in capsys.readouterr().out
    policy = load_vla(tmp_path / "ours")
    assert policy.cfg.head.chunk_size == 10 and not policy.cfg.backbone.state_in_prompt
    assert policy.spec.action.relative == (0, 2) and policy.spec.cameras == ("base", "wrist")
    assert policy.spec.instructions == ("lift it",)
    convert(tmp_path / "theirs", tmp_path / "with", *options, "--state_in_prompt")
    assert load_vla(tmp_path / "with").cfg.backbone.state_in_prompt
    convert(tmp_path / "theirs", tmp_path / "unsaid", *options)
    assert load_vla(tmp_path / "unsaid").cfg.backbone.state_in_prompt
    with pytest.raises(UserError, match="--chunk_size"):
        convert(tmp_path / "theirs", tmp_path / "none", *options, "--chunk_size", "0")


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        ("openpi", "assets/<its asset_id>/"),
        ("lerobot", "policy_preprocessor.json and policy_postprocessor.json are not written"),
        ("transformers", "normalizes nothing"),
    ],
)
def test_a_policy_becomes_a_folder_for_others_and_says_what_is_left_to_do(tmp_path, convert, capsys, layout, words):
    export_vla(small_policy("pi0" if layout == "transformers" else "pi05"), tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "theirs", "--layout", layout)
    shown = capsys.readouterr().out
    assert str(tmp_path / "theirs" / "model.safetensors") in shown and words in shown
    assert inspect_model(tmp_path / "theirs").layout == layout
    assert read_object(tmp_path / "theirs" / "config.json")
