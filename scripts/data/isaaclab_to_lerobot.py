"""Convert demonstrations of Isaac Lab or robomimic (HDF5) to a LeRobot dataset of v3.0.

python scripts/data/isaaclab_to_lerobot.py --input demos.hdf5 --output data/stack --fps 20 --task "stack the cubes"

Further options are written as field=value: state=[eef_pos,eef_quat] cameras=[table_cam] include_failures=true
mask=train quaternion_order=wxyz use_videos=false codec=libx264
"""

import argparse

from RoboRenForce.configclass import apply_overrides
from RoboRenForce.data.converters.isaaclab import IsaacLabConversionCfg, convert_isaaclab
from RoboRenForce.runners.arguments import Parser
from RoboRenForce.utils.console import say
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="the HDF5 file")
    parser.add_argument("--output", required=True, help="folder to write, which does not exist")
    parser.add_argument("--fps", required=True, type=float, help="steps per second, 1 / (decimation * dt)")
    parser.add_argument("--task", required=True, help="the instruction of all demonstrations")
    args = parser.parse()
    cfg = IsaacLabConversionCfg(input=args.input, output=args.output, fps=args.fps, task=args.task)
    apply_overrides(cfg, args.overrides)
    say(str(convert_isaaclab(cfg)))


if __name__ == "__main__":
    with user_errors():
        main()
