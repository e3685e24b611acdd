"""TD loss of action values, and forward passes of actor and critics at `obs` and `next_obs`.

Networks with batch normalization are evaluated at states and successors jointly, as one batch with common
statistics (CrossQ, Bhatt et al. 2024, arXiv 1902.05605; FlashSAC, arXiv 2604.04539): the actions of the replay and
those of the policy are distributed differently, and statistics of the one are wrong for the other. Other networks are
evaluated only where their output is needed.
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
    """Return a function of observations that gives the actor's output `(..., O)`, the input of `actor.distribution`."""
    return lambda obs, start: actor.evaluate(obs, None, start)[0]


def features_of(critic: QNetwork) -> Forward:
    """Return a function of observations that gives the critic's features `(..., F)`."""
    return lambda obs, start: critic.features(obs, start)[0]


def actor_at_obs(actor: Actor, batch: ReplayBatch) -> Tensor:
    """Return the actor's output at `obs`, where it learns; updates batch statistics."""
    obs, next_obs = batch.obs, batch.next_obs
    if next_obs is None or not uses_batch_statistics(actor):
        return batch.forward_obs(output_of(actor))
    # One batch of both ends, so that both are normalized by the same statistics.
    both = {group: torch.cat([obs[group], next_obs[group]]) for group in actor.groups}
    with batch_statistics(actor):
        return output_of(actor)(both, None).chunk(2)[0]


def actor_at_next_obs(actor: Actor, batch: ReplayBatch) -> Tensor:
    """Return the actor's output at `next_obs`, to choose a'; uses running statistics, as acting does."""
    return batch.forward_next_obs(output_of(actor))


def critic_at_obs(critic: QNetwork, batch: ReplayBatch, next_action: Tensor) -> Tensor:
    """Return the critic's output `(E, ..., O)` for the actions of the batch; updates batch statistics."""
    if uses_batch_statistics(critic):
        return _jointly(critic, batch, next_action).chunk(2, dim=1)[0]
    return critic.outputs(batch.forward_obs(features_of(critic)), batch.action)


def critic_at_next_obs(critic: QNetwork, batch: ReplayBatch, next_action: Tensor) -> Tensor:
    """Return the (target) critic's output `(E, ..., O)` at `next_obs` for `next_action` `(..., A)`."""
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
    members: int | None = None,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Return L_Q = sum_j loss(Q_j(s, a), r + discount (Qbar(s', a') + bonus)), with the loss of the return head.

    Args:
        critic: Critic that learns.
        target_critic: Critic that values the successors.
        batch: Transitions or sequences.
        next_action: a', `(..., A)`.
        bonus: Term added to the value of a', `(...)`.
        aggregate: Target critic that counts.
        members: Number of target critics, drawn at random for the batch, among which it is chosen; None: all (REDQ,
            arXiv 2101.05982).

    Returns:
        The loss; the error of each sample, for priorities; 0-dim metrics. The last two carry no gradient.
    """
    head = critic.head
    # y comes from the target critics, without gradient: this is regression, not residual minimization.
    with torch.no_grad():
        next_output = critic_at_next_obs(target_critic, batch, next_action)
        if members is not None:
            drawn = torch.rand(len(next_output), device=next_output.device).argsort()
            next_output = next_output[drawn[:members]]
        target = head.target(next_output, bonus, batch.reward, batch.discount, aggregate)
    # Each critic regresses onto the common target; importance weights correct prioritized drawing.
    output = critic_at_obs(critic, batch, next_action)
    errors = head.loss(output, target, batch.valid)
    loss = batch.weighted_mean(errors.sum(0))
    value = head.mean(output.detach())
    metrics = {"Loss/critic": loss.detach(), "Policy/q_value": batch.mean(value), **head.metrics()}
    return loss, errors.detach().mean(0).abs().sqrt(), metrics


def action_values(critic: QNetwork, batch: ReplayBatch, action: Tensor) -> Tensor:
    """Return Q-values `(E, ...)` of `action` `(..., A)` at `obs`, with gradients for the action only."""
    with torch.no_grad():
        # The policy's gradient flows through the action only, so the features need none.
        features = batch.forward_obs(features_of(critic))
    return critic.head.mean(critic.outputs(features, action))


def _jointly(critic: QNetwork, batch: ReplayBatch, next_action: Tensor) -> Tensor:
    """Return the output `(E, 2 B, O)` for states with their actions, then for successors with `next_action`."""
    features = torch.cat([batch.forward_obs(features_of(critic)), batch.forward_next_obs(features_of(critic))])
    with batch_statistics(critic):
        return critic.outputs(features, torch.cat([batch.action, next_action]))
