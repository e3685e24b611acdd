"""A dynamics model as an environment, in which any algorithm trains.

Episodes start from recorded states (with their recorded history, for models that have a memory) and last `horizon`
steps, after which they are cut, not terminated: the value of the last state is bootstrapped. All sizes are fixed and
nothing is read by the host. Random numbers come from a generator of the environment's own.

    reward = model's (or a known function) - penalty * disagreement of the ensemble
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Annotated, Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor
from torch.nn.functional import one_hot

from ...components.system_dynamics import Memory, SystemDynamics
from ...configclass import Cfg, Range, configclass
from ...envs.spec import EnvSpec
from ...envs.vec_env import StepReturn, VecEnv
from ...utils.errors import UserError
from .starts import Starts

StepFunction = Callable[[dict[str, Tensor], Tensor, dict[str, Tensor]], Tensor]
"""Function of groups of observations `(N, ...)`, actions `(N, A)` and groups of the successors; returns `(N,)`."""


class ImaginationEnv(VecEnv):
    """`num_envs` copies of a model.

    Args:
        cfg: Configuration.
        model: Model, on the device of the environment; it may go on learning.
        spec: Spec of the real environment.
        starts: Initial states; `start_from` exchanges them.
        num_envs: Number of environments.
        seed: Of all random numbers.
    """

    def __init__(
        self,
        cfg: ImaginationCfg,
        *,
        model: SystemDynamics,
        spec: EnvSpec,
        num_envs: int,
        seed: int,
        starts: Starts | None = None,
    ) -> None:
        self.cfg, self.model, self._starts = cfg, model, starts
        self.device = model.elites.device
        self.spec = imagined_spec(spec, model, num_envs, cfg.horizon)
        self.generator = torch.Generator(self.device).manual_seed(seed)
        bounds = (spec.action.low, spec.action.high)
        self._bounds = [None if bound is None else torch.tensor(bound, device=self.device) for bound in bounds]
        self._state = torch.zeros(num_envs, model.layout.dim, device=self.device)
        self._memory = model.memory(num_envs)
        self._member = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        self._length = torch.zeros(num_envs, dtype=torch.int64, device=self.device)
        if starts is not None:
            self.reset()

    @property
    def episode_length_buf(self) -> Tensor:
        """int64 `(num_envs,)`, settable."""
        return self._length

    @episode_length_buf.setter
    def episode_length_buf(self, value: Tensor) -> None:
        self._length = value.to(self.device, torch.int64).clone()

    def start_from(self, starts: Starts) -> None:
        """Start episodes from other states from now on; running episodes go on."""
        self._starts = starts

    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        """Start a new episode everywhere; `seed` restarts all random numbers."""
        if seed is not None:
            self.generator.manual_seed(seed)
        self._state, self._memory = self._drawn_starts()
        self._member = self._drawn_members()
        self._length = torch.zeros_like(self._length)
        return self.get_observations(), {}

    def get_observations(self) -> TensorDict:
        """Return the present states as observation groups."""
        return self._observed(self._state)

    @torch.no_grad()
    def step(self, actions: Tensor) -> StepReturn:
        """See `VecEnv.step`."""
        cfg, action = self.cfg, self._encoded(actions)
        imagined = self.model.imagine(
            self._state,
            action,
            self._memory,
            self._member,
            deterministic=cfg.propagation == "mean",
            generator=self.generator,
        )
        before, after = self._observed(self._state), self._observed(imagined.state)
        terminated = imagined.terminated
        if cfg.termination is not None:
            terminated = cfg.termination(dict(before.items()), action, dict(after.items()))
        reward = imagined.reward
        if cfg.reward is not None:
            reward = cfg.reward(dict(before.items()), action, dict(after.items()))
        reward = reward - cfg.penalty * imagined.disagreement

        length = self._length + 1
        time_outs = (length >= cfg.horizon) & ~terminated if cfg.horizon else torch.zeros_like(terminated)
        done = terminated | time_outs
        self._move_on(imagined.state, imagined.memory, length, done)
        log = {"Model/disagreement": imagined.disagreement.mean()}
        extras = {"terminated": terminated, "time_outs": time_outs, "final_observations": after, "log": log}
        return self.get_observations(), reward.float(), done.long(), extras

    def _move_on(self, state: Tensor, memory: Memory, length: Tensor, done: Tensor) -> None:
        """Replace what ended by new episodes; starts are drawn for all rows, so that no size depends on data."""
        first, first_memory = self._drawn_starts()
        self._state = _chosen(done, first, state)
        self._memory = {name: _chosen(done, first_memory[name], value) for name, value in memory.items()}
        self._length = torch.where(done, 0, length)
        member = self._drawn_members()
        self._member = torch.where(done, member, self._member) if self.cfg.propagation == "ts_inf" else member

    def _drawn_starts(self) -> tuple[Tensor, Memory]:
        if self._starts is None:
            raise UserError("An imagined episode needs a state to start from: call start_from(...) before reset().")
        starts = self._starts
        row = torch.randint(len(starts.state), (self.num_envs,), generator=self.generator, device=self.device)
        return starts.state[row], {name: value[row] for name, value in starts.memory.items()}

    def _drawn_members(self) -> Tensor:
        count = len(self.model.elites)
        return torch.randint(count, (self.num_envs,), generator=self.generator, device=self.device)

    def _encoded(self, actions: Tensor) -> Tensor:
        """Return the actions as the model reads them."""
        if actions.shape != (self.num_envs, *self.spec.action.shape):
            raise ValueError(
                f"ImaginationEnv got actions of shape {tuple(actions.shape)}, expected "
                f"{(self.num_envs, *self.spec.action.shape)}."
            )
        if self.spec.action.kind == "discrete":
            return one_hot(actions, self.spec.action.dim).to(self._state.dtype)
        return actions if self._bounds == [None, None] else actions.clamp(*self._bounds)

    def _observed(self, state: Tensor) -> TensorDict:
        return TensorDict(self.model.layout.split(state), [self.num_envs], device=self.device)

    def state_dict(self) -> dict[str, Any]:
        """Return states, memories and the generator; the model and the starts belong to others."""
        return {
            "state": self._state.clone(),
            "memory": {name: value.clone() for name, value in self._memory.items()},
            "member": self._member.clone(),
            "length": self._length.clone(),
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore `state_dict`."""
        self._state, self._member, self._length = (
            state[name].to(self.device).clone() for name in ("state", "member", "length")
        )
        self._memory = {name: value.to(self.device).clone() for name, value in state["memory"].items()}
        self.generator.set_state(state["generator"].cpu())


