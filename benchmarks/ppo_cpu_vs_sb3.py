"""PPO on HalfCheetah-v5 on a CPU: ours against Stable-Baselines3's, paired, in one run.

    python benchmarks/ppo_cpu_vs_sb3.py --steps 300000 --seeds 3 --output benchmarks/results/ppo_cpu_vs_sb3.json

Both learners get the same 16 environments, networks (two tanh layers of 64), rollout (128 steps), epochs (10),
mini-batches (64), learning rate, clip, discount and running normalization of observations and rewards, and the same
number of threads. Each seed trains one after the other; returns are those of 10 deterministic episodes on the
unnormalized reward.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
import torch
from report import environment_report, write_json
from RoboRenForce import algorithms, components, networks, runners
from RoboRenForce.runners.evaluation import evaluate
from RRF_gym_tasks.gym_env import GymEnvCfg

NUM_ENVS, ROLLOUT, EPOCHS, BATCH, EPISODES = 16, 128, 10, 64, 10


def train_ours(env_id: str, steps: int, seed: int) -> dict[str, float]:
    """Train with `OnPolicyRunner`; compilation counts as training time."""

    def mlp() -> networks.MLPCfg:
        return networks.MLPCfg(hidden_features=[64, 64], activations="Tanh", init="orthogonal")

    env = GymEnvCfg(env_id=env_id, num_envs=NUM_ENVS, seed=seed).build()
    actor = components.StateIndStdActorCfg(backbone_cfg=mlp(), use_log_std=True)
    cfg = runners.OnPolicyRunnerCfg(
        seed=seed,
        num_steps_per_env=ROLLOUT,
        max_iterations=steps // (NUM_ENVS * ROLLOUT),
        init_at_random_ep_len=False,
        logger=[],
        report=False,
        policy=components.ActorCriticPackCfg(actor_cfg=actor, critic_cfg=components.VNetworkCfg(backbone_cfg=mlp())),
        algorithm=algorithms.PPOCfg(
            num_learning_epochs=EPOCHS,
            num_mini_batches=NUM_ENVS * ROLLOUT // BATCH,
            learning_rate=3e-4,
            schedule="fixed",
            entropy_coef=0.0,
            value_loss_coef=0.5,
            use_clipped_value_loss=False,
            max_grad_norm=0.5,
            normalize_reward=True,
            normalize_advantage_per_mini_batch=True,
            compile="on",
            precision="fp32",
        ),
    )
    runner = cfg.build(env=env, device="cpu")
    start = time.perf_counter()
    runner.learn()
    seconds = time.perf_counter() - start
    eval_env = GymEnvCfg(env_id=env_id, num_envs=EPISODES, seed=seed + 1000).build()
    result = evaluate(eval_env, runner.policy(), episodes=EPISODES)
    return {"steps_per_s": runner.steps / seconds, "train_s": seconds, "steps": runner.steps, "return": result.mean}


def train_sb3(env_id: str, steps: int, seed: int) -> dict[str, float]:
    """Train with Stable-Baselines3, its defaults for everything that the module docstring does not name."""
    from stable_baselines3 import PPO
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.vec_env import VecNormalize

    env = VecNormalize(make_vec_env(env_id, NUM_ENVS, seed=seed))
    steps -= steps % (NUM_ENVS * ROLLOUT)
    model = PPO("MlpPolicy", env, n_steps=ROLLOUT, batch_size=BATCH, n_epochs=EPOCHS, seed=seed, device="cpu")
    start = time.perf_counter()
    model.learn(steps)
    seconds = time.perf_counter() - start
    env.training, env.norm_reward = False, False
    mean, _ = evaluate_policy(model, env, n_eval_episodes=EPISODES, deterministic=True)
    return {"steps_per_s": steps / seconds, "train_s": seconds, "steps": steps, "return": float(mean)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--env", default="HalfCheetah-v5")
    parser.add_argument("--steps", type=int, default=300_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", default="benchmarks/results/ppo_cpu_vs_sb3.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    runs: dict[str, list[dict[str, float]]] = {"ours": [], "sb3": []}
    for seed in range(args.seeds):
        for name, train in (("ours", train_ours), ("sb3", train_sb3)):
            np.random.seed(seed)
            runs[name].append({"seed": seed} | train(args.env, args.steps, seed))
            print(name, runs[name][-1], flush=True)
    medians = {
        name: {key: statistics.median(result[key] for result in found) for key in found[0]}
        for name, found in runs.items()
    }
    ratio = medians["ours"]["steps_per_s"] / medians["sb3"]["steps_per_s"]
    data = {"benchmark": "ppo_cpu_vs_sb3", "arguments": vars(args), "runs": runs, "medians": medians}
    data["speedup"] = round(ratio, 2)
    write_json(args.output, data | environment_report())
    print(f"{ratio:.2f} x the steps/s of Stable-Baselines3")


if __name__ == "__main__":
    main()
