"""Compute the statistics of a LeRobot dataset anew and print them; with --write they replace `meta/stats.json`.

Numbers count over all frames, cameras over some random ones; videos are not read for anything else.

python scripts/data/dataset_stats.py data/blocks --write
"""

import argparse
from pathlib import Path

from RoboRenForce.cli.data_commands import parse_exactly
from RoboRenForce.data.merge import write_statistics
from RoboRenForce.data.totals import dataset_statistics
from RoboRenForce.runners.arguments import Parser
from RoboRenForce.utils.console import say
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="folder of the dataset, the one with meta/ in it")
    parser.add_argument("--camera_frames", type=int, default=1000, help="frames of every camera (default: 1000)")
    parser.add_argument("--write", action="store_true", help="replace meta/stats.json")
    args = parse_exactly(parser, None)
    statistics = dataset_statistics(args.path, camera_frames=args.camera_frames)
    for key, entry in statistics.items():
        say(f"{key}  ({entry.count:,} frames)")
        rows = {"min": entry.min, "mean": entry.mean, "std": entry.std, "max": entry.max} | entry.quantiles
        for name, values in rows.items():
            say(f"  {name:5s} {' '.join(f'{value:11.5g}' for value in values.reshape(-1)[:32])}")
    if args.write:
        write_statistics(Path(args.path), statistics)


if __name__ == "__main__":
    with user_errors():
        main()
