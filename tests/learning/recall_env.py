"""A cue is shown in the first step of an episode and asked for in all later ones: nothing but a memory can answer.

Discrete: 1 per step for repeating the cue, so 4 an episode with a memory and 2 without. Continuous: minus the squared
distance to half the cue, so 0 with a memory and -1 without. Both are exact, and a run takes seconds.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from RoboRenForce.configclass import Cfg, configclass
from RoboRenForce.envs import ActionSpec, EnvSpec, VecEnv
from RoboRenForce.envs.vec_env import StepReturn
from tensordict import TensorDict

LENGTH = 5


class RecallEnv(VecEnv):
    """Observations `policy` (2,): the cue, -1 or 1, in the first step and 0 later; and the share of the episode."""

    def __init__(self, cfg: RecallEnvCfg) -> None:
        self.cfg, self.device = cfg, torch.device(cfg.device)
        action = ActionSpec("discrete", 2) if cfg.kind == "discrete" else ActionSpec("continuous", 1, (-1.0,), (1.0,))
        self.spec = EnvSpec("Recall", cfg.num_envs, {"policy": (2,)}, action, LENGTH, ("final_observations",))
        self.reset(seed=cfg.seed)

    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        if seed is not None:
            self._generator = torch.Generator().manual_seed(seed)
        self._cue = self._draw()
        self._episode_length_buf = torch.zeros(self.num_envs, dtype=torch.int64)
        return self.get_observations(), {}

    def get_observations(self) -> TensorDict:
        steps = self._episode_length_buf
        policy = torch.stack([torch.where(steps == 0, self._cue, 0.0), steps / LENGTH], dim=1)
        return TensorDict({"policy": policy}, batch_size=[self.num_envs])

    def step(self, actions: torch.Tensor) -> StepReturn:
        if self.cfg.kind == "discrete":
            reward = (actions == (self._cue > 0)).float()
        else:
            reward = -(actions.clamp(-1, 1).squeeze(1) - 0.5 * self._cue).square()
        reward = torch.where(self._episode_length_buf == 0, 0.0, reward)
        self._episode_length_buf = self._episode_length_buf + 1
        final, done = self.get_observations(), self._episode_length_buf >= LENGTH
        self._episode_length_buf = torch.where(done, 0, self._episode_length_buf)
        self._cue = torch.where(done, self._draw(), self._cue)
        extras = {"terminated": done, "time_outs": torch.zeros_like(done), "log": {}, "final_observations": final}
        return self.get_observations(), reward, done.long(), extras

    def _draw(self) -> torch.Tensor:
        return torch.randint(0, 2, (self.num_envs,), generator=self._generator) * 2.0 - 1.0


@configclass
class RecallEnvCfg(Cfg):
    """Options of `RecallEnv`."""

    class_type: type = RecallEnv
    num_envs: int = 32
    seed: int = 0
    device: str = "cpu"
    kind: Literal["discrete", "continuous"] = "discrete"
