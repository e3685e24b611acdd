"""Recipes for thousands of environments on a GPU: FastTD3, FastSAC, FlashSAC.

They are TD3 and SAC with other settings: C51 critics, large batches, few and large target updates, and their own
exploration. Each is a configuration of the algorithm, and a function that returns its networks.

- FastTD3: Seo et al. 2025, arXiv 2505.22642.
- FastSAC: Seo et al. 2025, arXiv 2512.01996.
- FlashSAC: 2026, arXiv 2604.04539.

Differences from the papers: the temperature learns together with the policy, from the policy's own log-probabilities,
also in FastSAC; losses are averaged over the batch and summed over the critics.
"""

from __future__ import annotations

import math

from ...buffer.replay import ReplayBufferCfg
from ...components.actor_q import ActorQPackCfg
from ...components.critic import QNetworkCfg
from ...components.deterministic_actor import DeterministicActorCfg
from ...components.exploration import ExplorationCfg, MixedNoiseCfg, RepeatedNoiseCfg
from ...components.gaussian_actor import TanhGaussianActorCfg
from ...components.return_heads import CategoricalHeadCfg
from ...components.temperature import TemperatureCfg
from ...configclass import configclass
from ...networks.flash_net import FlashNetCfg
from ...networks.mlp import MLPCfg
from ...utils.precision import Precision
from .sac import SACCfg
from .td3 import TD3Cfg

# --- FastTD3 ---------------------------------------------------------------------------------------------------------


@configclass
class FastTD3Cfg(TD3Cfg):
    """TD3 with huge batches and one noise level per environment, for about a thousand environments."""

    gamma = 0.97
    replay: ReplayBufferCfg = ReplayBufferCfg(capacity=10_485_760)
    learning_starts = 10_240
    exploration: ExplorationCfg = MixedNoiseCfg(min_std=0.001, max_std=0.4)
    batch_size = 32_768
    gradient_steps = 2
    tau = 0.1
    delay_targets = False
    target_actor = False
    target_noise = 0.001
    policy_value = "min"
    weight_decay = 0.1
    precision: Precision = "bf16"


def fast_td3_policy(max_return: float = 10.0, num_atoms: int = 101) -> ActorQPackCfg:
    """Return the networks of FastTD3.

    Args:
        max_return: Bound of the critics' support; it has to contain reward / (1 - gamma).
        num_atoms: Number of atoms of the support.
    """
    actor = MLPCfg(hidden_features=[512, 256, 128], activations="ReLU", output_gain=0.01)
    critic = MLPCfg(hidden_features=[1024, 512, 256], activations="ReLU")
    head = CategoricalHeadCfg(num_atoms=num_atoms, v_min=-max_return, v_max=max_return)
    return ActorQPackCfg(
        actor_cfg=DeterministicActorCfg(backbone_cfg=actor),
        critic_cfg=QNetworkCfg(backbone_cfg=critic, head_cfg=head),
    )


# --- FastSAC ---------------------------------------------------------------------------------------------------------


@configclass
class FastSACCfg(SACCfg):
    """SAC in which each critic has its own target, with many gradient steps and an entropy target of 0."""

    gamma = 0.97
    replay: ReplayBufferCfg = ReplayBufferCfg(capacity=4_194_304)
    learning_starts = 40_960
    batch_size = 8192
    gradient_steps = 8
    policy_delay = 4
    tau = 0.125
    aggregate = "own"
    temperature: TemperatureCfg = TemperatureCfg(initial=0.001, entropy_per_dim=0.0, objective="alpha")
    weight_decay = 0.001
    beta2 = 0.95
    precision: Precision = "bf16"


def fast_sac_policy(max_return: float = 20.0, num_atoms: int = 101) -> ActorQPackCfg:
    """Return the networks of FastSAC.

    Args:
        max_return: Bound of the critics' support; it has to contain reward / (1 - gamma).
        num_atoms: Number of atoms of the support.
    """
    actor = MLPCfg(hidden_features=[512, 256, 128], activations="SiLU", layer_norm=True, output_gain=0.0)
    critic = MLPCfg(hidden_features=[768, 384, 192], activations="SiLU", layer_norm=True)
    head = CategoricalHeadCfg(num_atoms=num_atoms, v_min=-max_return, v_max=max_return)
    return ActorQPackCfg(
        actor_cfg=TanhGaussianActorCfg(
            backbone_cfg=actor, std_bounds="tanh", min_std=math.exp(-5.0), max_std=1.0, init_std=math.exp(-2.5)
        ),
        critic_cfg=QNetworkCfg(backbone_cfg=critic, head_cfg=head),
    )


# --- FlashSAC --------------------------------------------------------------------------------------------------------

FLASH_MAX_RETURN = 5.0
"""Bound of the scaled returns, and of the critics' support."""

FLASH_ENTROPY = 0.5 * math.log(2.0 * math.pi * math.e * 0.15**2)
"""Entropy target per dimension: that of a normal distribution with standard deviation 0.15, -0.478."""


@configclass
class FlashSACCfg(SACCfg):
    """SAC with bounded weights, features and returns, few updates and noise that is held for some steps."""

    replay: ReplayBufferCfg = ReplayBufferCfg(capacity=1_000_000)
    max_return = FLASH_MAX_RETURN
    learning_starts = 10_240
    exploration: ExplorationCfg = RepeatedNoiseCfg()
    batch_size = 2048
    gradient_steps = 2
    policy_delay = 2
    tau = 0.01
    final_learning_rate = 0.5
    temperature: TemperatureCfg = TemperatureCfg(initial=0.01, entropy_per_dim=FLASH_ENTROPY, objective="alpha")
    precision: Precision = "bf16"


def flash_sac_policy() -> ActorQPackCfg:
    """Return the networks of FlashSAC; they normalize observations themselves."""
    head = CategoricalHeadCfg(num_atoms=101, v_min=-FLASH_MAX_RETURN, v_max=FLASH_MAX_RETURN)
    return ActorQPackCfg(
        actor_cfg=TanhGaussianActorCfg(
            backbone_cfg=FlashNetCfg(width=128),
            normalizer_cfg=None,
            std_bounds="tanh",
            min_std=math.exp(-10.0),
            max_std=math.exp(2.0),
            init_std=math.exp(-4.0),
        ),
        critic_cfg=QNetworkCfg(backbone_cfg=FlashNetCfg(width=256), normalizer_cfg=None, head_cfg=head),
    )
