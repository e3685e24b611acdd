"""Test of an environment against every sentence of the contract in `vec_env.py`.

    check_vec_env(MyEnvCfg(num_envs=4).build())

raises an `EnvContractError` that lists each violation once. Every adapter's tests call it.
"""

from __future__ import annotations

import io
from itertools import combinations
from typing import Any

import torch
from tensordict import TensorDict

from ..utils.errors import ConfigError, EnvContractError
from .run_comparison import copied, equal_runs, generators, restore_generators
from .spec import EnvSpec
from .structure import StructureCheck, contract_error
from .vec_env import StepReturn, VecEnv

_KNOWN_EXTRAS = (
    *("final_observations", "success", "reward_terms", "command", "dynamics", "group_id", "active"),
    *("instruction", "executed_steps", "chunk_rewards", "raw_rewards"),
)
_STATE_EXTRAS = ("command", "dynamics", "group_id", "instruction")
_ROW_LABELS = ("block", "instruction_id")
"""Groups that differ between rows by design, whatever their state."""
_CAPABILITIES = ("reset_rows", "step_rows")
_REPEATED_STEPS = 15


def check_vec_env(
    env: VecEnv,
    *,
    num_steps: int = 60,
    seed: int = 0,
    exact_final_observations: bool = True,
    raise_error: bool = True,
) -> list[str]:
    """Test `env` against the contract; it is reset several times and left at the start of new episodes.

    Args:
        env: Environment; a `GroupVec` with eval rows needs its eval policy before.
        num_steps: Number of random steps to watch.
        seed: Seed of the resets and the random actions.
        exact_final_observations: Compare the final observation of a truncated episode with the one that the same seeded
            episode has when it continues. Turn it off only if observation noise is drawn from a generator that all rows
            share.
        raise_error: Raise an error if there are violations; otherwise return them.

    Raises:
        EnvContractError: Lists the violations.
    """
    check = _Check(env, seed)
    try:
        check.run(num_steps, exact_final_observations)
    except EnvContractError as error:
        check.violations.append(str(error))  # what an adapter found below it, while it was stepped
    if check.violations and raise_error:
        raise contract_error(env, check.violations)
    return check.violations


