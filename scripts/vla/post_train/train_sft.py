"""Fine-tune a vision-language-action policy on demonstrations.

python scripts/vla/post_train/train_sft.py --checkpoint <run> --dataset_path data/new --epochs 5 --kl_coef 0.1
python scripts/vla/post_train/train_sft.py --model_name Qwen/Qwen3-VL-2B-Instruct --dataset_path data/new
"""

from RoboRenForce.cli.vla_tasks import SFT, prepare_vla_training, vla_parser
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    with user_errors():
        args = vla_parser(__doc__, task=SFT).parse()
        run = prepare_vla_training(args)
        runner = run.build_runner(run.build_env())
        runner.learn()
        run.finish(runner)


if __name__ == "__main__":
    main()
