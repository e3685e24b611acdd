"""Random samples per second of one core from a LeRobot dataset: our loader against LeRobot's, alternately in one run.

    python benchmarks/lerobot_loading.py --peer_python <python with LeRobot 0.4.4> --data <folder> \
        --output benchmarks/results/lerobot_loading.json

The dataset (1,000 short episodes, two cameras of 224 x 224, AV1 with a keyframe in two frames as LeRobot encodes) is
written by our writer and read by both. Its pictures take about as many bytes as LIBERO's. Each measurement is a process
of its own with one thread and no workers, and batches of 64 frames in random order; containers are open and caches warm
before the clock starts. Both clocks are reported: wall, and the CPU time of the process, which other work on the
machine changes less. LeRobot decodes with torchcodec if its environment has it, else with the function of
tests/data/lerobot_peer.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

FPS, SIZE, BATCH, WARM_UP = 10, 224, 64, 2560
NOTE = (
    "one thread and no workers on a machine that others use too, in alternation. Both decode AV1 by dav1d, which takes "
    "most of the time: the larger the frames, the smaller the ratio."
)
CHUNK = [step / FPS for step in range(8)]
CASES: dict[str, dict[str, Any]] = {
    "frame": {},
    "frame and action chunk": {"action": CHUNK},
    "two frames and action chunk": {
        "action": CHUNK,
        "observation.images.front": [-1 / FPS, 0.0],
        "observation.images.wrist": [-1 / FPS, 0.0],
    },
}


def write_dataset(root: Path, episodes: int, length: int, sharp: float) -> None:
    """Write textured pictures in which everything moves."""
    import numpy as np
    from RoboRenForce.data import LeRobotWriter

    camera = {"dtype": "video", "shape": [SIZE, SIZE, 3], "names": ["height", "width", "channels"]}
    features = {
        "observation.state": {"dtype": "float32", "shape": [14]},
        "action": {"dtype": "float32", "shape": [14]},
        "observation.images.front": camera,
        "observation.images.wrist": camera,
    }
    generator = np.random.default_rng(0)
    texture = _texture(generator, sharp)
    with LeRobotWriter.create(root, fps=FPS, features=features) as writer:
        for episode in range(episodes):
            start = generator.integers(0, SIZE - 4 * length, 2)
            for step in range(length):
                y, x = start + 3 * step
                view = texture[y : y + SIZE, x : x + SIZE]
                frame = {
                    "observation.state": generator.normal(size=14),
                    "action": generator.normal(size=14),
                    "observation.images.front": view,
                    "observation.images.wrist": view[::-1],
                }
                writer.add_frame(frame, task=f"task {episode % 10}")
            writer.save_episode()


def _texture(generator: Any, sharp: float) -> Any:
    """Return a picture of large smooth and small sharp shapes, `(2 * SIZE, 2 * SIZE, 3)` uint8."""
    import numpy as np
    import torch

    large = torch.from_numpy(generator.random((1, 3, 8, 8), np.float32))
    small = torch.from_numpy(generator.random((1, 3, 28, 28), np.float32))
    smooth = torch.nn.functional.interpolate(large, size=2 * SIZE, mode="bicubic", align_corners=True)
    squares = torch.nn.functional.interpolate(small, size=2 * SIZE, mode="nearest")
    return (((1 - sharp) * smooth + sharp * squares) * 255).clamp(0, 255)[0].permute(1, 2, 0).to(torch.uint8).numpy()


def measure(who: str, root: str, case: str, samples: int) -> dict[str, float]:
    """Measure in this process: samples per second of wall and of CPU time."""
    import torch

    torch.set_num_threads(1)
    batches = _ours(root, CASES[case]) if who == "ours" else _lerobot(root, CASES[case])
    for _ in range(WARM_UP // BATCH):  # opens every file, and reads the numbers of almost every episode once
        next(batches)
    wall, cpu, count = time.perf_counter(), time.process_time(), 0
    while count < samples:
        count += len(next(batches)["observation.state"])
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"samples_per_s": count / wall, "samples_per_cpu_s": count / cpu}


def _ours(root: str, deltas: dict[str, list[float]]) -> Any:
    from RoboRenForce.data import DataLoaderCfg, LeRobotDatasetCfg

    dataset = LeRobotDatasetCfg(data_root=root, delta_timestamps=deltas).build()
    loader = DataLoaderCfg(batch_size=BATCH, num_workers=0, pin_memory=False).build(dataset)
    while True:
        yield from loader


def _lerobot(root: str, deltas: dict[str, list[float]]) -> Any:
    import importlib.util

    import torch

    if importlib.util.find_spec("torchcodec"):
        from lerobot.datasets import lerobot_dataset
    else:
        sys.path.insert(0, str(Path(__file__).parents[1] / "tests/data"))
        from lerobot_peer import lerobot_dataset
    dataset = lerobot_dataset.LeRobotDataset("local/benchmark", root=root, delta_timestamps=deltas or None)
    generator = torch.Generator().manual_seed(0)
    loader = torch.utils.data.DataLoader(dataset, batch_size=BATCH, shuffle=True, drop_last=True, generator=generator)
    while True:
        yield from loader


def run(python: str, *words: str) -> dict[str, Any]:
    """Measure in a process of its own; the last line that it prints is the result."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    if python != sys.executable:
        environment.pop("PYTHONPATH", None)
    command = [python, __file__, "--measure", *words]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def peer_versions(python: str) -> dict[str, str]:
    """Return the versions of the peer's environment."""
    names = ["lerobot", "torch", "torchcodec", "av", "datasets", "numpy", "pyarrow"]
    code = (
        "import json\nfrom importlib.metadata import version, PackageNotFoundError\nfound = {}\n"
        f"for name in {names!r}:\n"
        "    try:\n        found[name] = version(name)\n    except PackageNotFoundError:\n        pass\n"
        "print(json.dumps(found))"
    )
    return json.loads(subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer_python", help="Python of an environment with LeRobot 0.4.4")
    parser.add_argument("--data", type=Path, help="folder of the dataset; it is written if it does not exist")
    parser.add_argument("--episodes", type=int, default=1000)
    parser.add_argument("--length", type=int, default=10, help="frames of an episode")
    parser.add_argument("--sharp", type=float, default=0.2, help="share of sharp squares; 1: almost twice the bytes")
    parser.add_argument("--samples", type=int, default=640, help="of one measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path)
    parser.add_argument("--measure", nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        who, root, case, samples = args.measure
        print(json.dumps(measure(who, root, case, int(samples))))
        return
    from report import environment_report, write_json

    if not args.data.exists():
        write_dataset(args.data, args.episodes, args.length, args.sharp)
    raw: dict[str, dict[str, list[dict[str, float]]]] = {case: {"ours": [], "lerobot": []} for case in CASES}
    for number in range(args.rounds):
        for case in CASES:
            for who, python in (("ours", sys.executable), ("lerobot", args.peer_python)):
                found = run(python, who, str(args.data), case, str(args.samples))
                raw[case][who].append(found)
                print(f"round {number}  {case:28s} {who:8s} {found['samples_per_s']:8.1f} /s", flush=True)
    results = {}
    for case, found in raw.items():
        best = {
            f"{who}_{clock}": statistics.median(entry[clock] for entry in entries)
            for who, entries in found.items()
            for clock in ("samples_per_s", "samples_per_cpu_s")
        }
        ratios = {
            f"ratio_{clock}": best[f"ours_{clock}"] / best[f"lerobot_{clock}"]
            for clock in ("samples_per_s", "samples_per_cpu_s")
        }
        results[case] = best | ratios
        print(f"{case:28s} {json.dumps(ratios)}")
    if args.output:
        report = environment_report()
        for path, name in ((args.peer_python, "<python with LeRobot 0.4.4>"), (str(args.data), "<folder>")):
            report["command"] = report["command"].replace(path, name)
        peer = peer_versions(args.peer_python)
        report["versions"] |= peer_versions(sys.executable) | {
            name: peer[name] for name in ("lerobot", "torchcodec", "datasets") if name in peer
        }
        video_bytes = sum(path.stat().st_size for path in args.data.glob("videos/*/*/*.mp4"))
        arguments = {
            "episodes": args.episodes,
            "length": args.length,
            "bytes_of_a_frame": round(video_bytes / (2 * args.episodes * args.length)),
            "batch_size": BATCH,
            "samples": args.samples,
            "rounds": args.rounds,
        }
        note = f"{NOTE} Load average at the end: {os.getloadavg()[0]:.1f}."
        content = {"arguments": arguments, "note": note, "peer_versions": peer, "results": results, "raw": raw}
        write_json(args.output, report | content)


if __name__ == "__main__":
    main()
