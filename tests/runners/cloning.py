"""Behavior cloning of a small MLP from a file: samples, learner and run, for the tests of `DatasetRunner`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from RoboRenForce import runners
from RoboRenForce.algorithms import DatasetLearner, DatasetLearnerCfg, Policy
from RoboRenForce.configclass import Cfg, configclass
from RoboRenForce.data.loader import DataLoaderCfg
from RoboRenForce.data.samples import Samples, SamplesCfg
from RoboRenForce.envs.spec import ActionSpec, EnvSpec
from torch import Tensor, nn


class Steps(Samples):
    """The rows of an archive, whose observations get some noise."""

    def __init__(self, cfg: StepsCfg) -> None:
        with np.load(cfg.path) as arrays:
            self.obs, self.action = (torch.from_numpy(arrays[name]) for name in ("obs", "action"))
        if cfg.says_spec:
            action = ActionSpec("continuous", self.action.shape[1])
            self.spec = EnvSpec("archive", 1, {"policy": (self.obs.shape[1],)}, action, 0)

    def __len__(self) -> int:
        return len(self.obs)

    def sample(self, index: int, generator: torch.Generator) -> dict[str, Tensor]:
        noise = 0.01 * torch.randn(self.obs.shape[1], generator=generator)
        return {"id": torch.tensor(index), "obs": self.obs[index] + noise, "action": self.action[index]}


@configclass
class StepsCfg(SamplesCfg):
    class_type: type = Steps
    path: str = "data.npz"
    says_spec: bool = True


class ClonedPolicy(Policy):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, obs: Any) -> Tensor:
        return self.network(obs["policy"])


class Clone(DatasetLearner):
    """mean((MLP(s) - a)^2), with dropout, so that the random numbers of training matter too."""

    def __init__(self, cfg: CloneCfg, *, policy: Cfg, context: Any) -> None:
        self.cfg, self.context = cfg, context
        spec = context.spec
        self.network = nn.Sequential(
            nn.Linear(spec.obs_dim(["policy"]), 16), nn.Tanh(), nn.Dropout(0.1), nn.Linear(16, spec.action.dim)
        )
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=0.01)
        self.seen: list[list[int]] = []

    def update(self, data: Any = None) -> dict[str, Tensor]:
        self.seen.append(data["id"].tolist())
        loss = (self.network(data["obs"]) - data["action"]).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        for parameter in self.network.parameters():
            self.context.distributed.mean_(parameter.grad)
        self.optimizer.step()
        return {"error": loss.detach()}

    def policy(self) -> Policy:
        return ClonedPolicy(self.network)

    def state_dict(self) -> dict[str, Any]:
        return {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: Any) -> None:
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])

    def train(self) -> None:
        self.network.train()

    def eval(self) -> None:
        self.network.eval()


@configclass
class CloneCfg(DatasetLearnerCfg):
    class_type: type = Clone


@configclass
class NothingCfg(Cfg):
    pass


def write_data(path: Path, rows: int, obs: int = 3) -> None:
    """Actions that are a function of the observations."""
    draw = np.random.default_rng(0)
    states = draw.normal(size=(rows, obs)).astype(np.float32)
    np.savez(path, obs=states, action=np.stack([states[:, 0], -states[:, 1]], 1))


def clone_cfg(path: Path, *, batch_size: int = 4, num_workers: int = 0, **changes: Any) -> runners.DatasetRunnerCfg:
    """A run of six iterations of five updates."""
    options: dict[str, Any] = {
        "max_iterations": 6,
        "updates_per_iteration": 5,
        "save_interval": 3,
        "logger": [],
        "report": False,
        "policy": NothingCfg(),
        "algorithm": CloneCfg(),
        "dataset": StepsCfg(path=str(path)),
        "loader": DataLoaderCfg(batch_size=batch_size, num_workers=num_workers),
    }
    return runners.DatasetRunnerCfg(**(options | changes))
