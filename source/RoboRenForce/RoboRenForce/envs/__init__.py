"""The environment contract, the wrapper chain around it and the checker."""

from ..utils.errors import EnvContractError
from .check_vec_env import check_vec_env
from .dynamic_env import DynamicEnv, DynamicEnvCfg, DynamicSource
from .env_cfg import VecEnvCfg
from .group_vec import GroupVec, GroupVecCfg
from .instructions import InstructionTable, add_instructions, instruction_id
from .multi_modal import MultiModal, MultiModalCfg
from .obs_groups import PREVIOUS_ACTION, resolve_obs_groups, with_previous_action
from .obs_mapping import ActionMappingCfg, ActionPartCfg, ObsMappingCfg, StateCfg
from .scripted_env import ScriptedEnv, ScriptedEnvCfg
from .simulator_interface import ActionInterface, SimulatorInterface
from .spec import ActionSpec, EnvSpec
from .vec_env import ALWAYS_IN_EXTRAS, EvalPolicy, StepReturn, VecEnv
from .wrapper import VecEnvWrapper

__all__ = [
    "ALWAYS_IN_EXTRAS",
    "PREVIOUS_ACTION",
    "ActionInterface",
    "ActionMappingCfg",
    "ActionPartCfg",
    "ActionSpec",
    "DynamicEnv",
    "DynamicEnvCfg",
    "DynamicSource",
    "EnvContractError",
    "EnvSpec",
    "EvalPolicy",
    "GroupVec",
    "GroupVecCfg",
    "InstructionTable",
    "MultiModal",
    "MultiModalCfg",
    "ObsMappingCfg",
    "ScriptedEnv",
    "ScriptedEnvCfg",
    "SimulatorInterface",
    "StateCfg",
    "StepReturn",
    "VecEnv",
    "VecEnvCfg",
    "VecEnvWrapper",
    "add_instructions",
    "check_vec_env",
    "instruction_id",
    "resolve_obs_groups",
    "with_previous_action",
]
