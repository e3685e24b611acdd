"""The fourth link of the chain: images, language, proprioception and action chunks, as VLA models need them.

Observations become

- one uint8 group `(H, W, 3)` per camera, an image group of the inner environment,
- `proprio`: the concatenation of the groups with the robot's own state,
- `instruction_id` int64 `(1,)`: which text each row was given, a hash of it (see `instructions.py`);
  `instruction_table` has the texts, and `extras["instruction"]` lists those in force. A TensorDict of tensors fits into
  every buffer; strings in it do not.

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
from .action_chunk import step_chunk
from .instructions import InstructionTable, add_instructions
from .obs_mapping import ObsMapping, ObsMappingCfg
from .simulator_interface import ActionInterface, SimulatorInterface
from .spec import ActionSpec, EnvSpec
from .vec_env import ActionWatcher, EvalPolicy, StepReturn, VecEnv
from .wrapper import VecEnvWrapper


class MultiModal(VecEnvWrapper):
    """Wrapper with camera, proprioception and instruction groups and action chunks; see the module."""

    def __init__(self, cfg: MultiModalCfg, env: VecEnv) -> None:
        super().__init__(env)
        self.multi_modal_cfg = cfg
        self._mapping: ObsMapping | None = None if cfg.mapping is None else cfg.mapping.build(env.spec, env.device)
        self._has_images = bool(cfg.images or (cfg.mapping and cfg.mapping.cameras))
        self._table: InstructionTable = dict(env.instruction_table)  # texts that the inner environment may give
        self._current: TensorDict | None = None
        self._instructions: list[str] = []
        self._watcher: ActionWatcher | None = None
        self.spec = _spec(cfg, env, self._mapping)
        self._given = "instruction" in env.spec.extras
        self._follow(_instructions(cfg, env))
        if self._given:
            self.reset()  # only the extras of a reset tell the texts in force

    @property
    def instructions(self) -> list[str]:
        """Current instruction of each row."""
        return list(self._instructions)

    @property
    def instruction_table(self) -> InstructionTable:
        """Return all instructions used so far, or announced by the inner environment, by their ids."""
        return self._table

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

    def step_rows(self, actions: torch.Tensor, active: torch.Tensor, *, draw: bool = True) -> StepReturn:
        """See `VecEnv.step_rows`; images are always rendered."""
        return self._step(actions, active)

    def set_eval_policy(self, policy: EvalPolicy | None) -> None:
        """Refuse: eval rows below this link have other observations; give `GroupVec` their policy directly."""

    def watch_chunks(self, watcher: ActionWatcher | None) -> bool:
        """See `VecEnv.watch_chunks`."""
        self._watcher = watcher
        return self.multi_modal_cfg.chunk_size is not None

    def simulator_interface(self) -> SimulatorInterface:
        """See `VecEnv.simulator_interface`; the parts of `proprio` are not included."""
        inner, cfg = self.env.simulator_interface(), self.multi_modal_cfg
        cameras = [] if cfg.mapping is None else cfg.mapping.cameras
        inner = inner if self._mapping is None else self._mapping.simulator_interface(inner)
        sources = {**cfg.images, **{name: name for name in (*cameras, *cfg.keep)}}
        observations = {
            name: inner.observations[source] for name, source in sources.items() if source in inner.observations
        }
        return replace(inner, action=_chunk_interface(inner.action, cfg), observations=observations)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the inner environment and the texts; empty if the inner one can't be restored."""
        inner = self.env.state_dict()
        texts = {"instructions": self.instructions, "table": list(self._table.values())}
        return {"env": inner, **texts} if inner else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if not state:
            return
        self.env.load_state_dict(state["env"])
        add_instructions(self._table, state["table"])
        self._follow(list(state["instructions"]))
        self._current = None

    def _step(self, actions: torch.Tensor, active: torch.Tensor | None) -> StepReturn:
        expected = (self.num_envs, *self.spec.action.shape)
        if actions.shape != expected:
            raise ValueError(f"MultiModal got actions of shape {tuple(actions.shape)}, expected {expected}.")
        before, cfg = self._ids, self.multi_modal_cfg
        if cfg.flat_actions and cfg.chunk_size:
            actions = actions.reshape(self.num_envs, cfg.chunk_size, -1)
        if self._mapping is not None:
            actions = self._mapping.env_actions(actions)
        if cfg.chunk_size:
            obs, rewards, dones, extras = step_chunk(
                self.env, actions, active, has_images=self._has_images, watcher=self._watcher
            )
        elif active is None:
            obs, rewards, dones, extras = self.env.step(actions)
        else:
            obs, rewards, dones, extras = self.env.step_rows(actions, active)
        final, inner_obs = extras.get("final_observations"), obs
        obs, extras = self._begin(obs, extras)
        if final is inner_obs:  # nothing ended: images are not scaled twice
            extras["final_observations"] = obs
        elif final is not None:
            ids = torch.where(dones.bool().unsqueeze(1), before, self._ids)
            extras["final_observations"] = self._observe(final, ids)
        return obs, rewards, dones, extras

    def _begin(self, obs: TensorDict, extras: dict[str, Any]) -> tuple[TensorDict, dict[str, Any]]:
        """Return observations and extras of the inner environment with the current texts."""
        if self._given:
            self._follow(list(extras["instruction"]))
        self._current = self._observe(obs, self._ids)
        return self._current, {**extras, "instruction": self.instructions}

    def _follow(self, texts: list[str]) -> None:
        """Assign one text to each row."""
        if texts == self._instructions:
            return  # nearly every step: nothing to hash, and nothing to copy to the device
        self._instructions = texts
        ids = add_instructions(self._table, texts)
        self._ids = torch.tensor(ids, dtype=torch.int64, device=self.device).unsqueeze(1)  # (num_envs, 1)

    def _observe(self, obs: TensorDict, ids: torch.Tensor) -> TensorDict:
        cfg = self.multi_modal_cfg
        groups = {} if self._mapping is None else self._mapping.observe(obs)
        groups |= {name: obs[source] for name, source in cfg.images.items()}
        if cfg.proprio:
            groups["proprio"] = torch.cat([obs[group].flatten(1) for group in cfg.proprio], dim=1)
        groups |= {name: obs[name] for name in cfg.keep}
        groups["instruction_id"] = ids
        return TensorDict(groups, batch_size=[self.num_envs], device=self.device)


