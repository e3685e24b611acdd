"""Play, evaluate, film and export a vision-language-action policy; `rrf play` does the same.

python scripts/vla/play.py --task RoboRenForce-Tabletop-Reach-BC --episodes 100 --video     # the newest run of the task
python scripts/vla/play.py --target logs/RFRL/<experiment>/<run> --checkpoint best env.exchange=block
"""

from RoboRenForce.cli import vla_tasks  # noqa: F401 - its tasks are found from now on
from RoboRenForce.runners.arguments import play_parser
from RoboRenForce.runners.play_run import prepare_play
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    with user_errors():
        run = prepare_play(play_parser(__doc__).parse())
        runner = run.build_runner(run.build_env())
        run.evaluate(runner)
        run.finish(runner)


if __name__ == "__main__":
    main()
