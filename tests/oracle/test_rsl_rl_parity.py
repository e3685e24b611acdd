"""One whole update of ours against the real rsl_rl 5.4.2: same weights, same rollout, same random numbers.

Both learners draw their action noise and their permutation from torch's default generator, so with one seed before
each rollout and each update they see the same data (rsl_rl samples actions inside its update too, without using
them). Compared are losses, learning rate and every parameter after two updates.
"""

from types import SimpleNamespace

import pytest
import torch
from RoboRenForce import algorithms, components, networks
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from RoboRenForce.interop.rsl_rl_checkpoint import load_rsl_rl_model, rsl_rl_model_state
from tensordict import TensorDict

rsl_algorithms = pytest.importorskip("rsl_rl.algorithms", reason="rsl-rl-lib is not installed")

STEPS, ENVS, ACTIONS, HIDDEN = 12, 16, 3, [32, 16]
GROUPS = {"policy": (5,), "critic": (7,)}


@pytest.fixture(params=[torch.float64, torch.float32], ids=["float64", "float32"])
def dtype(request, monkeypatch):
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    if request.param == torch.float64:
        # rsl_rl's GAE casts dones with `.float()`, which rounds gamma to float32 even here and hides what is compared.
        monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    yield request.param
    torch.set_default_dtype(before)


def mirror_ours(obs, actions):
    if obs is not None:
        flipped = {name: torch.cat([value, -value]) for name, value in obs.items()}
        obs = TensorDict(flipped, batch_size=[2 * next(iter(obs.values())).shape[0]])
    return obs, None if actions is None else torch.cat([actions, -actions])


def mirror_theirs(env, obs, actions):
    return mirror_ours(obs, actions)


def tape():
    """A recorded stream of observations and outcomes that neither learner influences."""
    generator = torch.Generator().manual_seed(3)

    def observations():
        groups = {name: torch.randn(ENVS, *shape, generator=generator) * 2 + 1 for name, shape in GROUPS.items()}
        return TensorDict(groups, batch_size=[ENVS])

    obs = [observations() for _ in range(2 * STEPS + 1)]
    done = [(torch.rand(ENVS, generator=generator) < 0.15).long() for _ in range(2 * STEPS)]
    time_outs = [d.bool() & (torch.rand(ENVS, generator=generator) < 0.5) for d in done]
    reward = [torch.randn(ENVS, generator=generator) for _ in range(2 * STEPS)]
    return obs, reward, done, time_outs


def make_theirs(recurrent: bool, **algorithm):
    model = {"hidden_dims": HIDDEN, "activation": "elu", "obs_normalization": True}
    model["class_name"] = "rsl_rl.models:RNNModel" if recurrent else "rsl_rl.models:MLPModel"
    if recurrent:
        model |= {"rnn_type": "gru", "rnn_hidden_dim": 12, "rnn_num_layers": 1}
    gaussian = {"class_name": "rsl_rl.modules.distribution:GaussianDistribution", "init_std": 0.7}
    algorithm = {"class_name": "rsl_rl.algorithms:PPO", "rnd_cfg": None, "symmetry_cfg": None} | algorithm
    cfg = {
        "algorithm": algorithm,
        "actor": model | {"distribution_cfg": gaussian},
        "critic": dict(model),
        "obs_groups": {"actor": ["policy"], "critic": ["critic"], "rnd_state": ["policy"]},
        "num_steps_per_env": STEPS,
        "multi_gpu": None,
    }
    env = SimpleNamespace(num_envs=ENVS, num_actions=ACTIONS, unwrapped=SimpleNamespace(step_dt=0.02))
    return rsl_algorithms.PPO.construct_algorithm(tape()[0][0], env, cfg, "cpu")


def make_ours(theirs, recurrent: bool, **algorithm):
    spec = EnvSpec("tape", ENVS, GROUPS, ActionSpec("continuous", ACTIONS), 100, step_dt=0.02)

    def backbone():
        mlp = networks.MLPCfg(hidden_features=HIDDEN, activations="ELU")
        return networks.RNNCfg(cell="gru", hidden_size=12, num_layers=1, head_cfg=mlp) if recurrent else mlp

    policy = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=backbone(), init_std=0.7),
        critic_cfg=components.VNetworkCfg(backbone_cfg=backbone()),
    )
    groups = {"actor": ["policy"], "critic": ["critic"], "rnd_state": ["policy"]}
    context = algorithms.RunContext(spec=spec, device=torch.device("cpu"), rollout_steps=STEPS, obs_groups=groups)
    ours = algorithms.PPOCfg(parity="rsl_rl_5_4", precision="fp32", **algorithm).build(policy=policy, context=context)
    load_rsl_rl_model(theirs.actor.state_dict(), ours.actor)
    load_rsl_rl_model(theirs.critic.state_dict(), ours.critic)
    return ours


