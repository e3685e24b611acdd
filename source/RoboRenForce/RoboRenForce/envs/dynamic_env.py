"""The second link of the chain: reward terms, commands and dynamics state as extras, and the flat sizes.

Multi-objective critics, belief models and world models need more than one reward number and one observation vector.
`DynamicEnv` collects what the inner environment provides into the extras `reward_terms`, `command` and `dynamics`, at
`reset` as well as at every `step`, and lists all widths (`dim_params`). With `observe` a channel is an observation
group too, for networks that are conditioned on it:

    env.dynamic={observe: [command]}  obs_groups={critic: [critic, command]}
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from tensordict import TensorDict

from ..configclass import Cfg, ConfigError, configclass
from .obs_groups import resolve_obs_groups
from .spec import EnvSpec
from .vec_env import StepReturn, VecEnv
from .wrapper import VecEnvWrapper

CHANNELS = ("reward_terms", "command", "dynamics")


@runtime_checkable
class DynamicSource(Protocol):
    """Environment that provides channels which are not in its extras."""

    reward_term_names: tuple[str, ...]
    """Names of the columns of `reward_terms`; empty if there are none."""

    def dynamic_channels(self) -> Mapping[str, torch.Tensor]:
        """Return the current value of every channel that exists, each float `(num_envs, width)`.

        The keys, a subset of `reward_terms`, `command` and `dynamics`, are the same at every call, also before the
        first step. `reward_terms` belongs to the last step, `command` and `dynamics` to the current observations.
        """
        ...


class DynamicEnv(VecEnvWrapper):
    """Wrapper that provides the channels which the inner environment declares or, as a `DynamicSource`, offers."""

    def __init__(self, cfg: DynamicEnvCfg, env: VecEnv) -> None:
        super().__init__(env)
        self._source = env if isinstance(env, DynamicSource) else None
        offered = dict(self._source.dynamic_channels()) if self._source else {}
        self._collected = tuple(name for name in CHANNELS if name in offered and name not in env.spec.extras)
        self._observe = tuple(cfg.observe)
        self._observed: dict[str, torch.Tensor] = {}
        self.spec = _extended_spec(env, self._collected, offered)
        _require_channels(cfg, self.spec)
        if self._observe:
            self.spec = _spec_with_groups(self.spec, self._observe)
            self.reset()  # only the extras of a reset tell the channels in force

    @property
    def dim_params(self) -> dict[str, int]:
        """Flat sizes: policy, critic, dynamic (0 if unknown), action, command, rewards, `<group>_dim` of each group."""
        spec = self.spec
        sets = resolve_obs_groups(spec)
        dims = {f"{group}_dim": math.prod(shape) for group, shape in spec.obs_groups.items()}
        dims["policy_dim"] = spec.obs_dim(sets["actor"])
        dims["critic_dim"] = spec.obs_dim(sets["critic"])
        dims["dynamic_dim"] = spec.extra_dims.get("dynamics", 0)
        dims["command_dim"] = spec.extra_dims.get("command", 0)
        dims["action_dim"] = spec.action.dim
        dims["rewards_dim"] = len(spec.reward_terms)
        return dims

    def get_observations(self) -> TensorDict:
        """See `VecEnv.get_observations`."""
        return self._with_observed(self.env.get_observations())

    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        """See `VecEnv.reset`."""
        obs, extras = self.env.reset(seed=seed)
        return self._extend(obs, {**extras, **self._channels(of_step=False)})

    def reset_rows(self, env_ids: torch.Tensor, seeds: Sequence[int]) -> tuple[TensorDict, dict[str, Any]]:
        """See `VecEnv.reset_rows`."""
        obs, extras = self.env.reset_rows(env_ids, seeds)
        return self._extend(obs, {**extras, **self._channels(of_step=False)})

    def step(self, actions: torch.Tensor) -> StepReturn:
        """See `VecEnv.step`."""
        return self._finish(self.env.step(actions))

    def step_rows(self, actions: torch.Tensor, active: torch.Tensor, *, draw: bool = True) -> StepReturn:
        """See `VecEnv.step_rows`."""
        return self._finish(self.env.step_rows(actions, active, draw=draw))

    def state_dict(self) -> dict[str, Any]:
        """Return the state of the environment and the observed channels; empty if it can't be restored."""
        inner = self.env.state_dict()
        return {"env": inner, "observed": dict(self._observed)} if inner else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if not state:
            return
        self.env.load_state_dict(state["env"])
        self._observed = {name: value.to(self.device).clone() for name, value in state["observed"].items()}

    def _finish(self, step: StepReturn) -> StepReturn:
        obs, rewards, dones, extras = step
        obs, extras = self._extend(obs, {**extras, **self._channels()})
        return obs, rewards, dones, extras

    def _channels(self, of_step: bool = True) -> dict[str, torch.Tensor]:
        if self._source is None or not self._collected:
            return {}
        offered = self._source.dynamic_channels()
        return {name: offered[name] for name in self._collected if of_step or name != "reward_terms"}

    def _extend(self, obs: TensorDict, extras: dict[str, Any]) -> tuple[TensorDict, dict[str, Any]]:
        """Turn the observed channels among `extras` into groups of `obs`."""
        if self._observe:
            # Extras may be overwritten by the next step, observations only by the one after it.
            self._observed = {name: extras[name].clone() for name in self._observe}
            extras.pop("final_observations", None)
        return self._with_observed(obs), extras

    def _with_observed(self, obs: TensorDict) -> TensorDict:
        if not self._observe:
            return obs
        return TensorDict({**dict(obs.items()), **self._observed}, batch_size=obs.batch_size, device=obs.device)


