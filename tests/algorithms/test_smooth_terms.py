"""CAPS, L2C2 and Lips against closed forms for a linear policy, and as part of PPO, SAC and TD3."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms import RunContext
from RoboRenForce.algorithms.loss_terms import LossTermCfg
from RoboRenForce.algorithms.loss_terms.lips import jacobian_norm
from RoboRenForce.buffer import ReplayBatch, RolloutBatch
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from stepping import stepped
from tensordict import TensorDict
from torch import Tensor

pytestmark = pytest.mark.oracle

W = torch.tensor([[1.0, 2.0], [0.5, -1.0]])
"""The policy is mu(s) = W s, as in the closed forms; V(s) = (1, 1) W s."""
SPEC = EnvSpec("plane", 4, {"policy": (2,)}, ActionSpec("continuous", 2), 100, ("final_observations",))


def linear_pack(spec: EnvSpec = SPEC, **actor: Any) -> Any:
    """An actor mu(s) = W s and a critic V(s) = sum(W s), without normalization."""
    flat = {"backbone_cfg": networks.MLPCfg(hidden_features=[]), "normalizer_cfg": None}
    pack = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(**flat, **actor), critic_cfg=components.VNetworkCfg(**flat)
    ).build(spec=spec, obs_groups={"actor": ["policy"], "critic": ["policy"]})
    with torch.no_grad():
        for network, weight in ((pack.actor, W), (pack.critic, W.sum(0, keepdim=True))):
            network.backbone.output_layer.weight.copy_(weight)
            network.backbone.output_layer.bias.zero_()
    return pack


def rollout_batch(obs: Tensor, next_obs: Tensor, done: Tensor | None = None, mask: Tensor | None = None) -> Any:
    lead = obs.shape[:-1]
    done = torch.zeros(lead, dtype=torch.bool) if done is None else done
    return RolloutBatch(
        obs=TensorDict({"policy": obs}, lead),
        next_obs=TensorDict({"policy": next_obs}, lead),
        action=torch.zeros(*lead, 2),
        advantage=torch.zeros(lead),
        return_=torch.zeros(lead),
        record={"terminated": done, "time_outs": torch.zeros_like(done), "start": torch.zeros_like(done)},
        mask=mask,
    )


def value_of(cfg: LossTermCfg, batch: Any, pack: Any = None) -> float:
    pack = linear_pack() if pack is None else pack
    return float(cfg.build().loss(pack.actor, pack.critic, batch, batch.action.shape[-2]).detach())


MANY = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(1))
STEP = torch.tensor([0.3, -0.2])
ALL = {"max_samples": 10**6}


# --- values ----------------------------------------------------------------------------------------------------------


def test_caps_spatial_is_the_noise_times_the_squared_frobenius_norm() -> None:
    cfg = algorithms.CAPSCfg(temporal_weight=0.0, spatial_weight=1.0, sigma=0.05, **ALL)
    assert value_of(cfg, rollout_batch(MANY, MANY)) == pytest.approx(0.05**2 * 6.25, rel=0.01)
    assert 0.05**2 * W.square().sum().item() == pytest.approx(0.015625)


@pytest.mark.parametrize(("norm", "expected"), [("l2sq", 0.0 + 0.1325), ("l2", 0.1325**0.5)])
def test_caps_temporal_compares_with_the_true_successor(norm: Any, expected: float) -> None:
    cfg = algorithms.CAPSCfg(temporal_weight=1.0, spatial_weight=0.0, norm=norm, **ALL)
    obs = MANY[:64]
    # W (0.3, -0.2) = (-0.1, 0.35)
    assert value_of(cfg, rollout_batch(obs, obs + STEP)) == pytest.approx(expected, rel=1e-5)


def test_the_order_of_a_mini_batch_does_not_matter() -> None:
    """Taking the next row of a shuffled batch as the successor would penalize the variance over states instead."""
    cfg, obs = algorithms.CAPSCfg(temporal_weight=1.0, spatial_weight=0.0, **ALL), MANY[:64].cumsum(0)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(0))
    straight = value_of(cfg, rollout_batch(obs[:-1], obs[1:]))
    order = order[order < 63]
    assert value_of(cfg, rollout_batch(obs[:-1][order], obs[1:][order])) == pytest.approx(straight, rel=1e-5)
    shuffled = obs[:-1][order]
    assert value_of(cfg, rollout_batch(shuffled[:-1], shuffled[1:])) > 5 * straight


@pytest.mark.parametrize(("per_dimension", "expected"), [(False, 0.044167), (True, 0.104167)])
def test_l2c2_draws_one_number_per_state_or_per_dimension(per_dimension: bool, expected: float) -> None:
    cfg = algorithms.L2C2Cfg(policy_weight=1.0, value_weight=0.0, per_dimension=per_dimension, **ALL)
    assert value_of(cfg, rollout_batch(MANY, MANY + STEP)) == pytest.approx(expected, rel=0.01)


def test_l2c2_moves_actor_and_critic_to_the_same_state() -> None:
    """V = 1^T mu here, so with u of its own the ratio of both terms would not be exact."""
    batch, step = rollout_batch(MANY[:8], MANY[:8] + STEP), W @ STEP
    values = []
    for weights in ((1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        torch.manual_seed(3)
        values.append(value_of(algorithms.L2C2Cfg(policy_weight=weights[0], value_weight=weights[1]), batch))
    assert values[1] / values[0] == pytest.approx((step.sum().square() / step.square().sum()).item(), rel=1e-4)
    assert values[2] == pytest.approx(values[0] + values[1], rel=1e-5)


def test_lcp_is_the_expected_squared_gradient_of_the_log_probability() -> None:
    pack = linear_pack(init_std=0.5, use_log_std=True)
    with torch.no_grad():
        pack.actor.std.param.copy_(torch.tensor([0.5, 0.25]).log())
    batch = rollout_batch(MANY, MANY)
    torch.manual_seed(0)
    batch.action = MANY @ W.t() + torch.tensor([0.5, 0.25]) * torch.randn(len(MANY), 2)
    assert value_of(algorithms.LipsCfg(mode="lcp", weight=1.0, **ALL), batch, pack) == pytest.approx(40.0, rel=0.02)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"probes": None}, 2.5), ({"probes": None, "norm": "rows"}, (5**0.5 + 1.25**0.5) / 2)],
)
def test_the_exact_jacobian_norm_of_a_linear_policy(options: Any, expected: float) -> None:
    cfg = algorithms.LipsCfg(weight=2.0, **options)
    assert value_of(cfg, rollout_batch(MANY[:8], MANY[:8])) == pytest.approx(2 * expected, rel=1e-5)


def test_probes_estimate_the_jacobian() -> None:
    torch.manual_seed(0)
    function = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
    x = torch.randn(5, 3)
    exact = jacobian_norm(function, x)
    full = torch.stack([torch.autograd.functional.jacobian(function, row) for row in x])
    torch.testing.assert_close(exact, full.square().sum((1, 2)).sqrt())
    torch.testing.assert_close(jacobian_norm(function, x, probes=1000), exact, rtol=0.1, atol=0)
    # With a single output, a random sign is the whole Jacobian.
    torch.testing.assert_close(
        jacobian_norm(lambda x: function(x)[:, :1], x, probes=1), jacobian_norm(lambda x: function(x)[:, :1], x)
    )


def test_slopes_are_those_of_the_normalized_observation() -> None:
    pack = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=networks.MLPCfg(hidden_features=[]))
    ).build(spec=SPEC, obs_groups={"actor": ["policy"], "critic": ["policy"]})
    pack.actor.backbone.output_layer.weight.data.copy_(W)
    obs = 100.0 * MANY
    pack.actor.update_normalizer({"policy": obs})
    batch = rollout_batch(obs, obs)
    assert value_of(algorithms.LipsCfg(weight=1.0, probes=None), batch, pack) == pytest.approx(2.5, rel=1e-4)
    caps = algorithms.CAPSCfg(temporal_weight=0.0, spatial_weight=1.0, sigma=0.05, **ALL)
    assert value_of(caps, batch, pack) == pytest.approx(0.015625, rel=0.02)


def test_gradients_flow_through_both_sides_of_a_pair() -> None:
    """d/dW of ||W (s' - s)||^2 is 2 W d d^T; a detached side would give another gradient, and another minimum."""
    pack, obs = linear_pack(), MANY[:16]
    term = algorithms.CAPSCfg(temporal_weight=1.0, spatial_weight=0.0).build()
    weight = pack.actor.backbone.output_layer.weight
    (gradient,) = torch.autograd.grad(term.loss(pack.actor, pack.critic, rollout_batch(obs, obs + STEP), 16), [weight])
    torch.testing.assert_close(gradient, 2 * W @ torch.outer(STEP, STEP))


def test_the_penalty_on_the_jacobian_has_its_gradient() -> None:
    pack = linear_pack()
    weight = pack.actor.backbone.output_layer.weight
    for options in ({"probes": None}, {"probes": 64}):
        torch.manual_seed(0)
        loss = (
            algorithms.LipsCfg(weight=1.0, **options)
            .build()
            .loss(pack.actor, pack.critic, rollout_batch(MANY[:512], MANY[:512]), 512)
        )
        (gradient,) = torch.autograd.grad(loss, [weight])
        torch.testing.assert_close(gradient, W / 2.5, rtol=0.02, atol=0.01)


# --- masks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cfg",
    [
        algorithms.CAPSCfg(temporal_weight=1.0, spatial_weight=0.0),
        algorithms.L2C2Cfg(policy_weight=1.0, value_weight=1.0),
    ],
)
def test_successors_beyond_an_end_and_rows_that_waited_do_not_count(cfg: Any) -> None:
    obs, done, mask = MANY[:6], torch.zeros(6, dtype=torch.bool), torch.ones(6, dtype=torch.bool)
    done[1], mask[4] = True, False
    successors = obs + STEP
    values = []
    for junk in (0.0, 1e6):
        torch.manual_seed(0)
        wrong = successors.clone()
        wrong[[1, 4]] += junk
        values.append(value_of(cfg, rollout_batch(obs, wrong, done, mask)))
    assert values[0] == values[1] > 0


