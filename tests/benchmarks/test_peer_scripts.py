"""The benchmarks against other projects: their scripts run unchanged, and results are compared at equal steps."""

from __future__ import annotations

import json
import os
import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

pytestmark = pytest.mark.contract

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
STAND_INS = ("__main__", "tyro", "pyrallis", "wandb", "gym", "d4rl")

PEER = """
from dataclasses import dataclass

import tyro
import wandb


@dataclass
class Args:
    seed: int = 1
    learning_starts: int = 2


if __name__ == "__main__":
    args = tyro.cli(Args)
    seen, batches = [], []
    for step in range(5):
        seen.append(step)
        batch = step
        if step > args.learning_starts:
            batches.append(batch)
            wandb.log({"step": step})
    done = True
"""


@pytest.fixture
def peers(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module, whose effects on other modules end with the test."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(gym.vector, "SyncVectorEnv", gym.vector.SyncVectorEnv)
    kept = {name: sys.modules.get(name) for name in STAND_INS}
    yield __import__("peer_scripts")
    for name, module in kept.items():
        sys.modules.pop(name, None)
        if module is not None:
            sys.modules[name] = module


def test_a_peer_runs_whole_or_its_updates_alone(peers: Any, tmp_path: Path):
    path = tmp_path / "peer.py"
    path.write_text(PEER)
    logged: list[dict[str, Any]] = []
    peers.record_wandb(logged.append)
    whole = peers.PeerScript(path, {"learning_starts": 3})
    whole.run()
    assert whole.namespace["batches"] == [4] and logged == [{"step": 4}]
    assert whole.namespace is vars(sys.modules["__main__"])  # where torch.compile looks names up
    assert whole.namespace["args"].seed == 1 and whole.namespace["done"]

    part = peers.PeerScript(path, {})
    part.run_until_loop()
    assert part.namespace["seen"] == [] and "done" not in part.namespace
    updates = part.updates("batch = -step")
    updates(range(2, 5))
    updates(range(5, 6))
    assert part.namespace["batches"] == [-3, -4, -5] and part.namespace["seen"] == []


def test_a_script_without_a_loop_is_refused(peers: Any, tmp_path: Path):
    path = tmp_path / "peer.py"
    path.write_text("x = 1\n")
    with pytest.raises(ValueError, match="no training loop"):
        peers.PeerScript(path, {}).run_until_loop()


class Counter(gym.Env):
    """Observes the number of steps; three of them end an episode by its time limit, rewards are 1, 2, 3."""

    observation_space = gym.spaces.Box(0.0, 9.0, (1,), np.float32)
    action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict]:
        self.count = 0
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict]:
        self.count += 1
        return np.full(1, self.count, np.float32), float(self.count), False, self.count == 3, {}


def test_vector_environments_report_as_before_gymnasium_1(peers: Any):
    calls: list[tuple[list[float], list[dict[str, float]]]] = []
    peers.infos_of_old_gymnasium(lambda rewards, episodes: calls.append((rewards.tolist(), episodes)))
    envs = gym.vector.SyncVectorEnv([lambda: gym.wrappers.RecordEpisodeStatistics(Counter())] * 2)
    envs.reset()
    actions = np.zeros((2, 1), np.float32)
    for _ in range(2):
        obs, *_, infos = envs.step(actions)
        assert "final_info" not in infos
    obs, _, _, truncations, infos = envs.step(actions)
    assert truncations.all() and obs.tolist() == [[0.0], [0.0]]  # reset in the very step
    assert [values.tolist() for values in infos["final_observation"]] == [[3.0], [3.0]]
    assert [info["episode"]["r"] for info in infos["final_info"]] == [6.0, 6.0]
    obs, *_ = envs.step(actions)
    assert obs.tolist() == [[1.0], [1.0]]
    assert calls[2] == ([3.0, 3.0], [{"r": 6.0, "l": 3.0}] * 2) and calls[3][1] == []


