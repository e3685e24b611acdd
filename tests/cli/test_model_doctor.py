"""`rrf doctor --model`: what a folder is, and what it lacks."""

import json
from pathlib import Path

import pytest
from openpi_cases import small_cfg, small_policy
from RoboRenForce.cli import main
from RoboRenForce.cli.model_doctor import model_doctor
from RoboRenForce.components.openpi_convert import write_published
from RoboRenForce.components.openpi_weights import LAYOUTS
from RoboRenForce.components.vla_export import export_vla
from RoboRenForce.utils.errors import CheckpointError, UserError
from RoboRenForce.utils.run_dir import RunDir

pytestmark = pytest.mark.contract


def test_it_names_what_is_there_and_what_is_not(tmp_path, capsys):
    policy = small_policy("pi05")
    write_published(policy, tmp_path, LAYOUTS["lerobot"])
    assert not model_doctor(tmp_path)  # smaller than what is published
    shown = capsys.readouterr().out
    for text in ("pi05, layout 'lerobot'", "missing", "32 dimensions, read by quantile", "q01", "tokenizer"):
        assert text in shown, shown
    assert "GB for weights" in shown and "chunks of 4, 10 steps of denoising" in shown and "with the state" in shown
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds no weights"):
        model_doctor(tmp_path / "empty")


def test_what_openpi_does_not_write_is_said(tmp_path, capsys):
    write_published(small_policy("pi05"), tmp_path, LAYOUTS["openpi"])
    model_doctor(tmp_path)
    assert "prompt         without the state" in capsys.readouterr().out
    (tmp_path / "config.json").write_text('{"action_horizon": 10}')
    model_doctor(tmp_path)
    shown = capsys.readouterr().out
    assert "chunks of 10" in shown and "the folder does not (convert.py --no-state_in_prompt)" in shown


def test_an_exported_policy_has_the_same_rows(tmp_path, capsys):
    policy = small_policy("pi05")
    export_vla(policy, tmp_path)
    assert model_doctor(tmp_path)
    shown = capsys.readouterr().out
    count = {name: sum(p.numel() for p in policy.get_submodule(name).parameters()) for name in ("backbone", "head")}
    assert "PaliGemmaCfg with FlowHeadCfg" in shown and "tokenizer      words" in shown
    assert f"backbone {count['backbone'] / 1e9:.3g}, head {count['head'] / 1e9:.3g}" in shown
    size = (tmp_path / "model.safetensors").stat().st_size
    assert f"memory         acting {size / 1e9:.3g} GB" in shown


def test_it_succeeds_where_a_policy_can_be_built(tmp_path, capsys, monkeypatch):
    """A base model has no units; nobody can act with it."""
    policy = small_policy("pi05")
    small = small_cfg("pi05")
    monkeypatch.setattr("RoboRenForce.components.openpi_folder.paligemma", lambda _: small.backbone)
    monkeypatch.setattr("RoboRenForce.components.openpi_folder.expert_head", lambda _: small.head)
    write_published(policy, tmp_path, LAYOUTS["openpi"])
    with pytest.raises(SystemExit) as left:
        main(["doctor", "--model", str(tmp_path)])
    assert left.value.code == 0
    (tmp_path / "assets" / "norm_stats.json").unlink()
    with pytest.raises(SystemExit) as left:
        main(["doctor", "--model", str(tmp_path)])
    assert left.value.code == 1
    assert "action units   none: a base model, fine-tune it on data" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", {"chunk_size": "x"}, "chunk_size"),
        ("config.json", {"input_features": 3}, "input_features"),
        ("config.json", [1], "expected an object"),
        ("assets/norm_stats.json", {"norm_stats": [1]}, "no statistics under 'norm_stats'"),
    ],
)
def test_damaged_files_are_named_in_a_sentence(tmp_path, file, content, words):
    write_published(small_policy("pi05"), tmp_path, LAYOUTS["openpi"])
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(CheckpointError, match=f"{Path(file).name}' .*{words}.*download the model again"):
        model_doctor(tmp_path)


def test_null_features_are_none(tmp_path, capsys):
    write_published(small_policy("pi05"), tmp_path, LAYOUTS["openpi"])
    (tmp_path / "config.json").write_text('{"input_features": null}')
    model_doctor(tmp_path)
    assert "cameras        not named" in capsys.readouterr().out


def test_a_run_is_answered_with_its_policy(tmp_path):
    run = RunDir(tmp_path)
    run.params("run").parent.mkdir()
    run.params("run").write_text("task: RoboRenForce-Test\n")
    with pytest.raises(UserError, match=r"directory of a run.*export its policy by `rrf export --target .*`"):
        model_doctor(tmp_path)
    export_vla(small_policy("pi05"), run.exported)
    with pytest.raises(UserError, match=r"directory of a run.*: name '.*exported'"):
        model_doctor(tmp_path)