class _Check(StructureCheck):
    """The checks, in the order of their calls, and the violations found."""

    def __init__(self, env: VecEnv, seed: int) -> None:
        super().__init__(env)
        self.seed = seed
        self._generator = torch.Generator().manual_seed(seed)

    def run(self, num_steps: int, exact_final_observations: bool) -> None:
        """Run all checks; later ones only if the shapes that they compare are right."""
        self.spec()
        if not self.violations:
            self.rollout(num_steps)
        # What follows compares runs with one another; with wrong shapes it would only repeat them in other words.
        if not self.violations:
            self.time_limit(exact_final_observations)
            self.given_and_returned_tensors()
            self.seeding()
            self.action_range()
            self.state()
            self.rows()
            self.env.reset(seed=self.seed)

    # --- what the environment says about itself ---------------------------------------------------------------------

    def spec(self) -> None:
        """Check that the spec is complete and agrees with the attributes."""
        spec = getattr(self.env, "spec", None)
        if not self.expect(isinstance(spec, EnvSpec), f"spec is {type(spec).__name__}, expected an EnvSpec"):
            return
        spec = self.env.spec
        self.expect(spec.num_envs >= 1, f"spec.num_envs is {spec.num_envs}, expected at least 1")
        self.expect(bool(spec.obs_groups), "spec.obs_groups is empty")
        self.expect(
            isinstance(self.env.device, torch.device), f"device is {self.env.device!r}, expected a torch.device"
        )
        try:
            same = EnvSpec.from_dict(spec.to_dict()) == spec
        except ConfigError as error:
            self.expect(False, str(error).rstrip("."))
        else:
            self.expect(same, "spec changes when it goes through to_dict and from_dict")
        unknown = [name for name in spec.extras if name not in _KNOWN_EXTRAS]
        self.expect(not unknown, f"spec.extras declares {unknown}, which the contract doesn't know")
        unknown = [name for name in spec.capabilities if name not in _CAPABILITIES]
        self.expect(not unknown, f"spec.capabilities names {unknown}; there are {list(_CAPABILITIES)}")
        named, declared = bool(spec.reward_terms), "reward_terms" in spec.extras
        self.expect(
            named == declared, "spec.reward_terms must name the terms if and only if spec.extras has 'reward_terms'"
        )
        for name in ("command", "dynamics", "chunk_rewards"):
            if name in spec.extras:
                self.expect(
                    name in spec.extra_dims, f"spec.extras has '{name}', but spec.extra_dims doesn't give its width"
                )
        for name, bound in (("low", spec.action.low), ("high", spec.action.high)):
            if bound is not None:
                self.expect(
                    len(bound) == spec.action.dim, f"spec.action.{name} has {len(bound)} numbers, not {spec.action.dim}"
                )

    # --- one random rollout -----------------------------------------------------------------------------------------

    def rollout(self, num_steps: int) -> None:
        """Check random steps: shapes, dtypes, keys, flags, counters and final observations."""
        env = self.env
        self.observations(env.get_observations(), "get_observations() before the first reset")
        obs = self._reset()
        self.observations(obs, "reset")
        self._same_as_current(obs, "reset")
        self.lengths()
        if self.violations:
            return
        self.expect(not env.episode_length_buf.any(), "episode_length_buf isn't 0 after reset")
        for _ in range(num_steps):
            before = env.episode_length_buf.clone()
            step = env.step(self._actions())
            self.step(step)
            if self.violations:
                return
            self.counters(before, step)
            self._same_as_current(step[0], "step")

    def tensor(self, value: Any, what: str, dtype: torch.dtype, shape: tuple[int, ...] = ()) -> None:
        """Check a tensor as in any step, and that all values are finite."""
        super().tensor(value, what, dtype, shape)
        if isinstance(value, torch.Tensor):
            self.expect(bool(value.isfinite().all()), f"{what} has values that aren't finite")

    def lengths(self) -> None:
        """Check that `episode_length_buf` is int64 `(num_envs,)`."""
        self.tensor(self.env.episode_length_buf, "episode_length_buf", torch.int64)

    def step(self, step: Any) -> None:
        """Check a returned step by itself."""
        super().step(step)
        if self.violations:
            return
        obs, _, dones, extras = step
        self._flags(dones, extras)
        if "final_observations" in extras:
            running = ~dones.bool()
            for name in self.env.spec.obs_groups:
                equal = torch.equal(extras["final_observations"][name][running], obs[name][running])
                self.expect(
                    equal, f"final_observations['{name}'] differs from the observations in rows that aren't done"
                )

    def _flags(self, dones: torch.Tensor, extras: dict[str, Any]) -> None:
        either = extras["terminated"] | extras["time_outs"]
        self.expect(torch.equal(dones, either.long()), "dones isn't terminated | time_outs as 0 and 1")
        self.expect(
            not bool((extras["terminated"] & extras["time_outs"]).any()),
            "a row is terminated and time_outs at once: where the task ended, nothing is bootstrapped",
        )

    def counters(self, before: torch.Tensor, step: StepReturn) -> None:
        """Check that `episode_length_buf` counts executed steps, restarts at 0 and never exceeds the horizon."""
        _, _, dones, extras = step
        executed = torch.ones_like(before)
        if "executed_steps" in extras:
            executed = extras["executed_steps"]
        elif "active" in extras:
            executed = extras["active"].long()
        taken = before + executed
        self.lengths()
        expected = torch.where(dones.bool(), 0, taken)
        self.expect(
            torch.equal(self.env.episode_length_buf, expected),
            "episode_length_buf isn't one more after a step and 0 after an episode ended",
        )
        horizon = self.env.max_episode_length
        if horizon:
            self.expect(bool((taken <= horizon).all()), f"an episode went on beyond max_episode_length={horizon}")

    # --- comparisons of runs ----------------------------------------------------------------------------------------

    def time_limit(self, exact: bool) -> None:
        """Check that an `episode_length_buf` one step before the horizon truncates every episode next."""
        env, horizon = self.env, self.env.max_episode_length
        if not horizon:
            return
        actions = self._actions()
        self._reset()
        going_on = copied(env.step(actions))
        self._reset()
        given = torch.full_like(env.episode_length_buf, horizon - 1)
        env.episode_length_buf = given
        self.expect(torch.equal(env.episode_length_buf, given), "episode_length_buf doesn't return what it was set to")
        obs, _, dones, extras = cut = copied(env.step(actions))
        if not self.expect(
            bool(dones.all()) and torch.equal(extras["time_outs"], ~extras["terminated"]),
            "episode_length_buf was set to max_episode_length - 1, but the next step doesn't cut the episodes",
        ):
            return
        self.expect(
            bool((given == horizon - 1).all()), "the tensor that episode_length_buf was set to is changed by step"
        )
        self.step(cut)
        # A chunk that is cut executes fewer actions, so the two runs are comparable for single actions only.
        if exact and "final_observations" in extras and env.spec.extra_dims.get("chunk_rewards", 1) <= 1:
            same_step = ~going_on[2].bool()
            final = extras["final_observations"]
            for name in self.env.spec.obs_groups:
                true, got = going_on[0][name][same_step], final[name][same_step]
                first = obs[name][same_step]
                hint = " (it is the first observation of the next episode)" if torch.equal(got, first) else ""
                self.expect(
                    torch.equal(got, true),
                    f"final_observations['{name}'] isn't the last observation of the episode where done{hint}",
                )

    def given_and_returned_tensors(self) -> None:
        """Check that actions aren't changed, observations outlive the next step, and flags share no memory."""
        self._reset()
        for _ in range(5):
            actions = self._actions()
            given = actions.clone()
            obs, rewards, dones, extras = self.env.step(actions)
            self.expect(torch.equal(actions, given), "step changes the actions it is given")
            kept = obs.clone()
            named = {"rewards": rewards, "dones": dones, **extras}
            tensors = {name: tensor for name, tensor in named.items() if isinstance(tensor, torch.Tensor)}
            for (name, first), (other, second) in combinations(tensors.items(), 2):
                shared = first.numel() > 0 and first.data_ptr() == second.data_ptr()
                self.expect(not shared, f"'{name}' and '{other}' share their memory")
            self.env.step(self._actions())
            alive = all(torch.equal(obs[name], kept[name]) for name in self.env.spec.obs_groups)
            self.expect(
                alive, "observations are overwritten by the very next step, where rsl_rl's runner still needs them"
            )

    def seeding(self) -> None:
        """Check that equal seeds and equal actions give equal runs."""
        actions = [self._actions() for _ in range(_REPEATED_STEPS)]
        runs = []
        for _ in range(2):
            obs = self._reset().clone()
            self._near_the_horizon()
            runs.append([(obs, None, None, {}), *(copied(self.env.step(action)) for action in actions)])
        first, again = self._reset().clone(), self._reset()
        self.expect(equal_runs([first], [again]), "a second reset with the same seed, without a step, starts elsewhere")
        self.expect(equal_runs(*runs), f"two runs after reset(seed={self.seed}) with the same actions differ")

    def action_range(self) -> None:
        """Check that every action of the space is accepted, and that actions outside the bounds are clipped."""
        spec = self.env.spec.action
        if spec.kind == "discrete":
            for value in (0, spec.dim - 1):
                self._reset()
                self.step(self.env.step(torch.full_like(self._actions(), value)))
        elif spec.low is not None and spec.high is not None:
            for bound, beyond in ((spec.low, -3.0), (spec.high, 3.0)):
                limit = torch.tensor(bound, device=self.env.device).expand_as(self._actions())
                self._reset()
                inside = copied(self.env.step(limit.clone()))
                self._reset()
                outside = copied(self.env.step(limit + beyond))
                self.expect(
                    equal_runs([inside], [outside]), f"actions beyond spec.action ({beyond:+g}) aren't clipped to it"
                )

    def state(self) -> None:
        """Check that a restored environment continues identically, and that its state is plain data."""
        env = self.env
        self._reset()
        for _ in range(3):
            env.step(self._actions())
        self._near_the_horizon()
        state = env.state_dict()
        if (
            not self.expect(isinstance(state, dict), f"state_dict returns {type(state).__name__}, expected a dict")
            or not state
        ):
            return
        file = io.BytesIO()
        torch.save(state, file)
        before = generators()
        actions = [self._actions() for _ in range(_REPEATED_STEPS)]
        going_on = [copied(env.step(action)) for action in actions]
        file.seek(0)
        # weights_only: a checkpoint with anything but tensors and plain data can't be loaded.
        env.load_state_dict(torch.load(file, weights_only=True))
        restore_generators(before)
        restored = [copied(env.step(action)) for action in actions]
        self.expect(
            equal_runs(going_on, restored), "after load_state_dict(state_dict()) the environment goes on differently"
        )

    def rows(self) -> None:
        """Check that the capabilities named by the spec work."""
        if "step_rows" in self.env.spec.capabilities:
            self._held_rows()
        if "reset_rows" in self.env.spec.capabilities:
            self._reset_rows()

    def _held_rows(self) -> None:
        env = self.env
        before = self._reset().clone()
        active = torch.arange(env.num_envs, device=env.device) % 2 == 1
        held = ~active
        obs, rewards, dones, _ = step = env.step_rows(self._actions(), active, draw=True)
        self.step(step)
        same = all(torch.equal(obs[name][held], before[name][held]) for name in env.spec.obs_groups)
        self.expect(same, "step_rows changes the observation of a row that is held")
        idle = (
            not bool(rewards[held].any())
            and not bool(dones[held].any())
            and not bool(env.episode_length_buf[held].any())
        )
        self.expect(idle, "step_rows gives a held row a reward, an ending or a longer episode")

    def _reset_rows(self) -> None:
        env = self.env
        self._reset()
        before = env.step(self._actions())[0].clone()
        rows = torch.arange(env.num_envs, device=env.device)[: max(1, env.num_envs - 1)]
        obs, extras = env.reset_rows(rows, [self.seed + 17] * len(rows))
        self.observations(obs, "reset_rows")
        self._state_extras(extras, "reset_rows")
        for name in env.spec.obs_groups:
            alike = name in _ROW_LABELS or bool((obs[name][rows] == obs[name][:1]).all())
            self.expect(alike, f"rows given the same seed by reset_rows observe different '{name}'")
            self.expect(
                torch.equal(obs[name][len(rows) :], before[name][len(rows) :]),
                "reset_rows changes rows it wasn't given",
            )
        self.expect(not bool(env.episode_length_buf[rows].any()), "reset_rows doesn't set episode_length_buf to 0")

    # --- small things -----------------------------------------------------------------------------------------------

    def _reset(self) -> TensorDict:
        result = self.env.reset(seed=self.seed)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise contract_error(self.env, ["reset doesn't return (observations, extras)"])
        self._state_extras(result[1], "reset")
        return result[0]

    def _state_extras(self, extras: Any, where: str) -> None:
        if self.expect(
            isinstance(extras, dict), f"{where} returns extras of type {type(extras).__name__}, expected a dict"
        ):
            missing = [name for name in _STATE_EXTRAS if name in self.env.spec.extras and name not in extras]
            self.expect(not missing, f"the extras of {where} lack {missing}, which describe a state")

    def _same_as_current(self, obs: TensorDict, where: str) -> None:
        for attempt in ("first", "second"):
            current = self.env.get_observations()
            self.observations(current, f"the {attempt} get_observations() after {where}")
            if self.violations:
                return
            for name in self.env.spec.obs_groups:
                self.expect(
                    torch.equal(obs[name], current[name]),
                    f"the {attempt} get_observations() after {where} returns another '{name}' than {where} did",
                )

    def _near_the_horizon(self) -> None:
        """Let episodes end soon, so that the next steps contain resets."""
        horizon = self.env.max_episode_length
        if horizon:
            self.env.episode_length_buf = torch.full_like(self.env.episode_length_buf, max(0, horizon - 4))

    def _actions(self) -> torch.Tensor:
        env, spec = self.env, self.env.spec.action
        shape = (env.num_envs, *spec.shape)
        if spec.kind == "discrete":
            return torch.randint(0, spec.dim, shape, generator=self._generator).to(env.device)
        if spec.low is None or spec.high is None:
            return torch.randn(shape, generator=self._generator).to(env.device)
        low, high = torch.tensor(spec.low), torch.tensor(spec.high)
        return (low + (high - low) * torch.rand(shape, generator=self._generator)).to(env.device)
