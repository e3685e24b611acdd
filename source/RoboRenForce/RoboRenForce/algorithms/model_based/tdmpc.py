"""TD-MPC: settings of TD-MPC2 that make it its predecessor (Hansen et al. 2022, arXiv 2203.04955).

    L    = 1/H sum_t rho^t [   2 |z_{t+1} - hbar(s_{t+1})|^2 + 0.5 (R(z_t, a_t) - r_t)^2
                             + 0.1 sum_j (Q_j(z_t, a_t) - y_t)^2 ]
    L_pi = - mean_t rho^t min_j Q_j(z_t, pi(z_t))

Latent states are unbounded, targets come from a slow copy of the encoder, rewards and values are regressed, the prior
is deterministic with noise. Unlike there, the horizon is 5 from the start and windows are drawn uniformly (the
authors grow the horizon over 25,000 steps and prioritize).
"""

from __future__ import annotations

from ...buffer.replay import ReplayBufferCfg
from ...buffer.sequence import SequenceReplayBufferCfg
from ...components.actor_q import ActorPackCfg
from ...components.latent_model import LatentModelCfg, Pair
from ...components.mppi import MPPICfg
from ...components.return_heads import ScalarHeadCfg
from ...configclass import configclass
from ...networks.mlp import MLPCfg
from .tdmpc2 import TDMPC2Cfg


@configclass
class TDMPCCfg(TDMPC2Cfg):
    """Configuration of TD-MPC; its policy is `tdmpc_policy()`."""

    replay: ReplayBufferCfg = SequenceReplayBufferCfg(length=5, previous_action=False)
    planner: MPPICfg = MPPICfg(horizon=5, num_policy_samples=25, momentum=0.1, first_min_std=0.5)
    learning_starts = 5000
    first_updates = 5000
    batch_size = 512
    learning_rate = 1.0e-3
    encoder_lr_factor = 1.0
    prior_eps = 1.0e-8
    max_grad_norm = 10.0
    tau = 0.005
    """The authors' 0.01 at every second step."""
    consistency_coef = 2.0
    reward_coef = 0.5
    entropy_coef = 0.0
    scale_values = False
    value_of_two: Pair = "min"
    mean_members = False
    target_encoder = True


def tdmpc_policy(latent: int = 50, hidden: int = 512, encoder: int = 256) -> ActorPackCfg:
    """Return the networks of TD-MPC.

    Args:
        latent: Features of a latent state.
        hidden: Width of the two hidden layers of dynamics, reward, critics and prior.
        encoder: Width of the encoder's hidden layer.
    """

    def mlp(*, zero: bool = False, layer_norm: bool = False) -> MLPCfg:
        return MLPCfg(
            hidden_features=[hidden, hidden],
            activations="ELU",
            init="orthogonal",
            hidden_gain=1.0,
            output_gain=0.0 if zero else 1.0,
            layer_norm=layer_norm,
        )

    model = LatentModelCfg(
        latent_dim=latent,
        backbone_cfg=MLPCfg(hidden_features=[encoder], activations="ELU", init="orthogonal", hidden_gain=1.0),
        dynamics_cfg=mlp(),
        reward_cfg=mlp(zero=True),
        critic_cfg=mlp(zero=True, layer_norm=True),
        prior_cfg=mlp(),
        head_cfg=ScalarHeadCfg(),
        num_q=2,
        prior_std=0.05,
    )
    return ActorPackCfg(actor_cfg=model)
