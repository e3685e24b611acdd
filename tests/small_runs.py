"""Small runs that the runner tests share: a scripted environment, a learner that only counts, and a real PPO."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from RoboRenForce import algorithms, components, networks, runners
from RoboRenForce.algorithms import ActOut, Algorithm, AlgorithmCfg, Policy
from RoboRenForce.configclass import Cfg, configclass
from RoboRenForce.envs.scripted_env import ScriptedEnv, ScriptedEnvCfg
from torch import Tensor


class ZeroPolicy(Policy):
    """Always acts 0, or `sampled_action` when it is sampled."""

    sampled_action = 0.5

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape
        self.resets: list[Any] = []

    def forward(self, obs: Any) -> Tensor:
        value = 0.0 if self.deterministic else self.sampled_action
        return torch.full((obs.batch_size[0], *self.shape), value)

    def reset(self, dones: Tensor | None = None) -> None:
        self.resets.append(None if dones is None else dones.clone())


class CountingAlgorithm(Algorithm):
    """Acts 0, writes down what it is called with, and "learns" the mean reward."""

    def __init__(self, cfg: AlgorithmCfg, *, policy: Cfg, context: algorithms.RunContext) -> None:
        self.cfg, self.context = cfg, context
        self.calls: list[str] = []
        self.rewards: list[Tensor] = []
        self.seen: list[Tensor] = []
        self.stored: list[dict[str, Tensor]] = []
        self.updates = torch.zeros(())
        self.mode = "train"

    def act(self, obs: Any) -> ActOut:
        self.calls.append("act")
        self.seen.append(obs["policy"].clone())
        return ActOut(torch.zeros(self.context.spec.num_envs, *self.context.spec.action.shape))

    def process_env_step(self, transition: algorithms.Transition) -> None:
        self.calls.append("process_env_step")
        self.rewards.append(transition.reward.clone())
        obs = {f"obs/{name}": value.clone() for name, value in transition.obs.items()}
        self.stored.append(obs | {"reward": self.rewards[-1]})

    def stored_steps(self, num_steps: int) -> dict[str, Tensor]:
        last = self.stored[-num_steps:]
        return {name: torch.stack([step[name] for step in last]) for name in last[0]}

    def update(self, data: Any = None) -> dict[str, Tensor]:
        self.calls.append("update")
        self.updates += 1
        return {"mean": torch.stack(self.rewards).mean(), "Policy/updates": self.updates.clone()}

    def policy(self) -> Policy:
        return ZeroPolicy(self.context.spec.action.shape)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates.clone()}

    def load_state_dict(self, state: Any) -> None:
        self.updates.copy_(state["updates"])

    def train(self) -> None:
        self.mode = "train"

    def eval(self) -> None:
        self.mode = "eval"


@configclass
class CountingCfg(AlgorithmCfg):
    class_type: type = CountingAlgorithm


@configclass
class NoPolicyCfg(Cfg):
    pass


class BadEnv(ScriptedEnv):
    """Returns NaN as the reward of environment 1, or as an observation of environment 2, at step `bad_step`."""

    bad_step, where = 5, "reward"

    def __init__(self, cfg: ScriptedEnvCfg) -> None:
        super().__init__(cfg)
        self.count = 0

    def step(self, actions: Tensor) -> Any:
        obs, reward, done, extras = super().step(actions)
        self.count += 1
        if self.count == self.bad_step:
            if self.where == "reward":
                reward[1] = torch.nan
            else:
                obs["critic"][2, 0] = torch.inf
        return obs, reward, done, extras


class DoingAt(ScriptedEnv):
    """Does something at one of its steps, and counts them."""

    def __init__(self, at: int, what: Callable[[], Any]) -> None:
        self.at, self.what, self.count = at, what, 0
        super().__init__(ScriptedEnvCfg(num_envs=2))

    def step(self, actions: Tensor) -> Any:
        self.count += 1
        if self.count == self.at:
            self.what()
        return super().step(actions)


def counting_cfg(**changes: Any) -> runners.OnPolicyRunnerCfg:
    """A run of three iterations of four steps that learns nothing."""
    options: dict[str, Any] = {
        "num_steps_per_env": 4,
        "max_iterations": 3,
        "save_interval": 2,
        "logger": [],
        "report": False,
        "init_at_random_ep_len": False,
        "policy": NoPolicyCfg(),
        "algorithm": CountingCfg(),
    }
    return runners.OnPolicyRunnerCfg(**(options | changes))


def ppo_cfg(backbone: networks.NetworkCfg | None = None, **changes: Any) -> runners.OnPolicyRunnerCfg:
    """A real PPO with tiny networks."""
    backbone = backbone or networks.MLPCfg(hidden_features=[8])
    options: dict[str, Any] = {
        "num_steps_per_env": 8,
        "max_iterations": 4,
        "logger": [],
        "report": False,
        "policy": components.ActorCriticPackCfg(
            actor_cfg=components.StateIndStdActorCfg(backbone_cfg=backbone),
            critic_cfg=components.VNetworkCfg(backbone_cfg=backbone),
        ),
        "algorithm": algorithms.PPOCfg(num_learning_epochs=2, num_mini_batches=2),
    }
    return runners.OnPolicyRunnerCfg(**(options | changes))


def scripted(num_envs: int = 4, **options: Any) -> ScriptedEnv:
    return ScriptedEnvCfg(num_envs=num_envs, **options).build()


def check_same(left: Any, right: Any, path: str = "") -> None:
    """Two nested states are equal, bit for bit; NaN equals NaN."""
    assert type(left) is type(right), path
    if isinstance(left, dict):
        assert left.keys() == right.keys(), path
        for key in left:
            check_same(left[key], right[key], f"{path}.{key}")
    elif isinstance(left, list | tuple):
        assert len(left) == len(right), path
        for index, (a, b) in enumerate(zip(left, right, strict=True)):
            check_same(a, b, f"{path}[{index}]")
    elif isinstance(left, Tensor):
        assert left.dtype == right.dtype and left.shape == right.shape, path
        assert torch.allclose(left, right, rtol=0, atol=0, equal_nan=True), path
    else:
        assert left == right, path
