"""Look through a LeRobot dataset and write a page with frames, histograms and what is wrong (`rrf data inspect`).

python scripts/data/inspect_dataset.py data/blocks --output blocks.html
"""

import sys

from RoboRenForce.cli.data_commands import inspect
from RoboRenForce.utils.user_errors import user_errors

if __name__ == "__main__":
    with user_errors():
        inspect(sys.argv[1:])
