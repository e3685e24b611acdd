"""Write the motion of a policy that was trained on one of mjlab's velocity tasks, while one command is held.

python scripts/data/record_motion.py --target logs/RFRL/<experiment>/<run> --velocity 0.6 0 0 --output motions/own.npz
"""

from pathlib import Path

from RoboRenForce.runners.arguments import play_parser
from RoboRenForce.runners.play_run import prepare_play
from RoboRenForce.utils.console import say
from RoboRenForce.utils.registry import Task
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    with user_errors():
        parser = play_parser(__doc__)
        parser.add_argument("--output", type=Path, required=True, help="new .npz file")
        parser.add_argument(
            "--velocity", type=float, nargs=3, required=True, help="forwards, left, turning; m/s, rad/s"
        )
        parser.add_argument("--seconds", type=float, default=10.0, help="duration (default: 10)")
        args = parser.parse()
        from RRF_mjlab_tasks.motion import files, recorded

        files.require_new(args.output)

        def hold_command(task: Task) -> None:
            task.env_cfg = recorded.recording_cfg(task.env_cfg, args.velocity)

        args.num_envs = 1
        run = prepare_play(args, hold_command)
        runner = run.build_runner(run.build_env())
        files.write_motion(args.output, recorded.record(run.env, runner.policy(), args.seconds))
        say(f"written to    {args.output}")
        run.env.close()


if __name__ == "__main__":
    main()
