"""How the tasks of this package are trained: one function per task and algorithm."""

from __future__ import annotations

from RoboRenForce import algorithms, components, networks, runners


def reach_ppo() -> runners.OnPolicyRunnerCfg:
    """Reach from numbers, in seconds: shows that rewards, endings and bounds are what RL expects."""

    def backbone(output_gain: float) -> networks.MLPCfg:
        return networks.MLPCfg(hidden_features=[64, 64], activations="Tanh", init="orthogonal", output_gain=output_gain)

    return runners.OnPolicyRunnerCfg(
        num_steps_per_env=32,
        max_iterations=60,
        obs_groups={"actor": ["robot", "task"], "critic": ["robot", "task"]},
        policy=components.ActorCriticPackCfg(
            actor_cfg=components.StateIndStdActorCfg(backbone_cfg=backbone(0.01), init_std=0.6, use_log_std=True),
            critic_cfg=components.VNetworkCfg(backbone_cfg=backbone(1.0)),
        ),
        algorithm=algorithms.PPOCfg(learning_rate=1.0e-3, gamma=0.95, num_learning_epochs=5, num_mini_batches=4),
    )
