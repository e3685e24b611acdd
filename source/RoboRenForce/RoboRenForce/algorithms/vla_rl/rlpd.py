"""RLPD: SAC with prior data (Ball et al. 2023, arXiv 2302.02948)."""

from __future__ import annotations

from collections.abc import Iterable

from ...buffer.feature_replay import FeatureReplayBufferCfg
from ...components.actor_q import ActorQPackCfg
from ...components.temperature import TemperatureCfg
from ...configclass import configclass
from ..off_policy.off_policy_algorithm import OffPolicyAlgorithmCfg
from ..off_policy.sac import SACCfg
from .vla_sac import VLASACCfg, vla_sac_networks


@configclass
class RLPDCfg(VLASACCfg):
    """`VLASAC` with demonstrations in half of every batch, ten critics with layer normalization and many updates."""

    learner: OffPolicyAlgorithmCfg = SACCfg(
        gamma=0.97,
        replay=FeatureReplayBufferCfg(),
        learning_starts=500,
        gradient_steps=10,
        policy_delay=10,
        target_members=2,
        temperature=TemperatureCfg(initial=0.1, entropy_per_dim=-0.5),
    )
    """Ten gradient steps of the critics and one of the policy per step of the environments."""
    networks: ActorQPackCfg = vla_sac_networks(num_q=10)

    def check(self) -> Iterable[str]:
        """Sentences on what is missing."""
        yield from super().check()
        if not self.demonstrations:
            yield "demonstrations: is empty, expected the folder of a LeRobot data set; without any, take VLASACCfg"
