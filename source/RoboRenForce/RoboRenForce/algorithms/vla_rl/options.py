"""Options of policy gradients for vision-language-action policies."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Literal

from ...components import OptimizerCfg, ParamGroupCfg, ScheduleCfg
from ...configclass import Range, configclass
from ...data import LeRobotDatasetCfg
from ...data.loader import DataLoaderCfg
from ...utils.cuda_graph import GraphMode
from ...utils.parallelize import ParallelCfg
from ..algorithm import AlgorithmCfg
from ..functional import Level
from .sample_store import Place


@configclass
class PolicyGradientOptions(AlgorithmCfg):
    """What GRPO, PPO and REINFORCE++ share; each has a configuration of its own."""

    # the policy
    init_from: str = ""
    """Checkpoint or run directory of the policy that is improved, usually of supervised fine-tuning."""
    exploration: Literal["config", "checkpoint"] = "config"
    """Std or noise that exploration begins with: of the head's configuration (cloning does not teach it), or as the run
    of `init_from` has learned it."""
    freeze_backbone: bool = True
    """Train the action head only: features are then computed once per observation, and reused by every epoch."""
    checkpoints: Literal["trained", "all"] = "trained"
    """Weights in checkpoints: those that are trained (`init_from` has to stay where it is), or frozen ones too."""
    parallel: ParallelCfg = ParallelCfg()
    """Precision and activation checkpointing. Several processes use DDP."""
    cuda_graph: GraphMode = "auto"
    """Capture encoding and deciding."""

    # rewards
    gamma: Annotated[float, Range(ge=0, le=1)] = 0.99
    """Discount per action, not per chunk."""
    reward_coef: float = 1.0
    """Factor on rewards."""
    step_penalty: Annotated[float, Range(ge=0)] = 0.0
    """Subtracted for every executed action: success sooner is better."""
    relative_reward: bool = False
    """Learn from the change of the reward, where an environment pays at every step what has been achieved."""

    # the surrogate
    log_prob_level: Level = "action"
    """What one probability ratio is about: `token` (a dimension), `action`, or `chunk`."""
    entropy_level: Level = "token"
    """The same, of the means of entropy and of the divergence from the reference."""
    clip_low: Annotated[float, Range(gt=0, lt=1)] = 0.2
    """Largest decrease of the ratio that is rewarded."""
    clip_high: Annotated[float, Range(gt=0)] = 0.28
    """Largest increase; above `clip_low` it keeps exploration alive (DAPO, arXiv 2503.14476)."""
    dual_clip: Annotated[float, Range(gt=1)] | None = 3.0
    """Bound of the ratio of bad actions (arXiv 1912.09729); None: none."""
    max_log_ratio: Annotated[float, Range(gt=0)] | None = None
    """Clamp of the log-ratio; None: none."""
    entropy_coef: Annotated[float, Range(ge=0)] = 0.0
    """Weight of the entropy bonus."""

    # the value, where there is one
    value_loss_coef: Annotated[float, Range(ge=0)] = 1.0
    """Weight of the value loss."""
    value_clip: Annotated[float, Range(gt=0)] | None = 0.2
    """Largest change of a value that is not penalized further, in its units; None: none."""
    huber_delta: Annotated[float, Range(gt=0)] | None = 10.0
    """Error above which the value loss is linear; None: half the square everywhere."""

    # staying close
    kl_coef: Annotated[float, Range(ge=0)] = 0.0
    """Weight of KL(policy || policy of `init_from`) at the visited observations, with its gradient; 0: no reference is
    kept."""
    kl_stop: Annotated[float, Range(gt=0)] | None = None
    """End an update before the step at which the estimated KL(old || new) exceeds this; waits for the device at each
    mini-batch."""
    desired_kl: Annotated[float, Range(gt=0)] | None = None
    """Adapt the learning rate so that KL(old || new) stays near this, between `min_lr` and `max_lr`."""
    min_lr: Annotated[float, Range(gt=0)] = 1e-6
    """Lower bound of the adapted learning rate."""
    max_lr: Annotated[float, Range(gt=0)] = 1e-2
    """Upper bound of the adapted learning rate."""
    sft_coef: Annotated[float, Range(ge=0)] = 0.0
    """Weight of the supervised loss on `sft_dataset`."""
    sft_dataset: LeRobotDatasetCfg | None = None
    """Demonstrations to go on learning from."""
    sft_loader: DataLoaderCfg = DataLoaderCfg(batch_size=32, num_workers=0)
    """Batches of demonstrations, one per gradient step."""

    # optimization
    num_learning_epochs: Annotated[int, Range(ge=1)] = 1
    """Passes over the rollout per update, each in an order of its own."""
    num_mini_batches: Annotated[int, Range(ge=1)] = 4
    """Gradient steps per epoch."""
    micro_batch_size: Annotated[int, Range(ge=1)] | None = None
    """Most decisions of a forward pass; gradients add up exactly. None: a mini-batch, halved where memory runs out."""
    optimizer: OptimizerCfg = OptimizerCfg(learning_rate=1e-5, betas=(0.9, 0.95), weight_decay=0.01)
    """Learning rates (by group too: patterns `backbone.*`, `head.*`, `value.*`), schedule, clipping."""

    # memory
    store: Literal["auto", "features", "observations"] = "auto"
    """What a rollout keeps of what was seen. `features` of a frozen backbone save computing them again, `observations`
    (pictures) take less memory; `auto`: features if the backbone is frozen."""
    sample_place: Place = "auto"
    """Memory that they are kept in."""

    @property
    def max_waves(self) -> int:
        """Most waves of episodes in an iteration, where all rows start together."""
        return 1

    def check(self) -> Iterable[str]:
        """Sentences on options that contradict one another."""
        yield from super().check()
        if self.optimizer.kind == "flat_adam":
            yield "optimizer.kind: flat_adam is for small networks of RL; use adamw"
        if self.optimizer.accumulation_steps != 1:
            yield "optimizer.accumulation_steps: micro-batches are set by micro_batch_size; leave it at 1"
        if self.optimizer.ema is not None:
            yield "optimizer.ema: the policy that acts is the one that learns; leave it at None"
        if bool(self.sft_coef) != (self.sft_dataset is not None):
            yield "sft_dataset: is needed with sft_coef, and only then; set both, or neither"
        if self.desired_kl is not None and self.optimizer.schedule != ScheduleCfg():
            yield "desired_kl: adapts the learning rate, and so does optimizer.schedule; keep one of them"
        if self.min_lr > self.max_lr:
            yield f"min_lr: {self.min_lr} is above max_lr={self.max_lr}; swap them"
        if self.parallel.kind == "fsdp":
            yield "parallel.kind: a sharded policy can't act in every process by itself; use ddp or none"
        if self.store == "features" and not self.freeze_backbone:
            yield "store: features of a backbone that is trained change with it; use observations, or freeze_backbone"


def value_rate(learning_rate: float) -> ParamGroupCfg:
    """A learning rate of the value head's own: it starts from nothing, and the policy does not."""
    return ParamGroupCfg(pattern="value.*", learning_rate=learning_rate)
