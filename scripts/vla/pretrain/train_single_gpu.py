"""Pre-train a vision-language-action policy on demonstrations.

python scripts/vla/pretrain/train_single_gpu.py --dataset_path data/blocks --epochs 10
python scripts/vla/pretrain/train_single_gpu.py --model_name Qwen/Qwen2-VL-2B-Instruct --dataset_path data/blocks
python scripts/vla/pretrain/train_single_gpu.py --task RoboRenForce-Tabletop-Place-BC --dataset_path data/place
"""

from RoboRenForce.cli.vla_tasks import PRETRAIN, prepare_vla_training, vla_parser
from RoboRenForce.utils.user_errors import user_errors


def main() -> None:
    with user_errors():
        args = vla_parser(__doc__, task=PRETRAIN).parse()
        run = prepare_vla_training(args)
        runner = run.build_runner(run.build_env())
        runner.learn()
        run.finish(runner)


if __name__ == "__main__":
    main()
