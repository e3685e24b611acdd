"""SAC with a memory, for states that one observation does not tell: SAC-Seq and SAC-Trans.

Both are SAC on sequences. `SequenceReplayBuffer` draws windows that stay within one episode, with the previous action
as an observation; actor and critics each have a history encoder before their MLPs (`HistoryActorQPackCfg`), and
the losses average over the steps that count:

    z_k = encoder(o_0, a_{-1}; ...; o_k, a_{k-1}),   k = 0 ... T,   memory empty at k = 0
    y_k = r_k + discount_k [ min_j Qbar_j(zbar_{k+1}, a') - alpha log pi(a' | z_{k+1}) ]
    L   = sum_k w_k l_k / sum_k w_k,                 k = 0 ... T - 1,   w = 0 for burn-in and padding

One pass over o_0 ... o_T serves states and successors: the last observation of an episode is a row of its own.

- SAC-Seq: Ni, Eysenbach, Salakhutdinov 2022 (arXiv 2110.05038), a GRU or LSTM; burn-in is that of R2D2 (Kapturowski
  et al. 2019).
- SAC-Trans: Ni et al. 2023 (arXiv 2307.03864), a causal transformer over a window.

Different from there: the previous reward is no input, so that a policy can be played where nobody computes rewards.
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
    """SAC on sequences, for transformers: gradients are clipped harder."""

    replay: ReplayBufferCfg = SequenceReplayBufferCfg(length=64, burn_in=10)
    batch_size = 32
    max_grad_norm = 1.0


def sac_seq_policy(
    encoder: HistoryEncoder = "gru", size: int = 128, hidden: tuple[int, ...] = (256, 256), window: int = 16
) -> HistoryActorQPackCfg:
    """Networks of SAC-Seq: a memory and an MLP for each of actor and critics.

    Args:
        encoder: kind of memory; `none` is SAC on sequences.
        size: of the memory.
        hidden: widths of the MLPs behind it.
        window: inputs that a stack sees.
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
    """Networks of SAC-Trans.

    Args:
        size: of the tokens.
        layers: blocks of attention and MLP.
        heads: of the attention.
        window: steps that each layer sees.
        hidden: widths of the MLPs behind the transformer.
    """
    policy = sac_seq_policy("transformer", size, hidden, window)
    policy.history_layers, policy.history_heads = layers, heads
    return policy
