"""Fit of a dynamics model to a table of steps: bootstraps, validation, early stopping, elites.

An epoch is one pass over the training rows, each member in its own order over its own bootstrap (drawn with
replacement, arXiv 1805.12114). After it every member is judged on the validation rows, which are the same for all.
Each keeps its best weights; the fit ends when none has improved for `patience` epochs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ...components.optimizer import FlatAdam
from ...components.system_dynamics import SystemDynamics, SystemDynamicsTransformer
from ...configclass import Cfg, Range, configclass
from ...utils.cuda_graph import GraphMode, graphed, release
from .step_table import StepTable

_CHUNK = 8192
"""Validation rows that are judged at once."""


class DynamicsFit:
    """Optimizer of a model, and the progress of the current fit.

    Args:
        cfg: Configuration.
        model: Model on its device.
        table: Steps that it learns from.
        seed: Of splits, bootstraps and orders.
        cuda_graph: Mode of capturing a gradient step.
    """

    def __init__(
        self, cfg: DynamicsFitCfg, *, model: SystemDynamics, table: StepTable, seed: int, cuda_graph: GraphMode
    ) -> None:
        self.cfg, self.model, self.table, self.device = cfg, model, table, table.device
        self.optimizer = FlatAdam(
            {"model": model.parameters()},
            learning_rate=cfg.learning_rate,
            weight_decay=cfg.weight_decay,
            max_grad_norm=cfg.max_grad_norm,
        )
        self.generator = torch.Generator(self.device).manual_seed(seed)
        self.members = 1 if isinstance(model, SystemDynamicsTransformer) else model.cfg.num_members
        """Members with weights of their own; heads on one trunk are judged together."""
        self.best_error = torch.full((self.members,), torch.inf, device=self.device)
        self.stale = torch.zeros(self.members, dtype=torch.int64, device=self.device)
        """Epochs since each member improved."""
        self._best = [p.detach().clone() for p in model.parameters()]
        self.train_rows = torch.empty(0, dtype=torch.int64, device=self.device)
        self.validation_rows = self.train_rows
        self.epoch = 0
        self._step = graphed(self._gradient_step, self.device, cuda_graph, "model step")

    # -- one fit ------------------------------------------------------------------------------------------------------

    def begin(self, *, measure: bool = True) -> None:
        """Split the rows of the table anew, measure the standardizations unless told not to, forget earlier errors."""
        rows = torch.arange(self.table.size, device=self.device)
        held_out = self._held_out(rows)
        train, self.validation_rows = rows[~held_out], rows[held_out]
        if measure:
            self.model.measure(self.table.gather(train))
        shape = (self.members, len(train))
        # With replacement, for each member; a trunk that all heads share sees every row.
        draw = torch.randint(len(train), shape, generator=self.generator, device=self.device)
        self.train_rows = train[draw] if self.members > 1 else train.unsqueeze(0)
        self.best_error.fill_(torch.inf)
        self.stale.zero_()
        self.epoch = 0

    def _held_out(self, rows: Tensor) -> Tensor:
        """Return True for validation rows."""
        share = self.cfg.validation_share
        if self.cfg.split == "rows" and not self.model.sees_history:
            order = torch.randperm(len(rows), generator=self.generator, device=self.device)
            return order < int(share * len(rows))
        episode = self.table.episode[: len(rows)] - 1
        count = int(episode[-1]) + 1
        if count == 1:
            return rows >= len(rows) - int(share * len(rows))
        chosen = torch.randperm(count, generator=self.generator, device=self.device) < max(1, int(share * count))
        return chosen[episode] & (share > 0)

    @property
    def is_finished(self) -> bool:
        """True if no member improves any more, or there were `max_epochs`; reads the device."""
        return self.epoch >= self.cfg.max_epochs or bool((self.stale >= self.cfg.patience).all())

    def run(self, *, measure: bool = True) -> dict[str, Tensor]:
        """Fit to the present contents of the table; see `begin`. Returns the metrics of the last epoch."""
        self.begin(measure=measure)
        metrics: dict[str, Tensor] = {}
        while not self.is_finished:
            metrics = self.run_epoch()
        self.finish()
        return metrics

    def run_epoch(self) -> dict[str, Tensor]:
        """Take one pass over the training rows, and judge the members; returns 0-dim metrics."""
        self.model.train()
        rows, size = self.train_rows, self.cfg.batch_size
        order = torch.rand(rows.shape, generator=self.generator, device=self.device).argsort(1)
        # A captured step needs whole batches: too few rows are repeated.
        order = order.repeat(1, -(-size // rows.shape[1]))
        steps = order.shape[1] // size
        if self.cfg.steps_per_epoch is not None:
            steps = min(steps, self.cfg.steps_per_epoch)
        sums: dict[str, Tensor] = {}
        for step in range(steps):
            index = rows.gather(1, order[:, step * size : (step + 1) * size])
            for name, value in self._step(index).items():
                sums[name] = value.clone() if name not in sums else sums[name].add_(value)
        self.epoch += 1
        metrics = {name: total / steps for name, total in sums.items()}
        if len(self.validation_rows):
            metrics["Model/validation_error"] = self._judge().mean()
        return metrics

    def finish(self) -> None:
        """Return to the best weights, and choose the elites."""
        self.model.load_state_dict(self.best_state())
        self.model.eval()

    def best_state(self) -> dict[str, Tensor]:
        """Return the state of the model with the best weights of each member, and with the best members as elites."""
        state = {name: value.clone() for name, value in self.model.state_dict().items()}
        if len(self.validation_rows) and self.epoch:
            names = [name for name, _ in self.model.named_parameters()]
            state |= {name: best.clone() for name, best in zip(names, self._best, strict=True)}
            if self.members > 1:
                state["elites"] = self.best_error.argsort(stable=True)[: len(self.model.elites)]
        return state

    def _gradient_step(self, index: Tensor) -> dict[str, Tensor]:
        steps = self._batch(index)
        loss, metrics = self.model.loss(steps)
        self.optimizer.backward(loss)
        self.optimizer.step()
        return metrics

    def _batch(self, index: Tensor) -> Any:
        """Return the steps of rows `(E, B)`, or the windows that begin there."""
        if isinstance(self.model, SystemDynamicsTransformer):
            return self.table.windows(index[0], self.model.cfg.length)
        return self.table.gather(index)

    @torch.no_grad()
    def _judge(self) -> Tensor:
        """Keep the weights of each member that has improved; returns the errors of all, `(E,)`."""
        self.model.eval()
        sums = torch.zeros_like(self.best_error)
        rows = self.validation_rows
        if self.model.sees_history:  # windows overlap, so a part of them says as much
            rows = rows[:: max(1, len(rows) // 1024)]
        for chunk in rows.split(_CHUNK):
            errors = self.model.errors(self._batch(chunk.unsqueeze(0) if self.model.sees_history else chunk))
            sums += len(chunk) * (errors if self.members > 1 else errors.mean())
        errors = sums / len(rows)
        improved = errors < (1.0 - self.cfg.threshold) * self.best_error
        self.best_error.copy_(torch.where(improved, errors, self.best_error))
        self.stale.copy_(torch.where(improved, 0, self.stale + 1))
        for parameter, best in zip(self.model.parameters(), self._best, strict=True):
            own = self.members > 1 and parameter.shape[0] == self.members and parameter.dim() == 3
            better = improved.view(-1, *[1] * (parameter.dim() - 1)) if own else improved.any()
            best.copy_(torch.where(better, parameter, best))
        return errors

    # -- state --------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Free the captured graph."""
        release(self._step)

    def state_dict(self) -> dict[str, Any]:
        """Return optimizer, generator, and the progress of the fit."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "best_error": self.best_error.clone(),
            "stale": self.stale.clone(),
            "best": [best.clone() for best in self._best],
            "train_rows": self.train_rows.clone(),
            "validation_rows": self.validation_rows.clone(),
            "epoch": self.epoch,
            "steps": self.table.size,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"].cpu())
        self.best_error.copy_(state["best_error"])
        self.stale.copy_(state["stale"])
        for best, value in zip(self._best, state["best"], strict=True):
            best.copy_(value)
        self.train_rows = state["train_rows"].to(self.device)
        self.validation_rows = state["validation_rows"].to(self.device)
        self.epoch = state["epoch"]


@configclass
class DynamicsFitCfg(Cfg):
    """Settings of a fit."""

    class_type: type = DynamicsFit
    learning_rate: Annotated[float, Range(gt=0)] = 1.0e-3
    """Learning rate of Adam."""
    weight_decay: Annotated[float, Range(ge=0)] = 1.0e-5
    """Decoupled weight decay."""
    max_grad_norm: Annotated[float, Range(gt=0)] | None = None
    """Maximum gradient norm; None: no clipping."""
    batch_size: Annotated[int, Range(ge=1)] = 256
    """Steps (of each member) or windows per gradient step."""
    validation_share: Annotated[float, Range(ge=0, lt=1)] = 0.2
    """Share of the data that members are judged on; 0: none are, and the last weights count."""
    split: Literal["rows", "episodes"] = "rows"
    """What is held out: single rows, or whole episodes, which models that see windows always need. Of a single episode
    it is the end."""
    patience: Annotated[int, Range(ge=1)] = 5
    """Epochs without improvement after which a fit ends."""
    threshold: Annotated[float, Range(ge=0, lt=1)] = 0.01
    """Smallest relative improvement of the validation error that counts."""
    max_epochs: Annotated[int, Range(ge=1)] = 1000
    """Most epochs of a fit."""
    steps_per_epoch: Annotated[int, Range(ge=1)] | None = None
    """Most gradient steps of an epoch; None: a pass over the data."""
