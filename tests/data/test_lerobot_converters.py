"""Other formats become LeRobot datasets, and the scripts do what they say."""

from __future__ import annotations

import io
import json
import re
import runpy
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from lerobot_files import NUMBERS, VIDEO_ONLY, edit_json, open_dataset, record, smooth, write_v21
from PIL import Image
from RoboRenForce.data import DatasetFileError, LeRobotDataset, read_metadata
from RoboRenForce.data.converters.isaaclab import IsaacLabConversionCfg, convert_isaaclab
from RoboRenForce.data.converters.lerobot_v21 import convert_v21
from RoboRenForce.data.converters.rlds import RLDSConversionCfg, convert_rlds
from RoboRenForce.data.converters.tfrecord import masked_crc32c, parse_example, read_records
from RoboRenForce.data.download import download_dataset
from RoboRenForce.utils.errors import UserError

pytestmark = pytest.mark.contract

h5py = pytest.importorskip("h5py")
ROOT = Path(__file__).parents[2]


# ----------------------------------------------------------------------------------------------- Isaac Lab, robomimic


def quaternion(demo: int, step: int) -> np.ndarray:
    """w x y z, all different."""
    return np.asarray([10 + demo, 20 + step, 30, 40], np.float32)


def write_isaaclab(path: Path, demos: int = 11, extra: int = 1, version: int | None = 0) -> Path:
    """`demo_10` follows `demo_9`; every third failed; observations have `extra` more rows than actions."""
    with h5py.File(path, "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_name": "Isaac-Stack-Cube-Franka-v0", "type": 2})
        if version is not None:
            data.attrs["format_version"] = version
        for number in range(demos):
            demo, steps = data.create_group(f"demo_{number}"), 3 + number % 2
            demo.attrs["num_samples"], demo.attrs["success"] = steps, number % 3 != 1
            demo["actions"] = np.stack([[number, step] for step in range(steps)]).astype(np.float32)
            rows = range(steps + extra)
            demo["obs/eef_quat"] = np.stack([quaternion(number, step) for step in rows])
            demo["obs/eef_pos"] = np.stack([[number, step, 0.5] for step in rows])
            demo["obs/pose"] = np.stack([[1, 2, 3, *quaternion(number, step)] for step in rows])
            demo.create_dataset(
                "obs/table_cam", data=np.stack([smooth(number % 5, step) for step in rows]), compression="gzip"
            )
            demo["states/articulation/robot/joint_position"] = np.zeros((steps, 7))
        file["mask/train"] = np.asarray([b"demo_2", b"demo_9", b"demo_10"])
    return path


def isaaclab(tmp_path: Path, source: Path, **options: Any) -> LeRobotDataset:
    given = {"input": str(source), "output": str(tmp_path / "out"), "fps": 20.0, "task": "stack the cubes"}
    convert_isaaclab(IsaacLabConversionCfg(**(given | options)))
    return open_dataset(tmp_path / "out")


@pytest.mark.parametrize("extra", [0, 1])
def test_isaaclab_demonstrations(tmp_path: Path, extra: int) -> None:
    dataset = isaaclab(tmp_path, write_isaaclab(tmp_path / "demos.hdf5", extra=extra))
    succeeded = [number for number in range(11) if number % 3 != 1]
    assert dataset.metadata.episodes.length.tolist() == [3 + number % 2 for number in succeeded]
    assert dataset.metadata.robot_type == "Isaac-Stack-Cube-Franka-v0" and dataset.metadata.fps == 20
    for index in range(len(dataset)):
        item = dataset[index]
        number, step = succeeded[int(item["episode_index"])], int(item["frame_index"])
        assert item["action"].tolist() == [number, step] and item["task"] == "stack the cubes"
        w, x, y, z = quaternion(number, step)
        # By name: eef_pos, eef_quat (turned to XYZW), pose (as it is: nothing says that it holds a quaternion).
        assert item["observation.state"].tolist() == [number, step, 0.5, x, y, z, w, 1, 2, 3, w, x, y, z]
        error = np.abs(item["observation.images.table_cam"].numpy().astype(int) - smooth(number % 5, step))
        assert error.mean() < 4
    names = dataset.metadata.features["observation.state"].names
    assert names[:4] == ["eef_pos.0", "eef_pos.1", "eef_pos.2", "eef_quat.0"]


