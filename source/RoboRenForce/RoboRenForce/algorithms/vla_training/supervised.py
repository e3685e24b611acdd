"""Supervised learning of a VLA policy from demonstrations: pre-training, and what fine-tuning and DAgger build on.

    batch --encode--> prefix --head--> loss summed over valid elements   (`SupervisedModule.forward`)
    gradient of (sum over all ranks and micro-batches) / (their valid elements)   (`TorchOptimizer`)

A padded action weighs nothing wherever it lies: with means per rank or micro-batch, those with few valid elements would
count too much.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
from torch import Tensor

from ...components import OptimizerCfg, ScheduleCfg
from ...components.chunk_execution import ChunkExecutorCfg
from ...components.image_augmentation import ImageAugmentation, ImageAugmentationCfg
from ...components.torch_optimizer import TorchOptimizer
from ...components.vla_export import export_vla
from ...components.vla_policy import VLAPolicy, VLAPolicyCfg
from ...components.vla_preprocessing import without_host_entries
from ...components.vla_spec import VLASpec
from ...configclass import Range, configclass
from ...envs.spec import EnvSpec
from ...utils.cuda_graph import GraphMode, graphed
from ...utils.errors import ConfigError, UserError
from ...utils.module_state import copy_into
from ...utils.parallelize import (
    ParallelCfg,
    autocast_methods,
    compile_blocks,
    make_mesh,
    parallelize,
    unwrapped,
)
from ...utils.seeding import preserved_rng
from ..algorithm import DatasetLearner, DatasetLearnerCfg, RunContext
from .cached_features import CachedFeatures
from .data_spec import spec_of_dataset
from .frozen_weights import frozen_fingerprints, load_policy_state, policy_state
from .initial_weights import fit_head, initial_policy
from .memory import naming_what_fits
from .reference import Reference
from .relative_actions import relative_spec
from .supervised_module import Micro, SupervisedModule, actions_of
from .vla_policy import VLAPlayPolicy

logger = logging.getLogger(__name__)
_COMPUTED_AT_ONCE = 32
"""Samples, where features are computed once."""


class VLASupervised(DatasetLearner):
    """Behavior cloning of action chunks: the head's loss, one step per `accumulation_steps` batches.

    With `kl_coef` the policy also stays close to what it was when it was built, see `Reference`.

    Where there is no data it only plays, and is built when its checkpoint is loaded, which says for what data it is.
    """

    cfg: VLAPretrainAlgorithmCfg
    optimizer: TorchOptimizer
    model: VLAPolicy | None = None
    reference: Reference | None = None
    augmentation: ImageAugmentation | None = None
    _features: CachedFeatures | None = None
    _graph: Callable[..., Any] | None = None

    def __init__(self, cfg: VLAPretrainAlgorithmCfg, *, policy: VLAPolicyCfg, context: RunContext) -> None:
        if not isinstance(policy, VLAPolicyCfg):
            raise ConfigError(
                f"{type(self).__name__} learns a VLAPolicyCfg, but policy is a {type(policy).__name__}: set "
                "policy=MLPBaselinePolicyCfg(head=...), or another vision-language-action policy."
            )
        self.cfg, self.policy_cfg, self.context = cfg, policy, context
        self._averaged = False
        self._micro_batches = 0
        if context.data is not None:
            relative = policy.preprocessing.relative_actions
            spec = relative_spec(spec_of_dataset(context.data), context.data.datasets, relative)
            self._build_policy(spec, cfg.init_from)
            self._build_training()
            for sentence in cfg.doubts(policy) if context.distributed.is_main else ():
                logger.warning(sentence)

    def _build_policy(self, spec: VLASpec, init_from: str) -> None:
        """Build the policy, with the same random weights wherever it is built, and freeze."""
        with preserved_rng():
            torch.manual_seed(self.context.seed)
            policy, loaded = initial_policy(self.policy_cfg, spec, init_from)
        if self.context.data is not None and not loaded:
            fit_head(policy, self.context.data)
        self.model = policy.to(self.context.device)
        if self.cfg.freeze_backbone:
            self.model.backbone.requires_grad_(False)
        self.cfg.optimizer.freeze(SupervisedModule(self.model))
        # FSDP gathers whole layers; and what is trained needs a gradient, of zero if need be.
        backbone = self.model.backbone
        backbone.serves_head_alone = backbone.is_frozen and self.cfg.parallel.kind != "fsdp"
        if self.context.data is not None and self.model.action_tokens is not None and self.model.backbone.is_frozen:
            raise ConfigError(
                "policy.action_tokens teaches the backbone, and nothing of it is trained: set "
                "policy.backbone.language.finetune to full or lora, or action_tokens to null."
            )
        self._frozen = frozen_fingerprints(self.model)
        self._left_out = set(self._frozen) - loaded if self.cfg.checkpoints == "trained" else set()

    def _build_training(self) -> None:
        """Parallelize what is built, and build its optimizer."""
        context, cfg = self.context, self.cfg
        mesh = make_mesh(context.distributed, context.device)
        parallel = cfg.parallel.replace(forward_methods=[*cfg.parallel.forward_methods, "encode", "predict"])
        if context.distributed.is_distributed and cfg.cuda_graph != "off":
            raise ConfigError(
                f"algorithm.cuda_graph is {cfg.cuda_graph} on {context.distributed.world_size} processes, and updates "
                "are captured in a run of one: set it to off."
            )
        if context.distributed.is_distributed and parallel.kind == "none":
            parallel.kind = "ddp"
        if cfg.augmentation is not None:
            self.augmentation = cfg.augmentation.build(preprocessing=self.policy_model.preprocessing)
        self.reference = Reference(self.policy_model) if cfg.kl_coef else None
        module = SupervisedModule(self.policy_model, self.reference and self.reference.head, cfg.kl_coef)
        self.is_sharded = mesh is not None and parallel.kind == "fsdp"
        self._play_as_trained()
        if parallel.mixed_precision == "bf16" and self.is_sharded:
            # FSDP casts parameters; inputs are images and numbers with units.
            autocast_methods(module, ["forward", "encode", "predict"])
        self.module = parallelize(module, mesh, parallel)
        if self.reference is not None:
            self.reference.keep_backbone(self.module)
            if self.reference.backbone is not None and cfg.cuda_graph != "off":
                raise ConfigError(
                    f"algorithm.cuda_graph is {cfg.cuda_graph} with a kl_coef, and a reference with a backbone of its "
                    "own draws from generators again, which a graph can't: set it to off, or freeze the backbone."
                )
        updates = context.max_updates // cfg.optimizer.accumulation_steps
        optimizer = cfg.optimizer.for_run(updates).build(self.module, distributed=context.distributed)
        self.optimizer = cast(TorchOptimizer, optimizer)  # `check` refuses the flat Adam
        self._grad_norm = torch.zeros((), device=context.device)
        self.train()

    def _play_as_trained(self) -> None:
        """Let the policy itself, which plays and is evaluated, compute in the precision of training."""
        if self.cfg.parallel.mixed_precision == "bf16":
            autocast_methods(self.policy_model, ["forward", "encode", "act", "evaluate"])

    @property
    def policy_model(self) -> VLAPolicy:
        """The policy that is learned."""
        if self.model is None:
            raise UserError(f"{type(self).__name__} has neither data nor a checkpoint to say what its policy is for.")
        return self.model

    @property
    def action_names(self) -> tuple[str, ...]:
        """Names of the dimensions of an action; empty where the data gives none."""
        return self.policy_model.spec.action.names

    # ------------------------------------------------------------------------------------------------- learning

    def source(self, data: Any) -> Any:
        """The data, or with `cache_features` its samples with what the frozen backbone makes of them."""
        place = self.cfg.cache_features
        if place == "no":
            return data
        if self.policy_cfg.preprocessing.state_dropout:
            raise ConfigError(
                "cache_features sees every sample once, and policy.preprocessing.state_dropout changes them at every "
                "step: set one of them to 'no' or 0."
            )
        module: SupervisedModule = unwrapped(self.module)  # pyright: ignore[reportAssignmentType]
        self._features = CachedFeatures(data, module, self.context.device, place=place, batch_size=_COMPUTED_AT_ONCE)
        return self._features

    def update(self, data: Any = None) -> dict[str, Tensor]:
        """Learn from one (micro-)batch; every `accumulation_steps`-th call takes a step."""
        data = data if self._features is None else self._features.add_features(data)
        data = data if self.augmentation is None else self.augmentation(data)
        data = self._of_fixed_shape(data)
        with naming_what_fits(data, None if self.is_sharded else self._try):
            return self._learn(data) if self.cfg.cuda_graph == "off" else self._learn_captured(data)

    def _learn(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        total, count, metrics = self._loss(batch)
        self.optimizer.backward(total, count)
        self._micro_batches += 1
        if self._micro_batches == self.cfg.optimizer.accumulation_steps:
            self._micro_batches = 0
            self._grad_norm = self.optimizer.step()["all"]
        found = {"loss": (total / count.clamp(min=1)).detach(), **metrics, "grad_norm": self._grad_norm}
        return found | {"learning_rate": self.optimizer.current_lr}

    def _learn_captured(self, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """`_learn` as a graph of the first batch's shapes; the last batch of an epoch may be smaller."""
        shapes = {name: value.shape for name, value in batch.items() if isinstance(value, Tensor)}
        if self._graph is None:
            self._graph = graphed(self._learn, self.context.device, self.cfg.cuda_graph, "update")
            self._graph_shapes = shapes
        learn = self._graph if shapes == self._graph_shapes else self._learn
        return {name: value.clone() for name, value in learn(batch).items()}  # the next replay overwrites them

    def _of_fixed_shape(self, batch: Mapping[str, Any]) -> Mapping[str, Any]:
        """The batch, which leaves nothing out where a graph has one shape, or blocks are compiled for each."""
        fixed = self.cfg.cuda_graph != "off" or self.cfg.parallel.compile_blocks
        return without_host_entries(batch) if fixed else batch

    def _loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        there = None if self.reference is None else self.reference.encode(self.module, batch)
        return self.module(Micro(batch, there))

    def _try(self, batch: Mapping[str, Any]) -> None:
        """Do what `update` does to a batch, without other processes, for nothing but its memory."""
        unwrapped(self.module)(Micro(batch))[0].backward()
        for param in self.optimizer.params.values():
            param.grad = None

    @torch.no_grad()
    def validate(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """Predicted actions `(B, H, A)` and mask; under FSDP every rank calls."""
        actions, is_pad, dim_mask = actions_of(batch)
        module: Any = unwrapped(self.module)
        predicted = module.predict(Micro(self._of_fixed_shape(batch)))
        mask = torch.ones_like(actions, dtype=torch.bool)
        mask = mask if is_pad is None else mask & ~is_pad.unsqueeze(-1)
        return predicted, mask if dim_mask is None else mask & dim_mask.unsqueeze(1)

    # -------------------------------------------------------------------------------------------------- playing

    exports_folder = True

    def export_folder(self, folder: Path) -> Path:
        """Write the policy with `export_vla`."""
        return export_vla(self.policy_model, folder)

    def policy(self, env: EnvSpec | None = None, execution: ChunkExecutorCfg | None = None) -> VLAPlayPolicy:
        """The policy in an environment; None: the one that it is evaluated in, with the environment's chunks."""
        if self.is_sharded:
            raise UserError(
                "A sharded policy can't be played by one process: set eval_interval=0 and play its checkpoint, or use "
                "algorithm.parallel.kind=ddp."
            )
        env = env or self.context.eval_spec
        if env is None:
            raise UserError("The policy was given no environment to act in: build the runner with eval_env.")
        return VLAPlayPolicy(self.policy_model, env, execution=execution)

    def add_instructions(self, texts: Iterable[str]) -> None:
        """Let the policy follow more texts."""
        self.policy_model.add_instructions(texts)

    # ---------------------------------------------------------------------------------------------------- state

    def state_dict(self) -> dict[str, Any]:
        """The policy with the description of its data, and the optimizer; nothing before it is built."""
        if self.model is None:
            return {}
        state = {
            "spec": self.model.spec.to_dict(),
            **policy_state(self.module, self._frozen, self._left_out),
            "optimizer": self.optimizer.state_dict(),
        }
        return state if self.reference is None else state | {"reference": self.reference.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`; without data, build the policy that it is of, with averaged weights if it has any."""
        spec = VLASpec.from_dict(state["spec"])
        plays = self.context.data is None
        if plays:
            self._build_policy(spec, "")
            self._play_as_trained()
            self.module = SupervisedModule(self.policy_model)
            compile_blocks(self.module, self.cfg.parallel)
        self.policy_model.add_instructions(spec.instructions)
        load_policy_state(self.module, self._frozen, state)
        if not plays:
            self.optimizer.load_state_dict(state["optimizer"])
            if self.reference is not None:
                self.reference.load_state_dict(state["reference"])
        elif "ema" in state["optimizer"]:
            params = dict(self.module.named_parameters())
            averages = state["optimizer"]["ema"]
            copy_into({name: params[name].data for name in averages}, averages, "ema")

    def train(self) -> None:
        """Learn with the weights themselves; what is frozen as a whole stays in evaluation mode."""
        if self.model is None or self.context.data is None:
            return
        self._use_averages(False)
        self.module.train()
        for part in (self.policy_model.backbone, self.policy_model.head):
            if not any(parameter.requires_grad for parameter in part.parameters()):
                part.eval()

    def eval(self) -> None:
        """Play with the averaged weights if there are any."""
        if self.model is None:
            return
        self.module.eval()
        self._use_averages(True)

    def _use_averages(self, wanted: bool) -> None:
        if self.context.data is not None and self.optimizer.ema is not None and wanted != self._averaged:
            self.optimizer.ema.swap()
            self._averaged = wanted


@configclass
class VLAPretrainAlgorithmCfg(DatasetLearnerCfg):
    """Pre-training: a `VLASupervised` and its optimizer."""

    class_type: type = VLASupervised

    optimizer: OptimizerCfg = OptimizerCfg(
        learning_rate=1e-4,
        weight_decay=0.01,
        schedule=ScheduleCfg(kind="cosine", warmup_steps=1000, total_steps="run", final_share=0.1),
    )
    """Learning rates (by group too: patterns `backbone.*`, `head.*`), schedule, accumulation, clipping, EMA."""
    parallel: ParallelCfg = ParallelCfg()
    """Precision, DDP or FSDP, activation checkpointing. Several processes with kind `none` use DDP."""
    freeze_backbone: bool = False
    """Learn the head only."""
    init_from: str = ""
    """Checkpoint or run directory whose policy is where learning begins; empty: the backbone's own weights."""
    checkpoints: Literal["trained", "all"] = "trained"
    """Weights in checkpoints: those that are trained, or frozen ones too, which are otherwise
    compared by a fingerprint when a checkpoint is loaded."""
    kl_coef: Annotated[float, Range(ge=0)] = 0.0
    """Weight of the distance to the policy that learning begins with; 0: none."""
    augmentation: ImageAugmentationCfg | None = None
    """Random changes of the images that are learned from; evaluation and validation see them as they are."""
    cache_features: Literal["no", "device", "ram"] = "no"
    """Compute the features of a frozen backbone once per sample, when learning begins, and keep them on the device or
    in memory: the fastest way to train a head, for data without augmentation."""
    cuda_graph: GraphMode = "off"
    """Capture the update, from images to the optimizer's step, in a CUDA graph: for one process that would wait for the
    launch of its kernels. `auto` says why where it can't; `on` insists."""

    def check(self) -> Iterable[str]:
        """Sentences on an optimizer for small networks."""
        if self.optimizer.kind == "flat_adam":
            yield "optimizer.kind: flat_adam is for small networks of RL; use adamw"
        if self.augmentation is not None and self.cache_features != "no":
            yield "augmentation: changes images at every step, and cache_features sees them once; leave one of them out"
        if self.cuda_graph != "off":
            if self.optimizer.accumulation_steps > 1:
                yield "cuda_graph: captures an update of one micro-batch; set optimizer.accumulation_steps=1"
            if self.optimizer.kind in ("sgd", "muon"):
                yield f"cuda_graph: {self.optimizer.kind} waits for the host in each step; take adamw, or set it to off"

    def doubts(self, policy: VLAPolicyCfg) -> Iterable[str]:
        """Sentences on a beginning that is hardly meant, for warnings."""
        if self.kl_coef and not self.init_from and not policy.is_pretrained:
            yield (
                f"algorithm.kl_coef={self.kl_coef:g} keeps the policy close to what it begins with, and that is a head "
                "with random weights: name the run to stay close to in algorithm.init_from, or set kl_coef to 0."
            )

    def check_updates(self, updates: int) -> Iterable[str]:
        """Sentences on checkpoints between two micro-batches of a step."""
        accumulation = self.optimizer.accumulation_steps
        if updates % accumulation:
            yield (
                f"updates_per_iteration: {updates} is no multiple of algorithm.optimizer.accumulation_steps = "
                f"{accumulation}, so that checkpoints would lose a part of a step; change one of them"
            )


@configclass
class SFTAlgorithmCfg(VLAPretrainAlgorithmCfg):
    """Supervised fine-tuning: small steps from the weights of `init_from`, or of the backbone."""

    optimizer: OptimizerCfg = OptimizerCfg(
        learning_rate=2e-5,
        weight_decay=0.01,
        schedule=ScheduleCfg(kind="cosine", warmup_steps=100, total_steps="run", final_share=0.1),
    )

    def doubts(self, policy: VLAPolicyCfg) -> Iterable[str]:
        """Also on random weights."""
        yield from super().doubts(policy)
        if not self.init_from and not policy.is_pretrained and not policy.backbone.is_pretrained:
            yield (
                "algorithm.init_from is empty and the backbone begins with random weights, so that this fine-tuning "
                "learns from scratch: name the run of a pre-training in algorithm.init_from (--checkpoint)."
            )
