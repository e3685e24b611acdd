"""Start noise as the action: chunks are the flow's, and what is worth more is found among them."""

from __future__ import annotations

from pathlib import Path

import frozen_runs as runs
import pytest
import torch
from frozen_runs import algorithm_cfg, collect, learner
from RoboRenForce.algorithms.vla_rl import DSRLCfg, StartNoiseCfg


def integrated(built, prefix, x):
    """dx = v dt from noise to data, by four Euler steps."""
    network = built.model.head.network
    context = network.encode(prefix)
    for step in range(4):
        x = x + network(x, torch.full((len(x),), step / 4), context) / 4
    return x


@pytest.mark.oracle
@pytest.mark.parametrize("repeat", [False, True])
def test_chunks_are_the_ode_of_the_flow_from_the_chosen_noise(tmp_path: Path, repeat: bool) -> None:
    actions = StartNoiseCfg(bound=1.25, repeat=repeat)
    built, env = learner(algorithm_cfg(tmp_path, DSRLCfg, runs.FLOW, actions=actions), runs.FLOW)
    taken = collect(built, env, 6)
    for transition in taken:
        latent, seen = transition.record["latent"], built.features(transition.obs)
        assert latent.shape == (runs.ENVS, 2 if repeat else 2 * runs.CHUNK) and latent.abs().max() <= 1
        noise = 1.25 * (latent.view(runs.ENVS, -1, 2).expand(-1, runs.CHUNK, -1))
        with torch.no_grad():
            chunk = integrated(built, seen.prefix, noise)[:, : runs.EXECUTED]
            wanted = built.model.preprocessing.env_actions(chunk, built.model.raw_state(seen.prefix))
        torch.testing.assert_close(transition.action, wanted)
        torch.testing.assert_close(seen.features, transition.record["features"])
