"""Write the report on a dynamics model into its run: k-step errors and calibration, as JSON and as a picture.

python scripts/data/report_dynamics.py --target logs/RFRL/system_dynamics_mlp --horizon 100

With dataset.source=... it is judged on other data than its own held-out part.
"""

from argparse import RawDescriptionHelpFormatter

from RoboRenForce.cli.dynamics import report_run
from RoboRenForce.runners.arguments import Parser, add_trust
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--target", required=True, metavar="PATH", help="checkpoint, run directory, or folder of runs")
    parser.add_argument("--horizon", type=int, default=50, help="most steps that are predicted on end (default: 50)")
    add_trust(parser, "the checkpoint")
    with user_errors():
        report_run(parser.parse())


if __name__ == "__main__":
    main()
