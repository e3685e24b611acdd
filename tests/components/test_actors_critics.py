"""Actors and critics: what they compute from observations, and that a std can't leave its range."""

import copy
import math
import warnings

import numpy as np
import pytest
import torch
from RoboRenForce import components, networks
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from tensordict import TensorDict

pytestmark = pytest.mark.oracle

N = 6
SPEC = EnvSpec(
    task="Toy",
    num_envs=N,
    obs_groups={
        "policy": (4,),
        "privileged": (3,),
        "contacts": (2, 2),
        "phase": (),
        "cam.left": (3, 16, 16),
        "depth": (1, 16, 16),
    },
    action=ActionSpec("continuous", 2),
    max_episode_length=10,
    obs_dtypes={"contacts": "int64", "cam.left": "uint8"},
)
BOX = EnvSpec(**{**vars(SPEC), "action": ActionSpec("continuous", 2, (-1.0, -1.0), (1.0, 1.0))})
DISCRETE = EnvSpec(**{**vars(SPEC), "action": ActionSpec("discrete", 3)})
SMALL = networks.MLPCfg(hidden_features=[8])
SMALL_CNN = networks.CNNCfg(channels=[4], kernel_sizes=4, strides=4, features=5)

ACTORS = {
    "state-independent": (components.StateIndStdActorCfg(backbone_cfg=SMALL), SPEC),
    "log-std": (components.StateIndStdActorCfg(backbone_cfg=SMALL, use_log_std=True), SPEC),
    "state-dependent": (components.StateDepStdActorCfg(backbone_cfg=SMALL), SPEC),
    "tanh": (components.TanhGaussianActorCfg(backbone_cfg=SMALL), BOX),
    "tanh-shared-std": (components.TanhGaussianActorCfg(backbone_cfg=SMALL, state_dependent_std=False), BOX),
    "beta": (components.BetaActorCfg(backbone_cfg=SMALL), BOX),
    "categorical": (components.CategoricalActorCfg(backbone_cfg=SMALL), DISCRETE),
}
RECURRENT = {
    "gru": networks.RNNCfg(hidden_size=8),
    "lstm": networks.RNNCfg(cell="lstm", hidden_size=8),
    "transformer": networks.TransformerCfg(dim=8, num_heads=2, window=3),
}
every_actor = pytest.mark.parametrize(("cfg", "spec"), ACTORS.values(), ids=ACTORS.keys())
gaussian_actors = pytest.mark.parametrize(
    ("cfg", "spec"), [value for name, value in ACTORS.items() if name not in ("beta", "categorical")]
)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def _observations(*batch):
    batch = batch or (N,)
    return TensorDict(
        {
            "policy": torch.randn(*batch, 4) * 3 + 1,
            "privileged": torch.randn(*batch, 3),
            "contacts": torch.randint(0, 2, (*batch, 2, 2)),
            "phase": torch.rand(*batch),
            "cam.left": torch.randint(0, 256, (*batch, 3, 16, 16), dtype=torch.uint8),
            "depth": torch.rand(*batch, 1, 16, 16),
        },
        batch_size=batch,
    )


# The configuration that users write


def test_the_configuration_of_the_readme_builds_the_networks_it_describes():
    act = [[("ELU", {})]] * 3 + [[]]
    cfg = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(
            backbone_cfg=networks.MLPCfg(hidden_features=[512, 256, 128], activations=act), use_log_std=False
        ),
        critic_cfg=components.VNetworkCfg(
            backbone_cfg=networks.MLPCfg(hidden_features=[512, 256, 128], activations=act)
        ),
    )
    pack = cfg.build(spec=SPEC, obs_groups={"actor": ["policy"], "critic": ["policy", "privileged"]})
    shapes = [tuple(p.shape) for p in pack.actor.backbone.parameters() if p.dim() == 2]
    assert shapes == [(512, 4), (256, 512), (128, 256), (2, 128)]
    assert pack.critic.backbone.layers[0].weight.shape == (512, 7)
    assert pack.critic.backbone.out_features == 1 and not pack.is_recurrent
    assert components.ActorCriticPackCfg.from_yaml(cfg.to_yaml()) == cfg


