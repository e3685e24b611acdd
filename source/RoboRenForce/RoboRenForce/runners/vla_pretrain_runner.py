"""Pre-train a VLA policy on demonstrations."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Annotated, Any, cast

from ..algorithms.algorithm import Policy
from ..components.chunk_execution import ChunkExecutorCfg
from ..components.vla_policy import VLAPolicyCfg
from ..configclass import MISSING, Range, configclass
from ..data.dataset import DemonstrationsCfg, LeRobotDatasetCfg
from ..data.loader import DataLoaderCfg
from ..data.selection import Split
from ..envs.env_cfg import has_env
from .dataset_runner import DatasetRunner, DatasetRunnerCfg
from .vla_validation import ValidationCallback

logger = logging.getLogger(__name__)


class VLAPretrainRunner(DatasetRunner):
    """A `DatasetRunner` over demonstrations, with a validation on episodes that are kept apart.

    Args:
        cfg: Everything about the run.
        runtime: See `DatasetRunner`.
    """

    cfg: VLAPretrainRunnerCfg

    def __init__(self, cfg: VLAPretrainRunnerCfg, **runtime: Any) -> None:
        super().__init__(cfg, **runtime)
        if self.dataset is not None:
            self._compare_with_env()
        if self.dataset is not None and cfg.validation_interval:
            validation = ValidationCallback(
                self._demonstrations(cfg, "validation"),
                interval=cfg.validation_interval,
                samples=cfg.validation_samples,
                batch_size=cfg.loader.batch_size,
            )
            self.callbacks.insert(2, validation)  # saving comes first, logging and the best checkpoint after it

    def _compare_with_env(self) -> None:
        """Refuse an environment that the data was not recorded in, before anything is learned."""
        sharded = self.evaluates and self.algorithm.is_sharded  # one process has the environment, and all are refused
        if self.eval_env is not None or sharded:
            self.policy()
        elif self.is_main and self.env_cfg is not None and has_env(self.env_cfg):
            logger.info(
                "With eval_interval=0 no environment is built, so the data is not compared with that of %s: what does "
                "not fit shows when the policy is played.",
                self.task,
            )

    def open_data(self, cfg: VLAPretrainRunnerCfg) -> Any:
        """Open the demonstrations, without the episodes of the validation."""
        return self._demonstrations(cfg, "train" if cfg.validation_interval else "all")

    def _demonstrations(self, cfg: VLAPretrainRunnerCfg, split: Split) -> Any:
        return cfg.dataset.for_policy(cfg.policy.head.chunk_size, cfg.policy.cameras, split).build()

    def policy(self) -> Policy:
        """The policy, which knows the instructions of the environment that it is played in."""
        learner = cast(Any, self.algorithm)
        if self.eval_env is not None:
            learner.add_instructions(self.eval_env.instruction_table.values())
        return learner.policy(execution=self.cfg.execution)


@configclass
class VLAPretrainRunnerCfg(DatasetRunnerCfg):
    """Configuration of `VLAPretrainRunner`."""

    class_type: type = VLAPretrainRunner

    policy: VLAPolicyCfg = MISSING
    """Backbone, head, preprocessing."""
    dataset: DemonstrationsCfg = LeRobotDatasetCfg()
    """A LeRobot data set or a mixture. Chunks of actions are read as long as the policy's."""
    loader: DataLoaderCfg = DataLoaderCfg(batch_size=32, num_workers=4)
    """Batches and workers."""
    epochs = 10.0
    validation_interval: Annotated[int, Range(ge=0)] = 10
    """Iterations between validations, for which `dataset.validation_fraction` of the episodes are kept apart; 0: none,
    and all episodes are learned from."""
    validation_samples: Annotated[int, Range(ge=1)] = 2048
    """Frames of a validation."""
    execution: ChunkExecutorCfg | None = None
    """Execution of chunks in an environment of single actions; None: as many actions as its chunks have."""

    def check_env(self, env_cfg: Any) -> Iterable[str]:
        """Check that only one of both cuts chunks."""
        yield from super().check_env(env_cfg)
        if self.execution is not None and _chunk_size(env_cfg) is not None:
            yield (
                f"execution: {type(self.execution).__name__} decides for every action, and the environment executes "
                f"{_chunk_size(env_cfg)} per step; set env.multi_modal.chunk_size=null"
            )

    def adapt_env_to_play(self, env_cfg: Any) -> None:
        """Let the environment execute single actions if `execution` cuts the chunks."""
        if self.execution is not None:
            execute_single_actions(env_cfg)


def execute_single_actions(env_cfg: Any) -> None:
    """Let an environment execute no chunks, in place."""
    if _chunk_size(env_cfg) is not None:
        env_cfg.multi_modal.chunk_size = None


def _chunk_size(env_cfg: Any) -> int | None:
    chain = env_cfg.multi_modal
    return None if chain is None else chain.chunk_size
