"""Train a Gymnasium or EnvPool task.

python scripts/renforce/train_gym.py --task RoboRenForce-Gym-HalfCheetah-PPO --max_iterations 100
torchrun --nproc_per_node=2 scripts/renforce/train_gym.py --task RoboRenForce-Gym-HalfCheetah-PPO
"""

from RoboRenForce.runners.arguments import train_parser
from RoboRenForce.runners.training_run import prepare_training
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    with user_errors():
        args = train_parser(__doc__, task="RoboRenForce-Gym-HalfCheetah-PPO").parse()
        run = prepare_training(args)
        env = run.build_env()
        runner = run.build_runner(env)
        runner.learn()
        run.finish(runner)


if __name__ == "__main__":
    main()