def replay_batch(discount: Tensor, junk: float = 0.0) -> ReplayBatch:
    obs = MANY[: len(discount)]
    return ReplayBatch(
        obs={"policy": obs},
        action=torch.full((len(discount), 2), 0.1),
        reward=torch.zeros(len(discount)),
        discount=discount,
        next_obs={"policy": obs + STEP + junk * (discount == 0).unsqueeze(1)},
    )


def test_a_replay_masks_terminations() -> None:
    cfg = algorithms.CAPSCfg(temporal_weight=1.0, spatial_weight=0.0)
    discount = torch.tensor([0.99, 0.0, 0.99])
    assert value_of(cfg, replay_batch(discount)) == value_of(cfg, replay_batch(discount, 1e6))
    assert value_of(cfg, replay_batch(discount)) == pytest.approx(0.1325, rel=1e-4)


def test_at_most_so_many_states_are_read() -> None:
    cfg = algorithms.CAPSCfg(temporal_weight=1.0, spatial_weight=0.0, max_samples=4)
    batch = rollout_batch(MANY[:64], MANY[:64] + STEP)
    batch.next_obs["policy"][4:] += 1e6
    assert value_of(cfg, batch) == pytest.approx(0.1325, rel=1e-5)
    several = rollout_batch(MANY[:60].reshape(3, 20, 2), MANY[:60].reshape(3, 20, 2))
    assert algorithms.loss_terms.samples.Samples.of(several, 8).obs["policy"].shape == (3, 2, 2)


