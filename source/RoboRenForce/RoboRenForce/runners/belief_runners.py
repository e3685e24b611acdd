"""Pre-training of beliefs on recorded sequences, and its use in a run of PPO or SAC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..components.belief import belief_network
from ..components.teacher import newest_checkpoint
from ..configclass import MISSING, configclass
from ..utils.checkpoint import load_checkpoint
from ..utils.errors import CheckpointError
from .callbacks import Callback, CallbackCfg
from .offline_runner import OfflineRunner, OfflineRunnerCfg
from .trainer import Trainer


class FlowModelRunner(OfflineRunner):
    """`OfflineRunner` of beliefs: a Gaussian or flow density, or the deterministic belief flow under one."""


@configclass
class FlowModelRunnerCfg(OfflineRunnerCfg):
    """Configuration of a `FlowModelRunner`; the belief is that of `policy`, and `algorithm` a `BeliefModelCfg`."""

    class_type: type = FlowModelRunner
    eval_interval = 0


class PretrainedBelief(Callback):
    """Load the belief of a `FlowModelRunner`, with its observation statistics, before the first iteration.

    A run that is resumed or played has its own belief and does not read the file.
    """

    cfg: PretrainedBeliefCfg

    def on_start(self, runner: Trainer) -> None:
        """Load the belief into a learner that has not learned yet."""
        if runner.iteration == 0:
            learner: Any = runner.algorithm
            load_belief(learner.actor, self.cfg.checkpoint)


@configclass
class PretrainedBeliefCfg(CallbackCfg):
    """Configuration of a `PretrainedBelief`."""

    class_type: type = PretrainedBelief
    checkpoint: str = MISSING
    """Checkpoint, run directory, or folder of runs; of several the newest is taken."""


def load_belief(actor: Any, target: str) -> None:
    """Load the belief of a checkpoint into an actor; the actor's head stays as it is.

    Raises:
        CheckpointError: It was trained with another `policy.belief` or other observations.
    """
    belief_network(actor)
    path = newest_checkpoint(Path(target))
    saved = load_checkpoint(path, schema={"algorithm": {"networks": dict}})["algorithm"]["networks"]
    there = {name.removeprefix("actor."): x for name, x in saved.items() if name.startswith("actor.")}
    here = actor.state_dict()
    names = [name for name in here if name.startswith(("encoder.", "backbone.")) and not name.startswith(_HEAD)]
    wrong = [name for name in names if name not in there or there[name].shape != here[name].shape]
    if wrong:
        found = tuple(there[wrong[0]].shape) if wrong[0] in there else "missing"
        raise CheckpointError(
            f"The belief in '{path}' does not fit: '{wrong[0]}' is {found} there, expected "
            f"{tuple(here[wrong[0]].shape)}; pre-train it with the same policy.belief and observation groups "
            "(algorithm.replay.previous_action=false for PPO)."
        )
    actor.load_state_dict({**here, **{name: there[name] for name in names}})


_HEAD = "backbone.head."
