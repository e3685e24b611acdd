"""Training from a file: no environment installed, exact resume in the middle of an epoch, several processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cloning import CloneCfg, StepsCfg, clone_cfg, write_data
from forked import be_rank, exit_code, forked, free_port
from RoboRenForce.algorithms import PPOCfg
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.errors import ConfigError, SpecMismatch, UserError
from RoboRenForce.utils.logging import read_metrics

pytestmark = pytest.mark.contract


def test_a_policy_is_cloned_from_a_file_where_no_environment_is_installed(tmp_path: Path) -> None:
    """Interrupted in the middle of an epoch, with workers that read ahead, it equals the run of one piece."""
    write_data(tmp_path / "data.npz", 23)
    script = Path(__file__).with_name("without_environments.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    line = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    found = json.loads(line.removeprefix("RESULT "))
    assert found["same"] and found["seen"] and found["imported"] == []
    position = {"seed": 42, "epoch": 5, "offset": 5, "shuffle": True, "lengths": [23], "counts": [23]}
    assert found["shared"] == [{"loader": position}] * 2  # 120 samples
    assert found["spec"]["obs_groups"] == {"policy": [3]}
    errors = found["metrics"]["Loss/error"]
    assert errors[-1] < 0.5 * errors[0]
    assert found["metrics"]["Train/updates"] == [5.0, 10.0, 15.0, 20.0, 25.0, 30.0]
    assert found["metrics"]["Train/epoch"][-1] == pytest.approx(120 / 23)


# ------------------------------------------------------------------------------------------------ several processes


def be_trained(rank: int, port: int, folder: Path) -> None:
    be_rank(rank, port)
    runner = clone_cfg(folder / "data.npz", batch_size=3, updates_per_iteration=2, max_iterations=1).build(
        log_dir=folder / "run"
    )
    runner.learn()
    sums = [float(value.double().sum()) for value in runner.algorithm.network.state_dict().values()]
    (folder / f"rank{rank}.json").write_text(json.dumps([runner.algorithm.seen, sums]))
    runner.distributed.close()


def test_two_processes_and_then_one_see_every_sample_of_the_epoch_once(tmp_path: Path) -> None:
    write_data(tmp_path / "data.npz", 24)
    port, log = free_port(), tmp_path / "log"
    with forked(be_trained, 1, port, tmp_path, log=log), forked(be_trained, 0, port, tmp_path, log=log) as main:
        assert exit_code(main) == 0, log.read_text()
    (first, weights), (second, same) = (json.loads((tmp_path / f"rank{rank}.json").read_text()) for rank in (0, 1))
    assert weights == same
    assert [len(batch) for batch in first + second] == [3, 3, 3, 3]
    saved = load_checkpoint(tmp_path / "run" / "model_1.pt")
    assert saved["shared"]["loader"]["offset"] == 12 and len(saved["local"]) == 2
    alone = clone_cfg(tmp_path / "data.npz", batch_size=4, updates_per_iteration=3, max_iterations=2).build()
    alone.load(tmp_path / "run" / "model_1.pt")
    alone.learn()
    seen = [index for batch in first + second + alone.algorithm.seen for index in batch]
    assert sorted(seen) == list(range(24))


# ------------------------------------------------------------------------------------------------------- evaluation


def test_it_is_evaluated_in_an_environment_of_the_kind_of_the_data(tmp_path: Path) -> None:
    write_data(tmp_path / "data.npz", 8)
    env = ScriptedEnvCfg(num_envs=2, script=[["time_out@3"]]).build()
    cfg = clone_cfg(tmp_path / "data.npz", max_iterations=2, eval_interval=1, eval_episodes=2)
    with pytest.raises(SpecMismatch, match=r"not recorded in 'Scripted'.*observation group 'critic' is .* None there"):
        cfg.build(eval_env=env)
    played = ScriptedEnvCfg(num_envs=2, script=[["time_out@3"]]).build()
    write_data(tmp_path / "silent.npz", 8, obs=played.spec.obs_dim(["policy"]))
    cfg.dataset = StepsCfg(path=str(tmp_path / "silent.npz"))
    object.__setattr__(played, "spec", type(played.spec)(**{**vars(played.spec), "obs_groups": {"policy": (3,)}}))
    cfg.build(eval_env=played, log_dir=tmp_path / "run").learn()
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")["Eval/mean_reward"][0] == [1, 2]


# ------------------------------------------------------------------------------------------------------ what is refused


def test_what_does_not_fit_is_one_sentence(tmp_path: Path) -> None:
    write_data(tmp_path / "data.npz", 8)
    with pytest.raises(ConfigError, match="algorithm"):
        clone_cfg(tmp_path / "data.npz", algorithm=PPOCfg()).build()
    silent = StepsCfg(path=str(tmp_path / "data.npz"), says_spec=False)
    with pytest.raises(ConfigError, match=r"asks for the obs_dim of an environment, and this run has none"):
        clone_cfg(tmp_path / "data.npz", dataset=silent).build()
    runner = clone_cfg(tmp_path / "data.npz").build(log_dir=tmp_path / "run")
    with pytest.raises(UserError, match="Clone learns from recorded data and takes no steps"):
        runner.algorithm.act(None)
    runner.learn(1)
    write_data(tmp_path / "data.npz", 9)
    with pytest.raises(UserError, match=r"has lengths=\[8\], and this run has \[9\]: resume with the same datasets"):
        clone_cfg(tmp_path / "data.npz").build().load(tmp_path / "run" / "model_1.pt")


def test_a_policy_is_played_without_its_data(tmp_path: Path) -> None:
    write_data(tmp_path / "data.npz", 8)
    runner = clone_cfg(tmp_path / "data.npz").build(log_dir=tmp_path / "run")
    runner.learn(1)
    (tmp_path / "data.npz").unlink()
    player = clone_cfg(tmp_path / "data.npz").build(spec=runner.spec, learns=False)
    player.load(tmp_path / "run" / "model_1.pt", resume=False)
    runner.algorithm.eval(), player.algorithm.eval()
    obs = {"policy": torch.randn(4, 3)}
    assert torch.equal(player.policy()(obs), runner.policy()(obs))
    assert isinstance(player.cfg.algorithm, CloneCfg)