# --- in learners -----------------------------------------------------------------------------------------------------

STEPS = 8
JUMP = 5.0
"""First observation of an episode, far from the last one of the episode before."""
SMALL = {"num_learning_epochs": 2, "num_mini_batches": 2, "precision": "fp32", "max_lr": 1e-3}


def make_ppo(cfg: type = algorithms.PPOCfg, spec: EnvSpec = SPEC, backbone: Any = None, **options: Any) -> Any:
    backbone = backbone or networks.MLPCfg(hidden_features=[8], activations="Tanh")
    policy = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=backbone, normalizer_cfg=None),
        critic_cfg=components.VNetworkCfg(backbone_cfg=networks.MLPCfg(hidden_features=[8])),
    )
    torch.manual_seed(0)
    context = RunContext(spec=spec, device=torch.device("cpu"), rollout_steps=STEPS, max_updates=10)
    return cfg(**(SMALL | options)).build(policy=policy, context=context)


def feed(ppo: Any, final: bool = True) -> None:
    """A rollout in which episodes end; successors are those of a random walk."""
    generator = torch.Generator().manual_seed(3)
    obs = torch.randn(4, 2, generator=generator)
    for _ in range(STEPS):
        before, out = TensorDict({"policy": obs}, [4]), ppo.act(TensorDict({"policy": obs}, [4]))
        end = TensorDict({"policy": obs + 0.1 * torch.randn(4, 2, generator=generator)}, [4])
        done = torch.rand(4, generator=generator) < 0.2
        obs = torch.where(done.unsqueeze(1), JUMP, end["policy"])
        extras = {"terminated": done, "time_outs": torch.zeros_like(done)}
        extras |= {"final_observations": end} if final else {}
        after = TensorDict({"policy": obs}, [4])
        ppo.process_env_step(stepped(before, out, after, torch.randn(4, generator=generator), done.long(), extras))


