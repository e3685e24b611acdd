"""Transitions written out by hand, for tests that play the runner's part."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from RoboRenForce.algorithms import ActOut, Transition


def stepped(obs: Any, out: ActOut, after: Any, reward: Any, done: Any, extras: Mapping[str, Any]) -> Transition:
    """What a step brought: an episode that ended and is not said to be cut has terminated."""
    ended = done != 0
    time_outs = extras.get("time_outs", torch.zeros_like(ended)).bool() & ~extras.get("terminated", ~ended)
    terminated = extras.get("terminated", ended & ~time_outs)
    flags = {"terminated": terminated, "time_outs": time_outs}
    return Transition.of_step(obs, out.action, out.record, (after, reward, torch.as_tensor(done), {**extras, **flags}))
