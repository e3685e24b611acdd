"""Record demonstrations of a task as a LeRobot dataset: by its scripted expert, or by a trained policy.

python scripts/data/collect_demos.py --task RoboRenForce-Tabletop-Place-BC --num_episodes 200 --output data/place
python scripts/data/collect_demos.py --task <id> --checkpoint logs/RFRL/<experiment>/<run> --output data/teacher
"""

from RoboRenForce.cli import vla_tasks  # noqa: F401 - its tasks are found from now on
from RoboRenForce.cli.demonstration_run import collect_demos_parser, prepare_demonstrations
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    with user_errors():
        run = prepare_demonstrations(collect_demos_parser(__doc__).parse())
        run.record()
        run.env.close()


if __name__ == "__main__":
    main()