def test_d4rl_leaves_out_steps_that_a_time_limit_cut(peers: Any):
    rows = np.arange(4, dtype=np.float32)
    data = {
        "observations": rows[:, None],
        "actions": rows[:, None],
        "rewards": rows,
        "next_observations": rows[:, None] + 1,
        "terminals": np.zeros(4, bool),
        "timeouts": np.array([0, 1, 0, 0], bool),
    }
    peers.gym_with_dataset(data)
    import d4rl
    import gym as old_gym

    env = old_gym.make("any")
    found = d4rl.qlearning_dataset(env)
    assert found["rewards"].tolist() == [0.0, 2.0, 3.0] and "timeouts" not in found
    assert env.observation_space.shape == (1,) and "next_observations" not in env.get_dataset()


def write_run(folder: Path, name: str, seconds_per_step: float, steps: list[int], log: str = "") -> None:
    rows = [{"kind": "eval", "step": s, "seconds": s * seconds_per_step, "value": 2.0 * s} for s in steps]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / f"{name}.log").write_text(log)


def test_runs_are_compared_at_the_steps_that_both_systems_reached(peers: Any, tmp_path: Path):
    write_run(tmp_path, "ours_1", 0.01, [100, 200, 300, 400])
    write_run(tmp_path, "ours_2", 0.01, [], "Traceback (most recent call last):\nMemoryError: too large\n")
    write_run(tmp_path, "cleanrl_1", 0.04, [100, 200, 300])
    facts = {"env": "X", "task": "T", "command": "python benchmarks/sac_vs_peers.py start"}
    (tmp_path / "start.json").write_text(json.dumps(facts))
    output = tmp_path / "out.json"
    benchmark = __import__("sac_vs_peers")
    benchmark.collect(Namespace(folder=str(tmp_path), output=str(output), note=""))
    data = json.loads(output.read_text())
    found = data["ours_against"]["cleanrl"]
    assert found["steps"] == 300 and found["ours_return"] == 600.0 and found["return_of_last_5_ratio"] == 1.0
    assert found["return_ratio"] == 1.0 and found["speedup"] == 4.0
    assert data["medians"]["ours"]["env_steps_per_s"] == 100.0 and data["medians"]["cleanrl"]["steps"] == 300
    assert data["runs"]["ours"][1]["error"] == "MemoryError: too large"
    assert data["command"] == facts["command"] and data["hardware"]["torch_threads"] == 1


def test_a_command_is_shown_without_folders_and_note(peers: Any):
    argv = ["/here/benchmarks/x.py", "start", "--peer", "/some/where/peer.py", "--note", "it's slow", "--steps", "3"]
    assert peers.shown_command(argv) == "python benchmarks/x.py start --peer peer.py --steps 3"
    argv = ["x.py", "--peer_site", "5.5.1=/some/where/new", "algorithm.precision=bf16"]
    assert peers.shown_command(argv) == "python benchmarks/x.py --peer_site 5.5.1=new algorithm.precision=bf16"
    assert peers.shown_arguments({"data": "/a/b.npz", "steps": 3, "note": "n", "cleanrl": ""}) == {"steps": 3}


