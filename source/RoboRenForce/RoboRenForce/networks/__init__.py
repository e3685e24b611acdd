"""Networks: tensor in, tensor out."""

from .action_expert import ActionExpert, ActionExpertCfg
from .activation import build_activation
from .batch_norm import BatchNorm, batch_statistics, uses_batch_statistics
from .belief import BeliefNetwork, BeliefNetworkCfg
from .cnn import CNN, CNNCfg
from .constraints import Constrained, constrain_, constrained_parts
from .denoiser import Denoiser, DenoiserCfg, MLPDenoiser, MLPDenoiserCfg
from .density import (
    ConditionalDensity,
    ConditionalDensityCfg,
    FlowDensity,
    FlowDensityCfg,
    GaussianDensity,
    GaussianDensityCfg,
)
from .dit import DiT, DiTCfg
from .ensemble import EnsembleMLP
from .fft_filter import FFTFilter, FFTFilterCfg
from .flash_net import FlashNet, FlashNetCfg
from .lipschitz import LipsNet, LipsNetCfg, SpectralMLP, SpectralMLPCfg
from .mlp import MLP, MLPCfg
from .network import Network, NetworkCfg, RecurrentNetwork
from .normed_mlp import NormedMLP, NormedMLPCfg, SimNorm
from .residual_mlp import ResidualMLP, ResidualMLPCfg
from .rnn import RNN, RNNCfg
from .stack import Stack, StackCfg
from .token_decoder import TokenDecoder, TokenDecoderCfg
from .transformer import Transformer, TransformerCfg

__all__ = [
    "CNN",
    "MLP",
    "RNN",
    "ActionExpert",
    "ActionExpertCfg",
    "BatchNorm",
    "BeliefNetwork",
    "BeliefNetworkCfg",
    "CNNCfg",
    "ConditionalDensity",
    "ConditionalDensityCfg",
    "Constrained",
    "Denoiser",
    "DenoiserCfg",
    "DiT",
    "DiTCfg",
    "EnsembleMLP",
    "FFTFilter",
    "FFTFilterCfg",
    "FlashNet",
    "FlashNetCfg",
    "FlowDensity",
    "FlowDensityCfg",
    "GaussianDensity",
    "GaussianDensityCfg",
    "LipsNet",
    "LipsNetCfg",
    "MLPCfg",
    "MLPDenoiser",
    "MLPDenoiserCfg",
    "Network",
    "NetworkCfg",
    "NormedMLP",
    "NormedMLPCfg",
    "RNNCfg",
    "RecurrentNetwork",
    "ResidualMLP",
    "ResidualMLPCfg",
    "SimNorm",
    "SpectralMLP",
    "SpectralMLPCfg",
    "Stack",
    "StackCfg",
    "TokenDecoder",
    "TokenDecoderCfg",
    "Transformer",
    "TransformerCfg",
    "batch_statistics",
    "build_activation",
    "constrain_",
    "constrained_parts",
    "uses_batch_statistics",
]
