"""Fine-tune a vision-language-action policy by reinforcement learning, as one YAML says.

python scripts/vla/rl/train.py --config_name tabletop_reach_grpo --model_path logs/RFRL/<experiment>/<run>
python scripts/vla/rl/train.py --resume_dir logs/RFRL/<experiment>/<run>
"""

from RoboRenForce.cli.vla_rl import prepare_rl_play, prepare_rl_training, rl_train_parser, to_play
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    with user_errors():
        args = rl_train_parser(__doc__).parse()
        if args.only_eval:
            run = prepare_rl_play(to_play(args))
            env = run.build_env()
            run.evaluate(run.build_runner(env))
            env.close()
            return
        run = prepare_rl_training(args)
        runner = run.build_runner(run.build_env())
        runner.learn()
        run.finish(runner)


if __name__ == "__main__":
    main()
