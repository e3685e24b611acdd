"""Record a data set for offline learning: a Minari data set, or a file of rows if the output ends in .hdf5 or .h5.

python scripts/data/collect_dataset.py --task RoboRenForce-Gym-Pendulum-PPO --steps 50000 --output pendulum/random-v0
python scripts/data/collect_dataset.py --task RoboRenForce-Gym-Pendulum-SAC --policy expert --output data/expert.hdf5
python scripts/data/collect_dataset.py --target logs/RFRL/<experiment>/<run> --policy mixed --output data/mixed.hdf5
"""

from RoboRenForce.utils.console import say
from RoboRenForce.utils.user_errors import user_errors
from RRF_d4rl_tasks.collection import collect_parser, prepare_collection


def main() -> None:
    with user_errors():
        collection = prepare_collection(collect_parser(__doc__).parse())
        episodes = collection.record()
        collection.env.close()
        say(f"written to    {collection.write(episodes)}")


if __name__ == "__main__":
    main()
