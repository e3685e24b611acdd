"""Runs of algorithms that learn in blocks of environments; the loop is that of every on-policy run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Self

from ..algorithms.algorithm import AlgorithmCfg
from ..algorithms.on_policy import EPOCfg, SAPGPPOCfg, sapg_policy
from ..configclass import configclass
from .on_policy_runner import OnPolicyRunnerCfg


@configclass
class SAPGOnPolicyRunnerCfg(OnPolicyRunnerCfg):
    """Configuration of an `OnPolicyRunner` with SAPG; `from_ppo` makes one of a PPO run."""

    algorithm: AlgorithmCfg = SAPGPPOCfg()

    @classmethod
    def from_ppo(cls, ppo: OnPolicyRunnerCfg, **options: Any) -> Self:
        """Return a run like `ppo`, in blocks.

        Args:
            ppo: Run with a `PPOCfg` and an `ActorCriticPackCfg`.
            options: Fields of the algorithm that differ from those of `ppo`.
        """
        defaults: Any = cls().algorithm
        policy: Any = ppo.policy
        algorithm = type(defaults).extending(ppo.algorithm, **{"entropy_coef": defaults.entropy_coef, **options})
        return cls.extending(ppo, policy=sapg_policy(policy), algorithm=algorithm)

    def check_env(self, env_cfg: Any) -> Iterable[str]:
        """Check that the environment has blocks that are observed."""
        yield from super().check_env(env_cfg)
        groups = getattr(env_cfg, "groups", None)
        if groups is None or groups.num_blocks is None or not groups.observe_blocks:
            yield "algorithm: learns in blocks of environments; set env.groups.num_blocks and env.groups.observe_blocks"


@configclass
class EPOOnPolicyRunnerCfg(SAPGOnPolicyRunnerCfg):
    """Configuration of an `OnPolicyRunner` with EPO."""

    algorithm: AlgorithmCfg = EPOCfg()
