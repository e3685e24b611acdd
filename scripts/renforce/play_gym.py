"""Play, evaluate, film and export a policy that was trained on a Gymnasium or EnvPool task.

python scripts/renforce/play_gym.py --video --export                  # the newest run
python scripts/renforce/play_gym.py --target logs/RFRL/<experiment>/<run> --checkpoint best --episodes 20
"""

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
