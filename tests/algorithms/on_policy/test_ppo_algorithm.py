"""What PPO does with a rollout: exact bootstraps, first-epoch identities, options, and a state that is complete."""

import copy

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.configclass import configclass
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.utils.errors import UserError
from stepping import stepped
from tensordict import TensorDict

pytestmark = pytest.mark.oracle

STEPS, ENVS = 6, 8


def make_spec(actions: ActionSpec | None = None, extras: tuple[str, ...] = ("final_observations",)) -> EnvSpec:
    actions = actions or ActionSpec("continuous", 2)
    return EnvSpec("tape", ENVS, {"policy": (4,), "critic": (5,)}, actions, 100, extras, step_dt=0.1)


def make_ppo(spec: EnvSpec | None = None, *, recurrent: bool = False, **options) -> algorithms.PPO:
    spec = spec or make_spec()

    def backbone() -> networks.NetworkCfg:
        mlp = networks.MLPCfg(hidden_features=[16], activations="Tanh")
        return networks.RNNCfg(hidden_size=8, head_cfg=mlp) if recurrent else mlp

    actor = components.CategoricalActorCfg if spec.action.kind == "discrete" else components.StateIndStdActorCfg
    policy = components.ActorCriticPackCfg(
        actor_cfg=actor(backbone_cfg=backbone()), critic_cfg=components.VNetworkCfg(backbone_cfg=backbone())
    )
    torch.manual_seed(0)
    context = algorithms.RunContext(spec=spec, device=torch.device("cpu"), rollout_steps=STEPS, max_updates=10)
    options = {"num_mini_batches": 2, "num_learning_epochs": 2, "precision": "fp32"} | options
    return algorithms.PPOCfg(**options).build(policy=policy, context=context)


def observations(generator: torch.Generator) -> TensorDict:
    groups = {"policy": torch.randn(ENVS, 4, generator=generator), "critic": torch.randn(ENVS, 5, generator=generator)}
    return TensorDict(groups, batch_size=[ENVS])


def rollout(ppo: algorithms.PPO, seed: int = 1, time_out_share: float = 0.5) -> dict[str, list]:
    """Feed one scripted rollout and return what was fed."""
    generator = torch.Generator().manual_seed(seed)
    fed: dict[str, list] = {"obs": [], "reward": [], "done": [], "time_outs": [], "final": []}
    obs = observations(generator)
    for _ in range(STEPS):
        out = ppo.act(obs)
        final = observations(generator)
        done = torch.rand(ENVS, generator=generator) < 0.3
        time_outs = done & (torch.rand(ENVS, generator=generator) < time_out_share)
        reward = torch.randn(ENVS, generator=generator)
        following = observations(generator)
        next_obs = final.clone()
        for name in ("policy", "critic"):
            next_obs[name] = torch.where(done[:, None], following[name], final[name])
        extras = {"terminated": done & ~time_outs, "time_outs": time_outs, "log": {}, "final_observations": final}
        ppo.process_env_step(stepped(obs, out, next_obs, reward, done.long(), extras))
        values = {"obs": obs, "reward": reward, "done": done, "time_outs": time_outs, "final": final}
        for name, value in values.items():
            fed[name].append(value)
        obs = next_obs
    return fed


def spy_on_first_mini_batch(ppo: algorithms.PPO) -> dict[str, torch.Tensor]:
    """Record ratio and KL of the first mini-batch of the next update."""
    seen: dict[str, torch.Tensor] = {}
    loss = ppo.loss

    def spy(batch):
        if not seen:
            distribution, _ = ppo.actor(batch.obs, batch.states.get("actor"), batch.start)
            seen["ratio"] = (distribution.log_prob(batch.action) - batch.log_prob).exp().detach()
            seen["kl"] = distribution.kl_from(batch.dist_params).detach()
        return loss(batch)

    ppo.loss = spy
    return seen


