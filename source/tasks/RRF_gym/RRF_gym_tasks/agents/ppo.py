"""PPO for Gymnasium and EnvPool tasks.

Each function returns the configuration of one task; variants are arguments. The sizes are for a CPU: small networks,
large mini-batches, and as many steps per update as the task's credit assignment needs.
"""

from __future__ import annotations

from typing import Any

from RoboRenForce import algorithms, components, networks, runners


def feed_forward(kind: str = "continuous", hidden: tuple[int, ...] = (64, 64), init_std: float = 1.0) -> Any:
    """Return actor and critic as two MLPs.

    Args:
        kind: `continuous` or `discrete` actions.
        hidden: Widths of the hidden layers of both.
        init_std: Initial std of continuous actions, in units of the action.
    """

    def backbone(output_gain: float) -> networks.MLPCfg:
        return networks.MLPCfg(
            hidden_features=list(hidden), activations="Tanh", init="orthogonal", output_gain=output_gain
        )

    # A small last layer lets all actions begin near the middle of their range.
    if kind == "discrete":
        actor: components.ActorCfg = components.CategoricalActorCfg(backbone_cfg=backbone(0.01))
    else:
        actor = components.StateIndStdActorCfg(backbone_cfg=backbone(0.01), init_std=init_std, use_log_std=True)
    return components.ActorCriticPackCfg(actor_cfg=actor, critic_cfg=components.VNetworkCfg(backbone_cfg=backbone(1.0)))


def recurrent(hidden_size: int = 64) -> Any:
    """Return a discrete actor and a critic with a GRU each."""

    def backbone() -> networks.RNNCfg:
        return networks.RNNCfg(cell="gru", hidden_size=hidden_size)

    return components.ActorCriticPackCfg(
        actor_cfg=components.CategoricalActorCfg(backbone_cfg=backbone()),
        critic_cfg=components.VNetworkCfg(backbone_cfg=backbone()),
    )


def pixels(
    group: str = "policy", kind: str = "discrete", cnn: networks.CNNCfg | None = None
) -> runners.OnPolicyRunnerCfg:
    """Return actor and critic that read one group of images and nothing else.

    Args:
        group: Group of the environment, such as `GymEnvCfg.image_group`.
        kind: `discrete` or `continuous` actions.
        cnn: CNN of both; None: that of Mnih et al. 2015, for 84x84 pixels.
    """
    policy = feed_forward(kind, (256,))
    policy.actor_cfg.cnn_cfg = policy.critic_cfg.cnn_cfg = cnn or networks.CNNCfg()
    learning = {"learning_rate": 2.5e-4, "entropy_coef": 0.01, "num_learning_epochs": 4}
    return runner(policy, 128, 1000, learning, obs_groups={"actor": [group], "critic": [group]})


def runner(
    policy: Any, steps: int, iterations: int, algorithm: dict[str, Any] | None = None, **options: Any
) -> runners.OnPolicyRunnerCfg:
    """Return an on-policy run.

    Args:
        policy: Actor and critic.
        steps: Steps of each environment per update.
        iterations: Number of updates.
        algorithm: Fields of `PPOCfg` that differ from the defaults here.
        options: Fields of `OnPolicyRunnerCfg`.
    """
    defaults = {"learning_rate": 3.0e-4, "entropy_coef": 0.0, "num_learning_epochs": 10, "num_mini_batches": 8}
    return runners.OnPolicyRunnerCfg(
        num_steps_per_env=steps,
        max_iterations=iterations,
        policy=policy,
        algorithm=algorithms.PPOCfg(**{**defaults, **(algorithm or {})}),
        **options,
    )


# --- classic control -------------------------------------------------------------------------------------------------


def cartpole() -> runners.OnPolicyRunnerCfg:
    """CartPole-v1, also with hidden velocities as the baseline without memory."""
    policy = feed_forward("discrete")
    learning = {"learning_rate": 5.0e-4, "schedule": "linear", "normalize_value": True}
    return runner(policy, 64, 100, learning, save_interval=50)


def cartpole_recurrent(**options: Any) -> runners.OnPolicyRunnerCfg:
    """CartPole-v1 without velocities, which a recurrent policy has to estimate."""
    learning = {"learning_rate": 1.0e-3, "schedule": "linear", "gamma": 0.98, "num_learning_epochs": 8}
    return runner(recurrent(), 64, 200, {**learning, "num_mini_batches": 4}, save_interval=50, **options)


