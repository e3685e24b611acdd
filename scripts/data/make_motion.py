"""Write a made-up gait of one of mjlab's robots: a motion for AMP and for mjlab's tracking task.

python scripts/data/make_motion.py --robot Go1 --output motions/go1_trot.npz
python scripts/data/make_motion.py --robot G1 --output motions/g1_walk.npz --seconds 10
"""

from argparse import RawDescriptionHelpFormatter
from pathlib import Path

from RoboRenForce.runners.arguments import Parser
from RoboRenForce.utils.console import say
from RoboRenForce.utils.optional import require_package
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--robot", choices=("Go1", "G1"), required=True, help="robot that walks")
    parser.add_argument("--output", type=Path, required=True, help="new .npz file")
    parser.add_argument("--seconds", type=float, default=4.0, help="duration (default: 4)")
    parser.add_argument("--fps", type=float, default=50.0, help="frames per second (default: 50)")
    with user_errors():
        args = parser.parse()
        require_package("mjlab", purpose="gaits of its robots")
        from RRF_mjlab_tasks.motion.files import write_motion
        from RRF_mjlab_tasks.motion.gaits import make_gait

        write_motion(args.output, make_gait(args.robot, args.seconds, args.fps))
        say(f"written to    {args.output}")


if __name__ == "__main__":
    main()
