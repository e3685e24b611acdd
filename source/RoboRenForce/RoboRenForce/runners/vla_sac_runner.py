"""Improve a frozen VLA policy by off-policy learning."""

from __future__ import annotations

from typing import Any

from ..components.vla_policy import VLAPolicyCfg
from ..configclass import MISSING, configclass
from .callbacks import CallbackCfg
from .gpu_metrics import GpuMetricsCfg
from .off_policy_runner import OffPolicyRunner, OffPolicyRunnerCfg
from .statistics import Ratio
from .vla_metrics import chunk_speed, with_episodes


class VLASACRunner(OffPolicyRunner):
    """An `OffPolicyRunner` whose steps are chunks, with the metrics of `VLAPPORunner`."""

    cfg: VLASACRunnerCfg

    def __init__(self, cfg: VLASACRunnerCfg, **runtime: Any) -> None:
        super().__init__(cfg, **runtime)
        self._learner: Any = self.algorithm

    def env_steps(self) -> int:
        """Executed actions of this iteration."""
        return self._learner.frames()

    def ratios(self) -> dict[str, Ratio]:
        """Statistics of episodes: all that ended in the iteration."""
        return with_episodes(super().ratios(), self._learner.episode_ratios())

    def finish_iteration(self, metrics: dict[str, float], losses: set[str]) -> None:
        """Add what speed means for a policy of chunks."""
        decisions = self.cfg.num_steps_per_env * self.env.num_envs * self.distributed.world_size
        more = {"rollout/num_samples": float(decisions)} | chunk_speed(metrics, decisions)
        metrics |= more
        self.metrics |= more
        super().finish_iteration(metrics, losses)


@configclass
class VLASACRunnerCfg(OffPolicyRunnerCfg):
    """Configuration of `VLASACRunner`; a step is a chunk."""

    class_type: type = VLASACRunner

    policy: VLAPolicyCfg = MISSING
    """The policy, configured as in the run of `algorithm.init_from`."""
    num_steps_per_env = 50
    callbacks: list[CallbackCfg] = [GpuMetricsCfg()]