@configclass
class DynamicEnvCfg(Cfg):
    """Configuration of `DynamicEnv`; build it with `DynamicEnvCfg().build(env)`."""

    class_type: type = DynamicEnv
    require: list[Literal["reward_terms", "command", "dynamics"]] = []
    """Channels that training needs; building fails if the environment lacks one."""
    observe: list[Literal["command", "dynamics"]] = []
    """Channels that are observation groups of the same name too.

    Their values at the end of an episode are lost once it has been reset, so the extra `final_observations` is not
    available then (PPO: `time_out_bootstrap=current`).
    """


def _require_channels(cfg: DynamicEnvCfg, spec: EnvSpec) -> None:
    for option, wanted in (("require", cfg.require), ("observe", cfg.observe)):
        if missing := [name for name in wanted if name not in spec.extras]:
            has = [name for name in CHANNELS if name in spec.extras]
            raise ConfigError(
                f"DynamicEnvCfg.{option} asks for {missing}, but {spec.task} provides {has or 'no channel'}: drop "
                f"them from `{option}`, or let the environment offer them in dynamic_channels()."
            )


def _spec_with_groups(spec: EnvSpec, channels: Sequence[str]) -> EnvSpec:
    """Return `spec` with the channels as observation groups."""
    if taken := [name for name in channels if name in spec.obs_groups]:
        raise ConfigError(f"DynamicEnvCfg.observe: {spec.task} has the observation groups {taken} already, drop them.")
    groups = {**spec.obs_groups, **{name: (spec.extra_dims[name],) for name in channels}}
    extras = tuple(name for name in spec.extras if name != "final_observations")
    return replace(spec, obs_groups=groups, extras=extras)


def _extended_spec(env: VecEnv, collected: tuple[str, ...], offered: Mapping[str, torch.Tensor]) -> EnvSpec:
    spec = env.spec
    dims = dict(spec.extra_dims)
    dims.update({name: offered[name].shape[-1] for name in collected if name != "reward_terms"})
    terms = spec.reward_terms
    if "reward_terms" in collected and isinstance(env, DynamicSource):
        terms = env.reward_term_names
        if len(terms) != offered["reward_terms"].shape[-1]:
            raise ValueError(
                f"{spec.task} names {len(terms)} reward terms and offers {offered['reward_terms'].shape[-1]} columns: "
                f"reward_term_names and dynamic_channels()['reward_terms'] must agree."
            )
    return replace(spec, extras=(*spec.extras, *collected), extra_dims=dims, reward_terms=terms)
