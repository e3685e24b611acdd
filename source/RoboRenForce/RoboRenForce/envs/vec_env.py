"""The environment contract: a batch of auto-resetting environments that speak torch.

It is a superset of rsl_rl 5's `VecEnv`, so rsl_rl's runner drives our environments and our runners drive wrapped ones.
`check_vec_env` tests an implementation against every sentence written here.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from tensordict import TensorDict

from ..utils.errors import SpecMismatch
from .instructions import InstructionTable
from .simulator_interface import ActionInterface, SimulatorInterface, Units
from .spec import EnvSpec

StepReturn = tuple[TensorDict, torch.Tensor, torch.Tensor, dict[str, Any]]

ActionWatcher = Callable[[torch.Tensor], None]
"""Is told in which rows the next action is executed, bool `(num_envs,)`."""
ALWAYS_IN_EXTRAS = ("terminated", "time_outs", "log")
"""Keys of `extras` that every environment provides at every step, declared or not."""


class EvalPolicy(Protocol):
    """Policy of eval rows; every `Policy` of an algorithm fits."""

    def __call__(self, obs: TensorDict) -> torch.Tensor:
        """Return actions `(N, *action.shape)` for observations of batch size `[N]`."""
        ...

    def reset(self, dones: torch.Tensor | None = None) -> None:
        """Reset the recurrent state of rows where `dones`, `(N,)`, is set; of all rows if it is None."""
        ...


class VecEnv(ABC):
    """`num_envs` environments stepped together.

    Observations are a `TensorDict` of batch size `[num_envs]` with one tensor per observation group of `spec`.
    An environment that ends is reset inside `step`; the returned observation is then the first of the new episode.

    `extras` of `step` always holds

    - `terminated` bool `(num_envs,)`: the task ended; nothing is bootstrapped,
    - `time_outs` bool `(num_envs,)`: the episode was cut; the value of the last observation is bootstrapped. A row is
      never both: where the task ends on the very step of the time limit, it has terminated,
    - `log` dict: scalars (0-dim tensors or floats) to log; may be empty,

    and, if and only if `spec.extras` declares them,

    - `final_observations` TensorDict `[num_envs]`: in rows that are done the true last observation of the finished
      episode, in all other rows the returned observation, so its value is the exact bootstrap in every row,
    - `success` bool `(num_envs,)`: valid in rows that are done,
    - `raw_rewards` float32 `(num_envs,)`: what the task itself gave, where wrappers of the user change `rewards`;
      evaluations report returns of these,
    - `reward_terms` float `(num_envs, len(spec.reward_terms))`: the parts of this step's reward,
    - `command` float `(num_envs, C)` and `dynamics` float `(num_envs, D)`: of the moment of the returned observations,
      so of the new episode in rows that are done; `C` and `D` are in `spec.extra_dims`,
    - `group_id` int64 `(num_envs,)`: block or group of each row (see `GroupVec`),
    - `active` bool `(num_envs,)`: False in rows that waited for their group (see `GroupVec`),
    - `instruction` list of `num_envs` strings, `executed_steps` int64 `(num_envs,)`, `chunk_rewards` float
      `(num_envs, chunk)` (see `MultiModal`).

    Returned tensors may be reused by the environment at the next step, observations at the one after it (rsl_rl's
    runner stores an observation only after the step that followed it): whoever keeps them longer copies them. They are
    read-only for the caller, and two of them share memory only where they are equal by contract. The environment
    neither changes nor keeps what it is given.
    """

    spec: EnvSpec
    device: torch.device
    cfg: Any

    @property
    def num_envs(self) -> int:
        """Number of environments."""
        return self.spec.num_envs

    @property
    def num_actions(self) -> int:
        """Number of action dimensions, or of choices if actions are discrete."""
        return self.spec.action.dim

    @property
    def max_episode_length(self) -> int:
        """Steps after which an episode is truncated; 0 if never."""
        return self.spec.max_episode_length

    @property
    def step_dt(self) -> float | None:
        """Simulated seconds of one step, if the simulator defines them."""
        return self.spec.step_dt

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """int64 `(num_envs,)`: steps taken in the current episode.

        Settable, and the time limit follows: runners randomize it to spread the time-outs. Read the property again
        after every step instead of keeping the tensor.
        """
        return self._episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self._episode_length_buf = value

    @property
    def unwrapped(self) -> Any:
        """Innermost environment: the simulator's own object if there is one."""
        return self

    @abstractmethod
    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        """Start a new episode everywhere and return `(observations, extras)`; `seed` restarts all randomness.

        `extras` holds those declared extras that describe a state, not a step: `command`, `dynamics`, `group_id`,
        `instruction`.
        """

    @abstractmethod
    def get_observations(self) -> TensorDict:
        """Return the current observations without side effects: two calls in a row return the same values."""

    @abstractmethod
    def step(self, actions: torch.Tensor) -> StepReturn:
        """Advance every environment by one step.

        Args:
            actions: `(num_envs, *spec.action.shape)`; bounded continuous actions are in `spec.action.low/high`, and
                what lies outside is clipped.

        Returns:
            `(observations, rewards, dones, extras)`: rewards float32 `(num_envs,)`, dones int64 `(num_envs,)` with 1
            where an episode ended for either reason.
        """

    def reset_rows(self, env_ids: torch.Tensor, seeds: Sequence[int]) -> tuple[TensorDict, dict[str, Any]]:
        """Start a new episode in some rows; returns as `reset` does, for all rows. Needs the capability `reset_rows`.

        Args:
            env_ids: int64 `(K,)`, the rows to reset.
            seeds: one per row of `env_ids`. Rows given the same seed start from the same state and, given the same
                actions, go the same way.

        Raises:
            RuntimeError: `spec.capabilities` doesn't name `reset_rows`.
        """
        raise RuntimeError(
            f"{type(self).__name__} can't reset single rows to a chosen state: "
            f"'reset_rows' is not in its spec.capabilities."
        )

    def step_rows(self, actions: torch.Tensor, active: torch.Tensor, *, draw: bool = True) -> StepReturn:
        """Step like `step`, but hold rows where `active`, bool `(num_envs,)`, is False.

        Needs the capability `step_rows`. A held row keeps its state, observation and episode length; its rewards,
        reward terms and flags are 0.

        Args:
            actions: As in `step`.
            active: Rows to step.
            draw: True to render the image groups. Inside an action chunk no policy sees them: with False, images may
                stay unchanged, or blank where an episode begins, until a step draws. The final observation of an
                episode that ends by time has exact ones, for its value is needed.

        Raises:
            RuntimeError: `spec.capabilities` doesn't name `step_rows`.
        """
        raise RuntimeError(
            f"{type(self).__name__} can't hold single rows: 'step_rows' is not in its spec.capabilities."
        )

    def set_eval_policy(self, policy: EvalPolicy | None) -> None:  # noqa: B027 - most environments have no eval rows
        """Drive the eval rows, if there are any (see `GroupVec`), by `policy`; runners give the current policy."""

    @property
    def instruction_table(self) -> InstructionTable:
        """Return the texts of all instruction ids observed so far; stored beside recorded data.

        An environment that knows which texts are to come has them here from the start, so that policies tokenize them
        before they act.
        """
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return the state for an exact resume (simulator, counters, curricula) as tensors and plain data.

        An empty dict means that the simulator can't be restored; a resumed run then starts with fresh episodes.
        """
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if state:
            raise SpecMismatch(f"{type(self).__name__} holds no restorable state, got the keys {sorted(state)}.")

    def render(self) -> Any:
        """Return an RGB frame `(H, W, 3)` uint8 of environment 0 as a NumPy array.

        Raises:
            RuntimeError: The environment has no renderer or was built without one.
        """
        raise RuntimeError(
            f"{type(self).__name__} can't render. Build the environment with render=True if it supports it."
        )

    def watch_chunks(self, watcher: ActionWatcher | None) -> bool:
        """Call `watcher` before every action inside a chunk (see `MultiModal`) until it is replaced; None for nobody.

        Returns:
            False where a step executes a single action: `watcher` is never called then.
        """
        return False

    def measurements(self) -> dict[str, dict[str, torch.Tensor]]:
        """Return current performance in the task's own units: subject -> part -> float `(num_envs,)`.

        For example the velocity error of a walking robot. An evaluation averages this over steps and environments;
        most environments measure nothing beyond rewards and success.
        """
        return {}

    def simulator_interface(self) -> SimulatorInterface:
        """Return the conversions between policy and simulator, so that an exported policy works without us.

        This default describes an environment that is its own simulator: `step` clips actions to their bounds.
        """
        return SimulatorInterface(ActionInterface.of(self.spec.action))

    def export_metadata(self, run: str, *, actions: Units = "policy") -> dict[str, str]:
        """Return metadata for the simulator's own tools in exported policies, such as joint names and gains.

        Args:
            run: Name of the run.
            actions: Units of the file's actions, see `simulator_interface`: the policy's, or the simulator's.
        """
        return {}

    def close(self) -> None:  # noqa: B027 - closing is optional
        """Free the simulator; safe to call twice."""