@configclass
class MultiModalCfg(Cfg):
    """Configuration of `MultiModal`; build it with `MultiModalCfg(...).build(env)`."""

    class_type: type = MultiModal
    images: dict[str, str] = {}
    """Name of the camera -> uint8 group `(H, W, 3)` of the inner environment."""
    proprio: list[str] = []
    """Groups that are concatenated into the group `proprio`."""
    keep: list[str] = []
    """Groups that are passed on unchanged."""
    mapping: ObsMappingCfg | None = None
    """Another way to say what is observed, down to single dimensions and pixels, and what actions become; used instead
    of `images`, `proprio` and `instruction`."""
    instruction: str | list[str] | None = None
    """Text for all environments, or one per environment; None if the inner environment gives its own."""
    chunk_size: Annotated[int, Range(ge=1)] | None = None
    """Number of actions executed per step; None for actions without the chunk axis."""
    flat_actions: bool = False
    """True if a chunk of continuous actions is one vector `(H * dim,)`.

    Policies without a chunk axis give such vectors: those of PPO and SAC, for example.
    """

    def for_evaluation(self, num_envs: int) -> MultiModalCfg:
        """Return the options for another number of environments, which share the texts in turn."""
        if self.instruction is None or isinstance(self.instruction, str):
            return self.copy()
        return self.replace(instruction=[self.instruction[i % len(self.instruction)] for i in range(num_envs)])

    def check(self) -> Iterable[str]:
        """Check that something is observed and that names do not collide."""
        if not (self.images or self.proprio or self.keep or self.mapping):
            yield "images, proprio and keep are all empty: name at least one group to observe"
        if self.mapping is not None and (self.images or self.proprio or self.instruction is not None):
            yield "mapping: it already says what is observed; leave images, proprio and instruction empty"
        mapped = [] if self.mapping is None else self.mapping.cameras
        has_proprio = self.proprio or (self.mapping is not None and self.mapping.states)
        names = [*mapped, *self.images, *self.keep, *(["proprio"] if has_proprio else []), "instruction_id"]
        for name in sorted({name for name in names if names.count(name) > 1}):
            yield f"two groups would be called '{name}': rename the image or drop it from keep"
        if self.flat_actions and self.chunk_size is None:
            yield "flat_actions: there is no chunk to flatten, set chunk_size too"


