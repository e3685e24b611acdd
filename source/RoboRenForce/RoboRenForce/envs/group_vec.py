"""The third link of the chain: rows with different roles.

The rows of the inner environment are, in this order,

    | block 0 | block 1 | ... | block M-1 |  eval  |        SAPG: blocks explore differently
    | group 0 | group 1 | ... | group G-1 |  eval  |        GRPO: members of a group start from the same state
    |<------- training: spec.num_envs ---->|

The last block is the leader, the policy that is deployed. With `observe_blocks` rows observe the group `block`, the
number of blocks between theirs and the leader: M-1, ..., 1, and 0 for the leader, with which eval rows are played too.

A learner sees the training rows only. The eval rows are driven by a policy of their own (`set_eval_policy`) or by
actions given to `step`. Their episodes are logged as `Eval/mean_return`, `Eval/mean_episode_length` and, if the
environment defines success, `Eval/success_rate` in `extras["log"]`: evaluation without a second simulator.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Annotated, Any

import torch
from tensordict import TensorDict

from ..configclass import Cfg, ConfigError, Range, configclass
from .eval_statistics import EvalStatistics
from .grouped_reset import GroupedReset
from .obs_groups import BLOCK
from .spec import EnvSpec
from .vec_env import EvalPolicy, StepReturn, VecEnv
from .wrapper import VecEnvWrapper


class GroupVec(VecEnvWrapper):
    """Split the batch into training rows (in blocks or groups, if configured) and eval rows."""

    def __init__(self, cfg: GroupVecCfg, env: VecEnv) -> None:
        super().__init__(env)
        self.group_cfg = cfg
        self.num_eval_envs = cfg.num_eval_envs
        self._num_train = _num_train_rows(cfg, env)
        self._group_id = _block_of_rows(cfg, self._num_train, env.device)
        self._to_leader: torch.Tensor | None = None
        if cfg.observe_blocks and cfg.num_blocks is not None and self._group_id is not None:
            self._to_leader = (cfg.num_blocks - 1 - self._group_id).unsqueeze(1).float()
        self._groups = None
        if cfg.group_size is not None:
            seed = env.cfg.seed if cfg.seed is None else cfg.seed
            self._groups = GroupedReset(env, self._num_train, cfg.group_size, seed, cfg.check_same_start)
            self._group_id = self._groups.group_id
        self._eval_policy: EvalPolicy | None = None
        self.eval_statistics = EvalStatistics(cfg.num_eval_envs, cfg.eval_window, env.device)
        self.spec = self._make_spec()
        self._keep(env.get_observations())
        if self._groups is not None:
            # Members of a group must start alike from the first episode on.
            self.reset(seed=self._groups.seed)

    @property
    def episode_length_buf(self) -> torch.Tensor:
        """int64 `(num_envs,)` of the training rows; settable."""
        return self.env.episode_length_buf[: self._num_train]

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        lengths = self.env.episode_length_buf.clone()
        lengths[: self._num_train] = value
        self.env.episode_length_buf = lengths

    def set_eval_policy(self, policy: EvalPolicy | None) -> None:
        """Drive the eval rows by `policy` from now on.

        The current episodes don't count, since another policy started them.
        """
        self._eval_policy = policy
        if policy is not None:
            policy.reset(None)
        self.eval_statistics.discard_running()

    @property
    def eval_observations(self) -> TensorDict:
        """Return the current observations of the eval rows, batch size `[num_eval_envs]`."""
        return self._eval_current

    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        """Start new episodes in all rows, eval rows included."""
        obs, extras = self.env.reset(seed=seed)
        if self._groups is not None:
            obs, extras = self._groups.reset(seed)
        self.eval_statistics.restart()
        if self._eval_policy is not None:
            self._eval_policy.reset(None)
        return self._keep(obs), self._train_extras(extras)

    def get_observations(self) -> TensorDict:
        """Return the current observations of the training rows."""
        return self._current

    def step(self, actions: torch.Tensor, eval_actions: torch.Tensor | None = None) -> StepReturn:
        """Step training and eval rows together.

        Args:
            actions: `(num_envs, *action.shape)`, for the training rows.
            eval_actions: `(num_eval_envs, *action.shape)`; None: the eval policy chooses.

        Raises:
            RuntimeError: There are eval rows, but neither actions nor a policy for them.
        """
        actions = self._all_actions(actions, eval_actions)
        if self._groups is None:
            return self._finish(self.env.step(actions))
        return self._finish(self._groups.step(actions, self._everybody()))

    def step_rows(self, actions: torch.Tensor, active: torch.Tensor, *, draw: bool = True) -> StepReturn:
        """See `VecEnv.step_rows`; eval rows are never held."""
        actions, runs = self._all_actions(actions, None), self._everybody()
        runs[: self._num_train] = active
        step_rows = self.env.step_rows if self._groups is None else self._groups.step
        return self._finish(step_rows(actions, runs, draw=draw))

    def reset_rows(self, env_ids: torch.Tensor, seeds: Sequence[int]) -> tuple[TensorDict, dict[str, Any]]:
        """See `VecEnv.reset_rows`; not available with `group_size`, where groups are reset together."""
        if self._groups is not None:
            raise RuntimeError(
                "GroupVec resets whole groups by itself: use reset(seed=...) to start them at a chosen state."
            )
        obs, extras = self.env.reset_rows(env_ids, seeds)
        return self._keep(obs), self._train_extras(extras)

    def state_dict(self) -> dict[str, Any]:
        """Return the state of environment, groups and statistics; empty if the environment can't be restored."""
        inner = self.env.state_dict()
        if not inner:
            return {}
        groups = {} if self._groups is None else self._groups.state_dict()
        return {"env": inner, "groups": groups, "eval": self.eval_statistics.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        if not state:
            return
        self.env.load_state_dict(state["env"])
        if self._groups is not None:
            self._groups.load_state_dict(state["groups"])
        self.eval_statistics.load_state_dict(state["eval"])
        self._keep(self.env.get_observations())

    def _everybody(self) -> torch.Tensor:
        return torch.ones(self.env.num_envs, dtype=torch.bool, device=self.device)

    def _finish(self, step: StepReturn) -> StepReturn:
        """Return the learner's part of a step of all rows."""
        obs, rewards, dones, extras = step
        train_extras = self._train_extras(extras)
        if self.num_eval_envs:
            self._record_eval(rewards, dones, extras)
            train_extras["log"] = {**extras["log"], **self.eval_statistics.log()}
        return self._keep(obs), rewards[: self._num_train], dones[: self._num_train], train_extras

    def _record_eval(self, rewards: torch.Tensor, dones: torch.Tensor, extras: dict[str, Any]) -> None:
        rows = slice(self._num_train, None)
        success = extras["success"][rows] if "success" in extras else None
        self.eval_statistics.record(extras.get("raw_rewards", rewards)[rows], dones[rows], success)
        if self._eval_policy is not None:
            self._eval_policy.reset(dones[rows])

    def _all_actions(self, actions: torch.Tensor, eval_actions: torch.Tensor | None) -> torch.Tensor:
        if not self.num_eval_envs:
            return actions
        if eval_actions is None:
            if self._eval_policy is None:
                raise RuntimeError(
                    f"GroupVec has {self.num_eval_envs} eval rows and nothing that acts for them: call "
                    f"set_eval_policy(policy) before the first step, or pass eval_actions."
                )
            eval_actions = self._eval_policy(self.eval_observations)
        return torch.cat([actions, eval_actions.to(actions)])

    def _keep(self, obs: TensorDict) -> TensorDict:
        """Store the observations of all rows and return those of the training rows."""
        self._current = self._rows_of(obs)
        if self.num_eval_envs:
            self._eval_current = self._rows_of(obs, evaluation=True)
        return self._current

    def _train_extras(self, extras: dict[str, Any]) -> dict[str, Any]:
        cut = dict(extras)
        for name, value in extras.items():
            if name == "final_observations":
                cut[name] = self._rows_of(value)
            elif name != "log" and self.num_eval_envs:
                cut[name] = value[: self._num_train]
        if self._group_id is not None:
            cut["group_id"] = self._group_id
        return cut

    def _rows_of(self, obs: TensorDict, evaluation: bool = False) -> TensorDict:
        """Return training (or eval) rows of `obs`, batch `[env.num_envs]`, with `block` if configured."""
        rows = slice(self._num_train, None) if evaluation else slice(0, self._num_train)
        groups = {name: tensor[rows] for name, tensor in obs.items()}
        size = self.num_eval_envs if evaluation else self._num_train
        if self._to_leader is not None:
            # Eval rows are played by the leader: that is the policy one deploys.
            groups[BLOCK] = self._to_leader[-1:].expand(size, 1) if evaluation else self._to_leader
        return TensorDict(groups, batch_size=[size], device=obs.device)

    def _make_spec(self) -> EnvSpec:
        spec = self.env.spec
        groups = dict(spec.obs_groups)
        if self._to_leader is not None:
            groups[BLOCK] = (1,)
        extras = [*spec.extras]
        capabilities = list(spec.capabilities)
        if self._group_id is not None:
            extras.append("group_id")
        if self._groups is not None:
            extras.append("active")
            capabilities.remove("reset_rows")  # groups are reset together
        return replace(
            spec,
            num_envs=self._num_train,
            num_blocks=self.group_cfg.num_blocks or 1,
            obs_groups=groups,
            extras=tuple(extras),
            capabilities=tuple(capabilities),
        )


@configclass
class GroupVecCfg(Cfg):
    """Configuration of `GroupVec`; build it with `GroupVecCfg(...).build(env)`."""

    class_type: type = GroupVec
    num_eval_envs: Annotated[int, Range(ge=0)] = 0
    """Number of rows at the end of the batch for evaluation."""
    eval_window: Annotated[int, Range(ge=1)] = 10
    """Number of newest finished episodes of each eval row in the logged means."""
    num_blocks: Annotated[int, Range(ge=1)] | None = None
    """Number of equal blocks of the training rows (SAPG); `extras["group_id"]` is the block."""
    observe_blocks: bool = False
    """True to observe the group `block` of width 1: the number of blocks between the row's and the leader, the last."""
    group_size: Annotated[int, Range(ge=2)] | None = None
    """Number of rows per group that start together from the same state (GRPO); `extras["group_id"]` is the group."""
    seed: int | None = None
    """First of the groups' start seeds; None: the environment's."""
    check_same_start: bool = True
    """True to compare the first observations of a group's members and raise an error if they differ."""

    def for_evaluation(self) -> GroupVecCfg | None:
        """Return the options with every row alone (of blocks, the leader's), None if nothing is observed."""
        return self.replace(num_eval_envs=0, num_blocks=1, group_size=None) if self.observe_blocks else None

    def check(self) -> Iterable[str]:
        """Check that blocks and groups exclude each other, and that there are blocks to observe."""
        if self.num_blocks is not None and self.group_size is not None:
            yield "num_blocks and group_size both say what group_id means: set one of them"
        if self.observe_blocks and self.num_blocks is None:
            yield "observe_blocks is set, but there are no blocks: set num_blocks"


def _num_train_rows(cfg: GroupVecCfg, env: VecEnv) -> int:
    num_train = env.num_envs - cfg.num_eval_envs
    if num_train < 1:
        raise ConfigError(
            f"GroupVecCfg.num_eval_envs is {cfg.num_eval_envs} and {env.spec.task} has {env.num_envs} environments: "
            f"at least one must be left for training."
        )
    for name, parts in (("num_blocks", cfg.num_blocks), ("group_size", cfg.group_size)):
        if parts and num_train % parts:
            raise ConfigError(
                f"GroupVecCfg.{name}={parts} must divide the {num_train} training environments ({env.num_envs} in all, "
                f"{cfg.num_eval_envs} of them for evaluation): change one of the three numbers."
            )
    return num_train


def _block_of_rows(cfg: GroupVecCfg, num_train: int, device: torch.device) -> torch.Tensor | None:
    """Return the block of each training row, int64 `(num_train,)`, None without blocks."""
    if cfg.num_blocks is None:
        return None
    return torch.arange(cfg.num_blocks, device=device).repeat_interleave(num_train // cfg.num_blocks)
