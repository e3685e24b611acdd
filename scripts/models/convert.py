"""Convert pi0 and pi0.5 between layouts of weights.

python scripts/models/convert.py models/pi05_libero exported --tokenizer models/paligemma --instructions "lift it"
python scripts/models/convert.py exported models/mine --layout openpi      # or lerobot, transformers

The first makes a folder that `load_vla` and `algorithm.init_from` read. It needs the statistics of states and actions,
which fine-tuned models have in their folder and base models have not: fine-tune those with `policy.weights=FOLDER`.
"""

import argparse

from RoboRenForce.cli.data_commands import parse_exactly
from RoboRenForce.components.openpi_convert import from_published, to_published
from RoboRenForce.components.openpi_description import LEFT_OUT
from RoboRenForce.components.openpi_weights import LAYOUTS
from RoboRenForce.runners.arguments import Parser, positive
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
    parser.add_argument("--chunk_size", type=positive, help="actions of a chunk (default: what the source says, or 50)")
    said = "the prompt of this pi0.5 holds {} state (default: what the source says, or that it does)"
    for flag, value, word in (("--state_in_prompt", True, "the"), ("--no-state_in_prompt", False, "no")):
        names = {flag, flag.replace("no-", "no_")}  # the parser reads dashes as underscores
        parser.add_argument(
            *sorted(names), dest="state_in_prompt", action="store_const", const=value, help=said.format(word)
        )
    parser.add_argument(
        "--relative_actions",
        nargs="+",
        type=int,
        default=[],
        metavar="DIM",
        help="dimensions whose actions are relative to the same dimension of the state, as in 0 1 2 3 4 5",
    )
    args = parse_exactly(parser, None)
    if args.layout != OURS:
        say(f"{to_published(args.source, args.target, LAYOUTS[args.layout])}")
        say(LEFT_OUT[args.layout])
        return
    path = from_published(
        args.source,
        args.target,
        tokenizer=args.tokenizer,
        instructions=args.instructions,
        cameras=args.cameras,
        chunk_size=args.chunk_size,
        state_in_prompt=args.state_in_prompt,
        relative_actions=args.relative_actions,
    )
    say(f"{path}")


if __name__ == "__main__":
    with user_errors():
        main()