OFF = [
    algorithms.CAPSCfg(temporal_weight=0.0, spatial_weight=0.0),
    algorithms.L2C2Cfg(policy_weight=0.0, value_weight=0.0),
    algorithms.LipsCfg(weight=0.0),
]


@pytest.mark.parametrize("recurrent", [False, True])
def test_without_weights_every_term_is_ppo_bit_for_bit(recurrent: bool) -> None:
    backbone = networks.RNNCfg(hidden_size=6) if recurrent else None
    plain, regular = make_ppo(backbone=backbone), make_ppo(backbone=backbone, loss_terms=OFF)
    for ppo in (plain, regular):
        torch.manual_seed(1)
        for _ in range(3):
            feed(ppo)
            metrics = ppo.update()
    assert metrics["Loss/caps"] == metrics["Loss/l2c2"] == metrics["Loss/lips"] == 0.0
    for a, b in zip(plain.networks.parameters(), regular.networks.parameters(), strict=True):
        assert torch.equal(a, b)


STRONG = {
    "caps": algorithms.CAPSCfg(temporal_weight=30.0, spatial_weight=30.0),
    "l2c2": algorithms.L2C2Cfg(policy_weight=30.0, value_weight=30.0),
    "lips": algorithms.LipsCfg(weight=10.0, probes=2),
    "lcp": algorithms.LipsCfg(mode="lcp", weight=1.0),
}


@pytest.mark.parametrize("name", STRONG)
@pytest.mark.parametrize("kind", ["flat", "gru", "filter"])
def test_every_term_makes_ppo_smoother(name: str, kind: str) -> None:
    """A large weight leaves the term alone to follow."""
    backbone = {
        "flat": None,
        "gru": networks.RNNCfg(hidden_size=6),
        "filter": networks.FFTFilterCfg(window=3, head_cfg=networks.MLPCfg(hidden_features=[8], activations="Tanh")),
    }[kind]
    options = {"schedule": "fixed", "learning_rate": 1e-2, "entropy_coef": 0.0, "num_learning_epochs": 10}
    ppo = make_ppo(backbone=backbone, loss_terms=[STRONG[name]], **options)
    feed(ppo)
    gather = ppo.buffer.flat if kind == "flat" else ppo.buffer.sequences
    values = []
    for _ in range(2):
        batch = gather(torch.arange(STEPS * 4 if kind == "flat" else 4))
        torch.manual_seed(5)
        value = ppo.loss_terms[0].loss(ppo.actor, ppo.critic, batch, batch.advantage.shape[-1])
        values.append(value.item())
        for _ in range(2):
            ppo.update()
    assert values[1] < 0.7 * values[0]