def _spec(cfg: MultiModalCfg, env: VecEnv, mapping: ObsMapping | None) -> EnvSpec:
    inner = env.spec
    groups: dict[str, tuple[int, ...]] = {} if mapping is None else dict(mapping.groups)
    dtypes: dict[str, str] = {"instruction_id": "int64", **({} if mapping is None else mapping.dtypes)}
    for name, source in cfg.images.items():
        groups[name] = _image_shape(inner, name, source)
        dtypes[name] = "uint8"
    for group in (*cfg.proprio, *cfg.keep):
        _require_group(inner, group)
    if cfg.proprio:
        groups["proprio"] = (inner.obs_dim(cfg.proprio),)
    for group in cfg.keep:
        groups[group] = inner.obs_groups[group]
        dtypes.update({group: inner.obs_dtypes[group]} if group in inner.obs_dtypes else {})
    groups["instruction_id"] = (1,)

    extras, dims = [*inner.extras], dict(inner.extra_dims)
    extras += [] if "instruction" in extras else ["instruction"]
    chunk = cfg.chunk_size or 0
    if chunk:
        extras += ["executed_steps", "chunk_rewards"]
        dims["chunk_rewards"] = chunk
        if chunk > 1 and "step_rows" not in inner.capabilities:
            raise ConfigError(
                f"MultiModalCfg.chunk_size={chunk} needs an environment that can hold single rows, because an episode "
                f"may end inside a chunk and the rest of it must not reach the next one, but {inner.task} doesn't name "
                f"'step_rows' in spec.capabilities: implement VecEnv.step_rows, or use chunk_size=1."
            )
    return replace(
        inner,
        obs_groups=groups,
        obs_dtypes=dtypes,
        extras=tuple(extras),
        extra_dims=dims,
        action=_chunk_spec(inner, cfg, mapping),
    )


def _chunk_spec(inner: EnvSpec, cfg: MultiModalCfg, mapping: ObsMapping | None) -> ActionSpec:
    """Return the action space with the chunk as an axis or, flat, as more dimensions."""
    action, chunk = inner.action if mapping is None else mapping.action_spec(inner.action), cfg.chunk_size or 0
    if not cfg.flat_actions:
        return replace(action, chunk=chunk)
    if action.kind == "discrete":
        raise ConfigError(
            f"MultiModalCfg.flat_actions joins continuous actions to one vector, but those of {inner.task} are "
            f"discrete: leave it at False, or use an environment with continuous actions."
        )
    return replace(
        action,
        dim=action.dim * chunk,
        low=None if action.low is None else action.low * chunk,
        high=None if action.high is None else action.high * chunk,
    )


def _chunk_interface(action: ActionInterface, cfg: MultiModalCfg) -> ActionInterface:
    """Return the conversion of the policy's chunk to the simulator's actions, one for each step."""
    chunk = cfg.chunk_size or 0
    shape = (*((chunk,) if chunk else ()), *action.shape)
    if not cfg.flat_actions:
        return replace(action, shape=shape)
    bounds = ("clip_low", "clip_high", "scale", "offset", "low", "high")
    return replace(
        action, dim=action.dim * chunk, shape=shape, **{name: getattr(action, name) * chunk for name in bounds}
    )


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
    """Return the configured texts; empty if the environment has its own."""
    text, field = cfg.instruction, "instruction"
    if cfg.mapping is not None:
        text, field = cfg.mapping.task_description, "mapping.task_description"
    if "instruction" in env.spec.extras:
        if text is not None:
            raise ConfigError(f"{env.spec.task} gives its own instructions: leave MultiModalCfg.{field} at None.")
        return []
    if text is None:
        raise ConfigError(f"{env.spec.task} gives no instructions: set MultiModalCfg.{field} to the text to follow.")
    if isinstance(text, str):
        return [text] * env.num_envs
    if len(text) != env.num_envs:
        raise ConfigError(
            f"MultiModalCfg.instruction has {len(text)} texts for {env.num_envs} environments: give one "
            f"text for all or one each."
        )
    return list(text)
