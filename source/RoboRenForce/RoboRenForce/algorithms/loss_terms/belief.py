"""Training of an actor's belief, beside its policy: -log p(x_t | b_t) or the loss of flow matching.

x_t is the hidden state that only the critic observes, or, where there is none, the change of the observation to the
next one, given the action too: p(o_{t+1} - o_t | b_t, a_t). Both are in units of the normalized observation, and both
exist independently of the belief. Belief and density learn from whole sequences, with gradients through time.
"""

from __future__ import annotations

from typing import Annotated, Any

import torch
from torch import Tensor, nn

from ...components.belief import belief_network
from ...components.observation import flat_columns
from ...configclass import ConfigError, Range, configclass
from ..functional import masked_mean
from .loss_term import AnyBatch, LossTerm, LossTermCfg
from .samples import Samples


class BeliefLoss(LossTerm):
    """Loss of the density of the actor's `BeliefNetwork`."""

    name = "belief"

    def __init__(self, cfg: BeliefLossCfg) -> None:
        self.cfg = cfg

    def check_fit(self, *, sequences: bool, actor: nn.Module, n_step: int = 1) -> None:
        """Refuse actors without a belief, and batches without time."""
        belief_network(actor)
        if not sequences:
            raise ConfigError(
                "BeliefLossCfg in loss_terms learns from sequences, and batches are single steps: use "
                "replay=SequenceReplayBufferCfg(...)."
            )

    def loss(
        self, actor: Any, critic: nn.Module, batch: AnyBatch, num_original: int, expert: AnyBatch | None = None
    ) -> Tensor:
        """Return the weighted mean over at most `max_samples` steps that count, 0-dim."""
        samples = Samples.of(batch, self.cfg.max_samples)
        rows, mask = belief_loss(actor, critic, samples)
        return self.cfg.weight * masked_mean(rows, mask)


def belief_loss(actor: Any, critic: Any, samples: Samples) -> tuple[Tensor, Tensor | None]:
    """Return the density's loss at each step of sequences, and bool where it counts (None: everywhere)."""
    network = belief_network(actor)
    features, state = actor.encoder(samples.obs), samples.states.get("actor")
    if state is None:
        state = network.initial_state(features.shape[1])
    beliefs, _ = network.beliefs(features, state, samples.start)
    density: Any = network.density
    if not network.cfg.target_is_next:
        with torch.no_grad():
            target = _columns(critic, critic.encoder(samples.obs), network.cfg.target_groups)
        return density.loss(target, beliefs), samples.acted
    # A successor is the next row of the sequence, which belongs to the same episode unless that ended.
    known = _columns(actor, features.detach(), network.cfg.target_groups)
    action = samples.action
    if actor.spec.action.kind == "discrete":
        action = nn.functional.one_hot(action, actor.spec.action.dim).to(features.dtype)
    both = samples.continued[:-1] if samples.acted is None else samples.continued[:-1] & samples.acted[1:]
    condition = torch.cat([beliefs[:-1], action[:-1]], dim=-1)
    return density.loss(known[1:] - known[:-1], condition), both


def _columns(network: Any, features: Tensor, groups: list[str]) -> Tensor:
    columns = flat_columns(network.spec, network.groups, network.cfg.cnn_cfg)
    # Slices, because a captured update must not copy indices from the host.
    parts = [features.narrow(-1, columns[name][0], len(columns[name])) for name in groups]
    return torch.cat(parts, dim=-1)


@configclass
class BeliefLossCfg(LossTermCfg):
    """Configuration of a `BeliefLoss`."""

    class_type: type = BeliefLoss
    weight: Annotated[float, Range(gt=0)] = 1.0
    """Weight beside the policy's loss."""
    max_samples: Annotated[int, Range(ge=1)] = 100_000
    """Steps of a mini-batch to learn from, rounded to whole sequences; they cost a second pass of the encoder."""
