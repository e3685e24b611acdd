"""The environment: a batch of tables, stepped, judged and drawn on one device.

Observation groups are `robot` (x, y, aperture, whether something is held), `task` (from the hand to the block that is
asked for, and from there to where it goes: what a policy with pixels has to see) and one uint8 image per camera.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

import torch
from RoboRenForce.configclass import Range, configclass
from RoboRenForce.envs import (
    ActionSpec,
    EnvSpec,
    InstructionTable,
    MultiModalCfg,
    StepReturn,
    VecEnv,
    VecEnvCfg,
    add_instructions,
)
from RoboRenForce.utils.errors import did_you_mean
from tensordict import TensorDict

from . import counter_rng
from .dynamics import move
from .expert import ExpertCfg
from .goals import GOALS, TaskName
from .language import COLOURS, TEMPLATES, allowed_pairs, default_held_out, sentences
from .scene import Layout, Scene, sample_scene
from .view import Camera, CameraName, View

FPS = 10
"""Steps per second."""
_COUNTERS = ("_keys", "_episodes", "_length")


class TabletopEnv(VecEnv):
    """`cfg.num_envs` tables; see the module for what is observed, and `cfg` for the options."""

    def __init__(self, cfg: TabletopCfg) -> None:
        self.cfg = cfg
        self.device = torch.device(cfg.device)
        self._goal = GOALS[cfg.task]
        self._layout = _layout(cfg)
        self._sentences = sentences(cfg.task, cfg.colours, self._layout.num_templates)
        self._texts: InstructionTable = {}
        if cfg.language:
            add_instructions(self._texts, self._sentences)
        self._views = {
            name: View(Camera(name, cfg.image_size, cfg.camera_tilt), cfg.colours, self.device) for name in cfg.cameras
        }
        self.spec = _spec(cfg)
        self._everybody = torch.ones(cfg.num_envs, dtype=torch.bool, device=self.device)
        self.reset(seed=cfg.seed)

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """int64 `(num_envs,)`, settable."""
        return self._length

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self._length = value.to(self.device, torch.int64).clone()

    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        """See `VecEnv.reset`; without a seed every row begins its next episode."""
        if seed is None:
            self._episodes = self._episodes + 1
        else:
            self._keys = counter_rng.row_keys(seed, self.num_envs, self.device)
            self._episodes = torch.zeros_like(self._keys)
        self._length = torch.zeros_like(self._keys)
        self.scene = sample_scene(self._layout, self._keys, self._episodes)
        return self._begun()

    def reset_rows(self, env_ids: torch.Tensor, seeds: Sequence[int]) -> tuple[TensorDict, dict[str, Any]]:
        """See `VecEnv.reset_rows`; a seed's first episode is the same in every row."""
        rows = torch.zeros_like(self._everybody)
        rows[env_ids] = True
        self._keys = self._keys.index_put((env_ids,), counter_rng.seed_keys(list(seeds), self.device))
        self._episodes = torch.where(rows, 0, self._episodes)
        self._length = torch.where(rows, 0, self._length)
        self.scene = self.scene.where(rows, sample_scene(self._layout, self._keys, self._episodes))
        return self._begun()

    def get_observations(self) -> TensorDict:
        """The current observations."""
        return self._observations

    def step(self, actions: torch.Tensor) -> StepReturn:
        """See `VecEnv.step`."""
        return self.step_rows(actions, self._everybody)

    def step_rows(self, actions: torch.Tensor, active: torch.Tensor, *, draw: bool = True) -> StepReturn:
        """See `VecEnv.step_rows`."""
        if actions.shape != (self.num_envs, 3):
            raise ValueError(f"TabletopEnv got actions of shape {tuple(actions.shape)}, expected {(self.num_envs, 3)}.")
        before, goal = self.scene, self._goal
        after = before.where(active, move(before, actions.to(torch.float32).clamp(-1.0, 1.0)))
        self._length = self._length + active
        success = goal.is_done(after) & active
        failed = goal.has_failed(after) & active & ~success if goal.has_failed else torch.zeros_like(success)
        terminated = success | failed
        time_outs = (self._length >= self.max_episode_length) & active & ~terminated
        dones = terminated | time_outs

        terms = [success.float(), -failed.float()]
        if self.cfg.reward == "dense":
            terms.append(torch.where(active, goal.progress(after) - goal.progress(before), 0.0))
        reward_terms = torch.stack(terms, dim=1)
        observations, final = self._turn_over(after, dones, draw)
        extras: dict[str, Any] = {
            "terminated": terminated,
            "time_outs": time_outs,
            "log": {},
            "final_observations": final,
            "success": success.clone(),
            "reward_terms": reward_terms,
        }
        if self.cfg.language:
            extras["instruction"] = self._instructions
        return observations, reward_terms.sum(dim=1), dones.long(), extras

    @property
    def instruction_table(self) -> InstructionTable:
        """All sentences of the task."""
        return self._texts

    def state_dict(self) -> dict[str, Any]:
        """The scene and the counters."""
        counters = {name.lstrip("_"): getattr(self, name).clone() for name in _COUNTERS}
        return counters | {name: tensor.clone() for name, tensor in self.scene.tensors().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        for name in _COUNTERS:
            setattr(self, name, state[name.lstrip("_")].to(self.device).clone())
        self.scene = Scene(**{name: state[name].to(self.device).clone() for name in self.scene.tensors()})
        self._begun()

    def render(self) -> Any:
        """Return the front camera's image of environment 0, large enough for people."""
        view = View(Camera("front", self.cfg.render_size, self.cfg.camera_tilt), self.cfg.colours, self.device)
        return view.draw(self.scene.rows(torch.zeros(1, dtype=torch.int64, device=self.device)))[0].cpu().numpy()

    def _turn_over(self, after: Scene, dones: torch.Tensor, draw: bool) -> tuple[TensorDict, TensorDict]:
        """Begin the next episode where `dones`; returns the observations and the final ones."""
        self._episodes = self._episodes + dones
        self._length = torch.where(dones, 0, self._length)
        final = _numbers(after)
        # Images and texts of rows that end are worth a wait for the device: drawing all rows twice takes longer.
        waits = bool(self._views) or self.cfg.language
        ended = dones.nonzero().squeeze(1) if waits else None
        if ended is not None and not len(ended):
            self.scene = after
            images = self._draw() if draw else {name: self._observations[name] for name in self._views}
            self._observations = self._dict(final | images)
            return self._observations, self._observations
        self.scene = after.where(dones, sample_scene(self._layout, self._keys, self._episodes))
        images: dict[str, torch.Tensor] = {}
        if ended is not None:
            self._read_out(ended)
            images = self._draw() if draw else self._redraw(ended)
            last = after.rows(ended)
            final |= {name: images[name].index_copy(0, ended, view.draw(last)) for name, view in self._views.items()}
        self._observations = self._dict(_numbers(self.scene) | images)
        return self._observations, self._dict(final)

    def _begun(self) -> tuple[TensorDict, dict[str, Any]]:
        """Observations and extras after a reset."""
        if self.cfg.language:
            self._instructions = [""] * self.num_envs
            self._read_out(torch.arange(self.num_envs, device=self.device))
        self._observations = self._dict(_numbers(self.scene) | self._draw())
        return self._observations, {"instruction": self._instructions} if self.cfg.language else {}

    def _read_out(self, rows: torch.Tensor) -> None:
        """Look up the texts of rows that begin an episode."""
        if not self.cfg.language:
            return
        self._instructions = list(self._instructions)  # whoever was given the old list may keep it
        for row, sentence in zip(rows.tolist(), self.scene.sentence[rows].tolist(), strict=True):
            self._instructions[row] = self._sentences[sentence]

    def _draw(self) -> dict[str, torch.Tensor]:
        return {name: view.draw(self.scene) for name, view in self._views.items()}

    def _redraw(self, rows: torch.Tensor) -> dict[str, torch.Tensor]:
        """The images as they were, but for some rows."""
        scene = self.scene.rows(rows)
        return {
            name: self._observations[name].index_copy(0, rows, view.draw(scene)) for name, view in self._views.items()
        }

    def _dict(self, groups: dict[str, torch.Tensor]) -> TensorDict:
        return TensorDict(groups, batch_size=[self.num_envs], device=self.device)


@configclass
class TabletopCfg(VecEnvCfg):
    """Options of `TabletopEnv`."""

    class_type: type = TabletopEnv
    task: TaskName = "Place"
    num_envs: Annotated[int, Range(ge=1)] = 16
    cameras: list[CameraName] = ["front"]
    """Image groups; none for learning from numbers alone."""
    image_size: Annotated[int, Range(ge=16, le=1024)] = 64
    """Pixels of a side."""
    render: bool = False
    """Asked for where videos are made; this environment can always render."""
    render_size: Annotated[int, Range(ge=64, le=2048)] = 256
    """Pixels of a side of videos for people."""
    camera_tilt: Annotated[float, Range(ge=0, le=60)] = 35.0
    """Degrees from straight down."""
    language: bool = True
    """True to give every row an instruction; without, only numbers tell the goal."""
    num_templates: Annotated[int, Range(ge=1)] = 2
    """Sentences that say the same; at most as many as the task has."""
    colours: list[str] = list(COLOURS)
    """Of blocks and of plates."""
    pairs: Literal["train", "held_out", "all"] = "train"
    """Pairs of colours (block, plate) in the instructions."""
    held_out: list[list[str]] | None = None
    """Pairs that `train` never asks for; None: every colour with the next one. Tasks without plates have none."""
    num_blocks: Annotated[int, Range(ge=1, le=5)] | None = None
    """None: as many as the task needs to be no guess."""
    num_plates: Annotated[int, Range(ge=1, le=4)] | None = None
    reward: Literal["dense", "sparse"] = "dense"
    """`sparse`: 1 for success, -1 for failure; `dense`: progress besides."""
    max_episode_length: Annotated[int, Range(ge=1)] | None = None
    """None: that of the task."""
    exchange: Literal["nothing", "block", "plate"] = "nothing"
    """Ask for another block, or another plate, in the very same scenes: does a policy read the instruction?"""
    expert: ExpertCfg = ExpertCfg()
    """Demonstrating policy."""

    def check(self) -> Iterable[str]:
        """Colours must exist, and enough of them; pairs must be of them."""
        yield from super().check()
        for colour in self.colours:
            if colour not in COLOURS:
                yield f"colours: there is no '{colour}': {did_you_mean(colour, COLOURS)}"
        for pair in self.held_out or []:
            if len(pair) != 2 or not set(pair) <= set(self.colours):
                yield f"held_out: {pair} is no pair (block, plate) of the colours {self.colours}"
        goal = GOALS[self.task]
        blocks, plates = self.num_blocks or goal.num_blocks, self.num_plates or goal.num_plates
        if len(set(self.colours)) < max(2, blocks, plates) or len(set(self.colours)) < len(self.colours):
            yield f"colours: {self.colours} must be {max(2, blocks, plates)} or more different ones"
        if self.num_plates is not None and not goal.num_plates:
            yield f"num_plates: {self.task} has no plates"
        if self.task == "Fork" and blocks > 1:
            yield f"num_blocks: Fork has one block behind its post, got {blocks}"
        if self.num_templates > len(TEMPLATES[self.task]):
            yield f"num_templates: {self.task} has {len(TEMPLATES[self.task])} sentences, got {self.num_templates}"
        if (self.exchange == "block" and blocks < 2) or (self.exchange == "plate" and plates < 2):
            yield f"exchange: there is only one {self.exchange}"
        if self.pairs == "held_out" and self.task != "Place":
            yield f"pairs: {self.task} has no pairs of colours to hold out"
        yield from _unread_cameras(self.cameras, self.multi_modal)


def _unread_cameras(drawn: list[CameraName], chain: MultiModalCfg | None) -> Iterable[str]:
    """A sentence on cameras that are drawn for nobody, or read and not drawn."""
    if chain is None or chain.mapping is not None:
        return
    read = {*chain.images.values()}
    if read - {*drawn} or {*drawn} - read - {*chain.keep}:
        images = ", ".join(f"{name}: {name}" for name in drawn)
        yield (
            f"cameras: {drawn} are drawn and multi_modal.images reads {sorted(read)}; set "
            f"multi_modal.images='{{{images}}}' too"
        )


def _layout(cfg: TabletopCfg) -> Layout:
    goal = GOALS[cfg.task]
    held_out = default_held_out(cfg.colours) if cfg.held_out is None else cfg.held_out
    pairs = cfg.pairs if cfg.task == "Place" else "all"
    return Layout(
        num_blocks=cfg.num_blocks or goal.num_blocks,
        num_plates=cfg.num_plates or goal.num_plates,
        has_post=goal.has_post,
        num_templates=cfg.num_templates,
        allowed=allowed_pairs(cfg.colours, held_out, pairs).to(cfg.device),
        goal=torch.tensor([int(cfg.exchange == "block"), int(cfg.exchange == "plate")], device=cfg.device),
    )


def _numbers(scene: Scene) -> dict[str, torch.Tensor]:
    """The groups `robot` and `task`."""
    robot = torch.cat([scene.hand, scene.aperture.unsqueeze(1), (scene.held >= 0).float().unsqueeze(1)], dim=1)
    aim = scene.posts[:, 0] if scene.posts.shape[1] else scene.place
    return {"robot": robot, "task": torch.cat([scene.target - scene.hand, aim - scene.target], dim=1)}


def _spec(cfg: TabletopCfg) -> EnvSpec:
    image = (cfg.image_size, cfg.image_size, 3)
    extras = ["final_observations", "success", "reward_terms", *(["instruction"] if cfg.language else [])]
    return EnvSpec(
        task=f"Tabletop-{cfg.task}",
        num_envs=cfg.num_envs,
        obs_groups={"robot": (4,), "task": (4,), **dict.fromkeys(cfg.cameras, image)},
        obs_dtypes=dict.fromkeys(cfg.cameras, "uint8"),
        action=ActionSpec("continuous", 3, (-1.0,) * 3, (1.0,) * 3),
        max_episode_length=cfg.max_episode_length or GOALS[cfg.task].max_episode_length,
        extras=tuple(extras),
        reward_terms=("success", "failure", *(["progress"] if cfg.reward == "dense" else [])),
        capabilities=("reset_rows", "step_rows"),
        step_dt=1.0 / FPS,
    )
