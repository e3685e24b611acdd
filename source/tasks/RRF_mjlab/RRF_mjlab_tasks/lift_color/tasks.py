"""The ids of LiftColor: a teacher that sees the state, what imitates it from pixels and language, and what goes on."""

from __future__ import annotations

from RoboRenForce.envs import GroupVecCfg, MultiModalCfg

from .env_cfg import LiftColorEnvCfg

EXECUTED = 4
"""Actions of a chunk that are executed before the next one is predicted."""


def lift_color_tasks() -> dict[str, tuple[LiftColorEnvCfg, str]]:
    """Id -> environment and the name of how it is trained."""
    agents = "RRF_mjlab_tasks.lift_color.agents:"
    return {
        "RoboRenForce-MJLab-LiftColor-PPO": (teacher_cfg(), agents + "ppo"),
        "RoboRenForce-MJLab-LiftColor-BC": (vla_cfg(), agents + "bc"),
        "RoboRenForce-MJLab-LiftColor-SFT": (vla_cfg(), agents + "sft"),
        "RoboRenForce-MJLab-LiftColor-GRPO": (vla_cfg().replace(groups=GroupVecCfg(group_size=8)), agents + "grpo"),
        "RoboRenForce-MJLab-LiftColor-VLAPPO": (vla_cfg(), agents + "vla_ppo"),
    }


def teacher_cfg() -> LiftColorEnvCfg:
    """State instead of pixels; an episode goes on after success, for holding the cube is what pays."""
    return LiftColorEnvCfg(final_observations=False)


def vla_cfg() -> LiftColorEnvCfg:
    """Two cameras, proprioception and an instruction; the state is there for a teacher that demonstrates."""
    return LiftColorEnvCfg(
        num_envs=64,
        cameras=["front", "wrist"],
        language=True,
        end_on_success=True,
        noise=False,
        multi_modal=MultiModalCfg(images={"front": "front", "wrist": "wrist"}, proprio=["robot"], chunk_size=EXECUTED),
    )
