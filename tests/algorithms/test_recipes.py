"""Every published setting has the value that its page names, and reaches the object that uses it.

A recipe is nothing but numbers, and a learner with a wrong one learns a little worse and looks well otherwise.
"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from offline_cases import recorded
from RoboRenForce import algorithms, components, networks
from RoboRenForce.algorithms import RunContext
from RoboRenForce.buffer import PrioritizedReplayBufferCfg, ReplayBufferCfg, SequenceReplayBufferCfg
from RoboRenForce.envs.spec import ActionSpec, EnvSpec

pytestmark = pytest.mark.oracle

SPEC = EnvSpec(
    "toy", 4, {"policy": (3,)}, ActionSpec("continuous", 2, (-1.0,) * 2, (1.0,) * 2), 9, ("final_observations",)
)
MLP = networks.MLPCfg(hidden_features=[8])


def reached(root: Any, path: str) -> Any:
    """The value at a dotted path of attributes."""
    for name in path.split("."):
        root = getattr(root, name)
    return root


# --- the numbers -----------------------------------------------------------------------------------------------------


REPLAY = {"replay.n_step": 1, "replay.store": False, "replay.device": "auto"}
OF_ALL = {"max_return": None, "max_grad_norm": None, "weight_decay": 0.0, "beta2": 0.999, "final_learning_rate": 1.0}
SAC = {
    **REPLAY,
    **OF_ALL,
    "gamma": 0.99,
    "replay.capacity": 1_000_000,
    "learning_starts": 5000,
    "batch_size": 256,
    "gradient_steps": 1,
    "policy_delay": 1,
    "policy_updates": 1,
    "actor_learning_rate": 3e-4,
    "critic_learning_rate": 3e-4,
    "tau": 0.005,
    "delay_targets": False,
    "target_actor": False,
    "aggregate": "min",
    "backup_entropy": True,
    "temperature.initial": 1.0,
    "temperature.learned": True,
    "temperature.entropy_per_dim": -1.0,
    "temperature.objective": "log_alpha",
    "temperature.learning_rate": 3e-4,
    "precision": "tf32",
}
DSAC = SAC | {
    "actor_learning_rate": 1e-4,
    "critic_learning_rate": 1e-4,
    "temperature.initial": math.e,
    "target_actor": True,
    "policy_delay": 2,
    "delay_targets": True,
}
SEQUENCES = SAC | {"replay.length": 64, "replay.burn_in": 10, "replay.previous_action": True, "batch_size": 32}
NO_TEMPERATURE = ("temperature.", "backup_entropy", "policy_updates")
TD3 = {name: value for name, value in SAC.items() if not name.startswith(NO_TEMPERATURE)} | {
    "exploration.std": 0.1,
    "policy_delay": 2,
    "delay_targets": True,
    "target_actor": True,
    "target_noise": 0.2,
    "target_noise_clip": 0.5,
    "policy_value": "first",
}
OFFLINE = {"learning_starts": 0}
RECIPES: dict[str, tuple[Any, dict[str, Any]]] = {
    "SAC": (algorithms.SACCfg, SAC),
    "DSAC": (algorithms.DSACCfg, DSAC),
    "DSACT": (algorithms.DSACTCfg, DSAC),
    "SACSeq": (algorithms.SACSeqCfg, SEQUENCES | {"max_grad_norm": 10.0}),
    "SACTrans": (algorithms.SACTransCfg, SEQUENCES | {"max_grad_norm": 1.0}),
    "TD3": (algorithms.TD3Cfg, TD3),
    "FastTD3": (
        algorithms.FastTD3Cfg,
        {name: value for name, value in TD3.items() if name != "exploration.std"}
        | {
            "gamma": 0.97,
            "replay.capacity": 1024 * 10_240,
            "learning_starts": 10_240,
            "exploration.min_std": 0.001,
            "exploration.max_std": 0.4,
            "batch_size": 32_768,
            "gradient_steps": 2,
            "policy_delay": 2,
            "tau": 0.1,
            "delay_targets": False,
            "target_actor": False,
            "target_noise": 0.001,
            "policy_value": "min",
            "weight_decay": 0.1,
            "precision": "bf16",
        },
    ),
    "FastSAC": (
        algorithms.FastSACCfg,
        SAC
        | {
            "gamma": 0.97,
            "replay.capacity": 4096 * 1024,
            "learning_starts": 40_960,
            "batch_size": 8192,
            "gradient_steps": 8,
            "policy_delay": 4,
            "tau": 0.125,
            "aggregate": "own",
            "temperature.initial": 0.001,
            "temperature.entropy_per_dim": 0.0,
            "temperature.objective": "alpha",
            "weight_decay": 0.001,
            "beta2": 0.95,
            "precision": "bf16",
        },
    ),
    "FlashSAC": (
        algorithms.FlashSACCfg,
        SAC
        | {
            "max_return": 5.0,
            "learning_starts": 10_240,
            "exploration.exponent": 2.0,
            "exploration.max_steps": 16,
            "batch_size": 2048,
            "gradient_steps": 2,
            "policy_delay": 2,
            "tau": 0.01,
            "final_learning_rate": 0.5,
            "temperature.initial": 0.01,
            "temperature.entropy_per_dim": 0.5 * math.log(2 * math.pi * math.e * 0.15**2),
            "temperature.objective": "alpha",
            "precision": "bf16",
        },
    ),
    "BC": (algorithms.BCCfg, OF_ALL | OFFLINE | {"learning_rate": 3e-4, "batch_size": 256}),
    "IQL": (
        algorithms.IQLCfg,
        OF_ALL
        | OFFLINE
        | {
            "expectile": 0.7,
            "beta": 3.0,
            "max_weight": 100.0,
            "actor_learning_rate": 3e-4,
            "actor_final_learning_rate": 0.0,
            "critic_learning_rate": 3e-4,
            "tau": 0.005,
        },
    ),
    "CQL": (
        algorithms.CQLCfg,
        SAC
        | OFFLINE
        | {
            "actor_learning_rate": 3e-5,
            "backup_entropy": False,
            "conservative_weight": 10.0,
            "num_actions": 10,
            "conservative_temperature": 1.0,
            "target_gap": None,
            "multiplier_learning_rate": 3e-4,
        },
    ),
    "TD3BC": (algorithms.TD3BCCfg, TD3 | OFFLINE | {"alpha": 2.5}),
    "ReBRAC": (
        algorithms.ReBRACCfg,
        TD3
        | OFFLINE
        | {
            "batch_size": 1024,
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "policy_value": "min",
            "actor_penalty": 0.001,
            "critic_penalty": 0.01,
        },
    ),
    "PPO": (
        algorithms.PPOCfg,
        {
            "gamma": 0.99,
            "lam": 0.95,
            "time_out_bootstrap": "final",
            "normalize_reward": False,
            "normalize_value": False,
            "clip_param": 0.2,
            "use_clipped_value_loss": True,
            "value_loss_coef": 1.0,
            "entropy_coef": 0.01,
            "final_entropy_coef": None,
            "normalize_advantage_per_mini_batch": False,
            "num_learning_epochs": 5,
            "num_mini_batches": 4,
            "learning_rate": 1e-3,
            "schedule": "adaptive",
            "desired_kl": 0.01,
            "min_lr": 1e-5,
            "max_lr": 1e-2,
            "max_grad_norm": 1.0,
            "weight_decay": 0.0,
            "shuffle": "epoch",
            "normalizer_update": "iteration",
        },
    ),
    "prioritized": (
        PrioritizedReplayBufferCfg,
        {"alpha": 0.6, "initial_beta": 0.4, "final_beta": 1.0, "beta_updates": 100_000, "epsilon": 1e-6},
    ),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_the_numbers_of_its_page(name: str) -> None:
    cfg, expected = RECIPES[name]
    built = cfg()
    assert {path: reached(built, path) for path in expected} == pytest.approx(expected)


def test_the_networks_of_the_recipes_are_those_of_their_pages() -> None:
    found = {
        name: build().build(spec=SPEC, obs_groups={"actor": ["policy"], "critic": ["policy"]})
        for name, build in {
            "td3": algorithms.fast_td3_policy,
            "sac": algorithms.fast_sac_policy,
            "flash": algorithms.flash_sac_policy,
        }.items()
    }
    for name, support in (("td3", 10.0), ("sac", 20.0), ("flash", 5.0)):
        head = found[name].critic.head
        assert (len(head.atoms), head.atoms[0], head.atoms[-1]) == (101, -support, support), name
        assert found[name].critic.cfg.num_q == 2
    for build, name in ((algorithms.fast_td3_policy, "td3"), (algorithms.fast_sac_policy, "sac")):
        head = build(7.0, 31).critic_cfg.head_cfg
        assert (head.num_atoms, head.v_min, head.v_max) == (31, -7.0, 7.0), name
    widths = {
        name: [layer.out_features for layer in found[name].actor.modules() if isinstance(layer, torch.nn.Linear)]
        for name in ("td3", "sac")
    }
    assert widths == {"td3": [512, 256, 128, 2], "sac": [512, 256, 128, 4]}
    bounds = {"sac": (-5.0, 0.0, -2.5), "flash": (-10.0, 2.0, -4.0)}
    for name, (low, high, init) in bounds.items():
        actor = found[name].actor
        assert actor.std.squash and actor.std.log_bounds == pytest.approx((low, high))
        obs = {"policy": torch.zeros(1, 3)}
        std = actor.std(torch.zeros(1, 4))[1]
        assert std.log().tolist() == [pytest.approx([init, init], abs=1e-5)]
        assert actor(obs)[0].mode.shape == (1, 2)
    assert found["flash"].actor.normalizer is None and found["flash"].critic.normalizer is None
    assert found["td3"].actor.normalizer is not None


@pytest.mark.parametrize("encoder", ["stack", "gru", "lstm", "transformer"])
def test_sizes_of_a_memory_reach_its_network(encoder: Any) -> None:
    if encoder == "transformer":
        cfg = algorithms.sac_trans_policy(size=24, layers=3, heads=2, window=7, hidden=(11, 13))
    else:
        cfg = algorithms.sac_seq_policy(encoder, size=24, hidden=(11, 13), window=7)
    groups = {"actor": ["policy"], "critic": ["policy"]}
    pack = cfg.build(spec=SPEC, obs_groups=groups)
    widths = [layer.out_features for layer in pack.actor.backbone.modules() if isinstance(layer, torch.nn.Linear)]
    assert widths[-3:] == [11, 13, 4]
    memory = pack.actor.backbone
    if encoder == "stack":
        assert memory.state_shape(5) == (1, 5, 6 * 3)
    elif encoder == "transformer":
        assert (memory.cfg.dim, memory.cfg.num_layers, memory.cfg.num_heads, memory.cfg.window) == (24, 3, 2, 7)
    else:
        assert memory.state_shape(5) == (1, 5, 24 * (2 if encoder == "lstm" else 1))
        assert memory.cfg.shortcut
    assert pack.critic.history.out_features == 24


# --- and where they arrive -------------------------------------------------------------------------------------------


def build(cfg: Any, offline: bool = False) -> Any:
    kinds = {algorithms.TD3Cfg: components.DeterministicActorCfg}
    actor = next((kind for base, kind in kinds.items() if isinstance(cfg, base)), components.TanhGaussianActorCfg)
    options = {"actor_cfg": actor(backbone_cfg=MLP), "critic_cfg": components.QNetworkCfg(backbone_cfg=MLP)}
    pack = components.ActorQPackCfg(**options)
    if isinstance(cfg, algorithms.IQLCfg):
        pack = components.ActorQVPackCfg(**options)
    if isinstance(cfg, algorithms.BCCfg):
        pack = components.ActorPackCfg(actor_cfg=options["actor_cfg"])
    data = recorded() if offline else None
    return cfg.build(policy=pack, context=RunContext(spec=SPEC, device=torch.device("cpu"), max_updates=10, data=data))


def optimizer(step: Any) -> tuple[float, Any, tuple[float, float], float]:
    return step.lr.item(), step.max_grad_norm, step.betas, step.weight_decay


def optimizers(learner: Any) -> tuple[Any, Any]:
    """Of actor and critics."""
    owner = getattr(learner, "actor_critic", learner)
    return owner.actor_optimizer, owner.critic_optimizer


OF_OPTIMIZERS = {"max_grad_norm": 0.7, "beta2": 0.97, "weight_decay": 0.03}
SHARED = (0.7, (0.9, 0.97), 0.03)
ACTOR_CRITICS = {
    "SAC": (algorithms.SACCfg, False),
    "TD3": (algorithms.TD3Cfg, False),
    "CQL": (algorithms.CQLCfg, True),
    "TD3BC": (algorithms.TD3BCCfg, True),
    "ReBRAC": (algorithms.ReBRACCfg, True),
    "IQL": (algorithms.IQLCfg, True),
}


@pytest.mark.parametrize("name", ACTOR_CRITICS)
def test_settings_of_optimizers_replay_and_discount_arrive(name: str) -> None:
    cfg, offline = ACTOR_CRITICS[name]
    learner = build(
        cfg(actor_learning_rate=0.002, critic_learning_rate=0.005, gamma=0.8, batch_size=13, **OF_OPTIMIZERS), offline
    )
    actor, critic = optimizers(learner)
    assert optimizer(actor.adam) == (pytest.approx(0.002), *SHARED)
    assert optimizer(critic.adam) == (pytest.approx(0.005), *SHARED)
    assert (learner.experience.buffer.gamma, learner.experience.buffer.batch_size) == (0.8, 13)


def test_settings_of_behavior_cloning_arrive() -> None:
    learner = build(algorithms.BCCfg(learning_rate=0.004, **OF_OPTIMIZERS), offline=True)
    assert optimizer(learner.actor_optimizer.adam) == (pytest.approx(0.004), *SHARED)


def test_scalars_that_learn_have_rates_of_their_own_and_no_clipping_or_decay() -> None:
    temperature = components.TemperatureCfg(learning_rate=0.01, initial=0.3, entropy_per_dim=-0.5)
    cfg = algorithms.CQLCfg(temperature=temperature, target_gap=1.0, multiplier_learning_rate=0.02, **OF_OPTIMIZERS)
    learner = build(cfg, offline=True)
    for step, rate in ((learner.temperature_optimizer, 0.01), (learner.critic_term.multiplier_optimizer, 0.02)):
        assert optimizer(step.adam) == (pytest.approx(rate), None, (0.9, 0.97), 0.0)
    assert learner.temperature().item() == pytest.approx(0.3)
    assert learner.temperature.target_entropy == -1.0


def test_every_rate_of_a_run_follows_its_own_schedule() -> None:
    """Over all gradient steps of the run: 10 updates of 3."""
    half, none = {"final_learning_rate": 0.5}, {"actor_final_learning_rate": 0.0}
    sac = build(algorithms.SACCfg(gradient_steps=3, actor_learning_rate=0.002, critic_learning_rate=0.004, **half))
    iql = build(
        algorithms.IQLCfg(gradient_steps=3, actor_learning_rate=0.002, critic_learning_rate=0.004, **none), True
    )
    for learner, actor_end, critic_end in ((sac, 0.001, 0.002), (iql, 0.0, 0.004)):
        for steps, share in ((15, 0.5), (30, 0.0)):
            learner.updates.step.fill_(float(steps))
            for step in optimizers(learner):
                step.step(sum((p * 0.0).sum() for p in step.adam.params))
            actor, critic = (step.adam.lr.item() for step in optimizers(learner))
            assert actor == pytest.approx(actor_end + share * (0.002 - actor_end), abs=1e-8)
            assert critic == pytest.approx(critic_end + share * (0.004 - critic_end), abs=1e-8)


def test_settings_of_replays_and_reward_scale_arrive() -> None:
    cfg = algorithms.SACCfg(
        gamma=0.8, max_return=3.0, replay=PrioritizedReplayBufferCfg(capacity=120, n_step=4, alpha=0.3)
    )
    learner = build(cfg)
    replay = learner.experience.buffer
    assert (replay.num_slots, replay.window, replay.cfg.alpha) == (120, 4, 0.3)
    assert (learner.experience.reward_scaler.gamma, learner.experience.reward_scaler.max_return) == (0.8, 3.0)
    sequences = SequenceReplayBufferCfg(capacity=120, length=9, previous_action=False)
    assert build(algorithms.SACCfg(replay=sequences)).experience.buffer.window == 9
    assert build(algorithms.SACCfg(replay=ReplayBufferCfg(capacity=40))).experience.reward_scaler is None


def test_settings_of_ppo_arrive() -> None:
    policy = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=MLP), critic_cfg=components.VNetworkCfg(backbone_cfg=MLP)
    )
    term = algorithms.RNDCfg(learning_rate=0.006, num_outputs=5)
    cfg = algorithms.PPOCfg(
        learning_rate=0.003,
        max_grad_norm=0.6,
        weight_decay=0.02,
        gamma=0.8,
        normalize_reward=True,
        desired_kl=0.5,
        min_lr=0.002,
        max_lr=0.004,
        reward_terms=[term],
    )
    ppo = cfg.build(policy=policy, context=RunContext(spec=SPEC, device=torch.device("cpu"), rollout_steps=4))
    assert optimizer(ppo.optimizer) == (pytest.approx(0.003), 0.6, (0.9, 0.999), 0.02)
    assert ppo.reward_scaler.gamma == 0.8
    rnd = ppo.reward_terms[0]
    assert (rnd.optimizer.lr.item(), rnd.predictor.out_features) == (pytest.approx(0.006), 5)
    # around desired_kl = 0.5: 0.2 is too little, 1.1 too much; within the bounds of the rate
    for kl, rate in ((0.2, 0.004), (0.3, 0.003), (0.9, 0.003), (1.1, 0.002), (0.0, 0.003)):
        ppo.optimizer.lr.fill_(0.003)
        ppo.optimizer.shared.fill_(kl)
        ppo._apply_gradients()
        assert ppo.optimizer.lr.item() == pytest.approx(rate), kl
