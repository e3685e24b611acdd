"""A tiny environment whose every number can be computed by hand: for tests, examples and new adapters.

Each environment follows a written script of episodes. With one environment, `script=[["terminated@2", "time_out@3"]]`
and seed 7, the episodes 0, 1, 2, ... end after 2, 3, 2, ... steps, and with actions that sum to 0.5 the rows of the
group `policy` are

    start of episode 0   [700, 0, 0.0]      start = 100 * seed + episode
    after step 1         [700, 1, 0.5]      columns: start, steps in the episode, sum of the actions executed in it
    after step 2         [701, 0, 0.0]      final observation [700, 2, 1.0], terminated
    ...

and `critic` has the episode number as a fourth column. This reveals a wrong final observation, an action that leaked
into the next episode, a wrong reset and a shifted reward. The reward of a step is the sum of two terms: `alive` 1 and
`action`, the sum of the step's action (its index if actions are discrete).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import torch
from tensordict import TensorDict

from ..configclass import Range, configclass
from .env_cfg import VecEnvCfg
from .spec import ActionSpec, EnvSpec
from .vec_env import StepReturn, VecEnv

_ENDING = re.compile(r"(terminated|time_out)@([1-9]\d*)")
_STATE = ("_seeds", "_episodes", "_steps", "_action_sum", "_length", "_last_terms")


class ScriptedEnv(VecEnv):
    """`num_envs` counters; see the module for their meaning."""

    reward_term_names = ("alive", "action")

    def __init__(self, cfg: ScriptedEnvCfg) -> None:
        self.cfg = cfg
        self.device = torch.device(cfg.device)
        self.spec = _spec(cfg)
        self._limits, self._terminates, self._num_episodes = _parse(cfg, self.device)
        counters = torch.zeros(cfg.num_envs, dtype=torch.int64, device=self.device)
        self._seeds, self._episodes, self._steps, self._length = (counters.clone() for _ in range(4))
        self._action_sum = torch.zeros(cfg.num_envs, device=self.device)
        self._last_terms = torch.zeros(cfg.num_envs, 2, device=self.device)
        self.reset(seed=cfg.seed)

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """int64 `(num_envs,)`, settable: the script ends episodes by it; the observed count is not affected."""
        return self._length

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self._length = value.to(self.device, torch.int64).clone()

    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        """Restart the script; with a seed, environment `i` gets `seed + i`, without one the next episode starts."""
        rows = torch.arange(self.num_envs, device=self.device)
        if seed is not None:
            self._seeds = rows + seed
            self._episodes = torch.full_like(rows, -1)
        self._last_terms = torch.zeros_like(self._last_terms)
        self._begin(torch.ones_like(rows, dtype=torch.bool))
        return self._observe(), self._present()

    def get_observations(self) -> TensorDict:
        """Return new tensors at every call."""
        return self._observe()

    def step(self, actions: torch.Tensor) -> StepReturn:
        """See `VecEnv.step`."""
        return self.step_rows(actions, torch.ones(self.num_envs, dtype=torch.bool, device=self.device))

    def step_rows(self, actions: torch.Tensor, active: torch.Tensor, *, draw: bool = True) -> StepReturn:
        """See `VecEnv.step_rows`."""
        if actions.shape != (self.num_envs, *self.spec.action.shape):
            raise ValueError(
                f"ScriptedEnv got actions of shape {tuple(actions.shape)}, expected "
                f"{(self.num_envs, *self.spec.action.shape)}."
            )
        executed = torch.where(active, self._action_value(actions), 0.0)
        self._steps = self._steps + active
        self._length = self._length + active
        self._action_sum = self._action_sum + executed
        self._last_terms = torch.stack([active.float(), executed], dim=1)

        terminated, time_outs = self._endings(active)
        dones = terminated | time_outs
        final = self._observe()
        self._begin(dones)
        obs = self._observe()
        extras = {"terminated": terminated, "time_outs": time_outs, "log": {}}
        optional = {"final_observations": final, "success": terminated.clone(), **self.dynamic_channels()}
        extras.update({name: value for name, value in optional.items() if name in self.spec.extras})
        return obs, self._last_terms.sum(dim=1), dones.long(), extras

    def reset_rows(self, env_ids: torch.Tensor, seeds: Sequence[int]) -> tuple[TensorDict, dict[str, Any]]:
        """Start episode 0 of the script; rows of equal seed have equal observations."""
        rows = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        rows[env_ids] = True
        self._seeds = self._seeds.index_put((env_ids,), torch.as_tensor(list(seeds), device=self.device))
        self._episodes = torch.where(rows, -1, self._episodes)
        self._begin(rows)
        return self._observe(), self._present()

    def dynamic_channels(self) -> dict[str, torch.Tensor]:
        """Return reward terms (alive, action), command (start) and dynamics (steps, sum of actions)."""
        return {
            "reward_terms": self._last_terms.clone(),
            "command": self._start().unsqueeze(1),
            "dynamics": torch.stack([self._steps.float(), self._action_sum], dim=1),
        }

    def state_dict(self) -> dict[str, Any]:
        """Return the counters."""
        return {name.lstrip("_"): getattr(self, name).clone() for name in _STATE}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in _STATE:
            setattr(self, name, state[name.lstrip("_")].to(self.device).clone())

    def render(self) -> Any:
        """Return a frame of environment 0 whose brightness is its step count."""
        height, width = (self.cfg.image_shape or [8, 8, 3])[:2]
        return torch.full((height, width, 3), int(self._steps[0]) % 256, dtype=torch.uint8).numpy()

    def _present(self) -> dict[str, torch.Tensor]:
        """Return the declared extras that describe a state."""
        channels = self.dynamic_channels()
        return {name: channels[name] for name in ("command", "dynamics") if name in self.spec.extras}

    def _begin(self, rows: torch.Tensor) -> None:
        """Start the next episode where `rows`, bool `(num_envs,)`."""
        self._episodes = self._episodes + rows
        self._steps = torch.where(rows, 0, self._steps)
        self._length = torch.where(rows, 0, self._length)
        self._action_sum = torch.where(rows, 0.0, self._action_sum)

    def _endings(self, active: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        episode = (self._episodes % self._num_episodes).unsqueeze(1)
        scripted = active & (self._length >= self._limits.gather(1, episode).squeeze(1))
        terminates = self._terminates.gather(1, episode).squeeze(1)
        horizon = self.spec.max_episode_length
        cut = active & (self._length >= horizon) if horizon else torch.zeros_like(active)
        terminated = scripted & terminates
        return terminated, ((scripted & ~terminates) | cut) & ~terminated

    def _action_value(self, actions: torch.Tensor) -> torch.Tensor:
        if self.spec.action.kind == "discrete":
            return actions.to(torch.float32)
        bound = self.cfg.action_bound
        actions = actions if bound is None else actions.clamp(-bound, bound)
        return actions.to(torch.float32).sum(dim=1)

    def _start(self) -> torch.Tensor:
        # Seeds are kept below 10^5: larger starts would not be exact in float32.
        return (100 * (self._seeds % 100_000) + self._episodes % 100).float()

    def _observe(self) -> TensorDict:
        steps = self._steps.float()
        policy = torch.stack([self._start(), steps, self._action_sum], dim=1)
        episodes = self._episodes.float().unsqueeze(1)
        groups = {"policy": policy, "critic": torch.cat([policy, episodes], dim=1)}
        if self.cfg.image_shape:
            brightness = (self._steps % 256).to(torch.uint8).view(-1, 1, 1, 1)
            groups["image"] = brightness.expand(-1, *self.cfg.image_shape).clone()
        return TensorDict(groups, batch_size=[self.num_envs], device=self.device)


@configclass
class ScriptedEnvCfg(VecEnvCfg):
    """Configuration of `ScriptedEnv`."""

    class_type: type = ScriptedEnv
    num_envs: Annotated[int, Range(ge=1, le=1_000_000)] = 4
    seed: int = 0
    device: str = "cpu"
    script: list[list[str]] = [["terminated@3", "time_out@5"]]
    """Endings of each environment's episodes, repeated: `terminated@<steps>` or `time_out@<steps>`.

    Environment `i` follows list `i`, modulo the number of lists.
    """
    max_episode_length: Annotated[int, Range(ge=0)] = 10
    """Steps after which every episode is truncated; 0: never."""
    action_kind: Literal["continuous", "discrete"] = "continuous"
    action_dim: Annotated[int, Range(ge=1)] = 2
    action_bound: Annotated[float, Range(gt=0)] | None = 1.0
    """Bound to plus and minus which continuous actions are clipped; None: no bounds."""
    image_shape: list[int] | None = None
    """`[height, width, channels]` of a uint8 group `image` filled with the step count; None for no images."""
    extras: list[Literal["final_observations", "success", "reward_terms", "command", "dynamics"]] = [
        "final_observations"
    ]
    """Optional extras that every step provides."""

    def check(self) -> Iterable[str]:
        """Check that every ending of the script can be parsed."""
        yield from super().check()
        if not self.script or not all(self.script):
            yield "script: needs at least one list with at least one ending, such as [['terminated@3']]"
        for ending in (ending for endings in self.script for ending in endings):
            if not _ENDING.fullmatch(ending):
                yield f"script: '{ending}' is no ending; write terminated@<steps> or time_out@<steps>"
        if self.image_shape is not None and (len(self.image_shape) != 3 or math.prod(self.image_shape) < 1):
            yield f"image_shape: {self.image_shape} is no [height, width, channels]"


def _parse(cfg: ScriptedEnvCfg, device: torch.device) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Parse the script: limits int64 and terminates bool `(num_envs, K)`, number of episodes int64 `(num_envs,)`."""
    width = max(len(endings) for endings in cfg.script)
    limits = torch.ones(cfg.num_envs, width, dtype=torch.int64)
    terminates = torch.zeros(cfg.num_envs, width, dtype=torch.bool)
    num_episodes = torch.ones(cfg.num_envs, dtype=torch.int64)
    for row in range(cfg.num_envs):
        endings = cfg.script[row % len(cfg.script)]
        num_episodes[row] = len(endings)
        for column, ending in enumerate(endings):
            kind, _, steps = ending.partition("@")
            limits[row, column] = int(steps)
            terminates[row, column] = kind == "terminated"
    return limits.to(device), terminates.to(device), num_episodes.to(device)


def _spec(cfg: ScriptedEnvCfg) -> EnvSpec:
    groups: dict[str, tuple[int, ...]] = {"policy": (3,), "critic": (4,)}
    if cfg.image_shape:
        groups["image"] = tuple(cfg.image_shape)
    bounds = None
    if cfg.action_kind == "continuous" and cfg.action_bound is not None:
        bounds = (float(cfg.action_bound),) * cfg.action_dim
    dims = {"command": 1, "dynamics": 2}
    return EnvSpec(
        task="Scripted",
        num_envs=cfg.num_envs,
        obs_groups=groups,
        action=ActionSpec(cfg.action_kind, cfg.action_dim, bounds and tuple(-bound for bound in bounds), bounds),
        max_episode_length=cfg.max_episode_length,
        extras=tuple(cfg.extras),
        obs_dtypes={"image": "uint8"} if cfg.image_shape else {},
        reward_terms=ScriptedEnv.reward_term_names if "reward_terms" in cfg.extras else (),
        extra_dims={name: dim for name, dim in dims.items() if name in cfg.extras},
        capabilities=("reset_rows", "step_rows"),
        step_dt=0.1,
    )