@pytest.mark.parametrize(
    ("version", "options", "is_turned"),
    [
        (0, {}, True),
        (1, {}, False),
        (None, {"quaternion_order": "wxyz"}, True),
        (None, {"quaternion_order": "xyzw"}, False),
        (1, {"quaternion_order": "wxyz"}, True),
    ],
)
def test_the_order_of_quaternions_follows_the_version(
    tmp_path: Path, version: int | None, options: dict[str, Any], is_turned: bool
) -> None:
    source = write_isaaclab(tmp_path / "demos.hdf5", demos=1, version=version)
    dataset = isaaclab(tmp_path, source, state=["eef_quat", "pose"], cameras=[], quaternions=["pose:3"], **options)
    w, x, y, z = quaternion(0, 0)
    expected = [x, y, z, w] if is_turned else [w, x, y, z]
    assert dataset[0]["observation.state"].tolist() == [*expected, 1, 2, 3, *expected]


def test_without_a_version_the_order_of_quaternions_has_to_be_given(tmp_path: Path) -> None:
    source = write_isaaclab(tmp_path / "demos.hdf5", demos=1, version=None)
    with pytest.raises(DatasetFileError, match=r"has no format version, .* give quaternion_order=wxyz .* or .*=xyzw"):
        isaaclab(tmp_path, source)
    assert not (tmp_path / "out").exists()
    dataset = isaaclab(tmp_path, source, state=["eef_pos", "pose"], cameras=[])  # nothing says that it has quaternions
    assert dataset[0]["observation.state"].tolist() == [0, 0, 0.5, 1, 2, 3, *quaternion(0, 0)]


def test_masks_and_failures(tmp_path: Path) -> None:
    source = write_isaaclab(tmp_path / "demos.hdf5")
    dataset = isaaclab(tmp_path, source, mask="train", cameras=[], use_videos=False)
    assert dataset.get_batch(np.asarray([0, 3]))["action"][:, 0].tolist() == [2, 9]
    assert len(dataset.episodes) == 2  # demo_10 failed
    whole = isaaclab(tmp_path / "all", source, include_failures=True, cameras=[])
    assert len(whole.episodes) == 11


ISAACLAB_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "term": ({"state": ["eef_pso"]}, r"'state' names 'eef_pso', which '.*' lacks: did you mean 'eef_pos'"),
    "camera": ({"cameras": ["eef_pos"]}, r"'cameras' names 'eef_pos'"),
    "mask": ({"mask": "valid"}, r"has no mask 'valid'"),
    "quaternion": ({"quaternions": ["pose:4"]}, r"'quaternions' names 'pose:4'"),
}


@pytest.mark.parametrize("name", ISAACLAB_ERRORS)
def test_isaaclab_options_that_do_not_fit(tmp_path: Path, name: str) -> None:
    options, message = ISAACLAB_ERRORS[name]
    with pytest.raises(UserError, match=message):
        isaaclab(tmp_path, write_isaaclab(tmp_path / "demos.hdf5", demos=1), **options)
    assert not (tmp_path / "out").exists()


def test_damaged_demonstrations_leave_nothing_behind(tmp_path: Path) -> None:
    source = write_isaaclab(tmp_path / "demos.hdf5", version=7)
    with pytest.raises(DatasetFileError, match="has the format version '7', expected 0"):
        isaaclab(tmp_path, source)
    source = write_isaaclab(tmp_path / "demos.hdf5")
    with h5py.File(source, "a") as file:
        del file["data/demo_3/obs/eef_pos"]
        file["data/demo_3/obs/eef_pos"] = np.zeros((9, 3))
    with pytest.raises(
        DatasetFileError, match="'eef_pos' of demonstration 'demo_3' has 9 rows and there are 4 actions"
    ):
        isaaclab(tmp_path, source)
    with h5py.File(source, "a") as file:
        del file["data/demo_3"]
        file["data/demo_5/actions"][1, 0] = np.nan
    with pytest.raises(UserError, match="frame 1: 'action' holds nan"):
        isaaclab(tmp_path, source)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demos.hdf5"]


