"""Train on recorded data, without stepping an environment; the task names the data unless dataset.source does.

python scripts/renforce/train_offline.py --task RoboRenForce-D4RL-HalfCheetah-IQL dataset.source=data/medium.hdf5
"""

from RoboRenForce.runners.arguments import train_parser
from RoboRenForce.runners.training_run import prepare_training
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    with user_errors():
        args = train_parser(__doc__, task="RoboRenForce-D4RL-HalfCheetah-IQL").parse()
        run = prepare_training(args)
        env = run.build_env()
        runner = run.build_runner(env)
        runner.learn()
        run.finish(runner)


if __name__ == "__main__":
    main()
