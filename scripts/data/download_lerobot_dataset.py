"""Download a LeRobot dataset from the Hugging Face hub.

python scripts/data/download_lerobot_dataset.py --repo_id lerobot/pusht --output_dir data/pusht
"""

import argparse

from RoboRenForce.cli.data_commands import parse_exactly
from RoboRenForce.data.download import download_dataset
from RoboRenForce.runners.arguments import Parser
from RoboRenForce.utils.console import say
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repo_id", "--repo", default="lerobot/pusht", help="owner/name (default: lerobot/pusht)")
    parser.add_argument("--output_dir", help="folder to write (default: data/<name>)")
    parser.add_argument("--revision", help="branch, tag or commit (default: the newest)")
    args = parse_exactly(parser, None)
    output = args.output_dir or f"data/{args.repo_id.rpartition('/')[2]}"
    say(str(download_dataset(args.repo_id, output, revision=args.revision)))


if __name__ == "__main__":
    with user_errors():
        main()
