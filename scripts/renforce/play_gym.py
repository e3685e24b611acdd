"""Play, evaluate, film and export a policy that was trained on a Gymnasium or EnvPool task.

python scripts/renforce/play_gym.py --video --export                  # the newest run
python scripts/renforce/play_gym.py --target logs/RFRL/<experiment>/<run> --checkpoint best --episodes 20
"""

from RoboRenForce.runners.arguments import play_parser
from RoboRenForce.runners.launch import user_errors
from RoboRenForce.runners.play_run import prepare_play


def main() -> None:
    with user_errors():
        args = play_parser(__doc__).parse()
        run = prepare_play(args)
        runner = run.build_runner(run.build_env())
        run.evaluate(runner)
        if args.video:
            run.film(runner)
        if args.export:
            run.export(runner)
        run.report()
        runner.env.close()


if __name__ == "__main__":
    main()
