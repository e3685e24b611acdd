"""Networks: tensor in, tensor out."""

from .activation import build_activation
from .cnn import CNN, CNNCfg
from .ensemble import EnsembleMLP
from .mlp import MLP, MLPCfg
from .network import Network, NetworkCfg, RecurrentNetwork
from .rnn import RNN, RNNCfg
from .stack import Stack, StackCfg
from .transformer import Transformer, TransformerCfg

__all__ = [
    "CNN",
    "MLP",
    "RNN",
    "CNNCfg",
    "EnsembleMLP",
    "MLPCfg",
    "Network",
    "NetworkCfg",
    "RNNCfg",
    "RecurrentNetwork",
    "Stack",
    "StackCfg",
    "Transformer",
    "TransformerCfg",
    "build_activation",
]