def imagined_spec(spec: EnvSpec, model: SystemDynamics, num_envs: int, horizon: int) -> EnvSpec:
    """Return the spec of `num_envs` imagined copies of an environment."""
    return EnvSpec(
        task=f"{spec.task} (imagined)",
        num_envs=num_envs,
        obs_groups={group: spec.obs_groups[group] for group in model.layout.groups},
        action=replace(spec.action, chunk=0),
        max_episode_length=horizon,
        extras=("final_observations",),
        step_dt=spec.step_dt,
    )


def _chosen(rows: Tensor, chosen: Tensor, other: Tensor) -> Tensor:
    """Return `chosen` in the rows where `rows` `(N,)` is True."""
    return torch.where(rows.view(-1, *[1] * (other.dim() - 1)), chosen, other)


@configclass
class ImaginationCfg(Cfg):
    """Settings of imagined episodes."""

    class_type: type = ImaginationEnv
    horizon: Annotated[int, Range(ge=0)] = 0
    """Steps after which an episode is cut; 0: never."""
    propagation: Literal["ts1", "ts_inf", "mean"] = "ts1"
    """Which elite predicts a row: another one at every step, the same for a whole episode, or the mean of all without
    noise (Chua et al. 2018)."""
    penalty: Annotated[float, Range(ge=0)] = 0.0
    """Weight of the elites' disagreement, which is taken from the reward."""
    termination: StepFunction | None = None
    """Known function that says where episodes terminate; None: what the model has learned, or nowhere."""
    reward: StepFunction | None = None
    """Known reward function; None: what the model has learned."""
