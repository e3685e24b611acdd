"""Pre-train a vision-language-action policy in several processes.

torchrun --nproc_per_node=4 scripts/vla/pretrain/train_ddp.py --dataset_path data/blocks --epochs 10
torchrun --nproc_per_node=4 scripts/vla/pretrain/train_ddp.py --dataset_path data/blocks algorithm.parallel.kind=fsdp
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
