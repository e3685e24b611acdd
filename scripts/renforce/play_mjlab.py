"""Play, evaluate, film, export and view a policy that was trained on an MJLab task.

python scripts/renforce/play_mjlab.py --num_envs 64 --video --export          # the newest run
python scripts/renforce/play_mjlab.py --target logs/RFRL/<experiment>/<run> --viewer viser
"""

from RoboRenForce.runners.arguments import play_parser
from RoboRenForce.runners.play_run import prepare_play
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    with user_errors():
        parser = play_parser(__doc__)
        parser.add_argument("--viewer", choices=["viser", "native"], help="watch it live: in a browser or a window")
        args = parser.parse()
        run = prepare_play(args)
        runner = run.build_runner(run.build_env())
        if args.viewer:
            from RRF_mjlab_tasks.play import view  # needs mjlab's viewers

            view(run.env, runner.policy(), args.viewer, args.steps)
        else:
            run.evaluate(runner)
        run.finish(runner)


if __name__ == "__main__":
    main()