def cartpole_privileged() -> runners.OnPolicyRunnerCfg:
    """CartPole-v1 without velocities, with a critic that observes the whole physical state."""
    cfg = cartpole_recurrent(obs_groups={"actor": ["policy"], "critic": ["dynamics"]})
    cfg.algorithm.time_out_bootstrap = "current"  # the state at the end of an episode is gone with its reset
    return cfg


def pendulum(**options: Any) -> runners.OnPolicyRunnerCfg:
    """Pendulum-v1."""
    learning = {"learning_rate": 1.0e-3, "schedule": "linear", "gamma": 0.9, "normalize_value": True}
    return runner(feed_forward(), 128, 100, learning, save_interval=50, **options)


def pendulum_groups() -> runners.OnPolicyRunnerCfg:
    """Pendulum-v1 in groups that start together; episodes of one length, so that no member waits for another."""
    return pendulum(init_at_random_ep_len=False)


def acrobot() -> runners.OnPolicyRunnerCfg:
    """Acrobot-v1: reward only at the end, so the entropy bonus is high."""
    learning = {"learning_rate": 1.0e-3, "entropy_coef": 0.01, "lam": 0.94}
    return runner(feed_forward("discrete"), 128, 100, learning, save_interval=50)


def mountain_car() -> runners.OnPolicyRunnerCfg:
    """MountainCarContinuous-v0: wide exploration, a high discount, and no penalty for standing still at first."""
    learning = {"gamma": 0.9999, "lam": 0.9, "entropy_coef": 0.01, "normalize_reward": True}
    return runner(feed_forward(init_std=1.5), 256, 60, learning, save_interval=30)


# --- MuJoCo ----------------------------------------------------------------------------------------------------------


def balance(iterations: int = 60) -> runners.OnPolicyRunnerCfg:
    """Inverted pendulums: short, dense, and worth 100 from nearly every state, which the critic has to learn first."""
    learning = {"learning_rate": 1.0e-3, "schedule": "linear", "normalize_value": True}
    return runner(feed_forward(), 128, iterations, learning, save_interval=30)


def locomotion(iterations: int = 250, hidden: tuple[int, ...] = (128, 128), **learning: Any) -> Any:
    """Robots that walk, hop, run or swim: 4,096 steps per update."""
    algorithm = {"learning_rate": 1.0e-3, "normalize_reward": True, "num_mini_batches": 16, **learning}
    return runner(feed_forward(hidden=hidden, init_std=0.6), 256, iterations, algorithm)


def half_cheetah() -> runners.OnPolicyRunnerCfg:
    """HalfCheetah-v5: 800,000 steps to about 3,000."""
    learning = {"schedule": "linear", "gamma": 0.98, "lam": 0.92, "num_mini_batches": 16, "normalize_reward": True}
    return runner(feed_forward(hidden=(128, 128), init_std=0.6), 128, 400, learning)


def humanoid() -> runners.OnPolicyRunnerCfg:
    """Humanoid-v5 and Ant-v5: larger observations, slower learning."""
    return locomotion(iterations=1000, hidden=(256, 256))


def reaching() -> runners.OnPolicyRunnerCfg:
    """Reacher-v5 and Pusher-v5: an arm, short episodes, dense reward."""
    return runner(feed_forward(hidden=(128, 128), init_std=0.6), 128, 300, {"gamma": 0.95})


# --- EnvPool: MuJoCo Playground's robots -----------------------------------------------------------------------------


def joystick(iterations: int = 1000) -> runners.OnPolicyRunnerCfg:
    """Legged robots that follow a joystick; the critic observes privileged groups.

    The reward of these tasks is never below 0, so a robot that falls at once learns nothing: initial actions are small
    enough to stand.
    """

    def backbone() -> networks.MLPCfg:
        return networks.MLPCfg(hidden_features=[256, 128, 64], activations="ELU")

    policy = components.ActorCriticPackCfg(
        actor_cfg=components.StateIndStdActorCfg(backbone_cfg=backbone(), init_std=0.3),
        critic_cfg=components.VNetworkCfg(backbone_cfg=backbone()),
    )
    algorithm = {"learning_rate": 1.0e-3, "entropy_coef": 0.001, "gamma": 0.97, "normalize_reward": True}
    return runner(policy, 128, iterations, {**algorithm, "num_learning_epochs": 5, "num_mini_batches": 4})
