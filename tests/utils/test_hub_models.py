"""Downloads of weights, against a stand-in of the hub's interface: what is asked for, and what users read."""

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from RoboRenForce.utils.errors import UserError
from RoboRenForce.utils.hub_models import MODELS, download_model, repositories, setup_arguments

pytestmark = pytest.mark.contract
hub = pytest.importorskip("huggingface_hub")
ROOT = Path(__file__).parents[2]


@pytest.fixture
def asked(monkeypatch, tmp_path):
    """Files of a repository; returns what was downloaded."""
    files = {"model.safetensors": 4000, "config.json": 10, "modeling_evil.py": 10, "pytorch_model.bin": 10**15}
    calls = []

    class Api:
        def model_info(self, repository, files_metadata):
            assert files_metadata
            siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in files.items()]
            return SimpleNamespace(siblings=siblings)

    def snapshot(repository, allow_patterns, local_dir=None):
        calls.append((repository, allow_patterns, local_dir))
        return str(tmp_path)

    monkeypatch.setattr(hub, "HfApi", Api)
    monkeypatch.setattr(hub, "snapshot_download", snapshot)
    monkeypatch.setattr(hub, "try_to_load_from_cache", lambda repository, name: None)
    return calls


def test_weights_and_plain_data_are_fetched_and_no_code(asked, tmp_path):
    assert download_model("owner/name", tmp_path / "there") == tmp_path
    repository, patterns, folder = asked[0]
    assert repository == "owner/name" and folder == str(tmp_path / "there")
    assert "*.safetensors" in patterns and not any(pattern.endswith((".py", ".bin", "*")) for pattern in patterns)
    download_model("owner/name:tokenizer*")
    assert asked[1] == ("owner/name", ["tokenizer*"], None)


def test_the_disk_is_checked_before(asked, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: SimpleNamespace(free=3000))
    with pytest.raises(UserError, match="GB more and"):
        download_model("owner/name", tmp_path)
    assert not asked
    (tmp_path / "model.safetensors").touch()  # what is there takes no more space
    download_model("owner/name", tmp_path)


def test_refusals(asked, monkeypatch):
    with pytest.raises(UserError, match="name one of qwen2vl, qwen3vl, openpi, groot, gr00t"):
        repositories("qwen4")
    with pytest.raises(UserError, match="choose from 2B, 7B"):
        repositories("qwen2vl", "3B")
    assert repositories("gr00t") == repositories("groot")

    def refuse(error):
        def call(*args, **kwargs):
            raise error

        monkeypatch.setattr(hub, "snapshot_download", call)

    response = SimpleNamespace(status_code=403, headers={}, request=None)
    refuse(hub.errors.GatedRepoError("gated", response=response))
    with pytest.raises(UserError, match="accept its licence"):
        download_model("owner/name")
    refuse(ConnectionError("no route"))
    with pytest.raises(UserError, match=r"no route\): check the network"):
        download_model("owner/name")


def test_the_arguments_that_download_a_model_name_its_size():
    assert setup_arguments("Qwen/Qwen3-VL-8B-Instruct", "qwen3vl") == "qwen3vl --size 8B"
    assert setup_arguments("somebody/finetuned", "qwen2vl") == "qwen2vl"
    for sizes in MODELS.values():
        for there in sizes.values():
            model, size = setup_arguments(there[0], "").split(" --size ")
            assert repositories(model, size) == there


def test_the_script_says_one_sentence():
    done = subprocess.run(
        ["bash", "scripts/models/setup_models.sh", "qwen4"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "PYTHONPATH": str(ROOT / "source/RoboRenForce")},
    )
    assert done.returncode == 1 and done.stderr.startswith("Error: There is no model 'qwen4'"), done.stderr
