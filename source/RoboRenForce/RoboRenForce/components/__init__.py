"""Modules with a role in reinforcement learning: actors, critics, normalizers, optimizers."""

from .actor import Actor, ActorCfg, CategoricalActor, CategoricalActorCfg
from .actor_critic import ActorCriticPack, ActorCriticPackCfg
from .actor_q import ActorPack, ActorPackCfg, ActorQPack, ActorQPackCfg, ActorQVPack, ActorQVPackCfg, SACNetworks
from .belief import (
    BeliefActorCriticPack,
    BeliefActorCriticPackCfg,
    BeliefActorQPack,
    BeliefActorQPackCfg,
    BeliefCfg,
)
from .beta_actor import BetaActor, BetaActorCfg
from .block_std_actor import BlockStdActor, BlockStdActorCfg
from .critic import QNetwork, QNetworkCfg, VNetwork, VNetworkCfg
from .deterministic_actor import Deterministic, DeterministicActor, DeterministicActorCfg
from .discriminator import Discriminator, DiscriminatorCfg
from .distributions import Beta, Categorical, DiagGaussian, Distribution, TanhGaussian
from .ema import EMA, EMACfg
from .exploration import (
    Exploration,
    ExplorationCfg,
    GaussianNoiseCfg,
    MixedNoiseCfg,
    RepeatedNoiseCfg,
    SampleCfg,
)
from .gaussian_actor import (
    StateDepStdActor,
    StateDepStdActorCfg,
    StateIndStdActor,
    StateIndStdActorCfg,
    TanhGaussianActor,
    TanhGaussianActorCfg,
)
from .history_actor_q import HistoryActorQPack, HistoryActorQPackCfg, HistoryEncoder
from .latent_model import LatentModel, LatentModelCfg
from .latent_planner import LatentPlanner, PlannedAction
from .lr_schedule import ScheduleCfg
from .mppi import MPPICfg, Plan, mppi
from .normalizer import (
    BoundedRewardScaler,
    EmpiricalNormalizer,
    EmpiricalNormalizerCfg,
    Normalizer,
    NormalizerCfg,
    RewardScaler,
    RunningMoments,
    ValueNormalizer,
)
from .observation import Observations
from .optimizer import FlatAdam, Optimizer
from .param_groups import ParamGroupCfg
from .policy_state import ActingPolicy, PolicyState
from .return_heads import (
    Aggregate,
    CategoricalHead,
    CategoricalHeadCfg,
    GaussianHead,
    GaussianHeadCfg,
    QuantileHead,
    QuantileHeadCfg,
    ReturnHead,
    ReturnHeadCfg,
    ScalarHead,
    ScalarHeadCfg,
    TwoHotHead,
    TwoHotHeadCfg,
)
from .simulator_policy import for_simulator
from .student_teacher import StudentTeacher, StudentTeacherCfg
from .system_dynamics import (
    SystemDynamics,
    SystemDynamicsCfg,
    SystemDynamicsMLP,
    SystemDynamicsMLPCfg,
    SystemDynamicsTransformer,
    SystemDynamicsTransformerCfg,
)
from .target import make_target, soft_update
from .teacher import Teacher, TeacherCfg
from .temperature import Temperature, TemperatureCfg
from .torch_optimizer import OptimizerCfg, TorchOptimizer

__all__ = [
    "EMA",
    "ActingPolicy",
    "Actor",
    "ActorCfg",
    "ActorCriticPack",
    "ActorCriticPackCfg",
    "ActorPack",
    "ActorPackCfg",
    "ActorQPack",
    "ActorQPackCfg",
    "ActorQVPack",
    "ActorQVPackCfg",
    "Aggregate",
    "BeliefActorCriticPack",
    "BeliefActorCriticPackCfg",
    "BeliefActorQPack",
    "BeliefActorQPackCfg",
    "BeliefCfg",
    "Beta",
    "BetaActor",
    "BetaActorCfg",
    "BlockStdActor",
    "BlockStdActorCfg",
    "BoundedRewardScaler",
    "Categorical",
    "CategoricalActor",
    "CategoricalActorCfg",
    "CategoricalHead",
    "CategoricalHeadCfg",
    "Deterministic",
    "DeterministicActor",
    "DeterministicActorCfg",
    "DiagGaussian",
    "Discriminator",
    "DiscriminatorCfg",
    "Distribution",
    "EMACfg",
    "EmpiricalNormalizer",
    "EmpiricalNormalizerCfg",
    "Exploration",
    "ExplorationCfg",
    "FlatAdam",
    "GaussianHead",
    "GaussianHeadCfg",
    "GaussianNoiseCfg",
    "HistoryActorQPack",
    "HistoryActorQPackCfg",
    "HistoryEncoder",
    "LatentModel",
    "LatentModelCfg",
    "LatentPlanner",
    "MPPICfg",
    "MixedNoiseCfg",
    "Normalizer",
    "NormalizerCfg",
    "Observations",
    "Optimizer",
    "OptimizerCfg",
    "ParamGroupCfg",
    "Plan",
    "PlannedAction",
    "PolicyState",
    "QNetwork",
    "QNetworkCfg",
    "QuantileHead",
    "QuantileHeadCfg",
    "RepeatedNoiseCfg",
    "ReturnHead",
    "ReturnHeadCfg",
    "RewardScaler",
    "RunningMoments",
    "SACNetworks",
    "SampleCfg",
    "ScalarHead",
    "ScalarHeadCfg",
    "ScheduleCfg",
    "StateDepStdActor",
    "StateDepStdActorCfg",
    "StateIndStdActor",
    "StateIndStdActorCfg",
    "StudentTeacher",
    "StudentTeacherCfg",
    "SystemDynamics",
    "SystemDynamicsCfg",
    "SystemDynamicsMLP",
    "SystemDynamicsMLPCfg",
    "SystemDynamicsTransformer",
    "SystemDynamicsTransformerCfg",
    "TanhGaussian",
    "TanhGaussianActor",
    "TanhGaussianActorCfg",
    "Teacher",
    "TeacherCfg",
    "Temperature",
    "TemperatureCfg",
    "TorchOptimizer",
    "TwoHotHead",
    "TwoHotHeadCfg",
    "VNetwork",
    "VNetworkCfg",
    "ValueNormalizer",
    "for_simulator",
    "make_target",
    "mppi",
    "soft_update",
]
