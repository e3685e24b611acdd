"""A model as an environment: the contract, equality with a perfect model, starts, horizon, penalty, members."""

from __future__ import annotations

import pytest
import torch
from dynamics_cases import ExactModel, LinearEnv, mlp_cfg, spec
from RoboRenForce.algorithms import ImaginationCfg, ImaginationEnv
from RoboRenForce.algorithms.model_based import Starts
from RoboRenForce.components import SystemDynamicsTransformerCfg
from RoboRenForce.envs import check_vec_env
from RoboRenForce.networks import TransformerCfg
from RoboRenForce.utils.errors import UserError

pytestmark = pytest.mark.contract


def imagination(model, starts, num_envs=6, seed=0, **options) -> ImaginationEnv:
    cfg = ImaginationCfg(**options)
    return cfg.build(model=model, spec=spec(), num_envs=num_envs, seed=seed, starts=starts)


def transformer():
    trunk = TransformerCfg(dim=16, num_layers=2, num_heads=2, window=4)
    cfg = SystemDynamicsTransformerCfg(backbone_cfg=trunk, history=3, termination=True, num_members=2)
    model = cfg.build(spec=spec(), groups=["policy"])
    states, starts = torch.randn(4, 30, 4), torch.zeros(3, 30, dtype=torch.bool)
    memory = model.remember(states[:3], torch.randn(3, 30, 1), starts, torch.zeros(30, dtype=torch.bool))
    return model, Starts(states[3], memory)


@pytest.mark.parametrize("propagation", ["ts1", "ts_inf", "mean"])
@pytest.mark.parametrize("kind", ["mlp", "transformer"])
def test_every_model_fulfils_the_contract(kind: str, propagation: str) -> None:
    if kind == "mlp":
        model = mlp_cfg(termination=True).build(spec=spec(), groups=["policy"])
        starts = Starts(torch.randn(20, 4), {})
    else:
        model, starts = transformer()
    check_vec_env(imagination(model, starts, horizon=9, propagation=propagation, penalty=0.5))
    check_vec_env(imagination(model, starts), num_steps=20)


def test_a_perfect_model_is_the_environment() -> None:
    """Observations, rewards, both kinds of endings and final observations, step by step."""
    start = torch.tensor([[0.8, 0.4, -0.2, 0.1]]).expand(8, 4)
    real, env = LinearEnv(start, 7), imagination(ExactModel(), Starts(start[:1], {}), 8, horizon=7)
    real.reset()
    env.reset()
    seen = torch.zeros(2, dtype=torch.int64)
    for _ in range(40):
        actions = torch.randn(8, 1) * 2
        (obs, reward, done, extras), (other, r, d, e) = real.step(actions), env.step(actions)
        assert torch.equal(obs["policy"], other["policy"]) and torch.equal(reward, r) and torch.equal(done, d)
        assert torch.equal(extras["final_observations"]["policy"], e["final_observations"]["policy"])
        for name in ("terminated", "time_outs"):
            assert torch.equal(extras[name], e[name])
        assert torch.equal(real.episode_length_buf, env.episode_length_buf)
        seen += torch.stack([extras["terminated"].sum(), extras["time_outs"].sum()])
    assert (seen > 5).all(), seen


def test_known_functions_replace_what_was_learned_and_disagreement_costs() -> None:
    model, starts = mlp_cfg(termination=True).build(spec=spec(), groups=["policy"]), Starts(torch.randn(20, 4), {})

    def pays(obs, action, next_obs):
        return 3.0 * obs["policy"][:, 0] + action[:, 0] - next_obs["policy"][:, 1]

    def ends(obs, action, next_obs):
        return next_obs["policy"][:, 2] > 0

    env = imagination(model, starts, 50, reward=pays, termination=ends, penalty=2.0, propagation="mean")
    obs, action = env.get_observations(), torch.rand(50, 1)
    _, reward, _, extras = env.step(action)
    final = extras["final_observations"]
    state = obs["policy"]
    imagined = model.imagine(state, action, {}, torch.zeros(50, dtype=torch.int64), deterministic=True)
    torch.testing.assert_close(final["policy"], imagined.state)
    torch.testing.assert_close(reward, pays(obs, action, final) - 2.0 * imagined.disagreement)
    assert torch.equal(extras["terminated"], final["policy"][:, 2] > 0)


@pytest.mark.parametrize(("propagation", "changes"), [("ts1", True), ("ts_inf", False)])
def test_members_change_with_the_step_or_with_the_episode(propagation: str, changes: bool) -> None:
    model = mlp_cfg(num_members=5, num_elites=5).build(spec=spec(), groups=["policy"])
    env = imagination(model, Starts(torch.randn(20, 4), {}), 64, horizon=3, propagation=propagation)
    members = []
    for _ in range(3):
        members.append(env._member.clone())
        env.step(torch.zeros(64, 1))
    assert torch.equal(members[0], members[1]) != changes and not torch.equal(members[1], env._member)


def test_new_episodes_begin_with_a_recorded_state_and_its_memory() -> None:
    model, starts = transformer()
    env = imagination(model, starts, 12, horizon=2)
    env.reset(seed=3)
    for _ in range(2):
        env.step(torch.zeros(12, 1))
    begun = env.episode_length_buf == 0  # the others terminated before the horizon
    assert begun.any()
    for state, cache in zip(env._state[begun], env._memory["cache"][begun], strict=True):
        row = int((starts.state == state).all(1).nonzero()[0])
        assert torch.equal(cache, starts.memory["cache"][row])


def test_without_a_state_to_start_from_it_says_so() -> None:
    env = imagination(mlp_cfg().build(spec=spec(), groups=["policy"]), None)
    with pytest.raises(UserError, match="start_from"):
        env.reset()
