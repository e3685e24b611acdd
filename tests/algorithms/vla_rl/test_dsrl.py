"""Start noise as the action: chunks are the flow's, and what is worth more is found among them."""

from __future__ import annotations

from pathlib import Path

import frozen_runs as runs
import pytest
import torch
from frozen_runs import algorithm_cfg, collect, learner
from RoboRenForce.algorithms.vla_rl import DSRLCfg, StartNoiseCfg
from RoboRenForce.networks import DiTCfg
from RoboRenForce.utils.errors import ConfigError


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


@pytest.mark.oracle
def test_aliased_critics_learn_from_the_chunks_that_noise_leads_to(tmp_path: Path) -> None:
    built, env = learner(algorithm_cfg(tmp_path, DSRLCfg, runs.FLOW, aliased=True), runs.FLOW)
    collect(built, env, 12)
    alias, batch = built.learner.critic_source, built.learner.experience.sample()
    # The chunk of a stored latent action is the one that was executed, found again from stored features.
    taken = collect(built, env, 3)
    for transition in taken:
        chunk = alias.chunk({"features": transition.record["features"]}, transition.record["latent"])
        state = built.model.raw_state(built.features(transition.obs).prefix)
        again = built.model.preprocessing.env_actions(chunk.view(runs.ENVS, runs.EXECUTED, 2), state)
        torch.testing.assert_close(again, transition.action)
    # L_A and L_W by hand.
    sac = built.learner
    torch.manual_seed(4)
    loss, _ = alias.td_loss(batch)
    torch.manual_seed(4)
    with torch.no_grad():
        latent, log_prob = sac.sample(sac.actor.evaluate(batch.next_obs, None, None)[0])
        value = alias.target(batch.next_obs, alias.chunk(batch.next_obs, latent)).amin(0)
        target = batch.reward + batch.discount * (value - sac.temperature() * log_prob)
    found = alias.critic(batch.obs, alias.chunk(batch.obs, batch.action))
    torch.testing.assert_close(loss, (found - target).square().sum(0).mean())
    torch.manual_seed(5)
    loss, _, _ = alias.loss(batch)
    torch.manual_seed(5)
    latent = (torch.randn_like(batch.action) / 1.5).clamp(-1, 1)
    known = alias.critic(batch.obs, alias.chunk(batch.obs, latent)).detach()
    torch.testing.assert_close(loss, (sac.critic(batch.obs, latent) - known).square().sum(0).mean())


@pytest.mark.contract
def test_aliased_critics_are_part_of_the_checkpoint(tmp_path: Path) -> None:
    cfg = algorithm_cfg(tmp_path, DSRLCfg, runs.FLOW, aliased=True)
    built, env = learner(cfg, runs.FLOW)
    collect(built, env, 12)
    other, _ = learner(cfg, runs.FLOW)
    other.load_state_dict(built.state_dict())
    for first, second in zip(
        built.learner.critic_source.critic.parameters(), other.learner.critic_source.critic.parameters(), strict=True
    ):
        assert torch.equal(first, second)


@pytest.mark.contract
def test_aliased_critics_need_heads_that_read_the_mean_of_the_tokens(tmp_path: Path) -> None:
    head = runs.FLOW.replace(network=DiTCfg(dim=16, num_layers=1, num_heads=2))
    with pytest.raises(ConfigError, match="DiTCfg reads more of them"):
        learner(algorithm_cfg(tmp_path, DSRLCfg, head, aliased=True), head)
