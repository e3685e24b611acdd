"""A transformer of five million parameters, and the loop that tests of optimizers and of parallelism train it with."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import torch
from RoboRenForce.components import EMACfg, OptimizerCfg, ParamGroupCfg, ScheduleCfg
from RoboRenForce.networks import TransformerCfg
from RoboRenForce.utils.module_state import load_module_state, module_state
from RoboRenForce.utils.parallelize import ParallelCfg, parallelize
from torch import Tensor, nn

FEATURES, STEPS, ROWS, MICRO_BATCHES = 12, 4, 4, 4
MODEL = TransformerCfg(dim=256, num_layers=6, num_heads=4, window=4)
OPTIMIZER = OptimizerCfg(
    learning_rate=1e-3,
    weight_decay=0.1,
    groups=[
        # As with LoRA: large frozen matrices and small trained ones lie in the same block.
        ParamGroupCfg(pattern="blocks.*.qkv.*", frozen=True),
        ParamGroupCfg(pattern="re:blocks[.].*[.]mlp[.][13][.]weight", frozen=True),
        ParamGroupCfg(pattern="head.*", multiplier=0.5),
    ],
    schedule=ScheduleCfg(kind="cosine", warmup_steps=2, total_steps=8, final_share=0.1),
    accumulation_steps=MICRO_BATCHES,
    ema=EMACfg(decay=0.5),
)
BLOCKS = ParallelCfg(blocks=["Block"])


class Learner:
    """Module, optimizer and what a checkpoint holds of them."""

    def __init__(self, parallel: ParallelCfg, mesh: Any = None, optimizer: OptimizerCfg = OPTIMIZER) -> None:
        torch.manual_seed(0)
        module = MODEL.build(FEATURES, FEATURES)
        optimizer.freeze(module)
        if parallel.mixed_precision == "bf16":
            for parameter in module.parameters():
                if parameter.ndim == 2:  # parallelize makes float32 masters of what is trained
                    parameter.data = parameter.data.bfloat16()
        self.mesh = mesh
        self.module = parallelize(module, mesh, parallel)
        self.optimizer = optimizer.build(self.module)

    def state_dict(self) -> dict[str, Any]:
        return {"model": module_state(self.module, trainable_only=True), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_module_state(self.module, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])

    def loss(self, x: Tensor) -> Tensor:
        """Squared error of predicting the next step, mean over this rank's rows of `x` `(T, N, F)`."""
        if self.mesh is not None:
            x = x[:, self.mesh.get_rank() :: self.mesh.size()]
        state = torch.zeros(self.module_inside.state_shape(x.shape[1]))
        prediction, _ = self.module(x[:-1], state)
        return (prediction.float() - x[1:]).square().mean()

    @property
    def module_inside(self) -> nn.Module:
        return getattr(self.module, "module", self.module)


def micro_batch(step: int, index: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 * step + index)
    return torch.randn(STEPS + 1, ROWS, FEATURES, generator=generator).cumsum(0)


def train(learner: Learner, first: int, last: int, *, mean: Any = lambda loss: loss) -> list[float]:
    """Losses of the steps from `first` to before `last`; `mean` averages over ranks."""
    losses = []
    for step in range(first, last):
        total = torch.zeros(())
        for index in range(MICRO_BATCHES):
            loss = learner.loss(micro_batch(step, index))
            learner.optimizer.backward(loss)
            total += loss.detach() / MICRO_BATCHES
        learner.optimizer.step()
        losses.append(float(mean(total)))
    return losses


@torch.no_grad()
def evaluate(learner: Learner, *, ema: bool, mean: Any = lambda loss: loss) -> float:
    with learner.optimizer.ema.swapped_in() if ema else nullcontext():
        return float(mean(learner.loss(micro_batch(99, 0))))
