"""Download the weights of a vision-language model from the Hugging Face hub.

python scripts/models/download_models.py qwen2vl --size 7B
"""

import argparse

from RoboRenForce.cli.data_commands import parse_exactly
from RoboRenForce.runners.arguments import Parser
from RoboRenForce.utils.console import say
from RoboRenForce.utils.hub_models import MODELS, download_model, repositories
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help=f"{', '.join(MODELS)}, or `all`")
    parser.add_argument("--size", help="as published (default: the smallest)")
    parser.add_argument("--output_dir", help="a folder per model goes in here (default: the cache of the hub)")
    args = parse_exactly(parser, None)
    for name in MODELS if args.model == "all" else [args.model]:
        for repository in repositories(name, args.size):
            plain = repository.partition(":")[0]
            folder = f"{args.output_dir}/{plain.rpartition('/')[2]}" if args.output_dir else None
            say(f"{plain}: {download_model(repository, folder)}")


if __name__ == "__main__":
    with user_errors():
        main()