@pytest.mark.parametrize("recurrent", [False, True])
@pytest.mark.parametrize("kind", ["continuous", "discrete"])
def test_first_mini_batch_has_ratio_one_and_no_kl(recurrent: bool, kind: str):
    ppo = make_ppo(make_spec(ActionSpec(kind, 2)), recurrent=recurrent)
    for seed in range(3):  # the normalizers have moved since, the identity must hold all the same
        seen = spy_on_first_mini_batch(ppo)
        rollout(ppo, seed)
        lr = ppo.optimizer.lr.item()
        ppo.mini_batches.epochs.count, ppo.mini_batches.epochs.num_mini_batches = 1, 1
        ppo.update()
        torch.testing.assert_close(seen["ratio"], torch.ones_like(seen["ratio"]), rtol=0, atol=2e-6)
        torch.testing.assert_close(seen["kl"], torch.zeros_like(seen["kl"]), rtol=0, atol=2e-6)
        assert ppo.optimizer.lr.item() <= lr * 1.5


def test_time_outs_bootstrap_with_the_value_of_the_final_observation():
    ppo = make_ppo()
    fed = rollout(ppo)
    for t in range(STEPS):
        value = ppo.critic(fed["final"][t])[0]
        expected = fed["reward"][t] + ppo.cfg.gamma * value * fed["time_outs"][t]
        torch.testing.assert_close(ppo.buffer.reward[t], expected)


def test_current_and_no_bootstrap():
    current, none = make_ppo(time_out_bootstrap="current"), make_ppo(time_out_bootstrap="none")
    fed, _ = rollout(current), rollout(none)
    for t in range(STEPS):
        value = current.critic(fed["obs"][t])[0]
        torch.testing.assert_close(
            current.buffer.reward[t], fed["reward"][t] + current.cfg.gamma * value * fed["time_outs"][t]
        )
        torch.testing.assert_close(none.buffer.reward[t], fed["reward"][t])


def test_recurrent_final_value_continues_the_finished_episode():
    """V(final observation) uses the memory of the episode that ended, and does not disturb the next one's."""
    ppo = make_ppo(recurrent=True)
    fed = rollout(ppo)
    state, start = ppo.critic.initial_state(ENVS), torch.ones(ENVS, dtype=torch.bool)
    for t in range(STEPS):
        value, state = ppo.critic(fed["obs"][t], state, start)
        torch.testing.assert_close(ppo.buffer.value[t], value)
        final_value, _ = ppo.critic(fed["final"][t], state, torch.zeros(ENVS, dtype=torch.bool))
        expected = fed["reward"][t] + ppo.cfg.gamma * final_value * fed["time_outs"][t]
        torch.testing.assert_close(ppo.buffer.reward[t], expected)
        start = fed["done"][t]


def test_recurrent_values_in_the_update_equal_those_of_the_rollout():
    ppo = make_ppo(recurrent=True)
    rollout(ppo, 1)
    ppo.update()
    rollout(ppo, 2)  # begins in the middle of episodes: the stored state matters
    batch = ppo.buffer.sequences(torch.arange(ENVS))
    value, _ = ppo.critic(batch.obs, batch.states["critic"], batch.start)
    torch.testing.assert_close(value, batch.value)


def test_successors_are_the_true_ones_also_where_the_episode_ended():
    class Reads(algorithms.loss_terms.LossTerm):
        name, needs_successors = "reads", True

        def __init__(self, cfg):
            pass

        def loss(self, actor, critic, batch, num_original, expert=None):
            return batch.next_obs["policy"].sum() * 0.0

    @configclass
    class ReadsCfg(algorithms.loss_terms.LossTermCfg):
        class_type: type = Reads

    ppo = make_ppo(loss_terms=[ReadsCfg()])
    fed = rollout(ppo)
    batch = ppo.buffer.flat(torch.arange(STEPS * ENVS))
    final = torch.stack([f["policy"] for f in fed["final"]]).flatten(0, 1)
    torch.testing.assert_close(batch.next_obs["policy"], final)