def test_releases_of_rsl_rl_have_a_folder_and_their_fast_options(peers: Any, monkeypatch: pytest.MonkeyPatch):
    rsl_rl = __import__("rsl_rl_peer")
    sites = rsl_rl.sites_of(["5.4.2=/old", "5.5.1=/new"])
    assert rsl_rl.variants_of(sites) == [
        *("rsl_rl_5.4.2", "rsl_rl_5.4.2_compile", "rsl_rl_5.5.1", "rsl_rl_5.5.1_compile"),
        *("rsl_rl_5.5.1_bf16", "rsl_rl_5.5.1_bf16_compile"),
    ]
    monkeypatch.setenv("PYTHONPATH", "/ours")
    assert rsl_rl.environment_of("rsl_rl_5.5.1_bf16", sites) == {"PYTHONPATH": f"/new{os.pathsep}/ours"}
    with pytest.raises(SystemExit, match=r"--peer_site 5\.6\.0=FOLDER"):
        rsl_rl.environment_of("rsl_rl_5.6.0", sites)
    for word in ("5.5.1", "=/new", "5.5.1="):
        with pytest.raises(SystemExit, match="VERSION=FOLDER"):
            rsl_rl.sites_of([word])

    monkeypatch.setattr(rsl_rl, "version", lambda name: "5.5.1")
    expected = {"": {}, "_bf16": {"bf16"}, "_compile": {"compile"}, "_bf16_compile": {"bf16", "compile"}}
    for switches, options in expected.items():
        cfg: dict[str, Any] = {"algorithm": {}}
        rsl_rl.switch_on(cfg, f"rsl_rl_5.5.1{switches}")
        assert cfg["algorithm"].get("use_mixed_precision", False) == ("bf16" in options)
        assert cfg.get("torch_compile_mode") == ("default" if "compile" in options else None)
    assert rsl_rl.sites_of([]) == {"5.5.1": ""} and rsl_rl.environment_of("rsl_rl_5.5.1", {"5.5.1": ""}) == {
        "PYTHONPATH": "/ours"
    }
    with pytest.raises(RuntimeError, match=r"needs rsl-rl-lib 5\.4\.2 and finds 5\.5\.1"):
        rsl_rl.switch_on({"algorithm": {}}, "rsl_rl_5.4.2")
    with pytest.raises(SystemExit, match="no variant"):
        rsl_rl.environment_of("rsl_rl", sites)


def test_updates_are_compared_with_the_first_and_the_fastest_peer(
    peers: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    benchmark = __import__("ppo_learner_vs_rsl_rl")
    times = {"rsl_rl_5.4.2": 60.0, "rsl_rl_5.5.1_bf16_compile": 30.0, "ours_tf32": 10.0}
    started: list[tuple[str, dict[str, str]]] = []

    def run_child(script: str, words: list[str], environment: dict[str, str]) -> dict[str, Any]:
        options = dict(zip(words[::2], words[1::2], strict=True))
        assert options["--num_envs"] == "7" and options["--device"] == "cpu" and options["--repeats"] == "2"
        started.append((options["--variant"], environment))
        ms = times.get(options["--variant"])
        return {"error": "Traceback\nMemoryError: full"} if ms is None else {"collect_ms": 1.0, "update_ms": ms}

    monkeypatch.setattr(benchmark, "run_child", run_child)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    output = tmp_path / "out.json"
    words = ["--peer_site", "5.4.2=/old", "--peer_site", "5.5.1=/new", "--num_envs", "7", "--repeats", "2"]
    words += ["--variants", ",".join([*times, "ours_bf16"]), "--device", "cpu", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", ["ppo_learner_vs_rsl_rl.py", *words])
    benchmark.main()
    assert [site.get("PYTHONPATH") for _, site in started] == ["/old", "/new", None, None]
    data = json.loads(output.read_text())
    assert data["fastest_peer"] == "rsl_rl_5.5.1_bf16_compile" and data["failed"] == {"ours_bf16": "MemoryError: full"}
    assert [row["speedup"] for row in data["results"].values()] == [1.0, 2.0, 6.0]
    assert [row["speedup_over_fastest_peer"] for row in data["results"].values()] == [0.5, 1.0, 3.0]
    assert "/new" not in output.read_text()


def test_the_installed_rsl_rl_is_measured(peers: Any):
    benchmark, rsl_rl = __import__("ppo_learner_vs_rsl_rl"), __import__("rsl_rl_peer")
    pytest.importorskip("rsl_rl")
    (release,) = rsl_rl.sites_of([])
    sizes = {"num_envs": 8, "num_steps": 2, "actor_obs": 3, "critic_obs": 4, "actions": 2, "warmup": 0, "repeats": 2}
    for name in (f"rsl_rl_{release}", "ours_tf32_eager"):
        result = benchmark.measure(Namespace(device="cpu", **sizes), name)
        assert len(result["update_ms_all"]) == 2 and result["update_ms"] > 0.0
