"""Write the report on a dynamics model: k-step errors and calibration, as JSON and as a picture, into its run.

python scripts/renforce/report_dynamics.py --target logs/RFRL/system_dynamics_mlp --horizon 100
"""

from RoboRenForce.runners.dynamics_report import report_parser, report_run
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    with user_errors():
        report_run(report_parser(__doc__).parse())


if __name__ == "__main__":
    main()