# What is computed


def test_actor_and_critic_equal_a_numpy_pass_over_normalized_concatenated_groups():
    groups = ["privileged", "policy", "contacts", "phase"]
    cfg = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=SMALL, init_std=0.5),
        critic_cfg=components.VNetworkCfg(backbone_cfg=SMALL, normalizer_cfg=None),
    )
    pack = cfg.build(spec=SPEC, obs_groups={"actor": groups, "critic": groups})
    seen, obs = _observations(50), _observations()

    def flat(td):
        parts = [td["privileged"], td["policy"], td["contacts"].flatten(1), td["phase"][:, None]]
        return torch.cat([part.double() for part in parts], 1).numpy()

    def backbone(net, x):
        first, second = net.layers[0], net.layers[2]
        x = x @ first.weight.detach().double().numpy().T + first.bias.detach().double().numpy()
        x = np.where(x > 0, x, np.expm1(np.minimum(x, 0)))
        return x @ second.weight.detach().double().numpy().T + second.bias.detach().double().numpy()

    pack.actor.update_normalizer(seen)
    reference = flat(seen)
    normalized = (flat(obs) - reference.mean(0)) / (reference.std(0) + 1e-2)
    distribution, state = pack.actor(obs)
    values, _ = pack.critic(obs)
    assert state is None
    np.testing.assert_allclose(distribution.mode.detach(), backbone(pack.actor.backbone, normalized), atol=1e-5)
    np.testing.assert_allclose(values.detach(), backbone(pack.critic.backbone, flat(obs))[:, 0], atol=1e-5)
    assert distribution.std.tolist() == [0.5, 0.5]


@every_actor
def test_an_action_has_the_shape_and_type_of_the_spec_and_a_log_prob_per_row(cfg, spec):
    actor = cfg.build(spec=spec, groups=["policy"])
    obs = _observations()
    distribution, _ = actor(obs)
    action = distribution.sample()
    assert action.shape == (N, *spec.action.shape) and action.dtype == spec.action.dtype
    assert distribution.mode.shape == action.shape and distribution.mode.dtype == action.dtype
    assert distribution.log_prob(action).shape == distribution.entropy().shape == (N,)
    assert all(value.shape[0] == N for value in distribution.params.values())


@every_actor
def test_the_log_prob_trains_every_parameter(cfg, spec):
    actor = cfg.build(spec=spec, groups=["policy"])
    distribution, _ = actor(_observations())
    distribution.log_prob(distribution.sample()).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in actor.parameters())


@every_actor
def test_the_flat_path_for_export_gives_the_mode_with_the_normalizer_inside(cfg, spec):
    actor = cfg.build(spec=spec, groups=["privileged", "policy"])
    actor.update_normalizer(_observations(50))
    obs = _observations()
    flat = torch.cat([obs["privileged"], obs["policy"]], dim=-1)
    torch.testing.assert_close(actor.forward_flat(flat), actor(obs)[0].mode)


