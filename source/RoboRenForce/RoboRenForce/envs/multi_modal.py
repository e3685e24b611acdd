"""The fourth link of the chain: images, language, proprioception and action chunks, as VLA models need them.

Observations become

- one uint8 group `(H, W, 3)` per image, taken from a group of the inner environment or, for a single environment, from
  `render()`,
- `proprio`: the concatenation of the groups with the robot's own state,
- `instruction_id` int64 `(1,)`: which text each row was given, an index into `instruction_table`. The texts themselves
  are the list `extras["instruction"]`. A TensorDict of tensors fits into every buffer; strings in it do not.

With `chunk_size` H an action is `(N, H, *single)` and its H actions are executed one after the other. A row whose
episode ends inside a chunk is held for the rest of it, so that no leftover action reaches the next episode. For H = 4
and an episode that ends with the second action:

    action of the chunk     a0  a1  a2  a3
    executed                 x   x   .   .      executed_steps 2
    chunk_rewards           r0  r1   0   0      reward r0 + r1

The row's final observation is the one after a1, its returned observation the first of the next episode.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from tensordict import TensorDict

from ..configclass import Cfg, ConfigError, Range, configclass
from .same_start import choose_rows
from .simulator_interface import SimulatorInterface
from .spec import EnvSpec
from .vec_env import StepReturn, VecEnv
from .wrapper import VecEnvWrapper

RENDER = "render()"
"""As the source of an image: the frame that `VecEnv.render` returns."""

_ANY_ACTION = ("terminated", "time_outs", "success", "active")
_OF_THE_STATE = ("command", "dynamics", "instruction", "group_id")


class MultiModal(VecEnvWrapper):
    """See the module for what observations, actions and extras look like."""

    def __init__(self, cfg: MultiModalCfg, env: VecEnv) -> None:
        super().__init__(env)
        self.multi_modal_cfg = cfg
        self._frame = _first_frame(cfg, env)
        self._current: TensorDict | None = None
        self.instruction_table: list[str] = []
        """All texts that were ever in use, in the order of their first appearance."""
        self.spec = _spec(cfg, env, self._frame)
        self._given = "instruction" in env.spec.extras
        self._instructions = _instructions(cfg, env)
        self._ids = self._look_up(self._instructions)
        if self._given:
            self.reset()  # only the extras of a reset tell the texts in force

    @property
    def instructions(self) -> list[str]:
        """The text that each row is following now."""
        return list(self._instructions)

    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        """See `VecEnv.reset`."""
        return self._begin(*self.env.reset(seed=seed))

    def reset_rows(self, env_ids: torch.Tensor, seeds: Sequence[int]) -> tuple[TensorDict, dict[str, Any]]:
        """See `VecEnv.reset_rows`."""
        return self._begin(*self.env.reset_rows(env_ids, seeds))

    def get_observations(self) -> TensorDict:
        """See `VecEnv.get_observations`."""
        if self._current is None:
            self._current = self._observe(self.env.get_observations(), self._ids)
        return self._current

    def step(self, actions: torch.Tensor) -> StepReturn:
        """Execute one action, or one chunk of actions, in every row.

        Args:
            actions: `(num_envs, *spec.action.shape)`; with a chunk size the first axis after `num_envs` is the chunk.

        Returns:
            As `VecEnv.step`; with a chunk size, rewards are the sums over the executed actions, and the extras hold
            `executed_steps` int64 `(num_envs,)` and `chunk_rewards` float `(num_envs, chunk)`.
        """
        return self._step(actions, None)

    def step_rows(self, actions: torch.Tensor, active: torch.Tensor) -> StepReturn:
        """See `VecEnv.step_rows`."""
        return self._step(actions, active)

    def simulator_interface(self) -> SimulatorInterface:
        """See `VecEnv.simulator_interface`; what `proprio` is made of is not in it."""
        inner, cfg = self.env.simulator_interface(), self.multi_modal_cfg
        sources = {**cfg.images, **{name: name for name in cfg.keep}}
        known = {**inner.observations, RENDER: {"source": {"key": None, "space": "render"}}}
        observations = {name: known[source] for name, source in sources.items() if source in known}
        chunk = (cfg.chunk_size,) if cfg.chunk_size else ()
        action = replace(inner.action, shape=(*chunk, *inner.action.shape))
        return replace(inner, action=action, observations=observations)

    def state_dict(self) -> dict[str, Any]:
        """State of the inner environment and the texts; empty if the inner one can't be restored."""
        inner = self.env.state_dict()
        return {"env": inner, "instructions": self.instructions, "table": list(self.instruction_table)} if inner else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if not state:
            return
        self.env.load_state_dict(state["env"])
        self.instruction_table = list(state["table"])
        self._instructions = list(state["instructions"])
        self._ids = self._look_up(self._instructions)
        self._current = None

    def _step(self, actions: torch.Tensor, active: torch.Tensor | None) -> StepReturn:
        expected = (self.num_envs, *self.spec.action.shape)
        if actions.shape != expected:
            raise ValueError(f"MultiModal got actions of shape {tuple(actions.shape)}, expected {expected}.")
        before = self._ids
        if self.spec.action.chunk:
            obs, rewards, dones, extras = self._step_chunk(actions, active)
        else:
            obs, rewards, dones, extras = self._inner_step(actions, active)
        extras = dict(extras)
        final = extras.pop("final_observations", None)
        obs, present = self._begin(obs, extras)
        extras["instruction"] = present["instruction"]
        if "final_observations" in self.spec.extras and final is not None:
            ids = torch.where(dones.bool().unsqueeze(1), before, self._ids)
            extras["final_observations"] = self._observe(final, ids)
        return obs, rewards, dones, extras

    def _inner_step(self, actions: torch.Tensor, active: torch.Tensor | None) -> StepReturn:
        return self.env.step(actions) if active is None else self.env.step_rows(actions, active)

    def _step_chunk(self, actions: torch.Tensor, active: torch.Tensor | None) -> StepReturn:
        """Execute `actions`, `(num_envs, H, *single)`, one by one; rows that are done are held to the end."""
        result = _ChunkResult(self.num_envs, self.spec.action.chunk, self.device)
        runs = torch.ones_like(result.dones, dtype=torch.bool) if active is None else active
        for index in range(self.spec.action.chunk):
            # The first action needs no mask, so a chunk of one works with every environment.
            mask = None if index == 0 and active is None else runs
            result.add(index, runs, self._inner_step(actions[:, index].contiguous(), mask))
            runs = runs & ~result.dones.bool()
            if index + 1 < self.spec.action.chunk and not bool(runs.any()):
                break
        return result.finished()

    def _begin(self, obs: TensorDict, extras: dict[str, Any]) -> tuple[TensorDict, dict[str, Any]]:
        """Observations after a reset or step of the inner environment, and its extras with the texts in force."""
        if self._given:
            self._instructions = list(extras["instruction"])
            self._ids = self._look_up(self._instructions)
        if self._frame is not None:
            self._frame = _render(self.env)
        self._current = self._observe(obs, self._ids)
        return self._current, {**extras, "instruction": self.instructions}

    def _look_up(self, texts: list[str]) -> torch.Tensor:
        for text in texts:
            if text not in self.instruction_table:
                self.instruction_table.append(text)
        ids = [[self.instruction_table.index(text)] for text in texts]
        return torch.tensor(ids, dtype=torch.int64, device=self.device)

    def _observe(self, obs: TensorDict, ids: torch.Tensor) -> TensorDict:
        cfg = self.multi_modal_cfg
        groups: dict[str, torch.Tensor] = {}
        for name, source in cfg.images.items():
            groups[name] = obs[source] if source != RENDER else self._rendered()
        if cfg.proprio:
            groups["proprio"] = torch.cat([obs[group].flatten(1) for group in cfg.proprio], dim=1)
        groups.update({name: obs[name] for name in cfg.keep})
        groups["instruction_id"] = ids
        return TensorDict(groups, batch_size=[self.num_envs], device=self.device)

    def _rendered(self) -> torch.Tensor:
        if self._frame is None:
            raise RuntimeError("MultiModal was built without rendering.")
        return self._frame.to(self.device).unsqueeze(0)


