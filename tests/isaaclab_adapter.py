"""An adapter of manager-based environments of Isaac Lab to `VecEnv`, as a user writes it; tests run it on the fake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from isaaclab_fake import FakeManagerBasedRLEnv, State
from RoboRenForce.configclass import Cfg, configclass
from RoboRenForce.envs import ActionSpec, EnvSpec, VecEnv, VecEnvCfg
from tensordict import TensorDict


class IsaacLabVecEnv(VecEnv):
    """Terms of the group `policy` become groups; rows are held, and started alike, by the state of the scene."""

    def __init__(self, cfg: IsaacLabCfg) -> None:
        self.cfg, self.device = cfg, torch.device(cfg.device)
        self.env = FakeManagerBasedRLEnv(cfg.num_envs, cfg.seed)
        self._final: TensorDict | None = None
        self._reset_idx = self.env._reset_idx
        self.env._reset_idx = self._reset_and_keep  # after it the last observations are gone
        self._obs = self._flat(self.env.observation_manager.compute())
        capabilities = ("reset_rows", "step_rows") if cfg.same_start else ("step_rows",)
        self.spec = EnvSpec(
            task="IsaacLab-Reach",
            num_envs=cfg.num_envs,
            obs_groups={name: tuple(value.shape[1:]) for name, value in self._obs.items()},
            obs_dtypes={"front_camera": "uint8"},
            action=ActionSpec("continuous", self.env.action_manager.total_action_dim, (-1.0,) * 6, (1.0,) * 6),
            max_episode_length=self.env.max_episode_length,
            extras=("final_observations", "success"),
            capabilities=capabilities,
            step_dt=self.env.step_dt,
        )

    @property
    def episode_length_buf(self) -> torch.Tensor:
        return self.env.episode_length_buf

    @episode_length_buf.setter
    def episode_length_buf(self, value: torch.Tensor) -> None:
        self.env.episode_length_buf = value.clone()

    def reset(self, *, seed: int | None = None) -> tuple[TensorDict, dict[str, Any]]:
        self._obs = self._flat(self.env.reset(seed=seed)[0])
        return self._obs, {}

    def get_observations(self) -> TensorDict:
        return self._obs

    def step(self, actions: torch.Tensor) -> Any:
        return self.step_rows(actions, torch.ones(self.num_envs, dtype=torch.bool))

    def step_rows(self, actions: torch.Tensor, active: torch.Tensor, *, draw: bool = True) -> Any:
        held, before, ages = ~active, self.env.scene.get_state(), self.env.episode_length_buf.clone()
        self._final = None
        obs, rewards, terminated, truncated, _ = self.env.step(actions)
        success = self.env.termination_manager.get_term("success") & active
        if held.any():
            rows = held.nonzero().squeeze(1)
            self.env.scene.reset_to(_rows(before, rows), rows)
            self.env.episode_length_buf[rows] = ages[rows]
            obs = self.env.observation_manager.compute()
        self._obs = self._flat(obs)
        terminated = terminated & active
        time_outs = truncated & active & ~terminated
        done = terminated | time_outs
        final = self._obs
        if self._final is not None:
            pairs = ((name, self._final[name], value) for name, value in self._obs.items())
            chosen = {name: torch.where(done.view(-1, *[1] * (new.dim() - 1)), old, new) for name, old, new in pairs}
            final = TensorDict(chosen, batch_size=[self.num_envs])
        extras = {"terminated": terminated, "time_outs": time_outs, "success": success}
        extras |= {"final_observations": final, "log": {}}
        return self._obs, rewards * active, done.long(), extras

    def reset_rows(self, env_ids: torch.Tensor, seeds: Sequence[int]) -> tuple[TensorDict, dict[str, Any]]:
        if not self.cfg.same_start:
            return super().reset_rows(env_ids, seeds)
        with torch.random.fork_rng(devices=[]):
            for seed in set(seeds):
                rows = env_ids[torch.tensor([other == seed for other in seeds])]
                self.env.reset(seed=seed, env_ids=rows[:1])
                state = _rows(self.env.scene.get_state(is_relative=True), rows[:1].repeat(len(rows)))
                self.env.reset_to(state, rows, is_relative=True)
        self._obs = self._flat(self.env.observation_manager.compute())
        return self._obs, {}

    def state_dict(self) -> dict[str, Any]:
        return {"scene": self.env.scene.get_state(), "length": self.env.episode_length_buf.clone()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.env.scene.reset_to(state["scene"], torch.arange(self.num_envs))
        self.env.episode_length_buf = state["length"].clone()
        self._obs = self._flat(self.env.observation_manager.compute())

    def render(self) -> Any:
        return self.env.render()

    def _reset_and_keep(self, env_ids: torch.Tensor) -> None:
        self._final = self._flat(self.env.observation_manager.compute())
        self._reset_idx(env_ids)

    def _flat(self, obs: dict[str, Any]) -> TensorDict:
        groups = {**obs["policy"], "critic": obs["critic"].float()}
        return TensorDict(groups, batch_size=[self.env.num_envs])


class Expert:
    """Moves the hand to the cube; its actions are those of a policy behind the mapping: x, y and the fingers."""

    def __init__(self, cfg: ExpertCfg, env: VecEnv) -> None:
        self.env: IsaacLabVecEnv = env.unwrapped

    def __call__(self, obs: Any = None) -> torch.Tensor:
        way = self.env.get_observations()["critic"] - self.env.env.scene.joint_position[:, 2:4]
        return torch.cat([(4 * way).clamp(-1, 1), torch.zeros(len(way), 1)], 1)

    def reset(self, dones: torch.Tensor | None = None) -> None:
        pass


@configclass
class ExpertCfg(Cfg):
    class_type: type = Expert


@configclass
class IsaacLabCfg(VecEnvCfg):
    class_type: type = IsaacLabVecEnv
    num_envs: int = 8
    render: bool = False
    same_start: bool = True
    expert: Cfg | None = ExpertCfg()


def _rows(state: State, rows: torch.Tensor) -> State:
    return {
        kind: {name: {key: value[rows] for key, value in asset.items()} for name, asset in assets.items()}
        for kind, assets in state.items()
    }
