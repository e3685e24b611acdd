"""`rrf data`: what is wrong with a dataset is found, all of it, and the page shows what there is."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from lerobot_files import FPS, LeRobotWriter, column_of, cut, edit_json, frame_of, record, record_episode, write_v21
from RoboRenForce.cli import main as rrf
from RoboRenForce.data import read_metadata
from RoboRenForce.data.inspection import inspect_dataset

pytestmark = pytest.mark.contract

DATA = "data/chunk-000/file-000.parquet"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every dimension moves, so that nothing is wrong with it."""
    root = tmp_path_factory.mktemp("whole") / "data"
    return record(root, (5, 8, 6))


def texts(root: Path) -> list[str]:
    return [f"{finding.severity}: {finding.text}" for finding in inspect_dataset(str(root)).findings]


def test_a_good_dataset_has_no_findings_and_a_page_with_everything(whole: Path, tmp_path: Path, capsys) -> None:
    rrf(["data", "inspect", str(whole), "--output", str(tmp_path / "page.html"), "--frames", "4"])
    said = capsys.readouterr().out
    assert "error" not in said and "warning" not in said and "3 episodes, 19 frames" in said
    page = (tmp_path / "page.html").read_text()
    assert "Nothing is wrong with it" in page
    assert page.count("data:image/png;base64") == 8  # two cameras
    assert "observation.state" in page and "put the red block on the blue plate" in page
    assert page.count("<rect") == 30 + 40 * 5
    assert not re.search(r"(src|href)='?http", page)


def test_histograms_count_every_frame(whole: Path) -> None:
    inspection = inspect_dataset(str(whole), frames=0)
    assert inspection.histograms["observation.state"].shape == (3, 40)
    assert (inspection.histograms["observation.state"].sum(axis=1) == 19).all()
    assert inspection.histograms["observation.state"][0].nonzero()[0].tolist() == [0, 20, 39]  # episodes 0, 1, 2
    assert inspection.histograms["observation.state"][0][[0, 20, 39]].tolist() == [5, 8, 6]


def test_every_damage_is_found_at_once(whole: Path, tmp_path: Path, capsys) -> None:
    root = shutil.copytree(whole, tmp_path / "data")
    column_of(root / DATA, "action", 9, [float("nan"), 1.0])
    column_of(root / DATA, "timestamp", 2, 0.25)
    column_of(root / DATA, "observation.state", 14, [1e6, 1.0, 1.0])
    (root / "meta/stats.json").unlink()
    cut(root / "videos/observation.images.front/chunk-000/file-000.mp4", 0.0)
    with pytest.raises(SystemExit) as left:
        rrf(["data", "inspect", str(root), "--output", str(tmp_path / "page.html")])
    assert left.value.code == 1
    said = capsys.readouterr().out
    assert re.search(r"error .*episode 1, frame 4: 'action' holds nan in dimension 0", said)
    assert re.search(r"error .*episode 0, frame 2: timestamp is 0.25 s, expected 0.2 s", said)
    assert re.search(r"error .*file-000.mp4', episode \d, frame \d: camera .* it can't be opened", said)
    assert said.count("it can't be opened") == 1, "every frame of the video has the same"
    assert (
        f"warning  'action' has no statistics in {root}/meta; run scripts/data/dataset_stats.py {root} --write" in said
    )
    assert "holds nan" in (tmp_path / "page.html").read_text()


def test_constant_and_exploding_dimensions(tmp_path: Path) -> None:
    features = {"action": {"dtype": "float32", "shape": [3]}}
    generator = np.random.default_rng(0)
    with LeRobotWriter.create(tmp_path / "data", fps=FPS, features=features) as writer:
        for episode in range(4):
            for frame in range(100):
                values = np.asarray([generator.normal(), 0.5, generator.normal()])
                values[2] = 1e4 if (episode, frame) == (2, 7) else values[2]
                writer.add_frame({"action": values}, task="x")
            writer.save_episode()
    found = texts(tmp_path / "data")
    assert len(found) == 2
    assert "warning: 'action' never changes in dimension 1 (0.5)" in found[0]
    what = r"warning: Episode 2, frame 7: 'action' is 1e\+04 in dimension 2, the worst of 1 such frames"
    assert re.search(what + r", and 80 % .* -1.* to 1", found[1])


def exploding(folder: Path, values: np.ndarray) -> list[str]:
    """What is said about the order of the values `(F, D)`, recorded in four episodes."""
    features = {"action": {"dtype": "float64", "shape": [values.shape[1]]}}
    with LeRobotWriter.create(folder, fps=FPS, features=features) as writer:
        for rows in np.split(values, 4):
            for row in rows:
                writer.add_frame({"action": row}, task="x")
            writer.save_episode()
    return [text for text in texts(folder) if "such frames" in text]


def usual_actions(frames: int = 800) -> np.ndarray:
    """A normal, a heavy-tailed, a bimodal, a rarely used and an idle dimension."""
    generator = np.random.default_rng(0)
    gripper, rare = generator.random(frames) < 0.5, generator.random(frames) < 0.005
    idle = np.where(
        generator.random(frames) < 0.95, 1e-5 * generator.normal(size=frames), generator.normal(size=frames)
    )
    normal, heavy = generator.normal(size=frames), generator.standard_t(2, size=frames)
    return np.stack([normal, heavy, gripper.astype(float), 90.0 * rare, idle], axis=1)


