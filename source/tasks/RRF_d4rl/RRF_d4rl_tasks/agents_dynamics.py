"""Dynamics models of recorded data, sized for robots of tens of dimensions; `dataset.source` names the data."""

from __future__ import annotations

from typing import Any

from RoboRenForce import algorithms, components, runners

from .offline_dataset import OfflineDatasetCfg


def runner(model: Any, fit: Any, epochs: int) -> runners.OfflineRunnerCfg:
    """Return a run of at most `epochs` epochs, which ends when no member of the model improves any more."""
    return runners.OfflineRunnerCfg(
        updates_per_iteration=1,
        max_iterations=epochs,
        eval_interval=0,
        dataset=OfflineDatasetCfg(),
        policy=model,
        algorithm=algorithms.SystemDynamicsLearnerCfg(fit=fit),
        callbacks=[runners.DynamicsReportCfg()],
    )


def system_dynamics_mlp() -> runners.OfflineRunnerCfg:
    """Return the learning of an ensemble of MLPs."""
    model = components.SystemDynamicsMLPCfg(termination=True)
    return runner(model, algorithms.DynamicsFitCfg(split="episodes"), 1000)


def system_dynamics_transformer() -> runners.OfflineRunnerCfg:
    """Return the learning of a transformer, an epoch being 1,000 gradient steps at most."""
    model = components.SystemDynamicsTransformerCfg(termination=True)
    fit = algorithms.DynamicsFitCfg(
        learning_rate=3.0e-4, weight_decay=0.01, max_grad_norm=1.0, batch_size=64, steps_per_epoch=1000
    )
    return runner(model, fit, 100)
