"""Train an MJLab task.

python scripts/renforce/train_mjlab.py --task RoboRenForce-MJLab-Go1Flat-PPO --num_envs 4096
python scripts/renforce/train_mjlab.py --task Mjlab-Cartpole-Balance --device cpu --num_envs 64 --max_iterations 100
torchrun --nproc_per_node=4 scripts/renforce/train_mjlab.py --task Mjlab-Velocity-Flat-Unitree-G1
"""

from RoboRenForce.runners.arguments import train_parser
from RoboRenForce.runners.training_run import prepare_training
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    with user_errors():
        args = train_parser(__doc__, task="RoboRenForce-MJLab-Go1Flat-PPO").parse()
        run = prepare_training(args)
        env = run.build_env()
        runner = run.build_runner(env)
        runner.learn()
        run.finish(runner)


if __name__ == "__main__":
    main()
