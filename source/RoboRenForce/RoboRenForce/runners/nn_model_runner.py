"""Runs of algorithms that act through a model they learn; the loop is that of every off-policy run."""

from __future__ import annotations

from ..configclass import configclass
from .off_policy_runner import OffPolicyRunner, OffPolicyRunnerCfg


class NNModelBasedRunner(OffPolicyRunner):
    """`OffPolicyRunner` whose learner has a model of the environment, such as TD-MPC2."""

    cfg: NNModelBasedRunnerCfg


@configclass
class NNModelBasedRunnerCfg(OffPolicyRunnerCfg):
    """Configuration of an `NNModelBasedRunner`."""

    class_type: type = NNModelBasedRunner
