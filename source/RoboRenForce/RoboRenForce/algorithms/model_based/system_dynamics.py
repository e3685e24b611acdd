"""Learner of a dynamics model from recorded data; an update is an epoch.

Its checkpoints hold the model, and states of the data to start imagined episodes from, so a policy can be trained in it
without the data (`ImaginationEnvCfg`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NoReturn

import torch
from torch import Tensor
from typing_extensions import override

from ...buffer.dataset import TransitionDataset
from ...components.system_dynamics import SystemDynamics, SystemDynamicsCfg
from ...configclass import ConfigError, Range, configclass
from ...envs.obs_groups import resolve_obs_groups
from ...envs.spec import EnvSpec
from ...utils.cuda_graph import GraphMode
from ...utils.errors import UserError
from ..algorithm import Algorithm, AlgorithmCfg, RunContext, require_policy
from .fit import DynamicsFit, DynamicsFitCfg
from .open_loop import open_loop
from .starts import starts_to_save
from .step_table import StepTable


class SystemDynamicsLearner(Algorithm):
    """Owner of the model, its data and its fit; it ends the run when no member improves any more."""

    cfg: SystemDynamicsLearnerCfg
    obs_sets = ("dynamics", "actor", "critic")

    def __init__(self, cfg: SystemDynamicsLearnerCfg, *, policy: SystemDynamicsCfg, context: RunContext) -> None:
        self.cfg, self.context = cfg, context
        require_policy(self, policy, SystemDynamicsCfg)
        refuse_processes(self, context)
        self.model = build_model(policy, context)
        self.fit: DynamicsFit | None = None
        data: TransitionDataset | None = context.data
        if data is not None:
            data.require_fit(context.spec)
            table = StepTable(self.model.layout, context.spec, len(data), context.device)
            table.fill_from_dataset(data)
            fit: DynamicsFit = cfg.fit.build(
                model=self.model, table=table, seed=context.seed, cuda_graph=cfg.cuda_graph
            )
            fit.begin()
            self.fit = fit

    @property
    def is_finished(self) -> bool:
        """See `Algorithm.is_finished`."""
        return self.fit is not None and self.fit.is_finished

    def update(self, data: Any = None) -> dict[str, Tensor]:
        """Take one pass over the training rows; returns 0-dim metrics."""
        if self.fit is None:
            raise UserError("A dynamics model that was built without data can't learn: give the run a dataset.")
        return self.fit.run_epoch()

    def act(self, obs: Any) -> NoReturn:
        """Refuse to act."""
        raise UserError(
            "A dynamics model is no policy and takes no actions: train one in it, see "
            "docs/algorithms/system_dynamics.md."
        )

    def process_env_step(self, transition: Any) -> NoReturn:
        """Refuse to store a step; see `act`."""
        self.act(transition)

    def policy(self) -> NoReturn:
        """Refuse to be played; see `act`."""
        self.act(None)

    @override
    def model_report(self, horizon: int) -> dict[str, Any]:
        """Return the quality of the best weights on validation rows, see `open_loop`; on all rows if there are none."""
        if self.fit is None:
            raise UserError("A dynamics model is judged on data: give the run a dataset.")
        model = copy.deepcopy(self.model)
        model.load_state_dict(self.fit.best_state())
        held_out, table = self.fit.validation_rows, self.fit.table
        rows = held_out if len(held_out) else torch.arange(table.size, device=table.device)
        return open_loop(model.eval(), table, rows, horizon)

    def state_dict(self) -> dict[str, Any]:
        """Return the weights, the best ones among them as `model`, the fit, and states to start from."""
        state: dict[str, Any] = {"networks": _copied(self.model.state_dict())}
        if self.fit is not None:
            state["fit"] = self.fit.state_dict()
            state["model"] = self.fit.best_state()
            state["starts"] = starts_to_save(self.model, self.fit.table, self.cfg.num_starts)
        return state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; without data, the best weights.

        Raises:
            ValueError: The fit was that of other data.
        """
        if self.fit is None:
            self.model.load_state_dict(state["model"])
            return
        there, here = state["fit"]["steps"], self.fit.table.size
        if there != here:
            raise ValueError(
                f"the checkpoint learned from {there:,} steps and the data has {here:,}; use the same data"
            )
        self.model.load_state_dict(state["networks"])
        self.fit.load_state_dict(state["fit"])

    @override
    def load_to_judge(self, state: Mapping[str, Any]) -> None:
        """Load the best weights to judge them on data of another run, all of which is then held out."""
        self.model.load_state_dict(state["model"])
        if self.fit is not None:
            self.fit.validation_rows = self.fit.validation_rows[:0]

    def train(self) -> None:
        """Switch the model to training mode."""
        self.model.train()

    def eval(self) -> None:
        """Switch the model to evaluation mode."""
        self.model.eval()

    def close(self) -> None:
        """Free the captured graph."""
        if self.fit is not None:
            self.fit.close()


def build_model(cfg: SystemDynamicsCfg, context: RunContext) -> SystemDynamics:
    """Build the model of a run on its device."""
    return cfg.build(spec=context.spec, groups=dynamics_groups(context.spec, context.obs_groups)).to(context.device)


def dynamics_groups(spec: EnvSpec, obs_groups: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the groups of the state: those named `dynamics`, or what actor and critic read."""
    if "dynamics" in obs_groups:
        return resolve_obs_groups(spec, ("dynamics",), {"dynamics": obs_groups["dynamics"]})["dynamics"]
    overrides = {name: groups for name, groups in obs_groups.items() if name in ("actor", "critic")}
    found = resolve_obs_groups(spec, ("actor", "critic"), overrides)
    return list(dict.fromkeys([*found["actor"], *found["critic"]]))


def refuse_processes(learner: Algorithm, context: RunContext) -> None:
    """Refuse a run of several processes: their models would differ."""
    if context.distributed.is_distributed:
        raise ConfigError(
            f"{type(learner).__name__} learns its model in one process, and this run has "
            f"{context.distributed.world_size}: start it without torchrun."
        )


def _copied(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


@configclass
class SystemDynamicsLearnerCfg(AlgorithmCfg):
    """Configuration of a `SystemDynamicsLearner`; the model is the `policy` of the run."""

    class_type: type = SystemDynamicsLearner
    fit: DynamicsFitCfg = DynamicsFitCfg()
    """Batches, validation and early stopping."""
    num_starts: Annotated[int, Range(ge=1)] = 1024
    """States of the data that checkpoints hold, to start imagined episodes from."""
    cuda_graph: GraphMode = "auto"
    """Capture the gradient step; `auto` falls back with the reason in the log."""
