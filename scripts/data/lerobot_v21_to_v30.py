"""Convert a LeRobot dataset of v2.1 (or v2.0) to v3.0; videos are joined, not encoded again.

python scripts/data/lerobot_v21_to_v30.py --input data/old --output data/new
"""

import argparse

from RoboRenForce.cli.data_commands import parse_exactly
from RoboRenForce.data.converters.lerobot_v21 import convert_v21
from RoboRenForce.runners.arguments import Parser
from RoboRenForce.utils.console import say
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="folder of the dataset")
    parser.add_argument("--output", required=True, help="folder to write, which does not exist")
    args = parse_exactly(parser, None)
    say(str(convert_v21(args.input, args.output)))


if __name__ == "__main__":
    with user_errors():
        main()
