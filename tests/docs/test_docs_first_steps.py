"""The example of the first steps works as written: as an import, as a registered task, and as a program."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from doc_pages import ROOT, Workplace, files_of
from RoboRenForce import algorithms, components, networks
from RoboRenForce.utils.checkpoint import load_checkpoint
from RoboRenForce.utils.run_dir import newest_run

pytest.importorskip("RRF_gym_tasks")
pytest.importorskip("mujoco")

pytestmark = pytest.mark.contract

PAGE = ROOT / "docs" / "first_steps.md"
TASK = "MyLoco-HalfCheetah-PPO"
TINY = ["--num_envs", "4", "num_steps_per_env=8", "report=false"]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    return Workplace(tmp_path, PAGE, monkeypatch)


def test_overrides_without_annotation_are_fields_of_the_configuration(place: Workplace):
    cfg = place.import_text("my_loco", files_of(PAGE)["my_loco.py"])["MyLocoPPOCfg"]()
    cfg.validate()
    assert (cfg.seed, cfg.num_steps_per_env, cfg.max_iterations, cfg.experiment_name) == (42, 24, 1500, "my_loco")
    elu = networks.MLPCfg(hidden_features=[512, 256, 128], activations="ELU")
    for part in (cfg.policy.actor_cfg, cfg.policy.critic_cfg):
        # The per-layer form of the example is the simple form, written out.
        assert part.backbone_cfg.build(17, 6).__repr__() == elu.build(17, 6).__repr__()
    assert type(cfg.policy.actor_cfg) is components.StateIndStdActorCfg and not cfg.policy.actor_cfg.use_log_std
    assert cfg.algorithm == algorithms.PPOCfg(
        clip_param=0.2,
        entropy_coef=0.01,
        num_learning_epochs=5,
        num_mini_batches=4,
        learning_rate=1.0e-3,
        schedule="adaptive",
        gamma=0.99,
        lam=0.95,
    )


def test_the_example_trains_resumes_and_plays(place: Workplace, capsys: Any):
    assert place.run("python", "my_loco.py", "train", "--task", TASK, *TINY, "--max_iterations", "2") == 0
    assert place.run("python", "my_loco.py", "train", "--resume", "--max_iterations", "3") == 0
    run = newest_run("logs/RFRL", experiment="my_loco")
    saved = load_checkpoint(run.checkpoint(3))
    assert (saved["task"], saved["iteration"], saved["runner"]["steps"]) == (TASK, 3, 3 * 4 * 8)
    assert saved["config"]["agent"]["seed"] == 42
    assert saved["algorithm"]["networks"]["actor.backbone.layers.0.weight"].shape == (512, 17)
    played = place.run("python", "my_loco.py", "play", "--episodes", "2", "env.max_episode_steps=5")
    assert played == 0, capsys.readouterr().err
    assert json.loads(run.evaluation.read_text())["deterministic"]["n"] == 2
    # Another program does not know the task, and says so in one sentence.
    capsys.readouterr()
    assert place.run("rrf", "play") == 1
    assert f"Task {TASK} is registered by" in capsys.readouterr().err
