"""Play, evaluate, film and export a policy that was trained on recorded data; the data itself is not needed.

python scripts/renforce/play_offline.py --video --export              # the newest run
python scripts/renforce/play_offline.py --target logs/RFRL/<experiment>/<run> --checkpoint best --episodes 20
"""

from RoboRenForce.runners.arguments import play_parser
from RoboRenForce.runners.launch import user_errors
from RoboRenForce.runners.play_run import prepare_play
from RoboRenForce.utils.console import say
from RRF_d4rl_tasks import normalized_score


def main() -> None:
    with user_errors():
        args = play_parser(__doc__).parse()
        run = prepare_play(args)
        runner = run.build_runner(run.build_env())
        for mode, result in run.evaluate(runner).items():
            score = normalized_score(runner.env.spec.task, result.mean)
            if score is not None:
                say(f"{mode:13s} normalized score {score:.1f}")
        if args.video:
            run.film(runner)
        if args.export:
            run.export(runner)
        run.report()
        runner.env.close()


if __name__ == "__main__":
    main()
