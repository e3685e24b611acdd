"""A trained dynamics model in the place of a task's environment.

Any runner and algorithm learns in it; evaluations, videos and play happen in the real environment.
"""

from __future__ import annotations

from typing import Annotated, Self

import torch
from typing_extensions import override

from ...configclass import MISSING, ConfigError, Range, configclass
from ...envs.env_cfg import VecEnvCfg
from .imagination_env import ImaginationCfg, ImaginationEnv
from .saved_model import SavedModel


class ImaginedTask(ImaginationEnv):
    """`ImaginationEnv` of the model in a checkpoint."""

    def __init__(self, cfg: ImaginationEnvCfg) -> None:
        if not cfg.model:
            raise ConfigError("There is no model to imagine with: name its checkpoint or run directory, env.model=...")
        saved = SavedModel.read(cfg.model, trust=cfg.trust)
        model, starts = saved.build(torch.device(cfg.device))
        settings = cfg.imagination
        super().__init__(settings, model=model, spec=saved.spec, num_envs=cfg.num_envs, seed=cfg.seed, starts=starts)


@configclass
class ImaginationEnvCfg(VecEnvCfg):
    """Configuration of an environment that is a trained model."""

    class_type: type | str = ImaginedTask
    num_envs: Annotated[int, Range(ge=1, le=1_000_000)] = 64
    model: str = ""
    """Checkpoint, run directory or folder of runs of a dynamics model."""
    real: VecEnvCfg = MISSING
    """Environment in which the policy is evaluated and played."""
    imagination: ImaginationCfg = ImaginationCfg(horizon=200)
    """Horizon, known terminations and rewards, penalty."""
    trust: bool = False
    """True if the checkpoint may name any class, False for those of RoboRenForce alone."""

    @override
    def for_evaluation(self, num_envs: int, seed: int) -> Self:
        """Return the configuration of the real environment."""
        real = self.real.for_evaluation(num_envs, seed)
        real.device = self.device
        return real  # pyright: ignore[reportReturnType] - another environment on purpose
