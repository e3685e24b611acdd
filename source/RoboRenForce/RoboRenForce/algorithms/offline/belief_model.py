"""Pre-training of a belief on recorded sequences, before a policy acts on it.

The networks are those of the policy that will: a `BeliefActorCriticPackCfg` or `BeliefActorQPackCfg`, of which only the
actor's belief learns, by the loss of `loss_terms/belief.py`. `PretrainedBeliefCfg` hands it to a run of PPO or SAC.
"""

from __future__ import annotations

from typing import Annotated, NoReturn

from torch import Tensor

from ...buffer.replay import ReplayBufferCfg
from ...buffer.replay_batch import ReplayBatch
from ...buffer.sequence import SequenceReplayBufferCfg
from ...components.actor_q import ActorPackCfg
from ...components.belief import belief_network
from ...configclass import Cfg, ConfigError, Range, configclass
from ...utils.errors import UserError
from ...utils.precision import autocast
from ...utils.stateful import Stateful
from ..algorithm import RunContext
from ..functional import masked_mean
from ..loss_terms.belief import belief_loss
from ..loss_terms.samples import Samples
from ..off_policy.off_policy_algorithm import OffPolicyAlgorithm, OffPolicyAlgorithmCfg


class BeliefModel(OffPolicyAlgorithm):
    """Belief of an actor that does not act yet."""

    cfg: BeliefModelCfg
    networks_cfg = Cfg
    needs_data = True

    def __init__(self, cfg: BeliefModelCfg, *, policy: ActorPackCfg, context: RunContext) -> None:
        if not isinstance(cfg.replay, SequenceReplayBufferCfg):
            raise ConfigError(
                f"BeliefModelCfg learns from sequences, got replay={type(cfg.replay).__name__}: use "
                "SequenceReplayBufferCfg."
            )
        super().__init__(cfg, policy=policy, context=context)
        belief_network(self.actor)
        self.optimizer = self.make_optimizer({"actor": self.actor}, cfg.learning_rate)
        self._loss = self.compiled(self.loss)

    def train_step(self, batch: ReplayBatch, update_actor: bool) -> dict[str, Tensor]:
        """Take a gradient step of the belief; returns metrics."""
        loss = self._loss(batch)
        return {"Loss/belief": loss.detach(), **self.optimizer.step(loss)}

    def loss(self, batch: ReplayBatch) -> Tensor:
        """Return the mean loss of the density over the steps of all windows that count, 0-dim."""
        with autocast(self.cfg.precision, self.device):
            rows, mask = belief_loss(self.actor, self.networks.critic, Samples.of(batch, batch.reward.numel()))
        return masked_mean(rows, mask)

    def parts(self) -> dict[str, Stateful]:
        """Return the optimizer."""
        return {"optimizer": self.optimizer}

    def policy(self) -> NoReturn:
        """Refuse: nothing has learned to act."""
        raise UserError(
            "A pre-trained belief has no policy yet: train one on it, with "
            "callbacks=[PretrainedBeliefCfg(checkpoint=PATH)] in a run of PPO or SAC with the same policy.belief."
        )


@configclass
class BeliefModelCfg(OffPolicyAlgorithmCfg):
    """Configuration of a `BeliefModel`."""

    class_type: type = BeliefModel

    replay: ReplayBufferCfg = SequenceReplayBufferCfg(length=64)
    """Windows that are drawn; `previous_action` as in the run that takes the belief over (SAC: true, PPO: false)."""
    batch_size = 32
    learning_starts = 0
    max_grad_norm = 1.0
    learning_rate: Annotated[float, Range(gt=0)] = 1.0e-3
    """Learning rate."""
