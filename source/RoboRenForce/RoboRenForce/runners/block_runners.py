"""Runs of algorithms that learn in blocks of environments; the loop is that of every on-policy run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..configclass import configclass
from .on_policy_runner import OnPolicyRunnerCfg


@configclass
class SAPGOnPolicyRunnerCfg(OnPolicyRunnerCfg):
    """Configuration of an `OnPolicyRunner` whose `algorithm` is SAPG; `extending` makes one of a PPO run."""

    def check_env(self, env_cfg: Any) -> Iterable[str]:
        """Check that the environment has blocks that are observed."""
        yield from super().check_env(env_cfg)
        groups = vars(env_cfg).get("groups")
        if groups is None or groups.num_blocks is None or not groups.observe_blocks:
            yield "algorithm: learns in blocks of environments; set env.groups.num_blocks and env.groups.observe_blocks"


@configclass
class EPOOnPolicyRunnerCfg(SAPGOnPolicyRunnerCfg):
    """Configuration of an `OnPolicyRunner` whose `algorithm` is EPO."""
