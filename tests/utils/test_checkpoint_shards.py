"""Checkpoint directories: nothing in them runs, damage and lies are named, runs treat them as they treat files."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce.utils.checkpoint import (
    load_checkpoint,
    newest_usable,
    prune_checkpoints,
    save_checkpoint,
)
from RoboRenForce.utils.errors import CheckpointError
from RoboRenForce.utils.module_state import export_safetensors, load_module_state, module_state
from RoboRenForce.utils.plain_data import first_nan
from RoboRenForce.utils.run_dir import RunDir, find_runs, resolve_checkpoint
from safetensors_content import content_of
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Shard, distribute_tensor

pytestmark = pytest.mark.contract


def state(mesh: DeviceMesh, value: float = 1.0) -> dict[str, Any]:
    weight = torch.arange(12.0).view(4, 3) + value
    return {
        "weights": {"w": distribute_tensor(weight, mesh, [Shard(0)]), "left_out": ["base.weight"]},
        "moments": [distribute_tensor(torch.full((5,), value), mesh, [Shard(0)])],
        "iteration": 7,
        "rng": torch.tensor([1, 2], dtype=torch.uint8),
    }


def test_what_is_saved_is_loaded_whole_or_into_shards(tmp_path: Path, mesh: DeviceMesh) -> None:
    path = tmp_path / "global_step_7"
    save_checkpoint(path, state(mesh))
    assert sorted(file.name for file in path.iterdir()) == ["data.pt", "manifest.json", "shard_00000.safetensors"]
    loaded = load_checkpoint(path)
    assert loaded["iteration"] == 7 and loaded["rng"].tolist() == [1, 2]
    assert torch.equal(loaded["weights"]["w"], torch.arange(12.0).view(4, 3) + 1.0)
    into = state(mesh, value=0.0)
    again = load_checkpoint(path, into=into)
    assert again["weights"]["w"] is into["weights"]["w"] and again["moments"][0] is into["moments"][0]
    assert torch.equal(into["weights"]["w"].full_tensor(), loaded["weights"]["w"])
    assert again["iteration"] == 7
    assert json.loads((path / "manifest.json").read_text())["left_out"] == ["base.weight"]


def test_a_directory_is_replaced_by_the_new_one(tmp_path: Path, mesh: DeviceMesh) -> None:
    path = tmp_path / "global_step_7"
    save_checkpoint(path, state(mesh))
    save_checkpoint(path, state(mesh, value=5.0))
    assert load_checkpoint(path)["weights"]["w"][0, 0] == 5.0
    assert [entry.name for entry in tmp_path.iterdir()] == ["global_step_7"]


def test_sharded_tensors_do_not_go_into_a_file(tmp_path: Path, mesh: DeviceMesh) -> None:
    with pytest.raises(
        TypeError, match=r"weights/w is sharded and can't go into the file .*: every rank saves to a dir"
    ):
        save_checkpoint(tmp_path / "model_7.pt", state(mesh))
    with pytest.raises(TypeError, match=r"checkpoint\.bad is a set"):
        save_checkpoint(tmp_path / "global_step_7", state(mesh) | {"bad": {1}})
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_leaves_nothing(tmp_path: Path, mesh: DeviceMesh, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"can't be written \(No space left on device\); earlier checkpoints"):
        save_checkpoint(tmp_path / "global_step_7", state(mesh))
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------------------------------------------- damage and lies


class Malicious:
    """Unpickling it makes the file `ran`."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def test_a_pickle_in_the_directory_does_not_run(tmp_path: Path, mesh: DeviceMesh) -> None:
    path, mark = tmp_path / "global_step_7", tmp_path / "ran"
    save_checkpoint(path, state(mesh))
    code = pickle.dumps(Malicious(mark))
    for name in (".metadata", "metadata.pkl", "__0_0.distcp"):  # where DCP's own reader would unpickle it
        (path / name).write_bytes(code)
    assert load_checkpoint(path)["iteration"] == 7
    torch.save({"format": "RoboRenForce checkpoint", "version": 1, "x": Malicious(mark)}, path / "data.pt")
    change(path, lambda manifest: manifest["files"].update({"data.pt": (path / "data.pt").stat().st_size}))
    with pytest.raises(CheckpointError, match="is not a checkpoint of RoboRenForce"):
        load_checkpoint(path)
    (path / "manifest.json").write_bytes(code)
    with pytest.raises(CheckpointError, match=r"manifest\.json' is damaged: it is no JSON"):
        load_checkpoint(path)
    assert not mark.exists()


def change(path: Path, edit: Callable[[dict[str, Any]], Any]) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    edit(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest))


def part(manifest: dict[str, Any]) -> dict[str, Any]:
    return manifest["tensors"]["weights/w"]["parts"][0]


def flip(path: Path) -> None:
    content = bytearray((path / "shard_00000.safetensors").read_bytes())
    content[-3] ^= 1
    (path / "shard_00000.safetensors").write_bytes(content)


