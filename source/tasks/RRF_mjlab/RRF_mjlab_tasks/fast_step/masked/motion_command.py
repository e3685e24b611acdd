"""`MotionCommand` of mjlab's tracking tasks with fixed sizes: it draws frames, moves robots and counts failures."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from mjlab.managers.command_manager import CommandTerm
from mjlab.tasks.tracking.mdp.commands import MotionCommand
from mjlab.utils.lab_api.math import sample_uniform

from ..replaced import replaced
from .commands import CommandRows, set_rows
from .rows import RowCaller


class MotionRows(CommandRows):
    """Adapter of the motion command of mjlab's tracking tasks.

    Rows advance by a frame per step; those at the end of the motion are set to another frame, as at a reset. In
    adaptive sampling frames are drawn from bins of the motion, by how often episodes failed in each.
    """

    moves_bodies = True
    reads_kinematics = True

    def __init__(self, term: CommandTerm, rows: RowCaller) -> None:
        super().__init__(term, rows)
        self._last_frame = self.term.motion.time_step_total - 1
        self._kept: list[torch.Tensor] = []
        """State before `advance`, where rows that are done advance before they are reset."""

    def advance(self, dt: float | torch.Tensor, metric_rows: torch.Tensor | None) -> None:
        """See `CommandRows.advance`; only `metric_rows` are moved: the others are about to be observed, then reset."""
        term = self.term
        moving: torch.Tensor | bool = True if metric_rows is None else metric_rows
        self._kept = [] if metric_rows is None else [value.clone() for value in self._state()]
        self._update_metrics(metric_rows)
        term.time_left -= dt
        self.resample((term.time_left <= 0.0) & moving)
        term.time_steps += 1
        ended = term.time_steps > self._last_frame
        term.time_steps.clamp_(max=self._last_frame)
        self._resample_command(ended & moving)

    def after_forward(self) -> None:
        """Place the frame's bodies relative to where the robot is now."""
        self.term.update_relative_body_poses()

    def refresh(self, mask: torch.Tensor) -> None:
        """See `CommandRows.refresh`; a row at the last frame stays there for a step, since moving it needs `forward()`.

        mjlab moves it. In adaptive sampling no row gets there, in uniform sampling one of T does.
        """
        self._update_metrics(mask)
        set_rows(self.term.time_steps, mask, (self.term.time_steps + 1).clamp(max=self._last_frame))
        self.term.update_relative_body_poses()

    def reset(self, mask: torch.Tensor, count: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """See `CommandRows.reset`; what `advance` has done to these rows is undone first, as mjlab resets before it."""
        for now, before in zip(self._state(), self._kept, strict=False):
            set_rows(now, mask.view(-1, *[1] * (now.dim() - 1)), before)
        yield from super().reset(mask, count)

    def end_step(self) -> None:
        """Average the failures per bin over time."""
        term, alpha = self.term, self.term.cfg.adaptive_alpha
        if term.cfg.sampling_mode == "adaptive":
            term.bin_failed_count.copy_(alpha * term._current_bin_failed + (1 - alpha) * term.bin_failed_count)
            term._current_bin_failed.zero_()

    def _state(self) -> list[torch.Tensor]:
        term = self.term
        sampling = [term.metrics[f"sampling_{name}"] for name in ("entropy", "top1_prob", "top1_bin")]
        return [term.time_steps, term.body_pos_relative_w, term.body_quat_relative_w, *sampling]

    def _resample_command(self, mask: torch.Tensor) -> None:
        term = self.term
        if term.cfg.sampling_mode == "adaptive":
            self._count_failures(mask)
            self._draw_frames(mask)
        elif term.cfg.sampling_mode == "uniform":
            set_rows(term.time_steps, mask, torch.randint_like(term.time_steps, self._last_frame + 1))
            self._note_sampling(mask, 1.0, 1.0 / term.bin_count, 0.5)
        # The frames are chosen; mjlab's function writes the states.
        with replaced(MotionCommand, _adaptive_sampling=_choose_nothing, _uniform_sampling=_choose_nothing):
            self.rows.call(term._resample_command, mask, term)
        term._pending_forward = False  # forward() follows as a stage of its own

    def _count_failures(self, mask: torch.Tensor) -> None:
        term = self.term
        failed = mask & term._env.termination_manager.terminated
        bins = (term.time_steps * term.bin_count // (self._last_frame + 1)).clamp(0, term.bin_count - 1)
        counts = torch.zeros_like(term._current_bin_failed).index_add_(0, bins, failed.float())
        set_rows(term._current_bin_failed, failed.any(), counts)

    def _draw_frames(self, mask: torch.Tensor) -> None:
        term, cfg = self.term, self.term.cfg
        weights = (term.bin_failed_count + cfg.adaptive_uniform_ratio / term.bin_count).view(1, 1, -1)
        padded = torch.nn.functional.pad(weights, (0, cfg.adaptive_kernel_size - 1), mode="replicate")
        weights = torch.nn.functional.conv1d(padded, term.kernel.view(1, 1, -1)).view(-1)
        probabilities = weights / weights.sum()
        share = sample_uniform(0.0, 1.0, (term.num_envs,), device=term.device)
        frames = (_draw_bins(probabilities, term.num_envs) + share) / term.bin_count * self._last_frame
        set_rows(term.time_steps, mask, frames.long())
        entropy = -(probabilities * (probabilities + 1e-12).log()).sum()
        top, top_bin = probabilities.max(dim=0)
        share_of_most = entropy / math.log(term.bin_count) if term.bin_count > 1 else 1.0
        self._note_sampling(mask, share_of_most, top, top_bin.float() / term.bin_count)

    def _note_sampling(self, mask: torch.Tensor, entropy: Any, top: Any, top_bin: Any) -> None:
        """Write the metrics of sampling, in all rows if any was sampled."""
        for name, value in (("entropy", entropy), ("top1_prob", top), ("top1_bin", top_bin)):
            metric = self.term.metrics[f"sampling_{name}"]
            set_rows(metric, mask.any(), torch.zeros_like(metric) + value)


def _choose_nothing(term: MotionCommand, env_ids: torch.Tensor) -> None:
    """Stand in for the sampling of `MotionCommand`."""


def _draw_bins(probabilities: torch.Tensor, count: int) -> torch.Tensor:
    """Draw `count` indices; `torch.multinomial` may check its argument on the host."""
    draws = torch.rand(count, device=probabilities.device)
    return torch.searchsorted(probabilities.cumsum(0), draws, right=True).clamp_(max=len(probabilities) - 1)
