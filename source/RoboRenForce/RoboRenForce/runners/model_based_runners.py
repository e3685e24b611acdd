"""Runs of algorithms that learn a model of the environment; the loops are those of every run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..configclass import configclass
from .off_policy_runner import OffPolicyRunner, OffPolicyRunnerCfg
from .on_policy_runner import OnPolicyRunnerCfg


@configclass
class MBPOOnPolicyRunnerCfg(OnPolicyRunnerCfg):
    """Configuration of an `OnPolicyRunner` whose `algorithm` is MBPOPPO: its iterations take real steps."""

    init_at_random_ep_len = False

    def check_env(self, env_cfg: Any) -> Iterable[str]:
        """Check that the environment is asked for the true successors at the end of episodes."""
        yield from super().check_env(env_cfg)
        if vars(env_cfg).get("final_observations") is False:
            yield "algorithm: the model learns from true successors; set env.final_observations=true"


class NNModelBasedRunner(OffPolicyRunner):
    """`OffPolicyRunner` whose learner acts through a model of the environment, such as TD-MPC2."""

    cfg: NNModelBasedRunnerCfg


@configclass
class NNModelBasedRunnerCfg(OffPolicyRunnerCfg):
    """Configuration of an `NNModelBasedRunner`."""

    class_type: type = NNModelBasedRunner