@pytest.mark.parametrize("backbone", RECURRENT.values(), ids=RECURRENT.keys())
def test_recurrent_actor_and_critic_give_the_same_by_step_by_sequence_and_by_the_flat_path(backbone):
    cfg = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=backbone),
        critic_cfg=components.VNetworkCfg(backbone_cfg=backbone),
    )
    pack = cfg.build(spec=SPEC, obs_groups={"actor": ["policy"], "critic": ["policy"]})
    assert pack.is_recurrent and pack.actor.is_recurrent and pack.critic.is_recurrent
    obs, starts = _observations(7, N), torch.rand(7, N) < 0.3
    distribution, last = pack.actor(obs, pack.actor.initial_state(N), starts)
    values, _ = pack.critic(obs, None, starts)  # None is the empty memory
    assert values.shape == (7, N) and distribution.log_prob(distribution.sample()).shape == (7, N)
    state, value_state, flat_state = None, None, pack.actor.initial_state(N)
    for t in range(7):
        step, state = pack.actor(obs[t], state, starts[t])
        value, value_state = pack.critic(obs[t], value_state, starts[t])
        flat_state = flat_state.masked_fill(starts[t, :, None], 0.0)
        action, flat_state = pack.actor.forward_flat(obs["policy"][t], flat_state)
        torch.testing.assert_close(step.mode, distribution.mode[t], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(action, step.mode)
        torch.testing.assert_close(value, values[t], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(state, last, atol=1e-5, rtol=1e-4)


def test_half_precision_ends_at_the_output():
    actor = components.StateIndStdActorCfg(backbone_cfg=SMALL).build(spec=SPEC, groups=["policy"])
    critic = components.VNetworkCfg(backbone_cfg=SMALL).build(spec=SPEC, groups=["policy"])
    q = components.QNetworkCfg(backbone_cfg=SMALL).build(spec=SPEC, groups=["policy"])
    obs = _observations()
    with torch.autocast("cpu", torch.bfloat16):
        distribution, _ = actor(obs)
        log_prob = distribution.log_prob(distribution.sample())
        values = critic(obs)[0], q(obs, distribution.mode)
    assert {distribution.mode.dtype, log_prob.dtype, *(v.dtype for v in values)} == {torch.float32}


# Standard deviations


@pytest.mark.parametrize("init_std", [0.1, 1.0, 3.0])
@gaussian_actors
def test_init_std_is_the_std_at_the_start_however_it_is_parameterized(cfg, spec, init_std):
    actor = cfg.replace(init_std=init_std).build(spec=spec, groups=["policy"])
    std = actor(_observations())[0].params["std"]
    torch.testing.assert_close(std, torch.full((N, 2), init_std))


def test_the_log_std_parameter_is_the_logarithm_of_init_std():
    cfg = components.StateIndStdActorCfg(backbone_cfg=SMALL, use_log_std=True, init_std=0.5)
    assert cfg.build(spec=SPEC, groups=["policy"]).std.param.tolist() == pytest.approx([math.log(0.5)] * 2)


def test_a_fixed_std_is_not_trained():
    cfg = components.StateIndStdActorCfg(backbone_cfg=SMALL, learn_std=False, init_std=0.3)
    actor = cfg.build(spec=SPEC, groups=["policy"])
    actor(_observations())[0].entropy().sum().requires_grad_().backward()
    assert actor.std.param.grad is None and not actor.std.param.requires_grad


@pytest.mark.parametrize("direction", [-1.0, 1.0])
@gaussian_actors
def test_adversarial_steps_leave_a_positive_finite_std_that_can_come_back(cfg, spec, direction):
    low, high = 1e-3, 50.0
    actor = cfg.replace(min_std=low, max_std=high).build(spec=spec, groups=["policy"])
    obs = _observations()
    optimizer = torch.optim.SGD(actor.parameters(), lr=1e4)
    for _ in range(5):
        optimizer.zero_grad()
        (-direction * actor(obs)[0].params["std"].sum()).backward()
        optimizer.step()
        std = actor(obs)[0].params["std"]
        assert ((std > low * 0.999) & (std < high * 1.001)).all()
        assert torch.isfinite(actor(obs)[0].entropy()).all()
    at_low, at_high = std < low * 1.001, std > high * 0.999
    assert (at_low | at_high).any()
    if len(list(actor.std.parameters())):  # a parameter goes where it is pushed; a network may fall over
        assert (at_high if direction > 0 else at_low).all()
    # A plain clamp would have no gradient at the bounds, so that no step could ever lead back inside.
    optimizer.zero_grad()
    torch.where(at_low, -std, torch.where(at_high, std, 0.0)).sum().backward()
    assert any(parameter.grad is not None and parameter.grad.any() for parameter in actor.parameters())


@pytest.mark.parametrize("value", [-1.0, 0.0, -math.inf, math.inf, math.nan])
@pytest.mark.parametrize("use_log_std", [False, True])
def test_no_parameter_value_gives_a_std_out_of_range(value, use_log_std):
    cfg = components.StateIndStdActorCfg(backbone_cfg=SMALL, use_log_std=use_log_std, min_std=0.01, max_std=10.0)
    actor = cfg.build(spec=SPEC, groups=["policy"])
    with torch.no_grad():
        actor.std.param.fill_(value)
    distribution, _ = actor(_observations())
    if use_log_std and math.isfinite(value):
        assert distribution.std.tolist() == pytest.approx([math.exp(value)] * 2)
    else:
        assert distribution.std.tolist() == pytest.approx([10.0 if value == math.inf else 0.01] * 2)
    assert torch.isfinite(distribution.sample()).all()


def test_contradicting_bounds_of_the_std_are_refused():
    with pytest.raises(ConfigError, match="init_std"):
        components.StateIndStdActorCfg(init_std=2.0, max_std=1.0).validate()
    with pytest.raises(ConfigError, match="min_std"):
        components.StateIndStdActorCfg(min_std=0.0).validate()


@pytest.mark.parametrize(("output", "concentrations", "mode"), [(-1e4, (1.001, 1.001), 0.0), (1e4, (1e3, 1e3), 0.0)])
def test_a_beta_policy_stays_a_single_finite_peak_for_extreme_outputs(output, concentrations, mode):
    actor = components.BetaActorCfg(backbone_cfg=SMALL).build(spec=BOX, groups=["policy"])
    distribution = actor.distribution(torch.full((N, 4), output))
    assert (distribution.alpha[0, 0].item(), distribution.beta[0, 0].item()) == pytest.approx(concentrations)
    assert distribution.mode[0].tolist() == pytest.approx([mode] * 2, abs=1e-6)
    # Two symmetric dimensions: at the middle the density is that of the closed form with 2^(2 - 2 alpha) / B(alpha).
    a = concentrations[0]
    log_density = (2 - 2 * a) * math.log(2) + math.lgamma(2 * a) - 2 * math.lgamma(a) - math.log(2)
    assert distribution.log_prob(torch.zeros(N, 2))[0].item() == pytest.approx(2 * log_density, abs=5e-3)


# Actors and actions that do not fit


def test_an_actor_for_the_other_kind_of_actions_is_refused_with_the_one_to_use():
    for cfg in (components.StateIndStdActorCfg(), components.StateDepStdActorCfg(), components.TanhGaussianActorCfg()):
        with pytest.raises(ValueError, match="'Toy' has discrete actions \\[3\\]: use CategoricalActorCfg"):
            cfg.build(spec=DISCRETE, groups=["policy"])
    with pytest.raises(ValueError, match="use StateIndStdActorCfg or TanhGaussianActorCfg"):
        components.CategoricalActorCfg().build(spec=SPEC, groups=["policy"])
    with pytest.raises(ValueError, match="QNetwork scores continuous actions"):
        components.QNetworkCfg().build(spec=DISCRETE, groups=["policy"])


def test_squashed_actors_refuse_bounds_other_than_the_unit_box():
    spec = EnvSpec(**{**vars(SPEC), "action": ActionSpec("continuous", 1, (-2.0,), (2.0,))})
    for cfg in (components.TanhGaussianActorCfg(), components.BetaActorCfg()):
        with pytest.raises(ValueError, match=r"declares low=\(-2.0,\)"):
            cfg.build(spec=spec, groups=["policy"])


# Observation groups


def test_images_are_encoded_per_group_scaled_and_never_normalized():
    cfg = components.VNetworkCfg(
        backbone_cfg=SMALL, cnn_cfg={"cam.left": SMALL_CNN, "depth": SMALL_CNN.replace(features=7)}
    )
    critic = cfg.build(spec=SPEC, groups=["cam.left", "policy", "depth"])
    obs = _observations()
    critic.update_normalizer(_observations(30))
    left, depth = critic.encoder.image_encoders
    features = torch.cat(
        [critic.normalizer(obs["policy"]), left(obs["cam.left"].float() / 255), depth(obs["depth"])], 1
    )
    assert features.shape == (N, 4 + 5 + 7) and critic.normalizer.moments.shape == (4,)
    torch.testing.assert_close(critic.encoder(obs), features)
    with pytest.raises(ValueError, match="which a flat observation can't hold"):
        critic.evaluate_flat(obs["policy"], None)


@pytest.mark.parametrize(
    ("shape", "dtype", "cnn", "image"),
    [
        ((16, 12), "uint8", None, "refused"),  # grey
        ((4, 16, 12), "uint8", None, "refused"),  # frames side by side
        ((2, 16, 12, 3), "uint8", None, "refused"),
        ((16, 12, 3), "float32", None, "refused"),
        ((16, 12), "uint8", SMALL_CNN, True),
        ((2, 16, 12, 3), "uint8", SMALL_CNN, True),
        ((16, 12), "float32", {"eye": SMALL_CNN}, True),  # depth in meters
        ((16, 12), "float32", SMALL_CNN, False),  # a table of numbers, as before
        ((128,), "uint8", None, False),  # the memory of an Atari
    ],
)
def test_pixels_need_a_cnn_and_numbers_do_not(shape, dtype, cnn, image):
    spec = EnvSpec("t", N, {"policy": (2,), "eye": shape}, ActionSpec("continuous", 1), 9, obs_dtypes={"eye": dtype})
    cfg = components.VNetworkCfg(backbone_cfg=SMALL, cnn_cfg=cnn)
    if image == "refused":
        with pytest.raises(ValueError, match=r"'eye' is an image .* cnn_cfg=CNNCfg\(\.\.\.\)"):
            cfg.build(spec=spec, groups=["policy", "eye"])
        return
    critic = cfg.build(spec=spec, groups=["policy", "eye"])
    assert critic.encoder.image_groups == (["eye"] if image else [])
    obs = {"policy": torch.zeros(N, 2), "eye": torch.ones(N, *shape).to(getattr(torch, dtype))}
    assert critic(obs)[0].shape == (N,)


def test_images_alone_need_no_normalizer_and_take_sequences():
    cfg = components.StateIndStdActorCfg(backbone_cfg=RECURRENT["gru"], cnn_cfg=SMALL_CNN)
    actor = cfg.build(spec=SPEC, groups=["cam.left"])
    obs = _observations(3, N)
    actor.update_normalizer(obs)  # without effect
    assert actor.normalizer is None
    distribution, _ = actor(obs)
    torch.testing.assert_close(distribution.mode[0], actor(obs[0])[0].mode)


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (["polcy"], "Unknown observation group 'polcy'; did you mean 'policy'?"),
        (["depth"], "give the actor or critic that reads it cnn_cfg=CNNCfg(...)"),
        ([], "Got no observation groups"),
    ],
)
def test_groups_that_can_not_be_read_are_refused_in_words(groups, words):
    with pytest.raises(ValueError) as error:
        components.VNetworkCfg().build(spec=SPEC, groups=groups)
    assert words in str(error.value)


