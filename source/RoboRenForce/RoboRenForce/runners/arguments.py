"""Command-line arguments that all training and playing scripts share.

Only flags that were given change anything; all other settings are the task's. The remaining arguments are overrides:

    algorithm.gamma=0.98   policy.actor_cfg.init_std=0.5   max_iterations=10     fields of the runner
                                                                                 (also agent.<field>)
    env.num_envs=64                                                              fields of the environment
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from ..utils.errors import UserError, did_you_mean
from ..utils.export_formats import DEFAULT_FORMATS, FORMATS, check_formats
from ..utils.run_dir import DEFAULT_LOG_ROOT

EXECUTIONS = {
    "receding_horizon": "RecedingHorizonCfg",
    "temporal_ensemble": "TemporalEnsembleCfg",
    "rtc": "RealTimeChunkingCfg",
}
"""Name of `--execution` -> class in `components.chunk_execution`."""

_OVERRIDES = """
overrides:
  path.to.field=value    any field of the runner, for example algorithm.gamma=0.98 policy.actor_cfg.init_std=0.5
                         max_iterations=10; agent.algorithm.gamma=0.98 means the same
  env.field=value        any field of the environment, for example env.num_envs=64
  Values are written as in OmegaConf and Hydra: [64,64], null, true. --print_config shows all fields.
"""


class Parser(argparse.ArgumentParser):
    """Argument parser that reports mistakes in one sentence, accepts `--num-envs` too, and collects overrides."""

    def error(self, message: str) -> NoReturn:
        """Raise a UserError instead of printing the usage and exiting."""
        raise UserError(f"{message[0].upper()}{message[1:]}; --help shows all options.")

    def parse(self, argv: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse `argv` (the command line if None); `overrides` of the result holds `path=value` texts."""
        words = [_with_underscores(word) for word in (sys.argv[1:] if argv is None else argv)]
        args, rest = self.parse_known_args(words)
        flags = [name for action in self._actions for name in action.option_strings]
        for word in rest:
            if word.startswith("-"):
                name = word.partition("=")[0]
                raise UserError(f"There is no option {name}: {did_you_mean(name, flags)}")
            if "=" not in word:
                raise UserError(f"'{word}' is neither an option nor an override; write path.to.field=value.")
        args.overrides = rest
        return args


def train_parser(description: str | None, *, task: str | None = None) -> Parser:
    """Build the parser of training; `task` is trained if none is named."""
    parser = _parser(description)
    default = f" (default: {task})" if task else ""
    parser.set_defaults(default_task=task)
    parser.add_argument("--task", help=f"task id; `rrf list` shows all{default}")
    parser.add_argument("--num_envs", type=positive, help="number of environments")
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ...")
    parser.add_argument("--seed", type=_natural, help="seed of everything")
    parser.add_argument("--max_iterations", type=positive, help="length of the run")
    parser.add_argument(
        "--resume",
        nargs="?",
        const="latest",
        metavar="PATH",
        help="continue a run: a run directory or a checkpoint; without PATH the newest run (of --task if given)",
    )
    parser.add_argument("--run_name", help="appended to the name of the run directory")
    parser.add_argument("--experiment_name", help="folder of the run")
    parser.add_argument("--logger", type=_loggers, help="tensorboard, wandb, swanlab, several with commas, or none")
    parser.add_argument("--log_root", help=f"where runs are written (default: {DEFAULT_LOG_ROOT})")
    parser.add_argument("--video", action="store_true", help="film the trained policy at the end")
    parser.add_argument("--config", type=Path, metavar="FILE", help="YAML of fields to change, as in --print_config")
    parser.add_argument("--print_config", action="store_true", help="show the configuration and leave")
    add_trust(parser, "--config and the checkpoint")
    return parser


def play_parser(description: str | None) -> Parser:
    """Build the parser of playing, evaluating and exporting."""
    parser = _parser(description)
    parser.add_argument("--target", metavar="PATH", help="run directory or checkpoint (default: the newest run)")
    parser.add_argument(
        "--task",
        help="without --target: the newest run of this task; with it: where a policy that learned from data is played",
    )
    parser.add_argument("--checkpoint", default="latest", help="latest, best or an iteration (default: latest)")
    parser.add_argument(
        "--num_envs", type=positive, help="number of environments (default: one per episode, at most 16)"
    )
    parser.add_argument("--episodes", type=positive, default=10, help="episodes per evaluation (default: 10)")
    parser.add_argument("--stochastic", action="store_true", help="play samples of the policy instead of its mode")
    parser.add_argument(
        "--execution",
        choices=EXECUTIONS,
        help="VLA: how chunks of actions become actions, set further by execution.<field>=value (default: as many "
        "actions of a chunk as the environment takes per step)",
    )
    parser.add_argument("--video", action="store_true", help="film the policy")
    parser.add_argument(
        "--steps", type=positive, help="length of the video in steps (default: an episode, at most 500)"
    )
    parser.add_argument("--export", action="store_true", help="write the policy as files that run without RoboRenForce")
    parser.add_argument(
        "--export_formats",
        type=_formats,
        help=f"{', '.join(FORMATS)}, several with commas (default: {','.join(DEFAULT_FORMATS)})",
    )
    parser.add_argument(
        "--export_actions",
        choices=("policy", "simulator"),
        help="what the files give: the policy's actions, their clip and scale in the metadata (default), or with clip "
        "and scale applied what the simulator takes",
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: that of the run, or cpu)")
    parser.add_argument("--seed", type=_natural, help="seed of the episodes (default: that of the run + 1)")
    parser.add_argument("--log_root", default=DEFAULT_LOG_ROOT, help=f"where runs are (default: {DEFAULT_LOG_ROOT})")
    add_trust(parser, "the checkpoint")
    return parser


def add_trust(parser: Parser, files: str) -> None:
    """Add the flag that lets files name any class."""
    text = f"let {files} name any class and import any module: only for files whose author you trust (SECURITY.md)"
    parser.add_argument("--trust", action="store_true", help=text)


def _parser(description: str | None) -> Parser:
    return Parser(
        description=description,
        epilog=_OVERRIDES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _with_underscores(word: str) -> str:
    if not word.startswith("--"):
        return word
    name, equals, value = word.partition("=")
    return "--" + name[2:].replace("-", "_") + equals + value


def positive(text: str) -> int:
    """Read an argument that is an integer of at least 1."""
    return _integer(text, 1)


def _natural(text: str) -> int:
    return _integer(text, 0)


def _integer(text: str, lowest: int) -> int:
    try:
        number = int(text)
    except ValueError:
        number = lowest - 1
    if number < lowest:
        raise argparse.ArgumentTypeError(f"got {text}, expected an integer of at least {lowest}")
    return number


def _loggers(text: str) -> list[str]:
    names = [name for name in text.split(",") if name and name != "none"]
    known = ("tensorboard", "wandb", "swanlab")
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"there is no logger '{name}': {did_you_mean(name, known)}")
    return names


def _formats(text: str) -> list[str]:
    names = [name for name in text.split(",") if name]
    check_formats(names)
    return names