@pytest.mark.parametrize("recurrent", [False, True])
def test_saving_between_updates_changes_nothing(recurrent: bool):
    rnd = algorithms.RNDCfg(normalize_reward=True)
    options = {"reward_terms": [rnd], "normalize_reward": True, "normalize_value": True}
    straight, saved = (make_ppo(recurrent=recurrent, **options) for _ in range(2))
    for ppo in (straight, saved):
        torch.manual_seed(5)
        rollout(ppo, 1)
        ppo.update()
    resumed = make_ppo(recurrent=recurrent, **options)
    with torch.no_grad():
        for parameter in resumed.networks.parameters():
            parameter.add_(1.0)  # whatever it was built with must not matter
    resumed.load_state_dict(copy.deepcopy(saved.state_dict()))
    for ppo in (straight, resumed):
        torch.manual_seed(6)
        rollout(ppo, 2)
        metrics = ppo.update()
        ppo.last = {name: value.item() for name, value in metrics.items()}
    assert resumed.last == straight.last
    for name, value in straight.networks.state_dict().items():
        assert torch.equal(resumed.networks.state_dict()[name], value), name


def test_value_normalization_keeps_stored_values_in_units_of_the_return():
    ppo = make_ppo(normalize_value=True)
    rollout(ppo, 1)
    ppo.update()
    fed = rollout(ppo, 2)
    raw = ppo.critic(fed["obs"][0])[0]
    moments = ppo.value_normalizer.moments
    expected = raw * moments.var.sqrt().float() + moments.mean.float()
    torch.testing.assert_close(ppo.buffer.value[0], expected)


def test_a_nan_reward_skips_the_steps_and_keeps_the_weights():
    ppo = make_ppo()
    rollout(ppo)
    ppo.buffer.reward[0, 0] = float("nan")
    before = copy.deepcopy(ppo.networks.state_dict())
    metrics = ppo.update()
    assert metrics["Policy/skipped_steps"].item() == 4
    for name, parameter in ppo.networks.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_linear_schedules_reach_their_ends():
    ppo = make_ppo(schedule="linear", min_lr=0.0, learning_rate=1e-2, entropy_coef=0.1, final_entropy_coef=0.0)
    for iteration in range(10):
        rollout(ppo, iteration)
        ppo.update()
        assert ppo.optimizer.lr.item() == pytest.approx(1e-2 * (1 - iteration / 10))
        assert ppo.entropy_coef.item() == pytest.approx(0.1 * (1 - iteration / 10))


@pytest.mark.parametrize(
    ("options", "spec", "message"),
    [
        ({"num_mini_batches": 7}, make_spec(), "num_mini_batches = 7 does not divide the 48 transitions"),
        ({}, make_spec(extras=()), "time_out_bootstrap=current"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_fix(options, spec, message):
    with pytest.raises(ValueError, match=message):
        make_ppo(spec, **options)


def test_symmetry_needs_a_feed_forward_policy():
    term = algorithms.SymmetryCfg(function=lambda obs, actions: (obs, actions))
    with pytest.raises(ValueError, match="recurrent"):
        make_ppo(recurrent=True, loss_terms=[term])


def test_a_state_with_other_parts_is_refused():
    with_parts, without = make_ppo(normalize_value=True, reward_terms=[algorithms.RNDCfg()]), make_ppo()
    with pytest.raises(ValueError, match=r"has \['normalize_value', 'rnd'\] that this configuration lacks"):
        without.load_state_dict(with_parts.state_dict())
    with pytest.raises(ValueError, match=r"lacks \['normalize_value', 'rnd'\] that it has"):
        with_parts.load_state_dict(without.state_dict())


def test_an_update_without_a_whole_rollout_is_refused():
    ppo = make_ppo()
    with pytest.raises(UserError, match=f"A rollout has {STEPS} steps, got 0: collect that many"):
        ppo.update()
    rollout(ppo)
    with pytest.raises(UserError, match="got one more: call update\\(\\) after each rollout"):
        rollout(ppo)
    ppo.update()
