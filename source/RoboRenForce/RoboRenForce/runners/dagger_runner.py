"""Learn from an expert that corrects the policy where it comes to (DAgger)."""

from __future__ import annotations

from typing import Annotated, Any, cast

import numpy as np

from ..algorithms.algorithm import Policy
from ..configclass import Range, configclass
from ..data import LeRobotDatasetCfg, LeRobotWriter, MixtureDatasetCfg, MixturePartCfg
from ..data.loader import DataLoader
from ..data.metadata import read_metadata
from ..utils.errors import ConfigError
from .demonstrations import dataset_features, record_demonstrations
from .updates import take_updates
from .vla_pretrain_runner import VLAPretrainRunner, VLAPretrainRunnerCfg


class DAggerRunner(VLAPretrainRunner):
    """Rounds of collecting and learning, which are the iterations.

    A round records `episodes_per_round` episodes, with the expert's actions as labels, into a LeRobot data set of its
    own (`dagger_data` of the run directory), and then takes `updates_per_iteration` updates on the demonstrations that
    it began with and the newest `window_frames` frames of that.

    Args:
        cfg: Everything about the run. The environment's configuration names the expert (`env.expert`).
        env_cfg: Where episodes are collected.
        runtime: See `DatasetRunner`; `log_dir` has to be given.
    """

    cfg: DAggerRunnerCfg

    def __init__(self, cfg: DAggerRunnerCfg, *, env_cfg: Any = None, **runtime: Any) -> None:
        super().__init__(cfg, env_cfg=env_cfg, **runtime)
        if self.dataset is None:
            return
        if self.run_dir is None or env_cfg is None or env_cfg.expert is None or env_cfg.multi_modal is None:
            raise ConfigError(
                "DAgger needs a run directory, and an environment with env.multi_modal and env.expert, which labels "
                "what the policy does: choose a task that has a scripted expert."
            )
        self._collected = (self.run_dir.root / "dagger_data").absolute()
        if self.is_main:
            single = env_cfg.for_evaluation(cfg.num_envs, cfg.seed)
            single.multi_modal.chunk_size, single.multi_modal.flat_actions = None, False
            self.env: Any = single.build()
            self.expert = env_cfg.expert.build(self.env)

    def _compare_with_env(self) -> None:
        """Nothing: its policy acts in the environment of the first round."""

    def learn(self, num_iterations: int | None = None) -> None:
        """Train; see `Trainer.learn`."""
        learner, cfg = self.algorithm, self.cfg
        with self.session(num_iterations):
            while self.should_continue():
                beta, success = self._collect()
                loader = self._loader()
                batches = loader.endless()
                take_updates(
                    self,
                    cfg.updates_per_iteration,
                    lambda batches=batches: learner.update(next(batches)),
                    lambda beta=beta, success=success: {"DAgger/beta": beta, "DAgger/success_rate": success},
                    samples=loader.sampler.step_size,
                )
                loader.close()

    def close(self) -> None:
        """Close the environment of the collection too."""
        if self.dataset is not None and self.is_main:
            self.env.close()
        super().close()

    def _collect(self) -> tuple[float, float]:
        """Record a round on the main process; returns beta and the share of episodes that succeeded."""
        cfg, algorithm = self.cfg, cast(Any, self.cfg.algorithm)
        found: tuple[float, float] | None = None
        if self.is_main:
            self.algorithm.eval()
            self.watchdog.enter("The collection", is_stepping=True)
            seed = cfg.seed + 1 + self.iteration * (cfg.episodes_per_round + cfg.num_envs)
            with self._writer() as writer:
                recorded = record_demonstrations(
                    self.env,
                    self.expert,
                    writer,
                    writer.saved_episodes + cfg.episodes_per_round,
                    seed=seed,
                    include_failures=True,
                    execute=algorithm.executor(self._acting(), self.iteration, seed),
                    on_episode=lambda _: self.watchdog.beat(),
                )
            self.algorithm.train()
            found = algorithm.beta(self.iteration), 1.0 - recorded.failed / cfg.episodes_per_round
        return self.distributed.broadcast_object(found)

    def _writer(self) -> LeRobotWriter:
        if self._collected.exists():
            return LeRobotWriter.resume(self._collected)
        fps = self.dataset.datasets[0].metadata.fps
        return LeRobotWriter.create(self._collected, fps=fps, features=dataset_features(self.env.spec, "image"))

    def _acting(self) -> Policy:
        """The policy in the environment of the collection."""
        learner = cast(Any, self.algorithm)
        learner.add_instructions(self.env.instruction_table.values())
        return learner.policy(self.env.spec)

    def _loader(self) -> DataLoader:
        """Batches of the demonstrations and the newest frames of what was collected."""
        cfg = self.cfg
        lengths = read_metadata(self._collected).episodes.length
        newest = np.flatnonzero(np.cumsum(lengths[::-1]) <= cfg.window_frames)
        episodes = sorted(len(lengths) - 1 - index for index in ([0] if not len(newest) else newest.tolist()))
        rolling = LeRobotDatasetCfg(data_root=str(self._collected), episodes=episodes)
        mixture = MixtureDatasetCfg(
            parts=[
                MixturePartCfg(dataset=cfg.dataset, weight=1.0 - cfg.collected_share),
                MixturePartCfg(dataset=rolling, weight=cfg.collected_share),
            ]
        )
        data = mixture.for_policy(cfg.policy.head.chunk_size, cfg.policy.cameras, "all").build()
        return cfg.loader.build(
            data,
            rank=self.distributed.rank,
            world_size=self.distributed.world_size,
            seed=cfg.seed + self.iteration,
            device=self.device,
        )


@configclass
class DAggerRunnerCfg(VLAPretrainRunnerCfg):
    """Configuration of `DAggerRunner`."""

    class_type: type = DAggerRunner

    dataset: LeRobotDatasetCfg = LeRobotDatasetCfg()
    """The demonstrations that it begins with."""
    epochs = None
    validation_interval = 0
    max_iterations = 20
    """Rounds."""
    num_envs: Annotated[int, Range(ge=1)] = 16
    """Environments that episodes are collected in."""
    episodes_per_round: Annotated[int, Range(ge=1)] = 20
    window_frames: Annotated[int, Range(ge=1)] = 50_000
    """Newest frames that are learned from; older ones stay on disk."""
    collected_share: Annotated[float, Range(gt=0, lt=1)] = 0.5
    """Share of collected samples in a batch; the others are of the demonstrations."""
