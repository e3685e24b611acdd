"""Convert pi0 and pi0.5 between layouts of weights.

python scripts/models/convert.py models/pi05_libero exported --tokenizer models/paligemma --instructions "lift it"
python scripts/models/convert.py exported models/mine --layout openpi      # or lerobot, transformers

The first makes a folder that `load_vla` and `algorithm.init_from` read. It needs the statistics of states and actions,
which fine-tuned models have in their folder and base models have not: fine-tune those with `policy.weights=FOLDER`.
"""

import argparse

from RoboRenForce.cli.data_commands import parse_exactly
from RoboRenForce.components.openpi_convert import from_published, to_published
from RoboRenForce.components.openpi_weights import LAYOUTS
from RoboRenForce.runners.arguments import Parser
from RoboRenForce.utils.console import say
from RoboRenForce.utils.user_errors import user_errors

OURS = "roborenforce"


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="folder of a published model, or of an exported policy")
    parser.add_argument("target", help="folder that is written")
    parser.add_argument("--layout", choices=[OURS, *LAYOUTS], default=OURS, help=f"of the target (default: {OURS})")
    parser.add_argument("--tokenizer", default="", help="folder with PaliGemma's tokenizer.json (default: the source)")
    parser.add_argument("--instructions", nargs="+", default=[], help="texts that the policy is told")
    parser.add_argument("--cameras", nargs="+", default=[], help="in the order of training (default: the source's)")
    args = parse_exactly(parser, None)
    if args.layout == OURS:
        options = {"tokenizer": args.tokenizer, "instructions": args.instructions, "cameras": args.cameras}
        say(f"{from_published(args.source, args.target, **options)}")
    else:
        say(f"{to_published(args.source, args.target, LAYOUTS[args.layout])}")


if __name__ == "__main__":
    with user_errors():
        main()