class _ChunkResult:
    """What one chunk adds up to; rows are `(num_envs,)`, `horizon` is the length of the chunk."""

    def __init__(self, num_envs: int, horizon: int, device: torch.device) -> None:
        self.rewards = torch.zeros(num_envs, horizon, device=device)
        self.dones = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self.executed = torch.zeros(num_envs, dtype=torch.int64, device=device)
        self._obs: TensorDict | None = None
        self._extras: dict[str, Any] = {}
        self._logs: dict[str, list[torch.Tensor]] = {}

    def add(self, index: int, runs: torch.Tensor, step: StepReturn) -> None:
        """Take in the step of action `index`, executed in the rows where `runs`."""
        obs, rewards, dones, extras = step
        self.rewards[:, index] = torch.where(runs, rewards, 0.0)
        self.executed = self.executed + (runs & extras["active"] if "active" in extras else runs)
        for name, value in extras["log"].items():
            self._logs.setdefault(name, []).append(torch.as_tensor(value, dtype=torch.float32).clone())
        channels = {name: value for name, value in extras.items() if name != "log"}
        if "success" in channels:
            channels["success"] = channels["success"] & dones.bool()
        if index == 0:
            # The environment may reuse its tensors at the next action.
            self._extras = {
                name: value.copy() if isinstance(value, list) else value.clone() for name, value in channels.items()
            }
        else:
            self._extras = {name: self._combined(name, value, runs) for name, value in channels.items()}
        self.dones = self.dones | dones
        self._obs = obs

    def _combined(self, name: str, value: Any, runs: torch.Tensor) -> Any:
        """What the extra `name` is after one more action; called before `dones` takes that action in."""
        if name in _OF_THE_STATE:
            return value
        so_far = self._extras[name]
        if name in _ANY_ACTION:
            return so_far | value
        if name == "raw_rewards":
            return so_far + torch.where(runs, value, 0.0)
        if name == "reward_terms":
            return so_far + torch.where(runs.unsqueeze(1), value, 0.0)
        if name == "final_observations":
            # Rows that are done already keep the last observation of the episode that ended.
            return choose_rows(self.dones.bool(), so_far, value)
        raise RuntimeError(f"MultiModal doesn't know how to combine the extra '{name}' over a chunk.")

    def finished(self) -> StepReturn:
        """The step that the learner sees."""
        if self._obs is None:
            raise RuntimeError("A chunk of no actions has no result.")
        log = {name: torch.stack(values).mean() for name, values in self._logs.items()}
        extras = {**self._extras, "log": log, "executed_steps": self.executed, "chunk_rewards": self.rewards}
        return self._obs, self.rewards.sum(dim=1), self.dones, extras


