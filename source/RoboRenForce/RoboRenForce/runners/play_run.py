"""Playing a trained policy, as steps that a script calls one by one.

run = prepare_play(play_parser(__doc__).parse())
runner = run.build_runner(run.build_env())
run.evaluate(runner)
run.finish(runner)
"""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from ..algorithms.algorithm import Algorithm, Policy
from ..components import for_simulator
from ..components.vla_export import is_exported
from ..configclass.validated import validated
from ..envs.env_cfg import has_env
from ..envs.vec_env import VecEnv
from ..utils.console import say, setup_logging
from ..utils.device import find_device
from ..utils.environment_info import versions
from ..utils.errors import RunDirectoryError, SpecMismatch, UserError
from ..utils.export import export_policy
from ..utils.export_formats import DEFAULT_FORMATS
from ..utils.registry import Task, load_task
from ..utils.report import play_name, read_evaluation, write_report
from ..utils.run_dir import RunDir, resolve_checkpoint, run_of, write_text_atomically
from .arguments import EXECUTIONS
from .checkpoint_task import newest_run_of, task_of_checkpoint
from .evaluation import EvalResult, evaluate, measure
from .exported_run import exported_run
from .filming import MOST_PLAY_ENVS, eval_cfg, film
from .playing import build_player
from .saved_run import SavedRun, read_newest, read_run
from .success_table import success_table
from .tiles import record_tiles
from .trainer import Trainer

EXPORTED_ACTIONS = {
    "policy": "clip, scale and offset are in the metadata; --export_actions simulator puts them into the file",
    "simulator": "clip, scale and offset are in the file",
}
"""Units of the file's actions -> what its receiver has to know."""
MEASURED_STEPS = 500
"""Number of steps over which measurements are averaged: ten seconds at 50 Hz."""


@dataclass
class PlayRun:
    """A trained policy, its run directory and the configuration to play it with."""

    task: Task
    device: torch.device
    saved: SavedRun
    run_dir: RunDir
    args: Namespace
    env: VecEnv = field(init=False)
    """The environments to play in, once they are built."""

    @property
    def has_env(self) -> bool:
        """False if the policy learned from a data set alone and no task is named to play it in."""
        return has_env(self.task.env_cfg)

    def build_env(self) -> VecEnv:
        """Build the environments to evaluate in."""
        if not self.has_env:
            raise UserError(
                f"The policy in '{self.saved.path}' learned from a data set and has no environment: name a task to "
                "play it in with --task; `rrf export` needs none."
            )
        with validated(self.task.env_cfg):
            self.env = self.task.env_cfg.build()
        return self.env

    def build_runner(self, env: VecEnv | None) -> Trainer:
        """Build the runner with the learner of the checkpoint; it writes nothing.

        Args:
            env: What `build_env` returned; None: the policy is only exported.
        """
        runner = build_player(self.task.runner_cfg, self.saved.spec, env, self.device)
        runner.restore(self.saved, resume=False)
        runner.algorithm.eval()
        self.saved = self.saved.without_data()
        return runner

    def evaluate(self, runner: Trainer) -> dict[str, EvalResult]:
        """Evaluate the mode and samples of the policy in the same scenes, print both and write `eval.json`.

        A policy that has one way to act plays once, as `deterministic` unless samples were asked for. The file holds
        the last play, and below `others` the last one of every other task or with other overrides: a play of changed
        scenes would else pass for the policy's own. Further measurements of the environment, such as tracking errors,
        are averaged and written too.
        """
        results, policy = {}, runner.policy()
        modes = ["sampled"] if self.args.stochastic else ["deterministic"]
        if policy.has_samples and not self.args.stochastic:
            modes.append("sampled")
        for mode in modes:
            results[mode] = evaluate(
                self.env,
                policy,
                self.args.episodes,
                deterministic=mode == "deterministic",
                seed=self.task.env_cfg.seed,
            )
            say(f"{mode:13s} {results[mode]}")
        if not policy.has_samples:
            say("one way       the policy has no samples beside its mode: both would play alike")
        for line in success_table({mode: result.success_by_instruction for mode, result in results.items()}):
            say(line)
        content = {"checkpoint": self.saved.path.name, "task": self.task.id, "seed": self.task.env_cfg.seed}
        content["overrides"] = overrides_of(self.args)
        content |= {mode: result.to_dict() for mode, result in results.items()}
        measured = measure(self.env, policy, MEASURED_STEPS, seed=self.task.env_cfg.seed)
        for subject, parts in measured.items():
            numbers = ", ".join(f"{part} {value:.4g}" for part, value in parts.items())
            say(f"{subject.replace('_', ' '):13s} {numbers}")
        content |= measured
        if others := other_plays(read_evaluation(self.run_dir.evaluation), content):
            content["others"] = others
        try:
            write_text_atomically(self.run_dir.evaluation, json.dumps(content, indent=1) + "\n")
        except OSError as error:
            raise RunDirectoryError(
                f"'{self.run_dir.evaluation}' can't be written ({error.strerror}); the results are above."
            ) from error
        say(f"written to    {self.run_dir.evaluation}")
        return results

    def film(self, runner: Trainer) -> Path | None:
        """Film the policy into `videos/`."""
        path = self.run_dir.videos / f"play_{self.saved.path.stem}.mp4"
        return film(self.task, runner, path, steps=self.args.steps, deterministic=not self.args.stochastic)

    def film_tiles(self, runner: Trainer) -> Path:
        """Film one episode of every environment, side by side, into `videos/`."""
        path = self.run_dir.videos / f"tiles_{self.saved.path.stem}.mp4"
        record_tiles(
            self.env,
            runner.policy(),
            path,
            captions=self.task.runner_cfg.info_on_video,
            steps=self.args.steps,
            deterministic=not self.args.stochastic,
            seed=self.task.env_cfg.seed,
        )
        say(f"video         {path}")
        return path

    def export(self, runner: Trainer) -> None:
        """Export the policy to `exported/`, with all that a receiver of the file needs to know."""
        if not self.has_env:
            self._export_folder(runner.algorithm)
            return
        played = runner.policy()
        if played.exports_folder:
            self._export_folder(played)
            return
        env, actions = self.env, self.args.export_actions or "policy"
        options = {} if actions == "policy" else {"actions": actions}
        known = {"checkpoint": self.saved.path.name, "versions": versions()}
        known |= env.export_metadata(self.run_dir.root.name, **options)
        policy = for_simulator(played.exportable(), env.simulator_interface(), actions)
        formats = self.args.export_formats or DEFAULT_FORMATS
        exported = export_policy(policy, self.run_dir.exported, known, formats=formats)
        for path in exported.paths:
            say(f"exported to   {path} (deviates from the policy by {exported.errors[path.name]:.1g})")
        say(f"actions       the {actions}'s: {EXPORTED_ACTIONS[actions]}")

    def _export_folder(self, played: Policy | Algorithm) -> None:
        if self.args.export_formats or self.args.export_actions:
            raise UserError(
                "A vision-language-action policy is exported as a folder of weights, configuration and tokenizer, "
                "which knows its units: leave --export_formats and --export_actions out."
            )
        say(f"exported to   {played.export_folder(self.run_dir.exported)}")

    def finish(self, runner: Trainer, *, tiles: bool = False) -> None:
        """Film and export if that was asked for, write the report again, and close the environments.

        Args:
            runner: Whose policy is played.
            tiles: True to film all environments side by side.
        """
        if self.args.video:
            (self.film_tiles if tiles else self.film)(runner)
        if self.args.export:
            self.export(runner)
        say(f"report        {write_report(self.run_dir)}")
        if self.has_env:
            self.env.close()