# ----------------------------------------------------------------------------------------------- RLDS


def example_class() -> Any:
    """`tf.train.Example`, made with protobuf from its published definition: an encoder that is not ours."""
    file = descriptor_pb2.FileDescriptorProto(name="example.proto", package="t", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    repeated, single = field.LABEL_REPEATED, field.LABEL_OPTIONAL
    lists = {"BytesList": field.TYPE_BYTES, "FloatList": field.TYPE_FLOAT, "Int64List": field.TYPE_INT64}
    for name, kind in lists.items():
        file.message_type.add(name=name).field.add(name="value", number=1, type=kind, label=repeated)
    feature = file.message_type.add(name="Feature")
    for number, name in enumerate(lists, 1):
        feature.field.add(
            name=name.lower(), number=number, type=field.TYPE_MESSAGE, type_name=f".t.{name}", label=single
        )
    features = file.message_type.add(name="Features")
    entry = features.nested_type.add(name="FeatureEntry", options={"map_entry": True})
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=single)
    entry.field.add(name="value", number=2, type=field.TYPE_MESSAGE, type_name=".t.Feature", label=single)
    kind = {"type": field.TYPE_MESSAGE, "type_name": ".t.Features.FeatureEntry", "label": repeated}
    features.field.add(name="feature", number=1, **kind)
    example = file.message_type.add(name="Example")
    example.field.add(name="features", number=1, type=field.TYPE_MESSAGE, type_name=".t.Features", label=single)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("t.Example"))


def encode(values: dict[str, list[bytes] | list[float] | list[int]]) -> bytes:
    example = example_class()()
    for key, entries in values.items():
        kind = {bytes: "byteslist", float: "floatlist", int: "int64list"}[type(entries[0])]
        getattr(example.features.feature[key], kind).value.extend(entries)
    return example.SerializeToString()


def write_records(path: Path, payloads: list[bytes]) -> None:
    """With TensorBoard's writer, which frames events as TensorFlow does."""
    from tensorboard.summary.writer.record_writer import RecordWriter

    with open(path, "wb") as file:
        writer = RecordWriter(file)
        for payload in payloads:
            writer.write(payload)
        writer.flush()


def picture(episode: int, step: int) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(smooth(episode, step)).save(buffer, format="PNG")
    return buffer.getvalue()


def tensor(*shape: int, dtype: str = "float32") -> dict[str, Any]:
    return {"pythonClassName": "Tensor", "tensor": {"shape": {"dimensions": [str(n) for n in shape]}, "dtype": dtype}}


def features_dict(**features: Any) -> dict[str, Any]:
    return {"pythonClassName": "FeaturesDict", "featuresDict": {"features": features}}


def episode_values(episode: int, steps: int) -> dict[str, Any]:
    return {
        "steps/observation/state": [float(v) for step in range(steps) for v in (episode, step, -1.5)],
        "steps/observation/image": [picture(episode, step) for step in range(steps)],
        "steps/action": [float(v) for step in range(steps) for v in (step * 0.5, episode)],
        "steps/language_instruction": [f"task {episode % 2}".encode()] * steps,
        "steps/is_last": [int(step == steps - 1) for step in range(steps)],
        "episode_metadata/file_path": [b"/somewhere"],
    }


