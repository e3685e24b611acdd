"""TD-MPC2 for mjlab's velocity tasks."""

from __future__ import annotations

from RoboRenForce import algorithms, components, runners

from .off_policy_agents import TRANSITIONS
from .registration import NUM_ENVS

ACTOR = ["actor"]


def tdmpc2(iterations: int = 150) -> runners.NNModelBasedRunnerCfg:
    """TD-MPC2 in a thousand environments, in which the prior acts: planning in each would take most of the time.

    Play and evaluation plan, with fewer sequences than the authors, so that some tens of robots walk in real time. The
    model predicts falls and normalizes observations, whose units differ here.
    """
    policy = algorithms.tdmpc2_policy(
        latent=256, terminates=True, normalizer_cfg=components.EmpiricalNormalizerCfg(), max_log_std=0.0
    )
    algorithm = algorithms.TDMPC2Cfg(
        gamma=0.97,
        learning_starts=10_240,
        first_updates=500,
        batch_size=2048,
        gradient_steps=4,
        collect_with="prior",
        planner=components.MPPICfg(num_samples=256, num_elites=32),
    )
    return runners.NNModelBasedRunnerCfg(
        num_steps_per_env=TRANSITIONS // NUM_ENVS["TDMPC2"],
        max_iterations=iterations,
        policy=policy,
        algorithm=algorithm,
        obs_groups={"actor": ACTOR, "critic": ACTOR},
        save_interval=50,
        init_at_random_ep_len=True,
    )
