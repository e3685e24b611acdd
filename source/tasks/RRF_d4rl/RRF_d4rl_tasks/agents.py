"""Offline algorithms for recorded tasks.

Each function returns the configuration of one algorithm for one family of tasks, without the data, which the task
names. Networks and numbers for MuJoCo robots are those of CORL; those of classic control are smaller and learn on a CPU
within minutes. If observations are normalized, the statistics are those of the data.
"""

from __future__ import annotations

from typing import Any

from RoboRenForce import algorithms, components, networks, runners

from .offline_dataset import OfflineDatasetCfg
from .scores import NormalizedScoreCfg


def runner(policy: Any, algorithm: Any, iterations: int, reward_mode: Any = "none") -> runners.OfflineRunnerCfg:
    """Return an offline run of `iterations` thousand updates with a hundred evaluations.

    Args:
        policy: Networks.
        algorithm: Configuration of the algorithm.
        iterations: Thousands of updates.
        reward_mode: Change of the data's rewards, see `DatasetCfg`.
    """
    return runners.OfflineRunnerCfg(
        updates_per_iteration=1000,
        max_iterations=iterations,
        eval_interval=max(1, iterations // 100),
        dataset=OfflineDatasetCfg(reward_mode=reward_mode),
        policy=policy,
        algorithm=algorithm,
        callbacks=[NormalizedScoreCfg()],
    )


def backbone(*hidden: int, layer_norm: bool = False, init: Any = "default") -> networks.MLPCfg:
    """Return an MLP of hidden layers with ReLUs."""
    return networks.MLPCfg(hidden_features=list(hidden), activations="ReLU", layer_norm=layer_norm, init=init)


def bounded_normal(*hidden: int) -> components.ActorCfg:
    """Return IQL's policy: a normal distribution around the tanh of a network, not squashed, with one std vector."""
    layers: Any = [*([("ReLU", {})] for _ in hidden), [("Tanh", {})]]
    network = networks.MLPCfg(hidden_features=list(hidden), activations=layers)
    return components.StateIndStdActorCfg(backbone_cfg=network, use_log_std=True)


def critics(network: networks.MLPCfg, *, normalize: bool = True) -> components.QNetworkCfg:
    """Return twin critics."""
    options: dict[str, Any] = {} if normalize else {"normalizer_cfg": None}
    return components.QNetworkCfg(backbone_cfg=network, num_q=2, **options)


# --- MuJoCo robots ---------------------------------------------------------------------------------------------------


def mujoco_bc() -> runners.OfflineRunnerCfg:
    """Behavior cloning."""
    policy = components.ActorPackCfg(actor_cfg=components.DeterministicActorCfg(backbone_cfg=backbone(256, 256)))
    return runner(policy, algorithms.BCCfg(), 1000)


def mujoco_iql() -> runners.OfflineRunnerCfg:
    """IQL with rewards in units of the range of returns."""
    policy = components.ActorQVPackCfg(
        actor_cfg=bounded_normal(256, 256),
        critic_cfg=critics(backbone(256, 256)),
        value_cfg=components.VNetworkCfg(backbone_cfg=backbone(256, 256)),
    )
    return runner(policy, algorithms.IQLCfg(), 1000, reward_mode="normalize_by_return_range")


def mujoco_cql() -> runners.OfflineRunnerCfg:
    """CQL with three layers and orthogonal initial weights."""
    network = backbone(256, 256, 256, init="orthogonal")
    policy = components.ActorQPackCfg(
        actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=network), critic_cfg=critics(network)
    )
    return runner(policy, algorithms.CQLCfg(), 1000)


def mujoco_td3_bc() -> runners.OfflineRunnerCfg:
    """TD3+BC."""
    policy = components.ActorQPackCfg(
        actor_cfg=components.DeterministicActorCfg(backbone_cfg=backbone(256, 256)),
        critic_cfg=critics(backbone(256, 256)),
    )
    return runner(policy, algorithms.TD3BCCfg(), 1000)


