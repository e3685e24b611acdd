"""`rrf data <command>`: look through recorded datasets and finish interrupted recordings."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from ..data import LeRobotWriter
from ..data.inspection import inspect_dataset
from ..data.inspection_page import write_page
from ..runners.arguments import Parser
from ..utils.console import say
from ..utils.errors import UserError, did_you_mean


def inspect(argv: Sequence[str]) -> None:
    """Look through a dataset and write a page with frames, histograms and what is wrong; exit code 1 if anything is."""
    parser = Parser(description="Look through a dataset and write a page with frames, histograms and what is wrong.")
    parser.add_argument("path", help="folder of the dataset, the one with meta/ in it")
    parser.add_argument("--output", type=Path, help="the page (default: <name of the dataset>.html)")
    parser.add_argument("--frames", type=int, default=12, help="frames of every camera to show (default: 12)")
    args = parse_exactly(parser, argv)
    inspection = inspect_dataset(args.path, frames=args.frames)
    page = args.output or Path(f"{Path(args.path).resolve().name}.html")
    write_page(inspection, page)
    say(str(inspection.metadata))
    for finding in inspection.findings:
        say(f"{finding.severity:8s} {finding.text}")
    say(f"page     {page}")
    if inspection.errors:
        raise SystemExit(1)


def finalize(argv: Sequence[str]) -> None:
    """Finish an interrupted recording: every saved episode becomes part of the dataset."""
    parser = Parser(description="Finish an interrupted recording: every saved episode becomes part of the dataset.")
    parser.add_argument("path", help="folder of the recording")
    say(str(LeRobotWriter.resume(parse_exactly(parser, argv).path).finalize()))


def parse_exactly(parser: Parser, argv: Sequence[str] | None) -> argparse.Namespace:
    """Parse a command that has no configuration to override."""
    args = parser.parse(argv)
    if args.overrides:
        raise UserError(f"'{args.overrides[0]}' is no option of this command; --help shows all.")
    return args


DATA_COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {"inspect": inspect, "finalize": finalize}


def data(argv: Sequence[str]) -> None:
    """Look through recorded datasets (inspect), finish interrupted recordings (finalize)."""
    words = list(argv)
    if not words or words[0] in ("-h", "--help"):
        listed = "\n".join(
            f"  {name:9s} {(function.__doc__ or '').splitlines()[0]}" for name, function in DATA_COMMANDS.items()
        )
        say(f"usage: rrf data <command> [options]\n\n{listed}")
        raise SystemExit(0)
    if words[0] not in DATA_COMMANDS:
        raise UserError(f"There is no command 'data {words[0]}': {did_you_mean(words[0], DATA_COMMANDS)}")
    DATA_COMMANDS[words[0]](words[1:])
