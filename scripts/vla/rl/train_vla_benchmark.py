"""Fine-tune a vision-language-action policy by reinforcement learning on a benchmark.

python scripts/vla/rl/train_vla_benchmark.py --benchmark tabletop --algo grpo --num_envs 64 --model_path <run>
"""

from RoboRenForce.cli.vla_rl import benchmark_parser, prepare_benchmark
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    with user_errors():
        run = prepare_benchmark(benchmark_parser(__doc__).parse())
        runner = run.build_runner(run.build_env())
        runner.learn()
        run.finish(runner)


if __name__ == "__main__":
    main()
