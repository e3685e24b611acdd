"""The Go1 that learns in the imagination of a world model: columns of its state, and a run of two iterations."""

from __future__ import annotations

import math

import pytest
from RoboRenForce.utils.registry import load_task

pytest.importorskip("mjlab")
pytest.importorskip("RRF_mjlab_tasks")

from RRF_mjlab_tasks.world_model_agents import COMMAND, FOOT_CONTACT

pytestmark = [pytest.mark.contract, pytest.mark.sim_mjlab, pytest.mark.slow, pytest.mark.long]


@pytest.fixture(scope="module")
def run():
    task = load_task("RoboRenForce-MJLab-Go1Flat-MBPOPPO")
    cfg = task.runner_cfg
    task.env_cfg.num_envs, task.env_cfg.device = 4, "cpu"
    algorithm = cfg.algorithm
    algorithm.imagination_num_envs, algorithm.num_starts, algorithm.model_warmup_iterations = 8, 16, 1
    algorithm.replay.capacity, algorithm.fit.batch_size, algorithm.fit.steps_per_epoch = 2000, 8, 2
    algorithm.model.backbone_cfg = algorithm.model.backbone_cfg.replace(dim=16, num_layers=1, num_heads=2, window=4)
    cfg.logger, cfg.report, cfg.num_steps_per_env = [], False, 12
    task.validate()
    env = task.env_cfg.build()
    yield cfg.build(env=env, device="cpu")
    env.close()


def test_columns_are_those_of_mjlab(run) -> None:
    manager = run.env.unwrapped.observation_manager
    for group, term, columns in (
        ("actor", "command", COMMAND),
        ("critic", "command", COMMAND),
        ("critic", "foot_contact", FOOT_CONTACT),
    ):
        names, sizes = manager.active_terms[group], [math.prod(x) for x in manager.group_obs_term_dim[group]]
        first = sum(sizes[: names.index(term)])
        assert columns == list(range(first, first + sizes[names.index(term)]))


def test_it_learns_a_model_and_then_in_it(run) -> None:
    run.learn(1)
    assert "Model/contacts" in run.metrics and "Loss/surrogate" not in run.metrics
    run.learn(1)
    assert "Model/termination" in run.metrics and "Loss/surrogate" in run.metrics