def test_an_lstm_on_the_cpu_has_the_derivatives_that_lips_needs() -> None:
    """oneDNN's LSTM, which torch would take there, has no second one."""
    backbone = networks.RNNCfg(cell="lstm", hidden_size=6)
    ppo = make_ppo(backbone=backbone, loss_terms=[algorithms.LipsCfg(weight=1.0)])
    feed(ppo)
    assert ppo.update()["Loss/lips"] > 0
    assert torch.backends.mkldnn.enabled


def test_recurrent_caps_compares_successive_steps_of_the_sequence() -> None:
    ppo = make_ppo(backbone=networks.RNNCfg(hidden_size=6), loss_terms=[algorithms.CAPSCfg()])
    feed(ppo)
    ppo.mini_batches.prepare(*ppo.rollout.end())
    batch = ppo.buffer.sequences(torch.arange(4))
    action = ppo.actor(batch.obs, batch.states["actor"], batch.start)[0].mode
    term = algorithms.CAPSCfg(temporal_weight=1.0, spatial_weight=0.0).build()
    pairs = [
        (action[t, n] - action[t + 1, n]).square().sum()
        for t in range(STEPS - 1)
        for n in range(4)
        if not batch.done[t, n]
    ]
    assert 0 < len(pairs) < 4 * (STEPS - 1)
    torch.testing.assert_close(term.loss(ppo.actor, ppo.critic, batch, 4), torch.stack(pairs).mean())


def test_environments_without_final_observations_do_for_terms_that_mask_ends() -> None:
    spec = EnvSpec("plane", 4, {"policy": (2,)}, ActionSpec("continuous", 2), 100, ())
    values = []
    for final, of in ((True, SPEC), (False, spec)):
        options = {"time_out_bootstrap": "current", "loss_terms": [algorithms.CAPSCfg(), algorithms.L2C2Cfg()]}
        ppo = make_ppo(spec=of, **options)
        torch.manual_seed(2)
        feed(ppo, final)
        ended = ppo.buffer.done
        assert ended.any()
        # The observation after an end is another episode's; it is stored and then ignored.
        assert bool((ppo.buffer.next_obs["policy"][ended] == JUMP).all()) is not final
        values.append(ppo.update()["Loss/caps"])
    assert values[0] == values[1] > 0


def test_presets_are_ppo_with_their_terms() -> None:
    names = {
        algorithms.CAPSPPOCfg: ["caps"],
        algorithms.L2C2PPOCfg: ["l2c2"],
        algorithms.LipsPPOCfg: ["lips"],
        algorithms.LipsCAPSPPOCfg: ["caps", "lips"],
        algorithms.L2C2LipsPPOCfg: ["l2c2", "lips"],
    }
    for cfg, expected in names.items():
        ppo = make_ppo(cfg)
        assert type(ppo) is algorithms.PPO and [term.name for term in ppo.loss_terms] == expected
        feed(ppo)
        assert all(ppo.update()[f"Loss/{name}"] > 0 for name in expected)


def off_policy(cfg: type, *, dense: bool = True, **options: Any) -> Any:
    mlp = networks.MLPCfg(hidden_features=[16])
    actor = components.DeterministicActorCfg if cfg is algorithms.TD3Cfg else components.TanhGaussianActorCfg
    policy = components.ActorQPackCfg(
        actor_cfg=actor(backbone_cfg=mlp, normalizer_cfg=None),
        critic_cfg=components.QNetworkCfg(backbone_cfg=mlp, normalizer_cfg=None),
    )
    torch.manual_seed(0)
    context = RunContext(spec=SPEC, device=torch.device("cpu"), max_updates=10)
    learning = {"batch_size": 64, "actor_learning_rate": 1e-2, "precision": "fp32", "policy_delay": 1}
    return cfg(**(learning | options)).build(policy=policy, context=context)


