"""Collector of on-policy VLA learners: chunks for the rows that act, with what the update needs of the moment."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from tensordict import TensorDict
from torch import Tensor

from ...buffer.transition import ActOut
from ...components.vla_policy import VLAPolicy
from ...components.vla_value import ValueHead
from ...envs.spec import EnvSpec
from ...networks.vlm import Prefix
from ...utils.cuda_graph import GraphMode, graphed, release
from ...utils.precision import Precision, autocast
from .acting_memory import acting_within_memory

PREFIX, OBS, RECORD = "prefix/", "obs/", "record/"
"""Of names in a stored decision: the features of its observation, or the observation itself; the head's record."""
_BUCKETS = 8


def part_of(samples: Mapping[str, Tensor], beginning: str) -> dict[str, Tensor]:
    """Return the tensors of stored decisions whose names begin so, under the rest of their names."""
    return {name.removeprefix(beginning): rows for name, rows in samples.items() if name.startswith(beginning)}


class ChunkCollector:
    """`Collector` that encodes and decides only for the rows whose episodes go on.

    The record has an entry per row that acted, `rows` int64 `(n,)`: `prefix/...` or `obs/...` (what the update reads),
    `record/...` of the action head, and `value` of the value head, if there is one.

    On a GPU encoding and deciding are CUDA graphs, one per size: rows are filled up to a multiple of an eighth of all.
    They share their memory, so that a record has to be stored before the next features or values are computed.

    Args:
        policy: Chooses chunks; without dropout.
        value: Judges observations; None: nothing does.
        spec: Of the environment.
        device: Of everything.
        stores_features: True to record features (of a frozen backbone), False for observations.
        precision: Of backbone and head.
        cuda_graph: Whether they are captured.
    """

    def __init__(
        self,
        policy: VLAPolicy,
        value: ValueHead | None,
        spec: EnvSpec,
        device: torch.device,
        *,
        stores_features: bool,
        precision: Precision,
        cuda_graph: GraphMode,
    ) -> None:
        self.policy, self.value, self.spec, self.device = policy, value, spec, device
        self.stores_features = stores_features
        taps = policy.cfg.head.taps(policy.spec.action.dim)
        self._condenses = stores_features and not taps.reads_tokens  # value heads never read tokens one by one
        self._precision: Precision = precision
        self._mode: GraphMode = cuda_graph
        self.groups = policy.obs_groups
        self.policy_version = torch.zeros((), dtype=torch.int64, device=device)
        self.rows: Tensor | None = None
        """int64 `(n,)`: rows that act; None: all."""
        self._everybody = torch.arange(spec.num_envs, device=device)
        self._known: tuple[Mapping[str, Tensor], dict[str, Tensor]] | None = None
        self._graphs: dict[tuple[str, int], Callable[..., Any]] = {}
        self._pool: Any = None

    @torch.no_grad()
    def act(self, obs: TensorDict) -> ActOut:
        """Sample actions `(N, *action.shape)`, 0 in rows that wait."""
        rows = self.rows
        seen = {name: obs[name] if rows is None else obs[name][rows] for name in self.groups}
        count = len(next(iter(seen.values())))
        known = self._known if rows is None and self._known is not None and self._known[0] is obs else None
        self._known = None
        with acting_within_memory(seen, self._try):
            padded = self._filled_up(seen, count)
            size = len(next(iter(padded.values())))
            prefix = self._run("encode", size, self._encode, padded) if known is None else known[1]
            chosen, record = self._run("decide", size, self._decide, prefix)
        record = {name: tensor[:count] for name, tensor in record.items()}
        if self.stores_features:
            record |= {PREFIX + name: tensor[:count] for name, tensor in prefix.items()}
        else:
            record |= {OBS + name: tensor for name, tensor in seen.items()}
        record |= {"rows": self._everybody if rows is None else rows, "policy_version": self.policy_version}
        return ActOut(self._spread(chosen[:count], rows), record)

    @torch.no_grad()
    def values(self, obs: Mapping[str, Tensor], *, keep: bool = False) -> Tensor:
        """Return V of observations, `(n,)` or per action, without choosing actions.

        Args:
            obs: Observations.
            keep: True if `act` is called with this very observation next: a frozen backbone then computes it once.
        """
        seen = {name: obs[name] for name in self.groups}
        count = len(next(iter(seen.values())))
        with acting_within_memory(seen, self._try):
            padded = self._filled_up(seen, count)
            size = len(next(iter(padded.values())))
            prefix = self._run("encode", size, self._encode, padded)
            value = self._run("judge", size, self._judge, prefix)[:count].clone()  # a graph overwrites its results
        if keep and self.stores_features:
            self._known = obs, {name: tensor.clone() for name, tensor in prefix.items()}
        return value

    def end_step(self, done: Tensor, mask: Tensor | None = None) -> None:
        """Do nothing: the policy has no state between two steps."""

    def restart_episodes(self) -> None:
        """Forget what is known of the last observation."""
        self._known = None

    def state_dict(self) -> dict[str, Any]:
        """Return nothing: it keeps nothing between steps."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Forget what is known of the last observation."""
        self._known = None

    def release(self) -> None:
        """Free the captured graphs; the next calls capture anew."""
        release(*self._graphs.values())
        self._graphs, self._pool = {}, None

    @torch.no_grad()
    def _try(self, obs: Mapping[str, Tensor]) -> None:
        """Do what `act` does, for nothing but its memory."""
        self.release()
        self._decide(self._encode(obs))

    def _encode(self, obs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        with autocast(self._precision, self.device):
            prefix = self.policy.encode(obs)
            return (prefix.condensed() if self._condenses else prefix).to_tensors()

    def _decide(self, tensors: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        prefix = Prefix.from_tensors(tensors)
        with autocast(self._precision, self.device):
            actions, record = self.policy.act(prefix, deterministic=False)
            kept = {RECORD + name: tensor for name, tensor in record.items()}
            if self.value is not None:
                kept["value"] = self.value(prefix, self.policy.head)
        return actions, kept

    def _judge(self, tensors: Mapping[str, Tensor]) -> Tensor:
        if self.value is None:
            raise RuntimeError("A collector without a value head has no values.")
        with autocast(self._precision, self.device):
            return self.value(Prefix.from_tensors(tensors), self.policy.head)

    def _run(self, name: str, size: int, function: Callable[..., Any], argument: Mapping[str, Tensor]) -> Any:
        key = name, size
        if key not in self._graphs:
            if self._pool is None and self.device.type == "cuda":
                self._pool = torch.cuda.graph_pool_handle()
            self._graphs[key] = graphed(function, self.device, self._mode, f"{name} of {size} rows", self._pool)
        return self._graphs[key](dict(argument))

    def _filled_up(self, tensors: dict[str, Tensor], count: int) -> dict[str, Tensor]:
        """Repeat the last row up to the next size that has a graph; not on a CPU, where every row costs."""
        if self.device.type != "cuda":
            return tensors
        step = -(-self.spec.num_envs // _BUCKETS)
        missing = min(-(-count // step) * step, self.spec.num_envs) - count
        if not missing:
            return tensors
        return {name: torch.cat([t, t[-1:].expand(missing, *t.shape[1:])]) for name, t in tensors.items()}

    def _spread(self, chosen: Tensor, rows: Tensor | None) -> Tensor:
        """Cut chunks `(n, H, A)` to what the environment executes, for all rows."""
        chunk = self.spec.action.chunk
        chosen = chosen[:, :chunk] if chunk else chosen[:, 0]
        if rows is None:
            return chosen.clone()  # a graph overwrites its results
        return torch.zeros(self.spec.num_envs, *chosen.shape[1:], device=self.device).index_copy(0, rows, chosen)