def cut(path: Path) -> None:
    file = path / "shard_00000.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def link(path: Path) -> None:
    file = path / "shard_00000.safetensors"
    file.symlink_to(file.rename(path.parent / "elsewhere"))


def overlap(manifest: dict[str, Any]) -> None:
    """Two parts of the right size together that cover the first rows twice and the last ones never."""
    first = part(manifest) | {"sizes": [2, 3]}
    manifest["tensors"]["weights/w"]["parts"] = [first, first | {"offsets": [1, 0]}]


CONTRADICTS = "contradicts itself or the files about 'weights/w'"
DAMAGE: list[tuple[Callable[[Path], Any], str]] = [
    (flip, r"shard_00000.safetensors' is damaged: '.*' fails the checksum"),
    (cut, "shard_00000.safetensors' is damaged: it has .* bytes, expected"),
    (link, "its file 'shard_00000.safetensors' is missing"),
    (lambda p: (p / "shard_00000.safetensors").unlink(), "its file 'shard_00000.safetensors' is missing"),
    (lambda p: (p / "data.pt").unlink(), "its file 'data.pt' is missing"),
    (lambda p: (p / "manifest.json").unlink(), "its manifest.json can't be read"),
    (lambda p: (p / "manifest.json").write_text("[" * 100_000), "it is no JSON"),
    (lambda p: (p / "manifest.json").write_text("[]"), "is not a complete manifest: it is a list, expected a mapping"),
    (lambda p: change(p, lambda m: m.update(version=3)), "has format 3, and this RoboRenForce reads up to 2"),
    (lambda p: change(p, lambda m: m.pop("tensors")), "not a complete manifest: tensors is missing"),
    (lambda p: change(p, lambda m: m["tensors"].pop("weights/w")), "lacks 'weights/w'"),
    (lambda p: change(p, lambda m: m["files"].update({"../model_1.pt": 3})), "its file '../model_1.pt' is missing"),
    (lambda p: change(p, lambda m: part(m).update(crc32=1)), "'weights/w' fails the checksum"),
    (lambda p: change(p, lambda m: part(m).update(start=part(m)["start"] + 4)), "checksum|" + CONTRADICTS),
    (lambda p: change(p, lambda m: part(m).update(start=10**12)), CONTRADICTS),
    (lambda p: change(p, lambda m: part(m).update(sizes=[10**9, 10**9])), CONTRADICTS),
    (lambda p: change(p, lambda m: part(m).update(sizes=[4, -3])), CONTRADICTS),
    (lambda p: change(p, lambda m: part(m).update(file="data.pt")), CONTRADICTS),
    (lambda p: change(p, lambda m: m["tensors"]["weights/w"].update(shape=[8, 3])), CONTRADICTS),
    (lambda p: change(p, lambda m: m["tensors"]["weights/w"].update(dtype="F4")), CONTRADICTS),
    (lambda p: change(p, lambda m: m["tensors"]["weights/w"].update(parts=[])), "parts is a list|" + CONTRADICTS),
    (lambda p: change(p, overlap), CONTRADICTS),
]


@pytest.mark.parametrize(("spoil", "sentence"), DAMAGE)
def test_damage_and_lies_are_refused_and_the_previous_one_is_named(
    tmp_path: Path, mesh: DeviceMesh, spoil: Callable[[Path], Any], sentence: str
) -> None:
    for iteration in (3, 7):
        save_checkpoint(tmp_path / f"global_step_{iteration}", state(mesh))
    spoil(tmp_path / "global_step_7")
    with pytest.raises(CheckpointError, match=sentence) as caught:
        load_checkpoint(tmp_path / "global_step_7")
    assert f"The newest usable checkpoint beside it is '{tmp_path / 'global_step_3'}'." in str(caught.value)
    assert "\n" not in str(caught.value)
    assert newest_usable(RunDir(tmp_path)) == tmp_path / "global_step_3"


def test_what_does_not_fit_is_refused_by_its_place(tmp_path: Path, mesh: DeviceMesh) -> None:
    path = tmp_path / "global_step_7"
    save_checkpoint(path, state(mesh))
    other = state(mesh)
    other["weights"]["w"] = distribute_tensor(torch.zeros(2, 3), mesh, [Shard(0)])
    with pytest.raises(
        CheckpointError, match=r"'weights/w' has the shape \[4, 3\] in the checkpoint, expected \[2, 3\]"
    ):
        load_checkpoint(path, into=other)
    other["weights"]["w"] = distribute_tensor(torch.zeros(4, 3).bfloat16(), mesh, [Shard(0)])
    with pytest.raises(CheckpointError, match=r"type torch\.float32 in the checkpoint, expected torch\.bfloat16"):
        load_checkpoint(path, into=other)
    other["weights"] = {"wx": other["weights"]["w"]}
    with pytest.raises(CheckpointError, match=r"The checkpoint lacks 'weights/wx'; did you mean 'w'\?"):
        load_checkpoint(path, into=other)
    assert load_checkpoint(path, schema={"iteration": int})["iteration"] == 7
    with pytest.raises(CheckpointError, match="is not a complete checkpoint: steps is missing"):
        load_checkpoint(path, schema={"steps": int})


