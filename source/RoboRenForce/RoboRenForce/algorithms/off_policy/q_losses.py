"""The loss of action values, and forward passes of actors and critics at both ends of a batch's transitions.

Networks with batch normalization are evaluated at states and successors jointly, as one batch that both ends are
normalized by (CrossQ, Bhatt et al. 2024, arXiv 1902.05605; FlashSAC, arXiv 2604.04539): the actions of the replay and
those of the policy are distributed differently, and statistics of the one are wrong for the other. Other networks are
evaluated only where their output is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ...buffer.replay_batch import Observations, ReplayBatch
from ...components.actor import Actor
from ...components.critic import QNetwork
from ...components.return_heads import Aggregate
from ...networks.batch_norm import batch_statistics, uses_batch_statistics

Forward = Callable[[Observations, Tensor | None], Tensor]
"""`network(obs, start)`, as `ReplayBatch.forward_obs` takes it."""


def output_of(actor: Actor) -> Forward:
    """The actor's output `(..., O)`, which `actor.distribution` reads, as a function of observations."""
    return lambda obs, start: actor.evaluate(obs, None, start)[0]


def features_of(critic: QNetwork) -> Forward:
    """The critic's features `(..., F)` as a function of observations."""
    return lambda obs, start: critic.features(obs, start)[0]


def actor_at_obs(actor: Actor, batch: ReplayBatch) -> Tensor:
    """The actor's output at the states, where it learns; batch statistics are updated."""
    obs, next_obs = batch.obs, batch.next_obs
    if next_obs is None or not uses_batch_statistics(actor):
        return batch.forward_obs(output_of(actor))
    both = {group: torch.cat([obs[group], next_obs[group]]) for group in actor.groups}
    with batch_statistics(actor):
        return output_of(actor)(both, None).chunk(2)[0]


def actor_at_next_obs(actor: Actor, batch: ReplayBatch) -> Tensor:
    """The actor's output at the successors, where it chooses a'; by running statistics, as when it acts."""
    return batch.forward_next_obs(output_of(actor))


def critic_at_obs(critic: QNetwork, batch: ReplayBatch, next_action: Tensor) -> Tensor:
    """The critic's output `(E, ..., O)` for the actions of the batch, where it learns; batch statistics are updated."""
    if uses_batch_statistics(critic):
        return _jointly(critic, batch, next_action).chunk(2, dim=1)[0]
    return critic.outputs(batch.forward_obs(features_of(critic)), batch.action)


def critic_at_next_obs(critic: QNetwork, batch: ReplayBatch, next_action: Tensor) -> Tensor:
    """The (target) critic's output `(E, ..., O)` for `next_action` `(..., A)` at the successors."""
    if uses_batch_statistics(critic):
        return _jointly(critic, batch, next_action).chunk(2, dim=1)[1]
    return critic.outputs(batch.forward_next_obs(features_of(critic)), next_action)


def td_loss(
    critic: QNetwork,
    target_critic: QNetwork,
    batch: ReplayBatch,
    next_action: Tensor,
    bonus: Tensor,
    aggregate: Aggregate,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """L_Q = sum_j loss(Q_j(s, a), r + discount (Qbar(s', a') + bonus)), with the loss of the critics' return head.

    Args:
        critic: learns.
        target_critic: judges the successors.
        batch: transitions or sequences.
        next_action: a', `(..., A)`.
        bonus: what a' is worth besides, `(...)`.
        aggregate: which target critic counts.

    Returns:
        The loss; the error of each sample, for priorities; 0-dim metrics. The last two carry no gradient.
    """
    head = critic.head
    # y, from the target critics
    with torch.no_grad():
        next_output = critic_at_next_obs(target_critic, batch, next_action)
        target = head.target(next_output, bonus, batch.reward, batch.discount, aggregate)
    # every critic's distance to it
    output = critic_at_obs(critic, batch, next_action)
    errors = head.loss(output, target, batch.valid)
    loss = batch.weighted_mean(errors.sum(0))
    value = head.mean(output.detach())
    metrics = {"Loss/critic": loss.detach(), "Policy/q_value": batch.mean(value), **head.metrics()}
    return loss, errors.detach().mean(0).abs().sqrt(), metrics


def action_values(critic: QNetwork, batch: ReplayBatch, action: Tensor) -> Tensor:
    """Values `(E, ...)` of `action` `(..., A)` in the states of the batch, with a gradient for the action alone."""
    with torch.no_grad():
        features = batch.forward_obs(features_of(critic))
    return critic.head.mean(critic.outputs(features, action))


def _jointly(critic: QNetwork, batch: ReplayBatch, next_action: Tensor) -> Tensor:
    """Output `(E, 2 B, O)`: the states with their actions, then the successors with `next_action`."""
    features = torch.cat([batch.forward_obs(features_of(critic)), batch.forward_next_obs(features_of(critic))])
    with batch_statistics(critic):
        return critic.outputs(features, torch.cat([batch.action, next_action]))
