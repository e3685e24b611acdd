"""The mapping block of a run's YAML: which groups and dimensions of a simulator a policy sees and moves.

    mapping:
      task_description: pick up the apple
      main_images: front_camera                     # groups of the environment, uint8 (H, W, 3)
      extra_view_images: [wrist_camera]
      crop: [0, 40, 240, 240]                       # top, left, height, width
      resize: [224, 224]
      states: [gripper, {key: joint_pos, slice: [0, 7]}]
      action_mapping: {prefix_pad: 15, suffix_pad: 2, keys: [{key: hand, slice: [7, 9]}, {key: arm, slice: [0, 7]}]}

`MultiModal` observes through it: each camera keeps its name, `proprio` is the concatenation of the states. The policy's
action of this example has 9 dimensions, the simulator's 26: 15 zeros, the hand, the arm, two zeros.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated

import torch
from tensordict import TensorDict

from ..configclass import MISSING, Cfg, ConfigError, Range, configclass
from ..utils.errors import did_you_mean
from ..utils.images import resize
from .simulator_interface import SimulatorInterface
from .spec import ActionSpec, EnvSpec

_Index = Annotated[int, Range(ge=0)]
_Size = Annotated[int, Range(ge=1, le=16_384)]
_PER_DIMENSION = ("clip_low", "clip_high", "scale", "offset", "low", "high")


class ObsMapping:
    """The mapping between an environment of single actions and a policy; see the module.

    Args:
        cfg: The block.
        spec: The environment without the mapping.
        device: Where it is.

    Raises:
        ConfigError: a group, a slice or a number of dimensions does not exist there; the message lists what does.
    """

    def __init__(self, cfg: ObsMappingCfg, spec: EnvSpec, device: torch.device) -> None:
        self.cfg = cfg
        self.groups = {name: _image_shape(cfg, spec, name) for name in cfg.cameras}
        """Shape of what is observed: cameras, and `proprio` if there are states."""
        self.dtypes = dict.fromkeys(cfg.cameras, "uint8")
        self._states = [_state(cfg, spec, entry) for entry in cfg.states]
        if self._states:
            self.groups["proprio"] = (sum(width for _, _, width in self._states),)
        order = _order(cfg.action_mapping, spec)
        self._env_dim, self._first = spec.action.dim, cfg.action_mapping.prefix_pad
        self._order = None if order is None else torch.tensor(order, device=device)
        self._sources = None if order is None else [self._first + order.index(column) for column in range(len(order))]

    def observe(self, obs: TensorDict) -> dict[str, torch.Tensor]:
        """Return the images and, if there are states, `proprio` float `(N, D)`."""
        groups = {name: self._image(obs[name]) for name in self.cfg.cameras}
        if self._states:
            parts = [obs[key].flatten(1)[:, start : start + width] for key, start, width in self._states]
            groups["proprio"] = torch.cat([part.to(torch.float32) for part in parts], dim=1)
        return groups

    def env_actions(self, actions: torch.Tensor) -> torch.Tensor:
        """Turn a policy's actions `(..., dim)` into the simulator's, with zeros where the policy has no say."""
        if self._order is None:
            return actions
        padded = actions.new_zeros(*actions.shape[:-1], self._env_dim)
        padded[..., self._first : self._first + len(self._order)] = actions[..., self._order]
        return padded

    def action_spec(self, action: ActionSpec) -> ActionSpec:
        """Return the policy's action space."""
        if self._sources is None:
            return action
        bounds = {
            name: None if bound is None else tuple(bound[column] for column in self._sources)
            for name, bound in (("low", action.low), ("high", action.high))
        }
        return replace(action, dim=len(self._sources), **bounds)

    def simulator_interface(self, inner: SimulatorInterface) -> SimulatorInterface:
        """Return the conversions of the policy's dimensions, and where in the simulator's action they go."""
        if self._sources is None:
            return inner
        action, width = inner.action, len(self._sources)
        picked = {name: tuple(getattr(action, name)[column] for column in self._sources) for name in _PER_DIMENSION}
        columns = {"action_columns": self._sources, "action_dim": self._env_dim}
        return replace(
            inner,
            action=replace(action, dim=width, shape=(width,), **picked),
            simulator={**inner.simulator, **columns},
        )

    def _image(self, image: torch.Tensor) -> torch.Tensor:
        if self.cfg.crop is not None:
            top, left, height, width = self.cfg.crop
            image = image[:, top : top + height, left : left + width]
        return image if self.cfg.resize is None else resize(image, self.cfg.resize, "stretch")


@configclass
class StateCfg(Cfg):
    """A part of the proprioception."""

    key: str = MISSING
    """Group of the environment."""
    slice: tuple[_Index, _Index] | None = None
    """First dimension, and the one after the last; None: all."""


@configclass
class ActionPartCfg(Cfg):
    """A part of the policy's action, at its place in the simulator's."""

    key: str = MISSING
    """What it is called, for readers and messages."""
    slice: tuple[_Index, _Index] | None = None
    """Its first dimension in the policy's action, and the one after the last; None where it is the only part."""