def run_theirs(theirs):
    obs, reward, done, time_outs = tape()
    history = []
    for update in range(2):
        torch.manual_seed(update)
        with torch.inference_mode():
            for t in range(update * STEPS, (update + 1) * STEPS):
                theirs.act(obs[t])
                theirs.process_env_step(obs[t + 1], reward[t], done[t], {"time_outs": time_outs[t]})
            theirs.compute_returns(obs[(update + 1) * STEPS])
        torch.manual_seed(10 + update)
        history.append(theirs.update() | {"learning_rate": theirs.learning_rate})
    return history


def run_ours(ours):
    obs, reward, done, time_outs = tape()
    history = []
    for update in range(2):
        torch.manual_seed(update)
        for t in range(update * STEPS, (update + 1) * STEPS):
            ours.act(obs[t])
            ours.record(algorithms.StepOut(obs[t + 1], reward[t], done[t], {"time_outs": time_outs[t]}))
        torch.manual_seed(10 + update)
        metrics = ours.update()
        history.append({name.removeprefix("Loss/"): value.item() for name, value in metrics.items() if "Loss/" in name})
    return history


def compare(theirs, ours, dtype):
    rtol = 1e-6 if dtype == torch.float64 else 1e-4
    for expected, found in zip(run_theirs(theirs), run_ours(ours), strict=True):
        assert found == pytest.approx(expected, rel=rtol, abs=1e-7)
    for name in ("actor", "critic"):
        expected, found = getattr(theirs, name).state_dict(), rsl_rl_model_state(getattr(ours, name))
        assert set(found) == set(expected)
        for key, value in expected.items():
            torch.testing.assert_close(
                found[key],
                value,
                rtol=rtol,
                atol=1e-7 if dtype == torch.float64 else 2e-6,
                msg=lambda text, key=key: f"{key}: {text}",
            )


BASE = {"num_learning_epochs": 3, "num_mini_batches": 4, "learning_rate": 1e-3, "entropy_coef": 0.01}


@pytest.mark.parametrize("options", [{}, {"normalize_advantage_per_mini_batch": True, "use_clipped_value_loss": False}])
def test_feed_forward(dtype, options):
    theirs = make_theirs(recurrent=False, **BASE, **options)
    compare(theirs, make_ours(theirs, recurrent=False, **BASE, **options), dtype)


def test_gru(dtype):
    theirs = make_theirs(recurrent=True, **BASE)
    compare(theirs, make_ours(theirs, recurrent=True, **BASE), dtype)


def test_symmetry(dtype):
    options = {"use_data_augmentation": True, "use_mirror_loss": True}
    symmetry = {"data_augmentation_func": mirror_theirs, "mirror_loss_coeff": 0.5} | options
    theirs = make_theirs(recurrent=False, symmetry_cfg=symmetry, **BASE)
    term = algorithms.SymmetryCfg(function=mirror_ours, mirror_loss_coef=0.5, **options)
    ours = make_ours(theirs, recurrent=False, loss_terms=[term], **BASE)
    expected, found = run_theirs(theirs), run_ours(ours)
    for theirs_metrics, ours_metrics in zip(expected, found, strict=True):
        theirs_metrics["symmetry"] *= 0.5  # we log the weighted term, rsl_rl the bare one
        assert ours_metrics == pytest.approx(theirs_metrics, rel=1e-6 if dtype == torch.float64 else 1e-4, abs=1e-7)


@pytest.mark.parametrize("reward_normalization", [False, True])
def test_rnd(dtype, reward_normalization):
    rnd = {"num_outputs": 4, "predictor_hidden_dims": [16], "target_hidden_dims": [16], "weight": 5.0}
    rnd |= {"state_normalization": True, "reward_normalization": reward_normalization, "learning_rate": 2e-3}
    rnd["weight_schedule"] = {"mode": "linear", "initial_step": 4, "final_step": 20, "final_value": 0.01}
    theirs = make_theirs(recurrent=False, rnd_cfg=rnd, **BASE)
    mlp = networks.MLPCfg(hidden_features=[16], activations="ELU")
    term = algorithms.RNDCfg(
        weight=5.0,
        num_outputs=4,
        predictor_cfg=mlp,
        target_cfg=mlp,
        learning_rate=2e-3,
        normalize_reward=reward_normalization,
        weight_schedule="linear",
        initial_step=4,
        final_step=20,
        final_weight=0.5,  # per second; rsl_rl does not scale the final value: 0.01 = 0.5 * 0.02 s
    )
    ours = make_ours(theirs, recurrent=False, reward_terms=[term], **BASE)
    for part in ("predictor", "target"):
        source = [p for p in getattr(theirs.rnd, part).parameters()]
        target = getattr(ours.reward_terms[0], part)
        with torch.no_grad():
            for ours_p, theirs_p in zip(target.parameters(), source, strict=True):
                ours_p.copy_(theirs_p)
    compare(theirs, ours, dtype)
