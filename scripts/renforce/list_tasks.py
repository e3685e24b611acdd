"""List the tasks of all installed packages: python scripts/renforce/list_tasks.py [prefix]."""

import sys

from RoboRenForce.cli.listing import task_table
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    with user_errors():
        print(task_table(sys.argv[1] if len(sys.argv) > 1 else ""))


if __name__ == "__main__":
    main()
