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
        args = play_parser(__doc__).parse()
        run = prepare_play(args)
        env = run.build_env()
        runner = run.build_runner(env)
        run.evaluate(runner)
        if args.video:
            run.film(runner)
        if args.export:
            run.export(runner)
        run.report()
        env.close()


if __name__ == "__main__":
    main()
