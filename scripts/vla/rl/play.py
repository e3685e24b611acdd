"""Play, evaluate and film a vision-language-action policy before or after reinforcement learning.

python scripts/vla/rl/play.py --config_name tabletop_reach_grpo --model_path <run> --only_eval --num_episodes 100
python scripts/vla/rl/play.py --config_name tabletop_reach_grpo --rl_model_path <run>/global_step_40 --video
"""

from RoboRenForce.cli.vla_rl import prepare_rl_play, rl_play_parser
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    with user_errors():
        run = prepare_rl_play(rl_play_parser(__doc__).parse())
        runner = run.build_runner(run.build_env())
        run.evaluate(runner)
        run.finish(runner, tiles=True)


if __name__ == "__main__":
    main()
