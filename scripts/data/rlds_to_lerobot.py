"""Convert an RLDS dataset (TFRecord files of TensorFlow Datasets) to a LeRobot dataset of v3.0, without TensorFlow.

python scripts/data/rlds_to_lerobot.py --input libero_spatial/1.0.0 --output data/libero_spatial --fps 20

Further options are written as field=value: split=val state=[observation/state] action=[action]
cameras=[observation/image] task="open the drawer" drop_last_step=true use_videos=false codec=libx264
"""

import argparse

from RoboRenForce.configclass import apply_overrides
from RoboRenForce.data.converters.rlds import RLDSConversionCfg, convert_rlds
from RoboRenForce.runners.arguments import Parser
from RoboRenForce.utils.console import say
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--input", required=True, help="folder with dataset_info.json and the TFRecord files")
    parser.add_argument("--output", required=True, help="folder to write, which does not exist")
    parser.add_argument("--fps", required=True, type=float, help="steps per second")
    args = parser.parse()
    cfg = RLDSConversionCfg(input=args.input, output=args.output, fps=args.fps)
    apply_overrides(cfg, args.overrides)
    say(str(convert_rlds(cfg)))


if __name__ == "__main__":
    with user_errors():
        main()