def write_rlds(root: Path, lengths: tuple[tuple[int, ...], ...] = ((3, 5), (4,))) -> Path:
    root.mkdir()
    image = {"pythonClassName": "Image", "image": {"shape": {"dimensions": ["32", "48", "3"]}, "encodingFormat": "png"}}
    steps = features_dict(
        observation=features_dict(state=tensor(3), image=image),
        action=tensor(2),
        language_instruction={"pythonClassName": "Text", "text": {}},
        is_last={"pythonClassName": "Scalar", "tensor": {"shape": {}, "dtype": "bool"}},
    )
    tree = features_dict(
        steps={"pythonClassName": "Dataset", "sequence": {"feature": steps}},
        episode_metadata=features_dict(file_path={"pythonClassName": "Text", "text": {}}),
    )
    (root / "features.json").write_text(json.dumps(tree))
    info = {"name": "toy", "splits": [{"name": "train", "shardLengths": [str(len(shard)) for shard in lengths]}]}
    (root / "dataset_info.json").write_text(json.dumps(info))
    episode = 0
    for number, shard in enumerate(lengths):
        payloads = []
        for steps_of_it in shard:
            payloads.append(encode(episode_values(episode, steps_of_it)))
            episode += 1
        write_records(root / f"toy-train.tfrecord-{number:05d}-of-{len(lengths):05d}", payloads)
    return root


def rlds(tmp_path: Path, source: Path, **options: Any) -> LeRobotDataset:
    convert_rlds(RLDSConversionCfg(**({"input": str(source), "output": str(tmp_path / "out"), "fps": 5.0} | options)))
    return open_dataset(tmp_path / "out")


def test_rlds_episodes(tmp_path: Path) -> None:
    dataset = rlds(tmp_path, write_rlds(tmp_path / "toy"))
    assert dataset.metadata.episodes.length.tolist() == [3, 5, 4]
    for index in range(len(dataset)):
        item = dataset[index]
        episode, step = int(item["episode_index"]), int(item["frame_index"])
        assert item["observation.state"].tolist() == [episode, step, -1.5]
        assert item["action"].tolist() == [step * 0.5, episode] and item["task"] == f"task {episode % 2}"
        assert np.abs(item["observation.images.image"].numpy().astype(int) - smooth(episode, step)).mean() < 4


def test_rlds_options(tmp_path: Path) -> None:
    source = write_rlds(tmp_path / "toy")
    options = {"drop_last_step": True, "state": ["action"], "action": ["observation/state", "action"], "task": "mine"}
    dataset = rlds(tmp_path, source, use_videos=False, **options)
    assert dataset.metadata.episodes.length.tolist() == [2, 4, 3]
    item = dataset[3]
    assert item["action"].tolist() == [1, 1, -1.5, 0.5, 1] and item["observation.state"].tolist() == [0.5, 1]
    assert item["task"] == "mine"
    np.testing.assert_array_equal(item["observation.images.image"].numpy(), smooth(1, 1))


def test_examples_are_parsed_as_protobuf_writes_them() -> None:
    values = {
        "floats": [0.0, -1.5, 3.25e7],
        "integers": [0, 1, -1, 2**62, -(2**63), 300],
        "bytes": [b"", b"\x00\xff" * 100],
        "text é": ["ü".encode()],
    }
    parsed = parse_example(encode(values))
    assert parsed["floats"].dtype == np.float32 and parsed["floats"].tolist() == values["floats"]
    assert parsed["integers"].tolist() == values["integers"]
    assert parsed["bytes"] == values["bytes"] and parsed["text é"] == values["text é"]
    # CRC-32C of "123456789" is 0xE3069283 (RFC 3720), rotated and shifted.
    crc = 0xE3069283
    assert masked_crc32c(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def damage(path: Path, place: int, value: bytes) -> None:
    content = bytearray(path.read_bytes())
    content[place : place + len(value)] = value
    path.write_bytes(content)


def test_damaged_records_are_named(tmp_path: Path) -> None:
    source = write_rlds(tmp_path / "toy")
    path = source / "toy-train.tfrecord-00001-of-00002"
    whole = path.read_bytes()
    huge = struct.pack("<Q", 2**60)
    cases = {
        "the length of record 0 is damaged": lambda: damage(path, 0, huge),
        "record 0 claims 1,152,921,504,606,846,976 bytes": lambda: damage(
            path, 0, huge + struct.pack("<I", masked_crc32c(huge))
        ),
        "record 0 claims": lambda: path.write_bytes(whole[:-100]),
        "record 1 is cut off": lambda: path.write_bytes(whole + b"abc"),
        "episode 2: record 0 is no tf.train.Example": lambda: damage(path, 13, b"\xff" * 9),
        "it has 2 episodes, dataset_info.json says 1": lambda: path.write_bytes(whole + whole),
        r"episode 2, frame 0: 'observation/image': the picture": lambda: damage(
            path, whole.index(b"\x89PNG"), b"x" * 8
        ),
    }
    for message, break_it in cases.items():
        path.write_bytes(whole)
        break_it()
        with pytest.raises(DatasetFileError, match=message):
            rlds(tmp_path, source)
    path.write_bytes(whole)
    assert len(list(read_records(path))) == 1 and not (tmp_path / "out").exists()


RLDS_ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "split": ({"split": "trian"}, r"has no split 'trian': did you mean 'train'"),
    "action": ({"action": ["actoin"]}, r"'action' names 'actoin'"),
    "camera": ({"cameras": ["action"]}, r"'cameras' names 'action'"),
    "instruction": ({"instruction": "observation/text"}, r"'instruction' names 'observation/text'"),
}


