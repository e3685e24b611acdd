"""Replay contents for another number of environments.

Stored steps stay useful; only their columns change: the steps of each old environment, oldest first, form one line,
which is cut into as many pieces as there are environments now. 2 environments with 5 steps each become 3 with 3, and
the oldest step is dropped:

    before   a0 a1 a2 a3 a4     b0 b1 b2 b3 b4
    line     a0 a1 a2 a3 a4 b0 b1 b2 b3 b4
    now         a1 a2 a3|  a4|b0 b1|  b2 b3 b4|

At each `|`, a seam, the next row is of another time or environment, so the episode counts as truncated there: windows
of several steps end, and the value still bootstraps.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch


def relaid(state: Mapping[str, Any], num_envs: int, max_rows: int) -> dict[str, Any]:
    """Lay out a replay's state for `num_envs` environments with `max_rows` steps each.

    Returns:
        The state, with the slots of seams as `seams`, int64 `(K,)`.
    """
    filled, num_before = next(iter(state["contents"].values())).shape[:2]
    rows = min(filled * num_before // num_envs, max_rows)
    kept = -(-rows * num_envs // num_before)  # newest steps of each old environment
    oldest = int(state["rows_added"]) % state["capacity"] if filled == state["capacity"] else 0
    in_time = ((torch.arange(filled) + oldest) % max(filled, 1))[filled - kept :]
    line = (in_time * num_before + torch.arange(num_before).unsqueeze(1)).flatten()
    first = len(line) - rows * num_envs
    ends = torch.arange(1, len(line) + 1) % max(kept, 1) == 0
    order, ends = (column[first:].view(num_envs, rows) for column in (line, ends))
    ends[:, -1:] = True
    order, seams = order.T.flatten(), ends.T.flatten().nonzero().squeeze(1)
    contents = {name: table.flatten(0, 1)[order].view(rows, num_envs, -1) for name, table in state["contents"].items()}
    changed = {"contents": contents, "rows_added": torch.tensor(rows), "capacity": max_rows, "seams": seams}
    if "priorities" in state:
        changed["priorities"] = state["priorities"][order]
    return {**state, **changed}
