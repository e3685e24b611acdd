"""Recurrent SAC for partially observed tasks: SAC-Seq and SAC-Trans.

Both are SAC on sequences. `SequenceReplayBuffer` draws windows that stay within one episode, with the previous action
as an observation; actor and critics each have a history encoder before their MLPs (`HistoryActorQPackCfg`), and
the losses average over the valid steps:

    z_k = encoder(o_0, a_{-1}; ...; o_k, a_{k-1}),   k = 0 ... T,   zero state at k = 0
    y_k = r_k + discount_k [ min_j Qbar_j(zbar_{k+1}, a') - alpha log pi(a' | z_{k+1}) ]
    L   = sum_k w_k l_k / sum_k w_k,                 k = 0 ... T - 1,   w = 0 for burn-in and padding

One pass over o_0 ... o_T serves states and successors, because the final observation of an episode has its own row.

- SAC-Seq: Ni, Eysenbach, Salakhutdinov 2022 (arXiv 2110.05038), a GRU or LSTM; burn-in is that of R2D2 (Kapturowski
  et al. 2019).
- SAC-Trans: Ni et al. 2023 (arXiv 2307.03864), a causal transformer over a window.

Difference from the papers: the previous reward is no input, so a policy can be played where no reward is computed.
"""

from __future__ import annotations

from ...buffer.replay import ReplayBufferCfg
from ...buffer.sequence import SequenceReplayBufferCfg
from ...components.critic import QNetworkCfg
from ...components.gaussian_actor import TanhGaussianActorCfg
from ...components.history_actor_q import HistoryActorQPackCfg, HistoryEncoder
from ...configclass import configclass
from ...networks.mlp import MLPCfg
from .sac import SACCfg


@configclass
class SACSeqCfg(SACCfg):
    """SAC on sequences of 64 steps."""

    replay: ReplayBufferCfg = SequenceReplayBufferCfg(length=64, burn_in=10)
    batch_size = 32
    max_grad_norm = 10.0


@configclass
class SACTransCfg(SACCfg):
    """SAC on sequences for transformers, with stronger gradient clipping."""

    replay: ReplayBufferCfg = SequenceReplayBufferCfg(length=64, burn_in=10)
    batch_size = 32
    max_grad_norm = 1.0


def sac_seq_policy(
    encoder: HistoryEncoder = "gru", size: int = 128, hidden: tuple[int, ...] = (256, 256), window: int = 16
) -> HistoryActorQPackCfg:
    """Return the networks of SAC-Seq: a history encoder and an MLP for each of actor and critics.

    Args:
        encoder: Kind of history encoder; `none` is SAC on sequences without one.
        size: Features of the encoder.
        hidden: Widths of the MLPs after it.
        window: Number of inputs that `stack` concatenates.
    """

    def backbone() -> MLPCfg:
        return MLPCfg(hidden_features=list(hidden), activations="ReLU")

    return HistoryActorQPackCfg(
        actor_cfg=TanhGaussianActorCfg(backbone_cfg=backbone()),
        critic_cfg=QNetworkCfg(backbone_cfg=backbone()),
        history_encoder=encoder,
        history_size=size,
        history_window=window,
    )


def sac_trans_policy(
    size: int = 128, layers: int = 2, heads: int = 4, window: int = 16, hidden: tuple[int, ...] = (256, 256)
) -> HistoryActorQPackCfg:
    """Return the networks of SAC-Trans.

    Args:
        size: Features of a token.
        layers: Number of transformer blocks.
        heads: Number of attention heads.
        window: Number of steps that each layer attends to.
        hidden: Widths of the MLPs after the transformer.
    """
    policy = sac_seq_policy("transformer", size, hidden, window)
    policy.history_layers, policy.history_heads = layers, heads
    return policy
