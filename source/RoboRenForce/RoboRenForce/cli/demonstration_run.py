"""Recording demonstrations as steps that a script calls one by one.

run = prepare_demonstrations(collect_demos_parser(__doc__).parse())
run.record()
run.env.close()
"""

from __future__ import annotations

import time
from argparse import Namespace, RawDescriptionHelpFormatter
from dataclasses import dataclass
from pathlib import Path

from ..data import LeRobotWriter
from ..data.metadata import V21, V30
from ..envs.multi_modal import MultiModal
from ..envs.vec_env import EvalPolicy
from ..runners.arguments import Parser, add_trust
from ..runners.demonstrations import Recorded, dataset_features, record_demonstrations
from ..utils.console import say, setup_logging
from ..utils.device import find_device
from ..utils.errors import SpecMismatch, UserError
from ..utils.registry import load_task
from ..utils.seeding import seed_everything
from .policy_expert import trained_expert

_SECONDS_BETWEEN_LINES = 5.0


def collect_demos_parser(description: str | None) -> Parser:
    """The options of recording demonstrations."""
    parser = Parser(description=description, formatter_class=RawDescriptionHelpFormatter, allow_abbrev=False)
    parser.add_argument("--task", required=True, help="task id; its cameras, proprio and instructions are recorded")
    parser.add_argument("--output", required=True, type=Path, help="folder of the dataset")
    parser.add_argument("--num_episodes", type=int, default=200, help="in the dataset at the end (default: 200)")
    parser.add_argument(
        "--checkpoint",
        metavar="PATH",
        help="run directory or checkpoint whose policy is the expert, or an exported VLA policy (default: the task's)",
    )
    parser.add_argument("--stochastic", action="store_true", help="samples of that policy instead of its mode")
    parser.add_argument(
        "--noise",
        type=float,
        default=0.0,
        help="std of noise on what is executed, not on what is recorded, as a part of half the actions' range: data "
        "that shows how to come back (default: 0)",
    )
    parser.add_argument("--include_failures", action="store_true", help="keep episodes without success too")
    parser.add_argument("--resume", action="store_true", help="go on with what is in --output, if anything is")
    parser.add_argument(
        "--format",
        choices=(V30, V21),
        help=f"version of LeRobot's format: {V30} (default), or {V21} for programs that read no other",
    )
    parser.add_argument("--images", action="store_true", help="lossless pictures instead of videos")
    parser.add_argument("--codec", choices=("libsvtav1", "libx264"), default="libsvtav1", help="of videos")
    parser.add_argument("--fps", type=float, help="frames per second (default: the environment's steps per second)")
    parser.add_argument("--num_envs", type=int, default=16, help="environments side by side (default: 16)")
    parser.add_argument("--seed", type=int, default=0, help="of everything (default: 0)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, ... (default: cpu)")
    add_trust(parser, "the checkpoint")
    return parser


@dataclass
class DemonstrationRun:
    """Environments, an expert, and the dataset to write."""

    args: Namespace
    env: MultiModal
    expert: EvalPolicy
    writer: LeRobotWriter

    def record(self) -> Recorded:
        """Record and finalize; what was saved is finalized too when the recording is interrupted."""
        args, started, told = self.args, time.monotonic(), 0.0
        before = self.writer.saved_frames

        def tell(result: Recorded) -> None:
            nonlocal told
            now = time.monotonic()
            if now - told > _SECONDS_BETWEEN_LINES or result.saved == result.wanted:
                told = now
                say(f"{result} | {(result.frames - before) / max(1e-9, now - started):,.0f} frames/s")

        with self.writer:
            result = record_demonstrations(
                self.env,
                self.expert,
                self.writer,
                args.num_episodes,
                seed=args.seed,
                noise=args.noise,
                include_failures=args.include_failures,
                on_episode=tell,
            )
        say(f"written to    {args.output}")
        return result


def prepare_demonstrations(args: Namespace) -> DemonstrationRun:
    """Everything that can go wrong before the first step: options, task, checkpoint, output."""
    setup_logging()
    for name, least in (("num_episodes", 1), ("num_envs", 1), ("noise", 0), ("seed", 0)):
        if not vars(args)[name] >= least:  # NaN isn't
            raise UserError(f"--{name} is {vars(args)[name]}, expected at least {least}.")
    args.num_envs = min(args.num_envs, args.num_episodes)
    task = load_task(args.task)
    device = find_device(args.device)
    if vars(task.env_cfg).get("multi_modal") is None:
        raise UserError(
            f"{task.id} gives no cameras, proprio and instructions: record a task whose env.multi_modal is set."
        )
    task.env_cfg = task.env_cfg.for_evaluation(args.num_envs, args.seed)
    task.env_cfg.device = str(device)
    num_executed = task.env_cfg.multi_modal.chunk_size
    task.env_cfg.multi_modal.chunk_size, task.env_cfg.multi_modal.flat_actions = None, False
    task.apply_overrides(args.overrides)
    task.env_cfg.validate()
    if args.checkpoint is None and task.env_cfg.expert is None:
        raise UserError(
            f"{task.id} has no scripted expert: name a trained policy with --checkpoint, or set env.expert in the task."
        )
    seed_everything(args.seed)
    env = task.env_cfg.build()
    try:
        if args.checkpoint is None:
            expert = task.env_cfg.expert.build(env)
        else:
            expert = trained_expert(args, env, device, num_executed)
        writer = _writer(args, env)
    except BaseException:
        env.close()
        raise
    return DemonstrationRun(args, env, expert, writer)


def _writer(args: Namespace, env: MultiModal) -> LeRobotWriter:
    """A new dataset, or the one that is there, if it fits."""
    features = dataset_features(env.spec, "image" if args.images else "video")
    if not (args.resume and args.output.exists()):
        fps = args.fps or _steps_per_second(env)
        return LeRobotWriter.create(
            args.output,
            fps=fps,
            features=features,
            robot_type=env.spec.task,
            codec=args.codec,
            version=args.format or V30,
        )
    writer = LeRobotWriter.resume(args.output)
    if args.format not in (None, writer.version):
        raise SpecMismatch(
            f"'{args.output}' is LeRobot {writer.version} and --format is {args.format}: leave --format out, or choose "
            f"another --output."
        )
    found = {key: (feature.dtype, feature.shape) for key, feature in writer.features.items()}
    expected = {key: (feature.dtype, feature.shape) for key, feature in features.items()}
    if found != expected:
        raise SpecMismatch(
            f"'{args.output}' holds {found} and {env.spec.task} gives {expected}: choose another --output, or the "
            f"options that it was recorded with."
        )
    return writer


def _steps_per_second(env: MultiModal) -> float:
    if env.spec.step_dt is None:
        raise UserError(f"{env.spec.task} doesn't say how long a step takes: give --fps, its steps per second.")
    return 1.0 / env.spec.step_dt
