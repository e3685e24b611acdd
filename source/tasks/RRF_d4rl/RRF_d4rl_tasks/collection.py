"""Recording of a data set from a random policy, from checkpoints of a run, or from a mixture of them.

The levels are those of D4RL: `random` is uniform, `expert` the best checkpoint of a run (the newest if none was
evaluated), `medium` the first of its checkpoints that reaches a given share of the way from the random to the expert
return. They act in the same environments, one after another.
"""

from __future__ import annotations

import json
import math
import sys
from argparse import ArgumentTypeError, Namespace, RawDescriptionHelpFormatter
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from RoboRenForce.buffer import EpisodeArrays
from RoboRenForce.envs.env_cfg import evaluation_cfg
from RoboRenForce.envs.vec_env import VecEnv
from RoboRenForce.runners import Trainer, evaluate
from RoboRenForce.runners.arguments import Parser, add_trust
from RoboRenForce.runners.checkpoint_task import newest_run_of, task_of_checkpoint
from RoboRenForce.runners.playing import build_player
from RoboRenForce.runners.recording import Behavior, PolicyBehavior, RandomBehavior, record_episodes
from RoboRenForce.runners.saved_run import load_run, read_run
from RoboRenForce.utils.console import say, setup_logging
from RoboRenForce.utils.device import find_device
from RoboRenForce.utils.errors import SpecMismatch, UserError, did_you_mean
from RoboRenForce.utils.registry import Task, load_task
from RoboRenForce.utils.run_dir import DEFAULT_LOG_ROOT, resolve_checkpoint, run_of
from RoboRenForce.utils.seeding import seed_everything

from .hdf5_rows import write_rows
from .offline_dataset import SUFFIXES
from .recorded_space import spaces_to_record

LEVELS = ("random", "medium", "expert")
_JUDGED_EPISODES = 5


def collect_parser(description: str | None) -> Parser:
    """Build the parser of recording."""
    parser = Parser(description=description, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--task", help="task to act in; without --target policies are those of its newest run")
    parser.add_argument("--target", metavar="PATH", help="run directory or checkpoint whose policy acts")
    parser.add_argument(
        "--checkpoint", help="latest, best or an iteration, instead of the one that --policy would choose"
    )
    parser.add_argument(
        "--policy", choices=(*LEVELS, "mixed"), help="who acts (default: expert, random without --target)"
    )
    parser.add_argument(
        "--shares", type=_shares, default={}, help="of --policy mixed (default: random=1,medium=1,expert=1)"
    )
    parser.add_argument(
        "--medium", type=float, default=1 / 3, metavar="PART", help="of the way to the expert's return (default: 1/3)"
    )
    parser.add_argument("--medium_return", type=float, help="return from which a checkpoint counts as medium")
    parser.add_argument("--steps", type=int, default=100_000, help="transitions, at least (default: 100000)")
    parser.add_argument("--output", required=True, help="file.hdf5, or a Minari id such as pendulum/mixed-v0")
    parser.add_argument("--deterministic", action="store_true", help="the mode of the policy instead of samples")
    parser.add_argument("--noise", type=float, default=0.0, help="std of noise on actions in [-1, 1] (default: 0)")
    parser.add_argument("--epsilon", type=float, default=0.0, help="share of uniformly random actions (default: 0)")
    parser.add_argument("--num_envs", type=int, default=8, help="environments side by side (default: 8)")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default: 0)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    add_trust(parser, "the checkpoint")
    return parser