def test_good_data_does_not_explode(tmp_path: Path) -> None:
    values = usual_actions()
    assert exploding(tmp_path / "all", values) == []
    for dim in range(values.shape[1]):
        assert exploding(tmp_path / str(dim), values[:, [dim]]) == []


@pytest.mark.parametrize(("count", "size"), [(1, 1e6), (12, 1e8), (60, -1e8)])
def test_exploding_frames_do_not_hide_themselves(tmp_path: Path, count: int, size: float) -> None:
    values = usual_actions()
    frames = np.arange(207, 207 + 7 * count, 7)
    values[frames] = size * (1.0 + (np.arange(count) == count - 1)[:, None])
    said = exploding(tmp_path / "data", values)
    episode, frame = divmod(int(frames[-1]), 200)
    where = f"Episode {episode}, frame {frame}: 'action' is {2 * size:.4g} in dimension"
    assert len(said) == 5, said
    for dim, text in enumerate(said):
        assert text.startswith(f"warning: {where} {dim}, the worst of {count} such frames, and 80 % of its values are")


def test_statistics_of_other_frames_and_without_quantiles(whole: Path, tmp_path: Path) -> None:
    root = shutil.copytree(whole, tmp_path / "data")
    edit_json(root / "meta/stats.json", action={"min": [0, -2], "max": [0.7, 0], "mean": [0.5, -1], "std": [1, 1]})
    found = texts(root)
    fix = f"run scripts/data/dataset_stats.py {root} --write"
    assert any("'action' has no quantiles" in text and fix in text for text in found)
    mean = r"'mean' of 'action' is stored as 0\.5 in dimension 0, and the frames have 0\.2789"
    assert any(re.search(mean, text) for text in found)


def test_broken_off_episodes_and_dark_cameras(tmp_path: Path) -> None:
    features = {key: {"dtype": "image", "shape": [32, 48, 3]} for key in ("observation.images.front",)}
    with LeRobotWriter.create(tmp_path / "data", fps=FPS, features=features) as writer:
        for length in (30, 30, 2, 30):
            for _ in range(length):
                writer.add_frame({"observation.images.front": np.zeros((32, 48, 3), np.uint8)}, task="x")
            writer.save_episode()
    found = texts(tmp_path / "data")
    assert any("1 episodes are shorter than a tenth of the median of 30 frames: 2" in text for text in found)
    assert any("camera 'observation.images.front' shows one colour" in text for text in found)


def test_a_video_whose_end_is_missing(tmp_path: Path) -> None:
    """Only the last episode is damaged, and no random frame would have shown it."""
    from lerobot_files import smooth, write_video

    root = write_v21(tmp_path / "data", (5, 8, 6))
    path = root / "videos/chunk-001/observation.images.front/episode_000002.mp4"
    write_video(path, [smooth(2, frame) for frame in range(5)])
    found = [finding.text for finding in inspect_dataset(str(root), frames=0).errors]
    assert (
        len(found) == 1
        and "episode 2, frame 5: camera 'observation.images.front': it has no frame at 0.5 s" in found[0]
    )


def test_nothing_of_a_dataset_reaches_the_page_unescaped(tmp_path: Path) -> None:
    features = {"action": {"dtype": "float32", "shape": [1], "names": ["<script>a</script>"]}}
    with LeRobotWriter.create(tmp_path / "data", fps=FPS, features=features) as writer:
        writer.add_frame({"action": [1.0]}, task="<script>alert(1)</script>")
        writer.save_episode()
    rrf(["data", "inspect", str(tmp_path / "data"), "--output", str(tmp_path / "page.html")])
    page = (tmp_path / "page.html").read_text()
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page


def test_finalize_finishes_a_recording(tmp_path: Path, capsys) -> None:
    writer = LeRobotWriter.create(tmp_path / "data", fps=FPS, features={"action": {"dtype": "float32", "shape": [2]}})
    record_episode(writer, 0, 3, {"action": {}})
    writer.add_frame(frame_of(1, 0, {"action": {}}), task="x")
    del writer
    rrf(["data", "finalize", str(tmp_path / "data")])
    assert "1 episodes, 3 frames" in capsys.readouterr().out
    assert read_metadata(tmp_path / "data").total_frames == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["inspct"], "There is no command 'data inspct': did you mean 'inspect'"),
        (["inspect", "nowhere"], "'nowhere': there is no such folder"),
        (["inspect", "x", "a=b"], "'a=b' is no option of this command"),
        (["finalize", "nowhere"], "'nowhere': there is no such folder"),
    ],
)
def test_commands_that_do_not_work_are_one_sentence(words: list[str], message: str, capsys) -> None:
    with pytest.raises(SystemExit) as left:
        rrf(["data", *words])
    assert left.value.code == 1 and message in capsys.readouterr().err
