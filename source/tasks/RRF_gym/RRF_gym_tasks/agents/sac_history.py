"""SAC-Seq and SAC-Trans for Gymnasium tasks with continuous actions, and SAC as the baseline with hidden velocities."""

from __future__ import annotations

from typing import Any

from RoboRenForce import algorithms, buffer, components, runners

from .sac import pack, runner


def history_pack(
    encoder: components.HistoryEncoder = "gru", size: int = 128, hidden: tuple[int, ...] = (256, 256), **options: Any
) -> components.HistoryActorQPackCfg:
    """Return networks with history encoders, without observation normalization.

    Args:
        encoder: Kind of history encoder.
        size: Width of the encoder.
        hidden: Widths of the MLPs after it.
        options: Further fields of `HistoryActorQPackCfg`, without their `history_`.
    """
    plain = pack(hidden)
    return components.HistoryActorQPackCfg(
        actor_cfg=plain.actor_cfg,
        critic_cfg=plain.critic_cfg,
        history_encoder=encoder,
        history_size=size,
        **{f"history_{name}": value for name, value in options.items()},
    )


# --- classic control: short windows, small memories, a large step for every 20 transitions ---------------------------


def classic_learning(learning_rate: float, **options: Any) -> dict[str, Any]:
    """Settings for one CPU core: 8 steps determine a velocity, and rewards are scaled for fast critics."""
    return {
        "replay": buffer.SequenceReplayBufferCfg(capacity=100_000, length=8, burn_in=1),
        "batch_size": 64,
        "learning_starts": 1000,
        "gamma": 0.97,
        "tau": 0.02,
        "max_return": 10.0,
        "actor_learning_rate": learning_rate,
        "critic_learning_rate": learning_rate,
        "temperature": components.TemperatureCfg(initial=0.1, learning_rate=learning_rate),
        "final_learning_rate": 0.1,
        **options,
    }


def classic_runner(policy: Any, algorithm: Any, num_envs: int, steps: int = 40_000) -> runners.OffPolicyRunnerCfg:
    """Return a run with one gradient step for 20 transitions."""
    return runner(policy, algorithm, steps, num_envs=num_envs, train_freq=20 // num_envs)


def classic_sac_seq(num_envs: int = 4) -> runners.OffPolicyRunnerCfg:
    """A GRU of 32."""
    policy = history_pack("gru", 32, (64, 64))
    return classic_runner(policy, algorithms.SACSeqCfg(**classic_learning(3.0e-3)), num_envs)


def classic_sac_trans(num_envs: int = 4) -> runners.OffPolicyRunnerCfg:
    """One block of width 32 over 8 steps."""
    policy = history_pack("transformer", 32, (64, 64), heads=2, window=8)
    return classic_runner(policy, algorithms.SACTransCfg(**classic_learning(2.0e-3)), num_envs)


def masked_sac() -> runners.OffPolicyRunnerCfg:
    """Pendulum without velocities with plain SAC, with as many transitions per gradient step as the recurrent ones."""
    options = {"replay": buffer.ReplayBufferCfg(capacity=100_000), "batch_size": 512}
    return classic_runner(pack((64, 64)), algorithms.SACCfg(**classic_learning(3.0e-3, **options)), num_envs=10)


def masked_sac_seq() -> runners.OffPolicyRunnerCfg:
    """Pendulum without velocities with a GRU."""
    return classic_sac_seq(num_envs=10)


def masked_sac_trans() -> runners.OffPolicyRunnerCfg:
    """Pendulum without velocities with a transformer."""
    return classic_sac_trans(num_envs=10)


# --- MuJoCo ----------------------------------------------------------------------------------------------------------


def mujoco_sac_seq(steps: int = 1_000_000) -> runners.OffPolicyRunnerCfg:
    """The sizes of Ni et al. 2022: a GRU of 128, 32 windows of 64 steps."""
    return runner(history_pack(), algorithms.SACSeqCfg(), steps)


def mujoco_sac_trans(steps: int = 1_000_000) -> runners.OffPolicyRunnerCfg:
    """Two blocks of width 128."""
    return runner(history_pack("transformer", layers=2), algorithms.SACTransCfg(), steps)