@pytest.mark.parametrize("name", RLDS_ERRORS)
def test_rlds_options_that_do_not_fit(tmp_path: Path, name: str) -> None:
    options, message = RLDS_ERRORS[name]
    with pytest.raises(UserError, match=message):
        rlds(tmp_path, write_rlds(tmp_path / "toy"), **options)


def test_a_missing_shard(tmp_path: Path) -> None:
    source = write_rlds(tmp_path / "toy")
    (source / "toy-train.tfrecord-00001-of-00002").unlink()
    with pytest.raises(DatasetFileError, match=r"split 'train' has 1 files, dataset_info\.json says 2"):
        rlds(tmp_path, source)


# ----------------------------------------------------------------------------------------------- scripts, downloads


def run_script(monkeypatch: pytest.MonkeyPatch, name: str, *words: object) -> int:
    path = ROOT / "scripts/data" / name
    monkeypatch.setattr(sys, "argv", [str(path), *map(str, words)])
    try:
        runpy.run_path(str(path), run_name="__main__")
    except SystemExit as left:
        return int(left.code or 0)
    return 0


def test_the_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    old = write_v21(tmp_path / "old", (3, 4))
    assert run_script(monkeypatch, "lerobot_v21_to_v30.py", "--input", old, "--output", tmp_path / "new") == 0
    demos = write_isaaclab(tmp_path / "demos.hdf5", demos=1)
    words = ["--input", demos, "--output", tmp_path / "demos", "--fps", 20, "--task", "stack", "cameras=[]"]
    assert run_script(monkeypatch, "isaaclab_to_lerobot.py", *words) == 0
    toy = write_rlds(tmp_path / "toy")
    words = ["--input", toy, "--output", tmp_path / "rlds", "--fps", 5, "use_videos=false"]
    assert run_script(monkeypatch, "rlds_to_lerobot.py", *words) == 0
    assert [line.partition(": ")[2][:27] for line in capsys.readouterr().out.splitlines()] == [
        "LeRobot v3.0, 2 episodes, 7",
        "LeRobot v3.0, 1 episodes, 3",
        "LeRobot v3.0, 3 episodes, 1",
    ]
    page = tmp_path / "page.html"
    assert run_script(monkeypatch, "inspect_dataset.py", tmp_path / "new", "--output", page) == 0 and page.is_file()
    assert run_script(monkeypatch, "isaaclab_to_lerobot.py", "--input", demos) == 1
    assert "The following arguments are required: --output, --fps, --task" in capsys.readouterr().err


SCRIPTS = {
    "rlds_to_lerobot.py": ["--input", "PATH", "--output", "out", "--fps", 5],
    "isaaclab_to_lerobot.py": ["--input", "PATH", "--output", "out", "--fps", 5, "--task", "stack"],
    "lerobot_v21_to_v30.py": ["--input", "PATH", "--output", "out"],
    "dataset_stats.py": ["PATH"],
    "inspect_dataset.py": ["PATH"],
}
WRONG_PATHS = {"absent": "there is no such folder; name the folder of", "file": "it is a file, expected a folder; name"}
WRONG_PATHS["empty"] = "it is no (LeRobot|RLDS) dataset: .* is missing; name the folder"
WRONG_FILES = {"absent": "there is no such file; name an HDF5 file", "file": "it can't be opened as HDF5 "}
WRONG_FILES["empty"] = "it is a folder, expected a file; name an HDF5 file"


