"""`rrf doctor --model`: what a folder is, and what it lacks."""

import pytest
from openpi_cases import small_policy
from RoboRenForce.cli.model_doctor import model_doctor
from RoboRenForce.components.openpi_convert import write_published
from RoboRenForce.components.openpi_weights import LAYOUTS
from RoboRenForce.components.vla_export import export_vla
from RoboRenForce.utils.errors import CheckpointError

pytestmark = pytest.mark.contract


def test_it_names_what_is_there_and_what_is_not(tmp_path, capsys):
    policy = small_policy("pi05")
    write_published(policy, tmp_path, LAYOUTS["lerobot"])
    assert not model_doctor(tmp_path)  # smaller than what is published
    shown = capsys.readouterr().out
    for text in ("pi05, layout 'lerobot'", "missing", "32 dimensions", "q01", "tokenizer", "GB for weights"):
        assert text in shown, shown
    export_vla(policy, tmp_path / "ours")
    assert model_doctor(tmp_path / "ours")
    assert "PaliGemmaCfg with FlowHeadCfg" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match="holds no weights"):
        model_doctor(tmp_path / "assets")
