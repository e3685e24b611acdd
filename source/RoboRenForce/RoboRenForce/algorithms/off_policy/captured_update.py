"""The gradient steps of one update as one CUDA graph, with smoothed metrics.

The policy learns only at every `policy_delay`-th gradient step, so there is one graph for each phase in which an
update can start. Nothing in it waits for the host.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ...utils.cuda_graph import GraphMode, graphed, release

if TYPE_CHECKING:
    from .off_policy_algorithm import OffPolicyAlgorithmCfg

SMOOTHING = 0.01
"""Weight of the newest gradient step in the metrics, exponential means over about a hundred steps."""


class CapturedUpdate:
    """Take `gradient_steps` gradient steps per call and count them.

    Args:
        cfg: Configuration with the number of steps, and of steps per policy step.
        gradient_step: `gradient_step(update_actor)` draws a batch, learns from it and returns detached 0-dim metrics.
        finish: Called after the last gradient step.
        smooth: `smooth_`, possibly compiled.
    """

    def __init__(
        self,
        cfg: OffPolicyAlgorithmCfg,
        gradient_step: Callable[[bool], dict[str, Tensor]],
        finish: Callable[[], None],
        smooth: Callable[[list[Tensor], list[Tensor]], None],
        device: torch.device,
        cuda_graph: GraphMode,
    ) -> None:
        self.cfg, self.device = cfg, device
        self.cuda_graph: GraphMode = cuda_graph
        self._gradient_step, self._finish, self._smooth = gradient_step, finish, smooth
        self.num_steps = 0
        """Number of gradient steps taken."""
        self.step = torch.zeros((), device=device)
        """`num_steps` as a device tensor, which a captured update increments and reads."""
        self.metrics: dict[str, Tensor] = {}
        self.graphs: dict[int, Callable[[], None]] = {}
        """Gradient steps since the policy's last one -> captured update that starts there."""

    def __call__(self) -> dict[str, Tensor]:
        """Take the gradient steps; returns smoothed 0-dim metrics on the device."""
        # A graph can't branch: each phase of the policy delay is captured on its own.
        phase = self.num_steps % self.cfg.policy_delay
        if phase not in self.graphs:
            self.graphs[phase] = graphed(partial(self._run, phase), self.device, self.cuda_graph, f"update {phase}")
        self.graphs[phase]()
        self.num_steps += self.cfg.gradient_steps
        return dict(self.metrics)

    def _run(self, phase: int) -> None:
        delay = self.cfg.policy_delay
        for step in range(phase, phase + self.cfg.gradient_steps):
            # The policy learns in the last step of every `policy_delay`.
            metrics = self._gradient_step(step % delay == delay - 1)
            self.step.add_(1.0)
            # Metrics of the policy first appear in its first step.
            for name in metrics.keys() - self.metrics.keys():
                self.metrics[name] = metrics[name].clone()
            self._smooth([self.metrics[name] for name in metrics], list(metrics.values()))
        self._finish()

    def resume(self, num_steps: int) -> None:
        """Continue counting from `num_steps`."""
        self.num_steps = num_steps
        self.step.fill_(float(num_steps))

    def load_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Restore the smoothed metrics in place."""
        for name, value in metrics.items():
            self.metrics.setdefault(name, torch.zeros_like(value, device=self.device)).copy_(value)

    def close(self) -> None:
        """Free the captured graphs."""
        release(*self.graphs.values())


def smooth_(means: list[Tensor], values: list[Tensor]) -> None:
    """Update exponential means with `values`, in place."""
    torch._foreach_lerp_(means, values, SMOOTHING)  # pyright: ignore[reportPrivateImportUsage]
