"""World model of TD-MPC and TD-MPC2: everything is predicted from a latent state, no observation is reconstructed.

    z = h(s)      encoder                     z' = d(z, a)   latent dynamics
    r = R(z, a)   reward                      Q(z, a)        ensemble of values
    a ~ pi(z)     policy prior                p = T(z')      termination (optional)

The model is an `Actor`, its policy prior, so that it acts, plays and is exported like one. (Hansen et al. 2022, arXiv
2203.04955; 2024, arXiv 2310.16828.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Annotated, Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from typing_extensions import override

from ..configclass import ConfigError, Range, configclass
from ..envs.spec import EnvSpec
from ..networks.network import Network, NetworkCfg
from ..networks.normed_mlp import NormedMLP, NormedMLPCfg
from .actor import Actor, ActorCfg, require_action_kind, require_unit_box
from .distributions import HALF_LOG_2PI, Distribution, TanhGaussian
from .normalizer import NormalizerCfg
from .observation import ObservationNetwork, Observations
from .return_heads import ReturnHead, ReturnHeadCfg, TwoHotHeadCfg

Pair: TypeAlias = Literal["mean", "min"]
"""What two critics that were drawn are worth together."""
TERMINATED = 0.5
"""Probability from which a planned state counts as terminal."""


class LatentModel(Actor):
    """Networks of the model; built by `LatentModelCfg.build(spec=..., groups=[...])`.

    A latent state is `(..., latent_dim)`, with several tasks `(..., latent_dim + num_tasks)`: the task, one-hot, is
    carried along, and the networks read its embedding in its place.
    """

    cfg: LatentModelCfg

    def __init__(self, cfg: LatentModelCfg, spec: EnvSpec, groups: Sequence[str]) -> None:
        require_action_kind(spec, "continuous", "LatentModel", "PPOCfg with a CategoricalActorCfg")
        require_unit_box(spec, "LatentModel")
        ObservationNetwork.__init__(self, cfg, spec, groups, cfg.latent_dim)
        tasks = self.num_tasks = _count_tasks(cfg, spec, self.encoder.flat_groups)
        embedding = cfg.task_dim if tasks else 0
        if cfg.task_group is not None:
            first = spec.obs_dim(self.encoder.flat_groups[: self.encoder.flat_groups.index(cfg.task_group)])
            self._columns = (first, first + tasks)
            # The encoder's MLP reads the task's embedding in the place of the task.
            self.backbone = cfg.backbone_cfg.build(self.encoder.out_features - tasks + embedding, cfg.latent_dim)
        self.action_shape = spec.action.shape
        state, action = cfg.latent_dim + embedding, spec.action.dim
        self.dynamics: Network = cfg.dynamics_cfg.build(state + action, cfg.latent_dim)
        self.reward_head: ReturnHead = cfg.head_cfg.build(num_members=1)
        self.reward: Network = cfg.reward_cfg.build(state + action, self.reward_head.out_features)
        self.head: ReturnHead = cfg.head_cfg.build(num_members=cfg.num_q)
        if self.head.target_dims:
            raise ConfigError(
                f"head_cfg builds a {type(self.head).__name__}, which predicts a distribution of returns; a planner "
                "adds up rewards and values: use TwoHotHeadCfg or ScalarHeadCfg."
            )
        self.critic = cfg.critic_cfg.build_ensemble(cfg.num_q, state + action, self.head.out_features)
        self.prior: Network = cfg.prior_cfg.build(state, action * (1 if cfg.prior_std else 2))
        self.termination: Network | None = None if cfg.termination_cfg is None else cfg.termination_cfg.build(state, 1)
        self.task_embedding: nn.Parameter | None = None
        self.action_masks: Tensor | None
        masks = None
        if tasks:
            self.task_embedding = nn.Parameter(torch.empty(tasks, embedding).uniform_(-0.02, 0.02))
            dims = torch.tensor(cfg.task_action_dims or [action] * tasks)
            masks = (torch.arange(action) < dims.unsqueeze(1)).to(torch.get_default_dtype())
        self.register_buffer("action_masks", masks, persistent=False)

    # -- the model ----------------------------------------------------------------------------------------------------

    def encode(self, obs: Observations) -> Tensor:
        """Return the latent states of observations with any leading dimensions."""
        return self.encode_features(self.encoder(obs))

    def encode_features(self, features: Tensor) -> Tensor:
        """Return the latent states of encoded observations `(..., features)`."""
        if not self.num_tasks:
            return self.backbone(features)
        first, last = self._columns
        task = features[..., first:last]
        rest = torch.cat([features[..., :first], features[..., last:]], dim=-1)
        return torch.cat([self.backbone(torch.cat([rest, self._embedded(task)], dim=-1)), task], dim=-1)

    def next_state(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the latent states after `action` `(..., A)`."""
        z = self.dynamics(self._inputs(state, action))
        return torch.cat([z, state[..., self.cfg.latent_dim :]], dim=-1) if self.num_tasks else z

    def reward_output(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the output `(..., O)` for `reward_head`."""
        return _single(self.reward(self._inputs(state, action)))

    def values(self, state: Tensor, action: Tensor) -> Tensor:
        """Return the output `(E, ..., O)` of all critics for `head`."""
        return _single(self.critic(self._inputs(state, action)))

    def two_values(self, state: Tensor, action: Tensor, critic: Network | None = None) -> Tensor:
        """Return `values` of two members, drawn anew and alike for the whole batch; of all if there are no more."""
        critic, inputs = critic or self.critic, self._inputs(state, action)
        if self.cfg.num_q <= 2:
            return _single(critic(inputs))
        members = torch.rand(self.cfg.num_q, device=inputs.device).argsort()[:2]
        if isinstance(critic, NormedMLP):  # the others are not even computed
            return _single(critic.forward_members(inputs, members))
        return _single(critic(inputs))[members]

    def value_of_two(self, state: Tensor, action: Tensor, aggregate: Pair = "mean") -> Tensor:
        """Return the mean, or the smallest (`min`), of `two_values`, `(...)`."""
        value = self.head.mean(self.two_values(state, action))
        return value.mean(0) if aggregate == "mean" else value.amin(0)

    def termination_logit(self, state: Tensor) -> Tensor:
        """Return the logits `(...)` of the event that `state` is terminal.

        Raises:
            TypeError: The model has no termination head.
        """
        if self.termination is None:
            raise TypeError("This model has no termination head: set policy.actor_cfg.termination_cfg.")
        return _single(self.termination(self._inputs(state))).squeeze(-1)

    def mask(self, state: Tensor) -> Tensor | None:
        """Return 1 for the action dimensions of the states' tasks and 0 for others, `(..., A)`; None: all exist."""
        return None if self.action_masks is None else state[..., self.cfg.latent_dim :] @ self.action_masks

    # -- the policy prior ---------------------------------------------------------------------------------------------

    def prior_output(self, state: Tensor) -> Tensor:
        """Return mean and log-std before the squashing, `(..., 2 A)`; 0 and the lowest one where masked."""
        cfg, output = self.cfg, _single(self.prior(self._inputs(state)))
        if cfg.prior_std:
            mean, log_std = output, torch.full_like(output, math.log(cfg.prior_std))
        else:
            mean, raw = output.chunk(2, dim=-1)
            log_std = cfg.min_log_std + 0.5 * (cfg.max_log_std - cfg.min_log_std) * (raw.tanh() + 1.0)
        mask = self.mask(state)
        if mask is not None:
            mean, log_std = mean * mask, torch.where(mask > 0, log_std, cfg.min_log_std)
        return torch.cat([mean, log_std], dim=-1)

    def sample_action(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return a reparameterized action `(..., A)` of the prior, and its scaled entropy `(...)`.

        The entropy is that of the normal distribution before the squashing times the number of action dimensions, as
        the authors' code amounts to. (Its gradient is exact: no sample is needed.)
        """
        mean, log_std = self.prior_output(state).chunk(2, dim=-1)
        noise = torch.randn_like(mean)
        if self.cfg.prior_std:  # TD-MPC: noise after the squashing, cut off
            limit = self.cfg.prior_noise_clip
            action = (mean.tanh() + (log_std.exp() * noise).clamp(-limit, limit)).clamp(-1.0, 1.0)
        else:
            action = torch.addcmul(mean, log_std.exp(), noise).tanh()
        entropy, mask = log_std + (0.5 + HALF_LOG_2PI), self.mask(state)
        if mask is None:
            return action, entropy.sum(-1) * mean.shape[-1]
        return action * mask, (entropy * mask).sum(-1) * mask.sum(-1)

    @override
    def evaluate_features(
        self, features: Tensor, state: Tensor | None, starts: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        return self.prior_output(self.encode_features(features)), None

    @override
    def distribution(self, output: Tensor) -> Distribution:
        mean, log_std = output.chunk(2, dim=-1)
        return TanhGaussian(mean, log_std.exp())

    @override
    def mode(self, output: Tensor) -> Tensor:
        return output.chunk(2, dim=-1)[0].tanh()

    # -- inputs -------------------------------------------------------------------------------------------------------

    def _embedded(self, task: Tensor) -> Tensor:
        """Return the embeddings `(..., E)`, of a norm of at most 1, of one-hot tasks `(..., K)`."""
        table: Any = self.task_embedding
        return task @ (table / table.norm(dim=-1, keepdim=True).clamp(min=1.0))

    def _inputs(self, state: Tensor, action: Tensor | None = None) -> Tensor:
        parts = [state]
        if self.num_tasks:
            parts = [state[..., : self.cfg.latent_dim], self._embedded(state[..., self.cfg.latent_dim :])]
        if action is not None:
            parts.append(action)
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)


@contextmanager
def without_dropout(model: LatentModel) -> Iterator[None]:
    """Evaluate the critics without dropout for as long as the context lasts."""
    before = model.critic.training
    model.critic.eval()
    try:
        yield
    finally:
        model.critic.train(before)


def _single(output: Tensor) -> Tensor:
    """Return rewards, values and policies in at least float32, also under autocast."""
    return output.float() if output.dtype in (torch.bfloat16, torch.float16) else output


def _count_tasks(cfg: LatentModelCfg, spec: EnvSpec, flat_groups: Sequence[str]) -> int:
    """Return the number of tasks that the task group tells apart; 0 for a single task."""
    if cfg.task_group is None:
        return 0
    if cfg.task_group not in flat_groups:
        raise ConfigError(
            f"task_group='{cfg.task_group}' is no flat observation group that the model reads, which are "
            f"{list(flat_groups)}; expected the group of a one-hot task: name it in obs_groups.actor."
        )
    tasks = spec.obs_dim([cfg.task_group])
    if cfg.task_action_dims and len(cfg.task_action_dims) != tasks:
        raise ConfigError(
            f"task_action_dims has {len(cfg.task_action_dims)} entries for {tasks} tasks of '{cfg.task_group}'; "
            "expected the number of action dimensions of each."
        )
    return tasks


@configclass
class LatentModelCfg(ActorCfg):
    """Configuration of a `LatentModel`. Defaults are TD-MPC2's of five million parameters.

    `backbone_cfg` is the encoder's MLP, from the observation to the latent state.
    """

    class_type: type = LatentModel
    latent_dim: Annotated[int, Range(ge=1)] = 512
    """Features of a latent state."""
    backbone_cfg: NetworkCfg = NormedMLPCfg(hidden_features=[256], output="simnorm")
    normalizer_cfg: NormalizerCfg | None = None
    dynamics_cfg: NetworkCfg = NormedMLPCfg(output="simnorm")
    """Latent dynamics."""
    reward_cfg: NetworkCfg = NormedMLPCfg(zero_output=True)
    """Reward."""
    critic_cfg: NetworkCfg = NormedMLPCfg(zero_output=True, dropout=0.01)
    """Each of the Q critics."""
    prior_cfg: NetworkCfg = NormedMLPCfg()
    """Policy prior."""
    termination_cfg: NetworkCfg | None = None
    """Probability that a state is terminal, for tasks whose episodes end early; None: they never do."""
    head_cfg: ReturnHeadCfg = TwoHotHeadCfg()
    """What reward and critics predict: `TwoHotHeadCfg`, or `ScalarHeadCfg`."""
    num_q: Annotated[int, Range(ge=1)] = 5
    """Number of Q critics; targets and policy use two of them, drawn anew each time."""
    min_log_std: float = -10.0
    """Lowest log-std of the prior."""
    max_log_std: float = 2.0
    """Highest log-std of the prior."""
    prior_std: Annotated[float, Range(gt=0)] | None = None
    """Fixed standard deviation of a deterministic prior with noise (TD-MPC); None: learned."""
    prior_noise_clip: Annotated[float, Range(gt=0)] = 0.3
    """Bound of the noise of a deterministic prior."""
    task_group: str | None = None
    """Observation group that holds the task, one-hot, of a model of several tasks; None: there is one task."""
    task_dim: Annotated[int, Range(ge=1)] = 96
    """Features of a task's embedding."""
    task_action_dims: list[int] = []
    """Number of action dimensions of each task, the first ones of the action; empty: all have all."""

    def check(self) -> Iterable[str]:
        """Check what the parts of the model need of one another."""
        yield from super().check()
        both = (self.backbone_cfg, self.dynamics_cfg)
        simnorm = [cfg for cfg in both if isinstance(cfg, NormedMLPCfg) and cfg.output == "simnorm"]
        for cfg in simnorm:
            if self.latent_dim % cfg.simnorm_dim:
                yield f"latent_dim: {self.latent_dim} is not a multiple of simnorm_dim={cfg.simnorm_dim}; use one"
        if len(simnorm) == 1:
            yield "dynamics_cfg: encoder and dynamics give different states; set output='simnorm' in both or none"
        if self.min_log_std >= self.max_log_std:
            yield f"min_log_std: {self.min_log_std} is not below max_log_std={self.max_log_std}"
        if self.task_group is not None and self.normalizer_cfg is not None:
            yield "normalizer_cfg: would normalize the one-hot task; set it to null with task_group"
        if any(dims < 1 for dims in self.task_action_dims):
            yield f"task_action_dims: {self.task_action_dims}; expected positive numbers"
