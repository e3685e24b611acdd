"""SAC, DSAC and DSAC-T for Gymnasium tasks with continuous actions.

Each function returns the configuration of one task. One environment and one gradient step per environment step is what
the published curves count in; classic control learns from fewer.
"""

from __future__ import annotations

import math
from typing import Any

from RoboRenForce import algorithms, components, networks, runners


def pack(
    hidden: tuple[int, ...] = (256, 256), head: Any = None, num_q: int = 2, activations: str = "ReLU"
) -> components.ActorQPackCfg:
    """Return a squashed Gaussian policy and an ensemble of critics, without observation normalization.

    Args:
        hidden: Widths of the hidden layers of both.
        head: Return head of the critics; None: the mean of the return.
        num_q: Number of critics.
        activations: Activations of the hidden layers.
    """

    def backbone() -> networks.MLPCfg:
        return networks.MLPCfg(hidden_features=list(hidden), activations=activations)

    # A log-std between -5 and 2 along a tanh, from the middle on, as CleanRL and others have it.
    actor = components.TanhGaussianActorCfg(
        backbone_cfg=backbone(), normalizer_cfg=None, std_bounds="tanh", init_std=math.exp(-1.5)
    )
    critic = components.QNetworkCfg(
        backbone_cfg=backbone(), normalizer_cfg=None, num_q=num_q, head_cfg=head or components.ScalarHeadCfg()
    )
    return components.ActorQPackCfg(actor_cfg=actor, critic_cfg=critic)


def runner(policy: Any, algorithm: Any, steps: int, num_envs: int = 1, **options: Any) -> runners.OffPolicyRunnerCfg:
    """Return an off-policy run that logs every 1,000 transitions.

    Args:
        policy: Actor and critics.
        algorithm: Configuration of the algorithm.
        steps: Transitions of the whole run.
        num_envs: Number of environments of the task.
        options: Fields of `OffPolicyRunnerCfg`.
    """
    return runners.OffPolicyRunnerCfg(
        num_steps_per_env=1000 // num_envs,
        max_iterations=steps // 1000,
        policy=policy,
        algorithm=algorithm,
        **options,
    )


# --- classic control: four environments, two gradient steps for their four transitions -------------------------------

CLASSIC: dict[str, Any] = {
    "learning_starts": 1000,
    "gradient_steps": 2,
    "actor_learning_rate": 1.0e-3,
    "critic_learning_rate": 1.0e-3,
    "temperature": components.TemperatureCfg(learning_rate=1.0e-3),
}


def classic_sac(steps: int = 20_000) -> runners.OffPolicyRunnerCfg:
    """Pendulum and other small tasks."""
    return runner(pack((64, 64)), algorithms.SACCfg(**CLASSIC), steps, num_envs=4)


def classic_dsac(steps: int = 30_000) -> runners.OffPolicyRunnerCfg:
    """Pendulum and other small tasks with DSAC."""
    head = components.GaussianHeadCfg(version="v1")
    algorithm = algorithms.DSACCfg(**CLASSIC)
    return runner(pack((64, 64), head, num_q=1, activations="GELU"), algorithm, steps, num_envs=4)


def classic_dsact(steps: int = 30_000) -> runners.OffPolicyRunnerCfg:
    """Pendulum and other small tasks with DSAC-T."""
    head = components.GaussianHeadCfg(version="T")
    algorithm = algorithms.DSACTCfg(**{**CLASSIC, "gradient_steps": 1})
    return runner(pack((64, 64), head, activations="GELU"), algorithm, steps, num_envs=4)


# --- MuJoCo ----------------------------------------------------------------------------------------------------------


def mujoco_sac(steps: int = 1_000_000) -> runners.OffPolicyRunnerCfg:
    """CleanRL's settings: a fast critic, two policy steps at every second gradient step."""
    algorithm = algorithms.SACCfg(
        critic_learning_rate=1.0e-3,
        policy_delay=2,
        policy_updates=2,
        temperature=components.TemperatureCfg(learning_rate=1.0e-3, objective="alpha"),
    )
    return runner(pack(), algorithm, steps)


MUJOCO_DSAC: dict[str, Any] = {
    "actor_learning_rate": 3.0e-4,
    "critic_learning_rate": 3.0e-4,
    "temperature": components.TemperatureCfg(),
}
"""Settings of DSAC for one environment step per gradient step.

Three times the published learning rates and a smaller initial temperature; the published ones are for twenty steps.
"""


def mujoco_dsac(steps: int = 1_000_000) -> runners.OffPolicyRunnerCfg:
    """DSAC with its three layers of 256 GELUs."""
    head = components.GaussianHeadCfg(version="v1")
    algorithm = algorithms.DSACCfg(**MUJOCO_DSAC)
    return runner(pack((256, 256, 256), head, num_q=1, activations="GELU"), algorithm, steps)


def mujoco_dsact(steps: int = 1_000_000) -> runners.OffPolicyRunnerCfg:
    """DSAC-T with its three layers of 256 GELUs."""
    algorithm = algorithms.DSACTCfg(**MUJOCO_DSAC)
    return runner(pack((256, 256, 256), components.GaussianHeadCfg(), activations="GELU"), algorithm, steps)