def test_the_normalizer_learns_from_any_batch_shape_and_not_in_eval_mode():
    actor = components.StateIndStdActorCfg(backbone_cfg=SMALL).build(spec=SPEC, groups=["policy", "contacts"])
    rollout = _observations(9, N)
    actor.update_normalizer(rollout)
    expected = torch.cat([rollout["policy"], rollout["contacts"].flatten(2).float()], -1).double().view(-1, 8)
    torch.testing.assert_close(actor.normalizer.moments.mean, expected.mean(0))
    actor.eval()
    actor.update_normalizer(_observations())
    assert actor.normalizer.moments.count.item() == 9 * N


# Critics


def test_a_bounded_output_activation_on_a_critic_is_warned_about():
    cfg = components.VNetworkCfg(backbone_cfg=networks.MLPCfg(hidden_features=[4], activations=[[("ELU", {})]] * 2))
    with pytest.warns(UserWarning, match="ends in ELU, so its values can't leave"):
        cfg.build(spec=SPEC, groups=["policy"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        components.VNetworkCfg(backbone_cfg=SMALL).build(spec=SPEC, groups=["policy"])


def test_q_ensemble_scores_observation_and_action_per_member():
    q = components.QNetworkCfg(backbone_cfg=SMALL, num_q=3).build(spec=SPEC, groups=["policy", "privileged"])
    obs = _observations()
    q.update_normalizer(_observations(20))
    action = torch.randn(N, 2, requires_grad=True)
    values = q(obs, action)
    features = torch.cat([q.normalizer(torch.cat([obs["policy"], obs["privileged"]], 1)), action], 1)
    first, second = q.ensemble.layers[0], q.ensemble.layers[2]
    for member in range(3):
        hidden = torch.nn.functional.elu(features @ first.weight[member] + first.bias[member])
        torch.testing.assert_close(values[member], (hidden @ second.weight[member] + second.bias[member])[:, 0])
    # The policy gradient of an off-policy actor: each action moves its own row only.
    (gradient,) = torch.autograd.grad(values.min(0).values[2], action)
    assert gradient[2].any() and not gradient[[0, 1, 3, 4, 5]].any()


# State and compilation


@every_actor
def test_the_state_dict_carries_everything_the_output_depends_on(cfg, spec):
    first, second = (cfg.build(spec=spec, groups=["policy"]) for _ in range(2))
    first.update_normalizer(_observations(40))
    with torch.no_grad():
        for parameter in first.parameters():
            parameter.add_(0.1)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    obs = _observations()
    for name, value in first(obs)[0].params.items():
        assert torch.equal(second(obs)[0].params[name], value)


@every_actor
def test_every_actor_traces_into_one_graph_with_the_same_values_and_gradients(cfg, spec):
    actor = cfg.build(spec=spec, groups=["policy"])
    obs = _observations()
    old = {name: value.detach() + 0.1 for name, value in actor(obs)[0].params.items()}
    action = actor(obs)[0].sample()

    def evaluate(obs, action):
        distribution, _ = actor(obs)
        return distribution.log_prob(action), distribution.entropy(), distribution.kl_from(old)

    results = []
    torch._dynamo.reset()
    for function in (evaluate, torch.compile(evaluate, fullgraph=True, backend="aot_eager")):
        actor.zero_grad()
        values = function(obs, action)
        sum(value.sum() for value in values).backward()
        results.append([*values, *(parameter.grad.clone() for parameter in actor.parameters())])
    torch._dynamo.reset()
    torch.testing.assert_close(*results)


def test_a_compiled_actor_equals_the_eager_one():
    actor = components.StateIndStdActorCfg(backbone_cfg=SMALL).build(spec=SPEC, groups=["policy"])
    obs = _observations()
    action = actor(obs)[0].sample()

    def evaluate(obs):
        distribution, _ = actor(obs)
        return distribution.mode, distribution.log_prob(action), distribution.entropy()

    with torch.no_grad():
        torch.testing.assert_close(torch.compile(evaluate, fullgraph=True)(obs), evaluate(obs), rtol=1e-5, atol=1e-5)
    torch._dynamo.reset()


def test_a_std_bounded_by_a_tanh_starts_as_init_std_and_never_leaves_its_range():
    cfg = components.TanhGaussianActorCfg(
        backbone_cfg=SMALL, normalizer_cfg=None, min_std=0.01, max_std=1.0, init_std=0.05, std_bounds="tanh"
    )
    actor = cfg.build(spec=BOX, groups=["policy"])
    distribution, _ = actor({"policy": torch.randn(N, 4)})
    np.testing.assert_allclose(distribution.std.detach().numpy(), 0.05, rtol=1e-5)
    raw = torch.tensor([[0.0] * 2 + [-9.0, 9.0], [0.0] * 2 + [0.3, -0.2]], requires_grad=True)
    std = actor.distribution(raw).std
    low, high = math.log(0.01), math.log(1.0)
    center = np.arctanh(2 * (math.log(0.05) - low) / (high - low) - 1)
    expected = np.exp(low + (high - low) / 2 * (1 + np.tanh(raw.detach().double().numpy()[:, 2:] + center)))
    np.testing.assert_allclose(std.detach().numpy(), expected, rtol=1e-4)
    std.sum().backward()
    assert (raw.grad[1, 2:] > 0).all() and std.min() >= 0.01 * (1 - 1e-5) and std.max() <= 1.0


def test_an_init_std_at_the_end_of_a_tanh_is_refused_in_words():
    with pytest.raises(ConfigError, match=r"init_std: 1.0 is a bound itself"):
        components.TanhGaussianActorCfg(max_std=1.0, std_bounds="tanh").build(spec=BOX, groups=["policy"])
