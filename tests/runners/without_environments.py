"""Run by `test_dataset_runner.py` in a process of its own: cloning where no environment package can be imported."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BLOCKED = ("gymnasium", "gym", "mujoco", "mjlab", "envpool", "minari", "h5py", "isaaclab")


class Hiding:
    """A finder that does not see what has to do with environments, and leaves the rest to the one it wraps."""

    def __init__(self, finder: Any) -> None:
        self.finder = finder

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        hidden = name.partition(".")[0] in BLOCKED or name.startswith("RRF_")
        return None if hidden else self.finder.find_spec(name, path, target)


sys.meta_path[:] = [Hiding(finder) for finder in sys.meta_path]

import torch  # noqa: E402
from cloning import clone_cfg  # noqa: E402
from RoboRenForce.utils.checkpoint import load_checkpoint  # noqa: E402
from RoboRenForce.utils.logging import read_metrics  # noqa: E402

folder = Path(sys.argv[1])
straight = clone_cfg(folder / "data.npz").build(log_dir=folder / "straight")
straight.learn()
first = clone_cfg(folder / "data.npz", num_workers=2).build(log_dir=folder / "halves")
first.learn(2)  # 40 of 23 samples: in the middle of the second epoch
first.close()
torch.rand(7)
second = clone_cfg(folder / "data.npz", num_workers=2).build(log_dir=folder / "halves")
second.load(folder / "halves" / "model_2.pt")
second.learn()
second.close()


def same(one: Any, two: Any) -> bool:
    """Whether two states are equal, bit for bit."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, two)
    if isinstance(one, dict):
        return one.keys() == two.keys() and all(same(value, two[name]) for name, value in one.items())
    if isinstance(one, list):
        return len(one) == len(two) and all(map(same, one, two))
    return one == two


one, two = (load_checkpoint(folder / name / "model_6.pt") for name in ("straight", "halves"))
result = {
    "same": same(one["algorithm"], two["algorithm"]) and same(one["local"], two["local"]),
    "seen": first.algorithm.seen + second.algorithm.seen == straight.algorithm.seen,
    "shared": [one["shared"], two["shared"]],
    "spec": one["spec"],
    "metrics": {tag: values for tag, (_, values) in read_metrics(folder / "halves" / "metrics.jsonl").items()},
    "imported": sorted(name for name in sys.modules if name.partition(".")[0] in BLOCKED or name.startswith("RRF_")),
}
print("RESULT " + json.dumps(result))