def overrides_of(args: Namespace) -> list[str]:
    """Return what changed the run that is played, as it is written in overrides."""
    flags = {name: vars(args).get(name) for name in ("config_name", "execution")}
    return [*(f"{name}={value}" for name, value in flags.items() if value is not None), *args.overrides]


def other_plays(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """Return the plays of `eval.json` that are no earlier ones of the same, by task and overrides.

    Args:
        before: Content of the file.
        now: The play that becomes its content.
    """
    last = {name: value for name, value in before.items() if name != "others"}
    plays = before.get("others", {}) | ({play_name(last): last} if last else {})
    plays.pop(play_name(now), None)
    return plays


def prepare_play(args: Namespace, change: Callable[[Task], None] | None = None, *, doing: str = "playing") -> PlayRun:
    """Find the checkpoint and the configuration that it was trained with, or an exported VLA policy.

    Args:
        args: What `play_parser` has parsed.
        change: Changes that configuration, before flags and overrides: to play elsewhere, for example.
        doing: What is done with the policy, for the first line that is printed.
    """
    setup_logging()
    args.export = args.export or bool(args.export_formats or args.export_actions)
    target = args.target or newest_run_of(args.task, args.log_root).root
    if is_exported(target):
        saved, task = exported_run(target, args.task, trust=args.trust)
    else:
        saved = _checkpoint_to_play(Path(target), args.checkpoint)
        task = task_of_checkpoint(saved.data, trust=args.trust, task=args.task)
    if args.target and args.task not in (None, task.id):
        task = _elsewhere(task, args.task, saved)
    if change is not None:
        change(task)
    seed = task.runner_cfg.seed + 1 if args.seed is None else args.seed
    task.env_cfg = eval_cfg(task, args.num_envs or min(args.episodes, MOST_PLAY_ENVS), seed)
    if args.execution is not None:
        if "execution" not in vars(task.runner_cfg):
            raise UserError(
                f"--execution cuts the chunks of a VLA policy, which a {type(task.runner_cfg).__name__} does not play "
                "in another way than it learned: leave it out."
            )
        task.apply_overrides([f"execution=RoboRenForce.components.chunk_execution:{EXECUTIONS[args.execution]}"])
    task.apply_overrides(args.overrides)
    task.runner_cfg.adapt_env_to_play(task.env_cfg)
    device = find_device(args.device or _device_that_exists(task.env_cfg.device))
    task.env_cfg.device = str(device)
    task.validate()
    say(f"{doing:13s} {saved.path} of {task.id}")
    return PlayRun(task, device, saved, run_of(saved.path), args)


def _checkpoint_to_play(target: Path, which: str) -> SavedRun:
    """Return the newest complete checkpoint of a run, as a resumed run takes it, or the one that was named."""
    if which == "latest" and target.is_dir():
        return read_newest(RunDir(target), "That one is played.")
    return read_run(resolve_checkpoint(target, which))


def _elsewhere(task: Task, other: str, saved: SavedRun) -> Task:
    """Put the policy of a run that learned from data into the environment of another task."""
    if task.runner_cfg.class_type.steps_env:
        raise SpecMismatch(f"'{saved.path}' belongs to task '{task.id}', not to '{other}'; leave --task out.")
    return replace(load_task(other), runner_cfg=task.runner_cfg)


def _device_that_exists(name: str) -> str:
    return name if not name.startswith("cuda") or torch.cuda.is_available() else "cpu"