def mujoco_rebrac(actor_penalty: float = 0.001, critic_penalty: float = 0.01) -> runners.OfflineRunnerCfg:
    """ReBRAC: three layers, layer normalization in the critics, observations as they are.

    The published penalties differ for every data set; by default they are those of HalfCheetah's medium data.
    """
    policy = components.ActorQPackCfg(
        actor_cfg=components.DeterministicActorCfg(backbone_cfg=backbone(256, 256, 256), normalizer_cfg=None),
        critic_cfg=critics(backbone(256, 256, 256, layer_norm=True), normalize=False),
    )
    algorithm = algorithms.ReBRACCfg(actor_penalty=actor_penalty, critic_penalty=critic_penalty)
    return runner(policy, algorithm, 1000)


def hopper_rebrac() -> runners.OfflineRunnerCfg:
    """ReBRAC for Hopper's medium data."""
    return mujoco_rebrac(actor_penalty=0.01)


def walker2d_rebrac() -> runners.OfflineRunnerCfg:
    """ReBRAC for Walker2d's medium data."""
    return mujoco_rebrac(actor_penalty=0.05, critic_penalty=0.1)


# --- classic control -------------------------------------------------------------------------------------------------

CLASSIC: dict[str, Any] = {"gamma": 0.95, "tau": 0.02, "actor_learning_rate": 1.0e-3, "critic_learning_rate": 1.0e-3}
"""Settings with a low discount and fast targets, whose values converge in a few thousand updates.

Critics have layer normalization where they see only a few thousand transitions of one policy: without it TD3+BC can
lose what it had learned as it continues, and IQL imitate the wrong actions.
"""


def classic_bc() -> runners.OfflineRunnerCfg:
    """Behavior cloning."""
    policy = components.ActorPackCfg(actor_cfg=components.DeterministicActorCfg(backbone_cfg=backbone(64, 64)))
    return runner(policy, algorithms.BCCfg(learning_rate=1.0e-3), 20)


def classic_iql() -> runners.OfflineRunnerCfg:
    """IQL with a larger inverse temperature than for robots."""
    policy = components.ActorQVPackCfg(
        actor_cfg=bounded_normal(64, 64),
        critic_cfg=critics(backbone(64, 64, layer_norm=True)),
        value_cfg=components.VNetworkCfg(backbone_cfg=backbone(64, 64, layer_norm=True)),
    )
    return runner(policy, algorithms.IQLCfg(**CLASSIC, beta=10.0), 20, reward_mode="normalize_by_return_range")


def classic_cql() -> runners.OfflineRunnerCfg:
    """CQL with fewer sampled actions."""
    policy = components.ActorQPackCfg(
        actor_cfg=components.TanhGaussianActorCfg(backbone_cfg=backbone(64, 64)), critic_cfg=critics(backbone(64, 64))
    )
    return runner(policy, algorithms.CQLCfg(**CLASSIC, conservative_weight=5.0, num_actions=4), 20)


def classic_td3_bc() -> runners.OfflineRunnerCfg:
    """TD3+BC with a larger weight of the critics than for robots."""
    policy = components.ActorQPackCfg(
        actor_cfg=components.DeterministicActorCfg(backbone_cfg=backbone(64, 64)),
        critic_cfg=critics(backbone(64, 64, layer_norm=True)),
    )
    return runner(policy, algorithms.TD3BCCfg(**CLASSIC, alpha=3.5), 20)


def classic_rebrac() -> runners.OfflineRunnerCfg:
    """ReBRAC with TD3+BC's weight of imitation."""
    policy = components.ActorQPackCfg(
        actor_cfg=components.DeterministicActorCfg(backbone_cfg=backbone(64, 64)),
        critic_cfg=critics(backbone(64, 64, layer_norm=True)),
    )
    algorithm = algorithms.ReBRACCfg(**CLASSIC, batch_size=256, actor_penalty=0.3, critic_penalty=0.01)
    return runner(policy, algorithm, 20)
