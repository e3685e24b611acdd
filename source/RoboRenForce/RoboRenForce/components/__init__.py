"""Modules with a meaning in reinforcement learning."""

from .actor import Actor, ActorCfg, CategoricalActor, CategoricalActorCfg
from .actor_critic import ActorCriticPack, ActorCriticPackCfg
from .beta_actor import BetaActor, BetaActorCfg
from .critic import QNetwork, QNetworkCfg, VNetwork, VNetworkCfg
from .distributions import Beta, Categorical, DiagGaussian, Distribution, TanhGaussian
from .gaussian_actor import (
    StateDepStdActor,
    StateDepStdActorCfg,
    StateIndStdActor,
    StateIndStdActorCfg,
    TanhGaussianActor,
    TanhGaussianActorCfg,
)
from .normalizer import (
    EmpiricalNormalizer,
    EmpiricalNormalizerCfg,
    Normalizer,
    NormalizerCfg,
    RewardScaler,
    RunningMoments,
    ValueNormalizer,
)
from .observation import Observations
from .optimizer import GradientStep

__all__ = [
    "Actor",
    "ActorCfg",
    "ActorCriticPack",
    "ActorCriticPackCfg",
    "Beta",
    "BetaActor",
    "BetaActorCfg",
    "Categorical",
    "CategoricalActor",
    "CategoricalActorCfg",
    "DiagGaussian",
    "Distribution",
    "EmpiricalNormalizer",
    "EmpiricalNormalizerCfg",
    "GradientStep",
    "Normalizer",
    "NormalizerCfg",
    "Observations",
    "QNetwork",
    "QNetworkCfg",
    "RewardScaler",
    "RunningMoments",
    "StateDepStdActor",
    "StateDepStdActorCfg",
    "StateIndStdActor",
    "StateIndStdActorCfg",
    "TanhGaussian",
    "TanhGaussianActor",
    "TanhGaussianActorCfg",
    "VNetwork",
    "VNetworkCfg",
    "ValueNormalizer",
]
