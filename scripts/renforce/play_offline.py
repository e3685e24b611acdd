"""Play, evaluate, film and export a policy that was trained on recorded data; the data itself is not needed.

python scripts/renforce/play_offline.py --video --export              # the newest run
python scripts/renforce/play_offline.py --target logs/RFRL/<experiment>/<run> --checkpoint best --episodes 20
"""

from RoboRenForce.runners.arguments import play_parser
from RoboRenForce.runners.play_run import prepare_play
from RoboRenForce.utils.console import say
from RoboRenForce.utils.user_errors import user_errors
from RRF_d4rl_tasks import normalized_score


def main() -> None:
    with user_errors():
        run = prepare_play(play_parser(__doc__).parse())
        runner = run.build_runner(run.build_env())
        for mode, result in run.evaluate(runner).items():
            score = normalized_score(run.env.spec.task, result.mean)
            if score is not None:
                say(f"{mode:13s} normalized score {score:.1f}")
        run.finish(runner)


if __name__ == "__main__":
    main()
