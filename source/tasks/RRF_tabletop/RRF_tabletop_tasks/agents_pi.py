"""Training configurations of a tiny pi0.5: from scratch on demonstrations, then by rewards."""

from __future__ import annotations

from RoboRenForce.algorithms.vla_rl import GRPOCfg
from RoboRenForce.algorithms.vla_training import SFTAlgorithmCfg
from RoboRenForce.components import OptimizerCfg, ScheduleCfg
from RoboRenForce.components.openpi_policy import OpenPIPolicyCfg
from RoboRenForce.data import DataLoaderCfg
from RoboRenForce.runners import VLAGRPORunnerCfg, VLAPPORunnerCfg
from RoboRenForce.runners.vla_sft_runner import VLASFTRunnerCfg

from .agents_rl import vla_ppo


def fine_tuning() -> VLASFTRunnerCfg:
    """All weights, which are random without `policy.weights` or `algorithm.init_from`; give `dataset.data_root`."""
    schedule = ScheduleCfg(kind="cosine", warmup_steps=100, total_steps="run", final_share=0.05)
    optimizer = OptimizerCfg(learning_rate=1e-3, betas=(0.9, 0.95), weight_decay=1e-4, schedule=schedule)
    return VLASFTRunnerCfg(
        policy=tiny_policy(),
        algorithm=SFTAlgorithmCfg(optimizer=optimizer),
        loader=DataLoaderCfg(batch_size=64, num_workers=1),
        epochs=15.0,
    )


def grpo() -> VLAGRPORunnerCfg:
    """The action expert, compared with itself in groups that start alike; the keys and values of the rest are kept.

    Groups that nearly always succeed are left out, and the rate is not adapted: either undid what had been learned.
    """
    algorithm = GRPOCfg(
        num_learning_epochs=4,
        num_mini_batches=1,
        optimizer=OptimizerCfg(learning_rate=1.5e-4),
        filters_success=True,
        highest_mean=0.9,
    )
    return VLAGRPORunnerCfg(policy=tiny_policy(), algorithm=algorithm, max_iterations=60)


def ppo() -> VLAPPORunnerCfg:
    """The action expert, judged by a value of what the language model sees."""
    return vla_ppo(tiny_policy(), OptimizerCfg(learning_rate=2e-4))


def tiny_policy() -> OpenPIPolicyCfg:
    """Chunks of eight actions in two steps of the flow, with Flow-SDE for exploration.

    A flow from narrow demonstrations forgets the noise of all steps but the last: of two, one explores.
    """
    policy = OpenPIPolicyCfg(variant="pi05", size="tiny")
    policy.head = policy.head.replace(num_steps=2, density="sde")
    return policy
