"""Runners that only play a trained policy."""

from __future__ import annotations

from dataclasses import replace

import torch

from ..configclass.validated import validated
from ..envs.spec import EnvSpec
from ..envs.vec_env import VecEnv
from .trainer import Trainer, TrainerCfg


def build_player(cfg: TrainerCfg, spec: EnvSpec | None, env: VecEnv | None, device: torch.device | str) -> Trainer:
    """Build the runner of a trained policy, without the data that it learned from.

    Args:
        cfg: Valid configuration.
        spec: Spec that its learner was built for.
        env: Environment to play in; None: the policy is only exported.
        device: Device of the policy.
    """
    with validated(cfg):
        if cfg.class_type.steps_env:
            return cfg.build(env=env, device=device, spec=spec)
        if spec is not None and env is not None:  # what recorded data doesn't say
            names = ("task", "max_episode_length", "extras", "step_dt")
            spec = replace(spec, **{name: getattr(env.spec, name) for name in names})
        return cfg.build(eval_env=env, device=device, spec=spec, learns=False)
