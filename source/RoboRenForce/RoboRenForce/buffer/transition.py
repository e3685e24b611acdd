"""One step of all environments as learning sees it: what goes from whoever acts to whoever learns.

    obs --act--> action, record --env.step--> reward, terminated, time_outs, next_obs, reset_obs

The two successors differ only where an episode ended: `next_obs` is its true last observation, whose value a time-out
bootstraps with, `reset_obs` the first of the next episode, from which the next action is chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tensordict import TensorDict
from torch import Tensor

from ..envs.vec_env import StepReturn


@dataclass
class Transition:
    """Tensors of `N` environments, only valid until the next step: whoever keeps them copies them."""

    obs: TensorDict
    """Observations `[N]` that the action was chosen from."""
    action: Tensor
    """`(N, *action.shape)`."""
    reward: Tensor
    """float `(N,)`."""
    terminated: Tensor
    """bool `(N,)`: the task ended, nothing is bootstrapped."""
    time_outs: Tensor
    """bool `(N,)`: the episode was cut, the value of `next_obs` is bootstrapped."""
    done: Tensor
    """int64 `(N,)`: 1 where the episode ended, for either reason."""
    next_obs: TensorDict | None
    """True successors `[N]` of `obs`; None where the environment does not tell them (`final_observations`)."""
    reset_obs: TensorDict
    """What the environment returned, `[N]`: `next_obs`, or where an episode ended the first of the next one."""
    record: Mapping[str, Tensor] = field(default_factory=dict)
    """What `act` said that learning needs, `(N, ...)` each."""
    mask: Tensor | None = None
    """bool `(N,)`: False in rows that waited and did not act (`extras["active"]`); None: all acted."""
    group_id: Tensor | None = None
    """int64 `(N,)`: block or group of each row; None: there are none."""

    @classmethod
    def of_step(cls, obs: TensorDict, action: Tensor, record: Mapping[str, Tensor], step: StepReturn) -> Transition:
        """The transition from `obs` by `action` to what `VecEnv.step` returned."""
        reset_obs, reward, done, extras = step
        return cls(
            obs=obs,
            action=action,
            reward=reward,
            terminated=extras["terminated"],
            time_outs=extras["time_outs"],
            done=done,
            next_obs=extras.get("final_observations"),
            reset_obs=reset_obs,
            record=record,
            mask=extras.get("active"),
            group_id=extras.get("group_id"),
        )
