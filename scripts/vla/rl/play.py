"""Play, evaluate and film a vision-language-action policy before or after reinforcement learning.

python scripts/vla/rl/play.py --config_name tabletop_reach_grpo --model_path <run> --only_eval --num_episodes 100
python scripts/vla/rl/play.py --config_name tabletop_reach_grpo --rl_model_path <run>/global_step_40 --video
"""

from RoboRenForce.cli.vla_rl import prepare_rl_play, rl_play_parser
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    with user_errors():
        args = rl_play_parser(__doc__).parse()
        run = prepare_rl_play(args)
        env = run.build_env()
        runner = run.build_runner(env)
        run.evaluate(runner)
        if args.video:
            run.film_tiles(runner)
        if args.export:
            run.export(runner)
        run.report()
        env.close()


if __name__ == "__main__":
    main()