# --------------------------------------------------------------------------------------------------- run directories


def test_runs_hold_files_and_directories_alike(tmp_path: Path, mesh: DeviceMesh) -> None:
    run = RunDir(tmp_path / "e" / "run")
    run.root.mkdir(parents=True)
    for iteration in range(1, 7):
        sharded = iteration % 2 == 0
        path = run.checkpoint(iteration, directory=sharded)
        save_checkpoint(path, state(mesh) if sharded else {"iteration": iteration})
    run.point("latest", run.checkpoint(6, directory=True))
    run.point("best", run.checkpoint(2, directory=True))
    assert [path.name for path in run.checkpoints().values()][:3] == ["model_1.pt", "global_step_2", "model_3.pt"]
    assert (
        resolve_checkpoint(run.root)
        == resolve_checkpoint(run.checkpoint(6, directory=True))
        == run.root / "global_step_6"
    )
    assert resolve_checkpoint(run.root, "best") == resolve_checkpoint(run.root, "2") == run.root / "global_step_2"
    assert [found.root for found in find_runs(tmp_path)] == [run.root]
    prune_checkpoints(run, 1)
    assert {path.name for path in run.root.iterdir()} == {"global_step_2", "global_step_6", "latest", "best"}
    assert newest_usable(run, schema={"iteration": int}) == run.root / "global_step_6"


def test_what_a_killed_process_left_is_removed_and_is_no_checkpoint(tmp_path: Path, mesh: DeviceMesh) -> None:
    save_checkpoint(tmp_path / "global_step_7", state(mesh))
    left = tmp_path / f".global_step_9.{2**22 + 1}.partial"  # beyond the largest process number
    shutil.copytree(tmp_path / "global_step_7", left)
    run = RunDir(tmp_path)
    assert list(run.checkpoints()) == [7]
    run.remove_partial_files()
    assert [path.name for path in tmp_path.iterdir()] == ["global_step_7"]


# ---------------------------------------------------------------------------------------------------------- modules


def two_layers() -> nn.Sequential:
    torch.manual_seed(1)
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    module[0].requires_grad_(False)
    return module


def test_frozen_weights_are_left_out_and_have_to_be_there(tmp_path: Path) -> None:
    module = two_layers()
    save_checkpoint(tmp_path / "model_1.pt", {"model": module_state(module, trainable_only=True)})
    saved = load_checkpoint(tmp_path / "model_1.pt")["model"]
    assert saved["left_out"] == ["0.weight", "0.bias"] and "1.running_mean" in saved["tensors"]
    other = two_layers()
    nn.init.zeros_(other[2].weight)
    load_module_state(other, saved)
    assert torch.equal(other[2].weight, module[2].weight)
    with pytest.raises(
        CheckpointError, match=r"no weights of '0\.weight', which was frozen, and the parameter is trained"
    ):
        load_module_state(two_layers().requires_grad_(True), saved)
    with torch.device("meta"):
        unloaded = two_layers()
    with pytest.raises(
        CheckpointError, match=r"no weights of '0\.weight', which was frozen, and the parameter was not loa"
    ):
        load_module_state(unloaded, saved)


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        (lambda t: t.pop("2.bias"), r"lacks 'model\.2\.bias' \(1 missing, 0 unexpected names\)"),
        (lambda t: t.update({"3.bias": torch.zeros(2)}), r"has an unexpected 'model\.3\.bias'"),
        (lambda t: t.update({"2.bias": torch.zeros(3)}), r"'model\.2\.bias' has the shape \[3\], expected \[2\]"),
    ],
)
def test_missing_and_unexpected_names_fail(edit: Callable[[dict[str, Any]], Any], sentence: str) -> None:
    saved = module_state(two_layers())
    edit(saved["tensors"])
    with pytest.raises(CheckpointError, match=sentence):
        load_module_state(two_layers(), saved)


def test_an_export_is_read_back_in_its_type(tmp_path: Path) -> None:
    module = two_layers()
    path = export_safetensors(module, tmp_path / "policy", {"kind": "tiny"}, dtype=torch.bfloat16)
    tensors = content_of(path)
    assert tensors.keys() == module.state_dict().keys()
    assert torch.equal(tensors["2.weight"], module[2].weight.detach().bfloat16())
    assert tensors["1.num_batches_tracked"].dtype == torch.int64


def test_nan_is_found_in_shards_too(mesh: DeviceMesh) -> None:
    bad = state(mesh)
    assert first_nan(bad) is None
    bad["weights"]["w"].to_local()[1, 1] = torch.nan
    assert first_nan(bad) == "weights.w"