@pytest.mark.parametrize("path", WRONG_PATHS)
@pytest.mark.parametrize("script", SCRIPTS)
def test_a_wrong_path_is_one_sentence(
    script: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("file").write_text("no dataset")
    assert run_script(monkeypatch, script, *(path if word == "PATH" else word for word in SCRIPTS[script])) == 1
    told = capsys.readouterr().err
    expected = (WRONG_FILES if script.startswith("isaaclab") else WRONG_PATHS)[path]
    assert re.match(f"Error: '{path}': {expected}", told) and len(told.splitlines()) == 1
    assert sorted(found.name for found in tmp_path.iterdir()) == ["empty", "file"]


def test_a_folder_of_rlds_versions_is_answered_by_their_names(tmp_path: Path) -> None:
    write_rlds(tmp_path / "toy")
    with pytest.raises(DatasetFileError, match=r"features.json is missing; it holds datasets in toy: name one\."):
        convert_rlds(RLDSConversionCfg(input=str(tmp_path), output=str(tmp_path / "out"), fps=5.0))


def test_an_output_below_a_file_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    target = tmp_path / "file" / "out"
    with pytest.raises(UserError, match=rf"'{target}' can't be made \(File exists\): choose a folder below one that"):
        convert_v21(write_v21(tmp_path / "old", (3,)), target)


def test_statistics_are_computed_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    root = record(tmp_path / "data", (5, 8, 6), VIDEO_ONLY)
    before = read_metadata(root).statistics
    zero = {"min": [0, 0], "max": [0, 0], "mean": [0, 0], "std": [0, 0]}
    (root / "meta/stats.json").write_text(json.dumps({"action": zero}))
    assert run_script(monkeypatch, "dataset_stats.py", root) == 0
    assert "observation.state  (19 frames)" in capsys.readouterr().out
    assert read_metadata(root).statistics["action"].max.tolist() == [0, 0]
    assert run_script(monkeypatch, "dataset_stats.py", root, "--write") == 0
    after = read_metadata(root).statistics
    assert after.keys() == before.keys()
    for key, entry in before.items():
        tolerance = 0.02 if key.startswith("observation.images") else 1e-9  # decoded pictures instead of recorded ones
        np.testing.assert_allclose(after[key].mean, entry.mean, atol=tolerance)
        np.testing.assert_allclose(after[key].quantiles["q90"], entry.quantiles["q90"], atol=tolerance * 2)


def test_downloads_without_a_network_are_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")

    def fail(*args: object, **options: object) -> None:
        raise ConnectionError("no route to host\nand more lines")

    monkeypatch.setattr(hub, "snapshot_download", fail)
    with pytest.raises(UserError, match=r"'lerobot/pusht' can't be downloaded \(ConnectionError: no route") as found:
        download_dataset("lerobot/pusht", tmp_path)
    assert "\n" not in str(found.value)
    with pytest.raises(UserError, match="'pusht' is no dataset of the hub; write owner/name"):
        download_dataset("pusht", tmp_path)


def test_a_download_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = pytest.importorskip("huggingface_hub")
    asked = []

    def fetch(repo: str, *, repo_type: str, local_dir: str, revision: str | None) -> None:
        asked.append((repo, repo_type, revision))
        record(Path(local_dir), (3,), NUMBERS)
        edit_json(Path(local_dir) / "meta/info.json", robot_type="pusher")

    monkeypatch.setattr(hub, "snapshot_download", fetch)
    assert download_dataset("lerobot/pusht", tmp_path / "a", revision="v3.0").robot_type == "pusher"
    assert asked == [("lerobot/pusht", "dataset", "v3.0")]