@configclass
class MultiModalCfg(Cfg):
    """Options of `MultiModal`; build it with `MultiModalCfg(...).build(env)`."""

    class_type: type = MultiModal
    images: dict[str, str] = {}
    """Name of the image -> uint8 group of the inner environment, or `render()` for the picture of a single environment.

    A rendered picture shows the new episode where one has just ended, so with `render()` the extra `final_observations`
    is not available; an image group that the adapter declares has exact ones.
    """
    proprio: list[str] = []
    """Groups that are concatenated to the group `proprio`."""
    keep: list[str] = []
    """Groups that are passed on as they are."""
    instruction: str | list[str] | None = None
    """The text for every environment, or one per environment; None if the inner environment gives its own."""
    chunk_size: Annotated[int, Range(ge=1)] | None = None
    """Actions executed per step; None for actions without the chunk axis."""

    def check(self) -> Iterable[str]:
        """Something must be observed, and names must not collide."""
        if not (self.images or self.proprio or self.keep):
            yield "images, proprio and keep are all empty: name at least one group to observe"
        names = [*self.images, *self.keep, *(["proprio"] if self.proprio else []), "instruction_id"]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"two groups would be called '{name}': rename the image or drop it from keep"


def _spec(cfg: MultiModalCfg, env: VecEnv, frame: torch.Tensor | None) -> EnvSpec:
    inner = env.spec
    groups: dict[str, tuple[int, ...]] = {}
    dtypes: dict[str, str] = {"instruction_id": "int64"}
    for name, source in cfg.images.items():
        groups[name] = (
            tuple(frame.shape) if source == RENDER and frame is not None else _image_shape(inner, name, source)
        )
        dtypes[name] = "uint8"
    for group in (*cfg.proprio, *cfg.keep):
        _require_group(inner, group)
    if cfg.proprio:
        groups["proprio"] = (inner.obs_dim(cfg.proprio),)
    for group in cfg.keep:
        groups[group] = inner.obs_groups[group]
        dtypes.update({group: inner.obs_dtypes[group]} if group in inner.obs_dtypes else {})
    groups["instruction_id"] = (1,)

    extras = [name for name in inner.extras if not (name == "final_observations" and frame is not None)]
    extras += [] if "instruction" in extras else ["instruction"]
    chunk = cfg.chunk_size or 0
    if chunk:
        extras += ["executed_steps", "chunk_rewards"]
        if chunk > 1 and "step_rows" not in inner.capabilities:
            raise ConfigError(
                f"MultiModalCfg.chunk_size={chunk} needs an environment that can hold single rows, because an episode "
                f"may end inside a chunk and the rest of it must not reach the next one, but {inner.task} doesn't name "
                f"'step_rows' in spec.capabilities: implement VecEnv.step_rows, or use chunk_size=1."
            )
    action = replace(inner.action, chunk=chunk)
    return replace(inner, obs_groups=groups, obs_dtypes=dtypes, extras=tuple(extras), action=action)