@configclass
class ActionMappingCfg(Cfg):
    """From the policy's action to the simulator's: `prefix_pad` zeros, the parts, `suffix_pad` zeros."""

    prefix_pad: _Index = 0
    suffix_pad: _Index = 0
    keys: list[str | ActionPartCfg] = []
    """Parts of the policy's action in the simulator's order; empty: as they are."""

    @property
    def parts(self) -> list[ActionPartCfg]:
        """The parts, each as a configuration."""
        return [ActionPartCfg(key=entry) if isinstance(entry, str) else entry for entry in self.keys]

    def check(self) -> Iterable[str]:
        """Check that every dimension goes to one place."""
        parts = self.parts
        if len(parts) < 2 and all(part.slice is None for part in parts):
            return
        whole = next((part.key for part in parts if part.slice is None), None)
        if whole is not None:
            yield f"keys: '{whole}' has no slice; write {{key: {whole}, slice: [first, end]}}"
            return
        taken = sorted(column for part in parts for column in range(*part.slice))  # pyright: ignore
        if taken != list(range(len(taken))):
            yield (
                f"keys: the slices take the dimensions {taken} of the policy's action, expected each from 0 once; "
                "correct the slices"
            )


@configclass
class ObsMappingCfg(Cfg):
    """The mapping block; see the module."""

    class_type: type = ObsMapping
    task_description: str | None = None
    """Instruction of all environments; None if they give their own."""
    main_images: str | None = None
    """Group with the first camera's images."""
    extra_view_images: list[str] = []
    """Groups with those of further cameras."""
    crop: tuple[_Index, _Index, _Size, _Size] | None = None
    """Part of every image that is used: top, left, height, width in pixels."""
    resize: tuple[_Size, _Size] | None = None
    """Height and width to which it is scaled, on the environment's device."""
    states: list[str | StateCfg] = []
    """Groups, or parts of groups, that are concatenated into `proprio`."""
    action_mapping: ActionMappingCfg = ActionMappingCfg()
    """From the policy's action to the simulator's."""

    @property
    def cameras(self) -> list[str]:
        """All groups with images, the main camera first."""
        return [*([] if self.main_images is None else [self.main_images]), *self.extra_view_images]

    def check(self) -> Iterable[str]:
        """Check that something is observed, once."""
        if not self.cameras and not self.states:
            yield "main_images, extra_view_images and states are all empty: name at least one group to observe"
        for name in sorted({name for name in self.cameras if self.cameras.count(name) > 1}):
            yield f"extra_view_images: '{name}' is named twice; name each camera once"


def _group(spec: EnvSpec, key: str, where: str) -> tuple[int, ...]:
    if key not in spec.obs_groups:
        raise ConfigError(
            f"mapping.{where} names the group '{key}', and {spec.task} has {sorted(spec.obs_groups)}: "
            f"{did_you_mean(key, spec.obs_groups)}"
        )
    return spec.obs_groups[key]


def _image_shape(cfg: ObsMappingCfg, spec: EnvSpec, name: str) -> tuple[int, ...]:
    """Return a camera's shape after crop and resize."""
    where = "main_images" if name == cfg.main_images else "extra_view_images"
    shape, dtype = _group(spec, name, where), spec.dtype_of(name)
    if len(shape) != 3 or shape[2] != 3 or dtype != torch.uint8:
        raise ConfigError(
            f"mapping.{where} names the group '{name}' of {spec.task}, which is {dtype} {shape}, expected uint8 "
            "(H, W, 3): name a camera, or list numbers under states."
        )
    if cfg.crop is not None:
        top, left, height, width = cfg.crop
        if top + height > shape[0] or left + width > shape[1]:
            raise ConfigError(
                f"mapping.crop takes {height} x {width} pixels from ({top}, {left}), and '{name}' has {shape[0]} x "
                f"{shape[1]}: choose [top, left, height, width] inside the picture."
            )
        shape = (height, width, 3)
    return shape if cfg.resize is None else (*cfg.resize, 3)


def _state(cfg: ObsMappingCfg, spec: EnvSpec, entry: str | StateCfg) -> tuple[str, int, int]:
    """Return group, first dimension and width of a part of the proprioception."""
    part = StateCfg(key=entry) if isinstance(entry, str) else entry
    shape = _group(spec, part.key, "states")
    if spec.dtype_of(part.key) == torch.uint8:
        raise ConfigError(
            f"mapping.states names the group '{part.key}' of {spec.task}, which holds images {shape}, expected "
            "numbers: list cameras under main_images or extra_view_images."
        )
    dim = spec.obs_dim((part.key,))
    start, end = part.slice or (0, dim)
    if not start < end <= dim:
        raise ConfigError(
            f"mapping.states takes the dimensions [{start}, {end}] of '{part.key}', which has {dim}: write "
            f"slice: [first, end] within [0, {dim}]."
        )
    return part.key, start, end - start


def _order(cfg: ActionMappingCfg, spec: EnvSpec) -> list[int] | None:
    """Return the policy's dimensions in the simulator's order; None: actions are the simulator's."""
    if not (cfg.prefix_pad or cfg.suffix_pad or cfg.keys):
        return None
    action = spec.action
    if action.kind == "discrete":
        raise ConfigError(
            f"mapping.action_mapping pads and orders continuous actions, and those of {spec.task} are discrete: "
            "leave it out."
        )
    left = action.dim - cfg.prefix_pad - cfg.suffix_pad
    slices = [part.slice for part in cfg.parts if part.slice is not None]
    order = list(itertools.chain.from_iterable(range(*each) for each in slices)) or list(range(left))
    if left < 1 or len(order) != left:
        got = f"{len(order)} dimensions in keys, " if slices else ""
        raise ConfigError(
            f"mapping.action_mapping has {got}prefix_pad={cfg.prefix_pad} and suffix_pad={cfg.suffix_pad}, and the "
            f"actions of {spec.task} have {action.dim} dimensions: "
            + ("together they have to be as many." if slices else "leave at least one to the policy.")
        )
    return order
