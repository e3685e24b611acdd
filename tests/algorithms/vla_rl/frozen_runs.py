"""Small frozen policies as other runs leave them, and learners on an environment that ends inside chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from RoboRenForce.algorithms import RunContext, SACCfg, Transition
from RoboRenForce.algorithms.vla_rl import VLASAC, VLASACCfg, vla_sac_networks
from RoboRenForce.buffer import FeatureReplayBufferCfg
from RoboRenForce.components.action_heads import FlowHeadCfg, RegressionHeadCfg
from RoboRenForce.components.vla_policy import MLPBaselinePolicyCfg
from RoboRenForce.components.vla_spec import VectorSpec, VLASpec
from RoboRenForce.envs import MultiModalCfg
from RoboRenForce.envs.scripted_env import ScriptedEnvCfg
from RoboRenForce.networks import MLPDenoiserCfg, ResidualMLPCfg
from RoboRenForce.networks.vlm import MLPBaselineCfg
from RoboRenForce.utils.checkpoint import save_checkpoint

TEXT = "go to the red square"
CHUNK, EXECUTED, ENVS = 4, 3, 2
SCRIPT = [["terminated@1", "time_out@7", "terminated@5"], ["time_out@7", "terminated@4"]]
_SMALL = ResidualMLPCfg(dim=16, num_blocks=1)
REGRESSION = RegressionHeadCfg(chunk_size=CHUNK, network=_SMALL)
FLOW = FlowHeadCfg(chunk_size=CHUNK, num_steps=4, network=MLPDenoiserCfg(network=_SMALL, time_dim=8))
CPU = torch.device("cpu")


def policy_cfg(head: Any = REGRESSION) -> MLPBaselinePolicyCfg:
    size = {"image_size": [16, 16], "channels": 8, "looks": 2, "width": 16, "hidden": 16, "num_layers": 1}
    return MLPBaselinePolicyCfg(backbone=MLPBaselineCfg(**size), head=head)


def vector(dim: int) -> VectorSpec:
    values = {"min": -1.0, "max": 3.0, "mean": 1.0, "std": 1.0, "q01": -1.0, "q99": 3.0}
    return VectorSpec(dim, (), {name: (value,) * dim for name, value in values.items()})


def saved_policy(root: Path, head: Any = REGRESSION, state_dim: int = 3) -> str:
    """A checkpoint as supervised learning writes it; returns its path."""
    policy = policy_cfg(head).build(VLASpec(("front",), vector(state_dim), vector(2), (TEXT,)))
    kept = {"tensors": dict(policy.state_dict()), "left_out": []}
    state = {"spec": policy.spec.to_dict(), "policy": kept, "optimizer": {}, "frozen": {}}
    path = root / "model_1.pt"
    save_checkpoint(path, {"algorithm": state})
    return str(path)


def env_cfg(**options: Any) -> ScriptedEnvCfg:
    return ScriptedEnvCfg(
        **{"num_envs": ENVS, "script": SCRIPT, "max_episode_length": 7, "image_shape": [16, 16, 3], "seed": 1}
        | {"multi_modal": MultiModalCfg(images={"front": "image"}, proprio=["policy"], instruction=TEXT, chunk_size=3)}
        | options
    )


def sac(**options: Any) -> SACCfg:
    settings: dict[str, Any] = {
        "gamma": 0.9,
        "replay": FeatureReplayBufferCfg(capacity=400, store=True),
        "learning_starts": 8,
        "batch_size": 16,
    }
    return SACCfg(**(settings | options))


def algorithm_cfg(root: Path, kind: Any = VLASACCfg, head: Any = REGRESSION, **options: Any) -> Any:
    settings = {"init_from": saved_policy(root, head), "learner": sac(), "networks": small_networks()}
    return kind(**(settings | options))


def small_networks(num_q: int = 2) -> Any:
    networks = vla_sac_networks(num_q)
    networks.actor_cfg.backbone_cfg.hidden_features = [16]
    networks.critic_cfg.backbone_cfg.hidden_features = [16]
    return networks


def learner(cfg: Any, head: Any = REGRESSION, env: Any = None) -> tuple[VLASAC, Any]:
    """A learner and its environment."""
    env = env or env_cfg().build()
    built = cfg.build(policy=policy_cfg(head), context=RunContext(spec=env.spec, device=CPU))
    built.add_instructions(env.instruction_table.values())
    built.train()
    return built, env


def collect(built: VLASAC, env: Any, steps: int) -> list[Transition]:
    """Take steps, and learn after each; returns what happened, with copies of what was observed."""
    obs, seen = env.get_observations(), []
    for _ in range(steps):
        out = built.act(obs)
        record = {name: value.clone() for name, value in out.record.items()}
        transition = Transition.of_step(obs, out.action.clone(), record, env.step(out.action))
        built.process_env_step(transition)
        built.update()
        seen.append(transition)
        obs = transition.reset_obs
    return seen
