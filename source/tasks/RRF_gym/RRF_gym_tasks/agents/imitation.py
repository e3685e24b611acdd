"""GAIL for Gymnasium tasks: the agents of `ppo`, rewarded for looking like the expert instead of by the task.

The expert's episodes are the user's: `algorithm.reward_terms.0.expert.source` names a Minari data set or a file of
rows, such as scripts/data/collect_dataset.py records.
"""

from __future__ import annotations

from typing import Any

from RoboRenForce import algorithms, components, networks, runners
from RoboRenForce.configclass import resolve


def gail(cfg: runners.OnPolicyRunnerCfg, source: str, **options: Any) -> runners.OnPolicyRunnerCfg:
    """Return a run of PPO as one of GAIL.

    Args:
        cfg: Run of PPO.
        source: Default of the expert's data.
        options: Fields of `GAILCfg`.
    """
    # The reader of recorded data is another package's, and packages of tasks don't import one another.
    expert = resolve("RRF_d4rl_tasks.offline_dataset:OfflineDatasetCfg")(source=source)
    small = components.DiscriminatorCfg(backbone_cfg=networks.MLPCfg(hidden_features=[64, 64], activations="ReLU"))
    defaults = {"discriminator_cfg": small, "batch_size": 256}
    term = algorithms.GAILCfg(expert=expert, **{**defaults, **options})
    return cfg.replace(
        algorithm=algorithms.GAILPPOCfg.extending(cfg.algorithm, reward_terms=[term], num_learning_epochs=5)
    )
