"""Mapping of observation groups to the parts of a learner.

Simulators name their groups differently: Gymnasium has one group, `policy`; Isaac Lab has `policy` and `critic`, mjlab
`actor` and `critic`. A learner asks for observation *sets* (`actor`, `critic`, ...), and the rule below maps each set
to groups.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..configclass import ConfigError
from .spec import EnvSpec

PREVIOUS_ACTION = "previous_action"
"""Group that recurrent learners add: the previously executed action, zeros at the start of an episode."""

BLOCK = "block"
"""Group of `GroupVec`: the number of blocks between a row's and the leader, the last; 0 for the leader."""

_SYNONYMS = {"actor": "policy", "policy": "actor"}


def resolve_obs_groups(
    spec: EnvSpec,
    sets: Sequence[str] = ("actor", "critic"),
    overrides: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, list[str]]:
    """Map every observation set to the groups that it concatenates.

    In this order: the explicit override; the group of the same name; `policy` for `actor` and the other way round; the
    actor's groups for `critic`.

    Args:
        spec: Spec of the environment.
        sets: Sets that a learner needs.
        overrides: Set -> groups, given by the user. Sets beyond `sets` are kept.

    Raises:
        ConfigError: A set can't be resolved, or an override is empty or names a group that doesn't exist.
    """
    overrides = dict(overrides or {})
    resolved = {name: _checked(spec, name, groups) for name, groups in overrides.items()}
    # The critic may fall back to the actor, so the actor is resolved first.
    for name in sorted(sets, key=lambda name: name == "critic"):
        if name not in resolved:
            resolved[name] = _default(spec, name, overrides)
    return {name: resolved[name] for name in [*sets, *(name for name in resolved if name not in sets)]}


def with_previous_action(spec: EnvSpec) -> EnvSpec:
    """Return `spec` with the group `previous_action`.

    Raises:
        ConfigError: The environment has a group of that name.
    """
    if PREVIOUS_ACTION in spec.obs_groups:
        raise ConfigError(
            f"'{spec.task}' has an observation group '{PREVIOUS_ACTION}' of its own: set "
            f"replay.previous_action=false and read that one, or give it another name."
        )
    return replace(spec, obs_groups={**spec.obs_groups, PREVIOUS_ACTION: spec.action.shape})


def _default(spec: EnvSpec, name: str, overrides: Mapping[str, Sequence[str]]) -> list[str]:
    for group in (name, _SYNONYMS.get(name, name)):
        if group in spec.obs_groups:
            return [group]
    if name == "critic":
        for actor in ("actor", "policy"):
            if actor in overrides:
                return _checked(spec, actor, overrides[actor])
        return _default(spec, "actor", overrides)
    raise ConfigError(
        f"No observation group for the set '{name}': {spec.task} has the groups {sorted(spec.obs_groups)}. "
        f"Say which to use: obs_groups={{'{name}': [...]}}."
    )


def _checked(spec: EnvSpec, name: str, groups: Sequence[str]) -> list[str]:
    groups = [groups] if isinstance(groups, str) else list(groups)
    if not groups:
        raise ConfigError(f"obs_groups['{name}'] is empty: name at least one of {sorted(spec.obs_groups)}.")
    for group in groups:
        if group not in spec.obs_groups:
            near = difflib.get_close_matches(group, list(spec.obs_groups), n=1)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise ConfigError(
                f"obs_groups['{name}'] names the group '{group}', but {spec.task} has {sorted(spec.obs_groups)}.{hint}"
            )
    return groups