@dataclass
class Collection:
    """Environments, and everything needed to act in them."""

    args: Namespace
    task: Task
    env: VecEnv
    checkpoint: Path | None
    _runner: Trainer | None = None

    def record(self) -> list[EpisodeArrays]:
        """Record the episodes of all levels."""
        shares = self._shares()
        total = sum(shares.values())
        episodes: list[EpisodeArrays] = []
        for number, (level, share) in enumerate(shares.items()):
            steps = max(1, round(self.args.steps * share / total))
            found = record_episodes(self.env, self._behavior(level), steps, seed=self.args.seed + 1000 * number)
            say(f"{level:13s} {_described(found)}")
            episodes += found
        return [replace(episode, key=f"episode_{number}") for number, episode in enumerate(episodes)]

    def write(self, episodes: list[EpisodeArrays]) -> str:
        """Write the data set; returns its location."""
        spec, output = self.env.spec, self.args.output
        env_cfg = self.task.env_cfg
        kwargs, wrappers = getattr(env_cfg, "env_kwargs", None), getattr(env_cfg, "wrappers", None)
        recorded = spaces_to_record(spec, kwargs, wrapped=bool(wrappers))
        notes = {"description": f"{self.args.policy or self._default_level} of {self.task.id}", "env_id": spec.task}
        if self.checkpoint is not None:
            notes["algorithm_name"] = type(self.task.runner_cfg.algorithm).__name__.removesuffix("Cfg")
        if table := self.env.instruction_table:
            notes["instructions"] = json.dumps({str(number): text for number, text in table.items()})
        if output.endswith(SUFFIXES):
            write_rows(Path(output), episodes, recorded, notes)
            return output
        from .minari_data import write_minari

        return str(write_minari(output, episodes, recorded, notes))

    @property
    def _default_level(self) -> str:
        return "random" if self.checkpoint is None else "expert"

    def _shares(self) -> dict[str, float]:
        level = self.args.policy or self._default_level
        return (self.args.shares or dict.fromkeys(LEVELS, 1.0)) if level == "mixed" else {level: 1.0}

    def _behavior(self, level: str) -> Behavior:
        action, args = self.env.spec.action, self.args
        if level == "random":
            return RandomBehavior(action)
        if args.noise and action.kind == "discrete":
            raise UserError("--noise can't be added to discrete actions: use --epsilon.")
        runner = self._loaded(self._checkpoint_of(level))
        return PolicyBehavior(
            runner.policy(), action, deterministic=args.deterministic, noise=args.noise, epsilon=args.epsilon
        )

    def _checkpoint_of(self, level: str) -> Path:
        """Return the checkpoint that acts as `level`."""
        if self.checkpoint is None:
            raise UserError(f"--policy {level} needs a trained policy: name its run or checkpoint with --target.")
        named = self.args.target is not None and Path(self.args.target).is_file()
        if self.args.checkpoint is not None or (named and level == "expert"):
            return self.checkpoint
        if named:
            raise UserError(
                f"--policy {level} chooses among the checkpoints of a run: give the run directory as --target, or the "
                f"iteration as --checkpoint."
            )
        run = run_of(self.checkpoint)
        expert = run.pointed("best") or self.checkpoint
        return expert if level == "expert" else self._medium(list(run.checkpoints().values()), expert)

    def _medium(self, candidates: list[Path], expert: Path) -> Path:
        """Return the first of the candidates whose return is large enough."""
        wanted = self.args.medium_return
        if wanted is None:
            low = _mean_return(record_episodes(self.env, RandomBehavior(self.env.spec.action), 1, seed=self.args.seed))
            wanted = low + self.args.medium * (self._judge(expert) - low)
        judged = {}
        for path in candidates:
            judged[path.name] = self._judge(path)
            if judged[path.name] >= wanted:
                say(f"medium        {path.name} with a return of {judged[path.name]:,.1f} (at least {wanted:,.1f})")
                return path
        listed = ", ".join(f"{name} {value:,.1f}" for name, value in judged.items())
        raise UserError(
            f"No checkpoint reaches a return of {wanted:,.1f} ({listed}): lower --medium_return, or train longer with "
            "keep_checkpoints=null."
        )

    def _judge(self, path: Path) -> float:
        episodes = max(_JUDGED_EPISODES, self.env.num_envs)
        return evaluate(self.env, self._loaded(path).policy(), episodes, seed=self.args.seed).mean

    def _loaded(self, path: Path) -> Trainer:
        """Return a runner with the learner of a checkpoint."""
        saved = read_run(path)
        if self._runner is None:
            self._runner = build_player(self.task.runner_cfg, saved.spec, self.env, self.env.device)
        self._runner.restore(saved, resume=False)
        self._runner.algorithm.eval()
        return self._runner