@pytest.mark.parametrize("cfg", [algorithms.SACCfg, algorithms.TD3Cfg])
@pytest.mark.parametrize("name", ["caps", "l2c2", "lips"])
def test_off_policy_actors_become_smoother(cfg: Any, name: str) -> None:
    batch = replay_batch(torch.full((64,), 0.99))
    values = []
    for terms in ([], [STRONG[name]]):
        learner = off_policy(cfg, loss_terms=terms)
        for _ in range(60):
            metrics = learner.train_step(copy.copy(batch), update_actor=True)
        torch.manual_seed(5)
        values.append(STRONG[name].build().loss(learner.actor, learner.critic, batch, 64).item())
    assert metrics[f"Loss/{name}"] > 0 and values[1] < 0.5 * values[0]


def test_l2c2_smooths_off_policy_critics_in_their_own_step() -> None:
    batch = replay_batch(torch.full((64,), 0.99))
    learner = off_policy(algorithms.TD3Cfg, loss_terms=[algorithms.L2C2Cfg(policy_weight=0.0, value_weight=3.0)])
    torch.manual_seed(3)
    moved = learner.actor_critic.loss_terms[0].moved(algorithms.loss_terms.samples.Samples.of(batch, 64))
    expected = 3.0 * (learner.critic(batch.obs, batch.action) - learner.critic(moved, batch.action)).square().mean()
    torch.manual_seed(3)
    found = learner.actor_critic.loss_terms[0].critic_loss(learner.critic, batch)
    torch.testing.assert_close(found, expected)
    metrics = learner.train_step(batch, update_actor=False)
    assert metrics["Loss/l2c2_critic"] > 0 and "Loss/l2c2" not in metrics


def test_off_policy_runs_without_weights_are_those_without_terms() -> None:
    for cfg in (algorithms.SACCfg, algorithms.TD3Cfg):
        plain, regular = off_policy(cfg), off_policy(cfg, loss_terms=OFF)
        for learner in (plain, regular):
            torch.manual_seed(1)
            for _ in range(3):
                learner.train_step(replay_batch(torch.full((64,), 0.99)), update_actor=True)
        for a, b in zip(plain.networks.parameters(), regular.networks.parameters(), strict=True):
            assert torch.equal(a, b)


# --- what does not fit -----------------------------------------------------------------------------------------------


def test_what_a_term_cannot_regularize_is_refused_in_words() -> None:
    discrete = EnvSpec("bandit", 4, {"policy": (2,)}, ActionSpec("discrete", 3), 100, ("final_observations",))
    policy = components.ActorCriticPackCfg(actor_cfg=components.CategoricalActorCfg())
    context = RunContext(spec=discrete, device=torch.device("cpu"), rollout_steps=STEPS)
    with pytest.raises(ValueError, match=r"CAPSCfg in loss_terms needs continuous actions; 'bandit' has discrete"):
        algorithms.CAPSPPOCfg().build(policy=policy, context=context)
    replay = algorithms.SACCfg().replay.replace(capacity=1000, n_step=3)
    for term in (algorithms.CAPSCfg(), algorithms.L2C2Cfg()):
        with pytest.raises(ValueError, match=r"replay.n_step=3 stores every 3-th: use replay.n_step=1"):
            off_policy(algorithms.SACCfg, replay=replay, loss_terms=[term])
    with pytest.raises(ValueError, match=r"mode=mgn regularizes a LipsNet, but .* builds a MLP: use networks"):
        make_ppo(loss_terms=[algorithms.LipsCfg(mode="mgn")])
    with pytest.raises(ValueError, match=r"mode=lcp needs log pi, which a DeterministicActor lacks"):
        off_policy(algorithms.TD3Cfg, loss_terms=[algorithms.LipsCfg(mode="lcp")])
    with pytest.raises(ValueError, match=r"set probes to 1 or more"):
        make_ppo(backbone=networks.RNNCfg(hidden_size=6), loss_terms=[algorithms.LipsCfg(probes=None)])
    with pytest.raises(ValueError, match=r"has no FFTFilter to act on"):
        make_ppo(loss_terms=[algorithms.LipsCfg(filter_weight=0.1)])
    with pytest.raises(ValueError, match=r"rows are known only from the whole Jacobian"):
        algorithms.LipsCfg(norm="rows").validate()