def _require_group(spec: EnvSpec, group: str) -> None:
    if group not in spec.obs_groups:
        raise ConfigError(f"MultiModalCfg names the group '{group}', but {spec.task} has {sorted(spec.obs_groups)}.")


def _image_shape(spec: EnvSpec, name: str, group: str) -> tuple[int, ...]:
    _require_group(spec, group)
    shape, dtype = spec.obs_groups[group], spec.dtype_of(group)
    if len(shape) != 3 or shape[2] != 3 or dtype != torch.uint8:
        raise ConfigError(
            f"MultiModalCfg.images['{name}'] takes the group '{group}' of {spec.task}, which is {dtype} {shape}: an "
            f"image is uint8 with three axes, (H, W, 3). Let the adapter convert it, or read it with a CNN as it is."
        )
    return shape


def _instructions(cfg: MultiModalCfg, env: VecEnv) -> list[str]:
    """The texts that the configuration gives; empty where the environment has its own."""
    if "instruction" in env.spec.extras:
        if cfg.instruction is not None:
            raise ConfigError(f"{env.spec.task} gives its own instructions: leave MultiModalCfg.instruction at None.")
        return []
    if cfg.instruction is None:
        raise ConfigError(
            f"{env.spec.task} gives no instructions: set MultiModalCfg.instruction to the text to follow."
        )
    if isinstance(cfg.instruction, str):
        return [cfg.instruction] * env.num_envs
    if len(cfg.instruction) != env.num_envs:
        raise ConfigError(
            f"MultiModalCfg.instruction has {len(cfg.instruction)} texts for {env.num_envs} environments: give one "
            f"text for all or one each."
        )
    return list(cfg.instruction)


def _first_frame(cfg: MultiModalCfg, env: VecEnv) -> torch.Tensor | None:
    if RENDER not in cfg.images.values():
        return None
    if env.num_envs != 1:
        raise ConfigError(
            f"MultiModalCfg.images takes a picture from render(), which shows environment 0 only, but there are "
            f"{env.num_envs}: let the adapter declare an image group, or use num_envs=1."
        )
    return _render(env)


def _render(env: VecEnv) -> torch.Tensor:
    return torch.as_tensor(env.render().copy(), dtype=torch.uint8)
