"""Play, evaluate, film and export a policy that was trained on a Gymnasium or EnvPool task.

python scripts/renforce/play_gym.py --video --export                  # the newest run
python scripts/renforce/play_gym.py --target logs/RFRL/<experiment>/<run> --checkpoint best --episodes 20
"""

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