def prepare_collection(args: Namespace) -> Collection:
    """Check everything before the first step: options, checkpoint, configuration, output."""
    setup_logging()
    for name, least in (("steps", 1), ("num_envs", 1), ("noise", 0), ("epsilon", 0), ("seed", 0)):
        if not vars(args)[name] >= least:  # NaN isn't
            raise UserError(f"--{name} is {vars(args)[name]}, expected at least {least}.")
    for name, most in (("noise", sys.float_info.max), ("epsilon", 1.0)):
        if vars(args)[name] > most:
            raise UserError(f"--{name} is {vars(args)[name]}, expected at most {most:g}.")
    for name in ("medium", "medium_return"):
        if vars(args)[name] is not None and not math.isfinite(vars(args)[name]):
            raise UserError(f"--{name} is {vars(args)[name]}, expected a finite number.")
    _require_consistent(args)
    _require_free(args.output)
    target, checkpoint = args.target, None
    if target is None and (args.policy or "random") != "random":
        target = newest_run_of(args.task, DEFAULT_LOG_ROOT).root
    if target is not None:
        checkpoint = resolve_checkpoint(target, args.checkpoint or "latest")
        task = task_of_checkpoint(load_run(checkpoint), trust=args.trust, task=args.task)
        if args.task not in (None, task.id):
            raise SpecMismatch(f"'{checkpoint}' belongs to task '{task.id}', not to '{args.task}'; leave --task out.")
    elif args.task is not None:
        task = load_task(args.task)
    else:
        raise UserError("Nothing to record: name a --task to act in at random, or a trained policy with --target.")
    task.env_cfg = evaluation_cfg(task.env_cfg, args.num_envs, args.seed)
    task.env_cfg.device = str(find_device(args.device))
    task.apply_overrides(args.overrides)
    task.validate()
    seed_everything(args.seed)
    return Collection(args, task, task.env_cfg.build(), checkpoint)


def _require_consistent(args: Namespace) -> None:
    """Refuse options that would be ignored."""
    if args.shares and args.policy != "mixed":
        raise UserError("--shares are those of a mixture: add --policy mixed, or leave --shares out.")
    if args.checkpoint is not None and args.policy == "mixed":
        raise UserError(
            "--checkpoint names one policy and --policy mixed chooses several: leave one of the two out, or record "
            "each with a --checkpoint of its own."
        )
    acts_at_random = args.policy == "random" or (args.policy is None and args.target is None)
    changed = [name for name in ("noise", "epsilon", "deterministic", "checkpoint") if vars(args)[name]]
    if acts_at_random and changed:
        raise UserError(
            f"--{changed[0]} is for a trained policy, and this one is random: name another --policy, or leave it out."
        )


def _require_free(output: str) -> None:
    if output.endswith(SUFFIXES):
        if Path(output).exists():
            raise UserError(f"'{output}' exists already: choose another --output, or remove it.")
        return
    from .minari_data import check_new_id

    check_new_id(output)


def _described(episodes: list[EpisodeArrays]) -> str:
    returns = np.asarray([episode.rewards.sum(dtype=np.float64) for episode in episodes])
    steps = sum(len(episode.rewards) for episode in episodes)
    ended = sum(bool(episode.terminations[-1]) for episode in episodes)
    return (
        f"{steps:,} transitions in {len(episodes):,} episodes ({ended:,} terminated), "
        f"return {returns.mean():,.1f} +- {returns.std():,.1f}"
    )


def _mean_return(episodes: list[EpisodeArrays]) -> float:
    return float(np.mean([episode.rewards.sum(dtype=np.float64) for episode in episodes]))


def _shares(text: str) -> dict[str, float]:
    """Parse `random=0.2,expert=0.8` to a dictionary."""
    shares = {}
    for part in text.split(","):
        name, _, value = part.partition("=")
        if name not in LEVELS:
            raise ArgumentTypeError(f"there is no level '{name}': {did_you_mean(name, LEVELS)}")
        try:
            shares[name] = float(value)
        except ValueError:
            shares[name] = 0.0
        if not 0 < shares[name] < math.inf:
            raise ArgumentTypeError(f"the share of {name} is '{value}', expected a number above 0")
    return shares
