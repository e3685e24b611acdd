"""Soft actor-critic on the features of a frozen VLA policy.

    obs --frozen backbone--> features --actor--> latent action --frozen head--> chunk --> environment
                                 '------ critics Q(features, latent action)

The learner is `SAC` as it is, with its replay, ensembles, temperature and captured update. It sees an environment
whose observations are features, computed once per observation, whose actions are vectors within [-1, 1] and whose steps
last as many environment steps as were executed of a chunk. What a latent action means says `actions`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from tensordict import TensorDict
from torch import Tensor

from ...buffer.feature_replay import FeatureReplayBufferCfg
from ...buffer.transition import Transition
from ...components.actor_q import ActorQPackCfg
from ...components.critic import QNetworkCfg
from ...components.gaussian_actor import TanhGaussianActorCfg
from ...components.temperature import TemperatureCfg
from ...components.vla_policy import VLAPolicyCfg
from ...configclass import configclass
from ...networks.mlp import MLPCfg
from ..algorithm import Algorithm, AlgorithmCfg, RunContext
from ..functional import executed_mask
from ..off_policy.experience import update_normalizers
from ..off_policy.off_policy_algorithm import OffPolicyAlgorithm, OffPolicyAlgorithmCfg
from ..off_policy.sac import SACCfg
from ..vla_training.frozen_weights import frozen_fingerprints, require_same_frozen
from .demonstration_replay import encode_demonstrations
from .episode_sums import EpisodeSums, Ratio
from .equal_rewards import EqualRewards
from .latent_actions import LatentActionsCfg
from .prefix_features import FEATURES, PrefixFeatures, as_observations
from .residual_chunk import ResidualChunkCfg
from .starting_policy import frozen_policy
from .vla_collector import LATENT, VLACollector
from .vla_sac_policy import LatentPolicy


class VLASAC(Algorithm):
    """A frozen policy, and an off-policy learner of latent actions on its features."""

    obs_sets = ()
    saves_directories = True
    cfg: VLASACCfg
    collector: VLACollector

    def __init__(self, cfg: VLASACCfg, *, policy: VLAPolicyCfg, context: RunContext) -> None:
        self.cfg, self.context = cfg, context
        self.model = frozen_policy(policy, cfg.init_from, context.spec).to(context.device)
        actions = cfg.actions.build(policy=self.model, executed=context.spec.action.chunk)
        self.features = PrefixFeatures(self.model, actions)
        inner = replace(
            context,
            spec=self.features.learner_spec(context.spec),
            obs_groups={"actor": [FEATURES], "critic": [FEATURES]},
        )
        learner = cfg.learner
        if cfg.demonstrations:
            learner = learner.replace(batch_size=learner.batch_size // 2)
        self.learner: OffPolicyAlgorithm = learner.build(policy=cfg.networks, context=inner)
        self.schema = self.learner.schema
        self.sums = EpisodeSums(context.spec.num_envs, context.device)
        self.equal_rewards = EqualRewards(context.device, context.distributed)
        self.collector = VLACollector(
            self.features, self.learner.collector, device=context.device, cuda_graph=cfg.learner.cuda_graph
        )

    def add_instructions(self, texts: Iterable[str]) -> None:
        """Let the policy follow more texts."""
        self.model.add_instructions(texts)
        self.collector.forget_graphs()

    def process_env_step(self, transition: Transition) -> None:
        """Store features and latent action; see `OffPolicyAlgorithm.process_env_step`."""
        self.learner.process_env_step(self._received(transition))

    def _received(self, transition: Transition) -> Transition:
        """Look at the rewards of a step, and return the transition of the learner."""
        mask = torch.ones_like(transition.terminated) if transition.mask is None else transition.mask
        if transition.chunk_rewards is None or transition.executed_steps is None:
            self.equal_rewards.add(transition.reward, mask)
        else:
            rewards = transition.chunk_rewards
            self.equal_rewards.add(rewards, executed_mask(transition.executed_steps * mask, rewards.shape[1]))
        return self._encoded(transition)

    @torch.no_grad()
    def _encoded(self, transition: Transition) -> Transition:
        """Return the transition of the learner; its next features are those that the next action is chosen from."""
        self.sums.add(transition, torch.ones_like(transition.time_outs, dtype=torch.bool))
        successor = self.collector.encode(transition.reset_obs).features
        # Only an episode that was cut needs the value of its last observation, which nothing else has encoded. Finding
        # such rows waits for the device once per chunk, as executing it did.
        cut, final = transition.time_outs.nonzero().squeeze(1), cast(TensorDict, transition.next_obs)
        if len(cut):
            last = self.features(final[cut]).features
            successor = successor.index_copy(0, cut, last)
        return replace(
            transition,
            obs=as_observations(transition.record[FEATURES]),
            action=transition.record[LATENT],
            next_obs=as_observations(successor),
        )

    def update(self, data: Iterable[Transition] | None = None) -> dict[str, Tensor]:
        """See `OffPolicyAlgorithm.update`."""
        experience = self.learner.experience
        if self.cfg.demonstrations and experience.beside is None:  # at once: they may be absent
            self._open_demonstrations()
        metrics = self.learner.update(None if data is None else map(self._received, data))
        return metrics | self.equal_rewards.metrics() if metrics else metrics  # nothing is said of the warm-up

    def _open_demonstrations(self) -> None:
        """Encode the demonstrations at the first update: who only plays does not need them."""
        cfg, learner = self.cfg, self.learner
        demonstrations = encode_demonstrations(
            cfg.demonstrations,
            self.features,
            gamma=learner.cfg.gamma,
            final_reward=cfg.demonstration_reward,
            batch_size=learner.cfg.batch_size,
        )
        if not learner.num_updates:  # a resumed run has them in its statistics
            update_normalizers(learner.networks, {FEATURES: demonstrations.features}, self.context.distributed)
        learner.experience.beside = demonstrations.sample

    def stored_steps(self, num_steps: int) -> Mapping[str, Tensor]:
        """See `OffPolicyAlgorithm.stored_steps`."""
        return self.learner.stored_steps(num_steps)

    def episode_ratios(self) -> dict[str, Ratio]:
        """Return statistics of the episodes that ended since the last call, as (sum, count); an iteration is over."""
        self.equal_rewards.restart()
        return self.sums.collect()

    def frames(self) -> int:
        """Return the number of executed actions since the last call, a mean over processes."""
        return self.sums.frames(self.context.distributed)

    def warnings(self, metrics: Mapping[str, float]) -> Iterable[str]:
        """Say once that rewards tell nothing; see `OffPolicyAlgorithm.warnings`, too."""
        # Once per iteration: on a GPU an unknown text is only counted, and asking waits for the device.
        self.model.preprocessing.instructions.require_known()
        if metrics:
            yield from self.equal_rewards.warnings(metrics)
        yield from self.learner.warnings(metrics)

    def restart_episodes(self) -> None:
        """Start new episodes in all environments."""
        self.collector.restart_episodes()
        self.learner.restart_episodes()
        self.sums.restart()
        self.learner.experience.buffer.restart()

    def policy(self) -> LatentPolicy:
        """The policy in the environment; it shares all weights with the learner."""
        return LatentPolicy(self.features, self.learner.policy())

    def state_dict(self) -> dict[str, Any]:
        """The learner, and which frozen policy it belongs to."""
        return {"spec": self.model.spec.to_dict(), "frozen": frozen_fingerprints(self.model)} | {
            "learner": self.learner.state_dict()
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore `state_dict`.

        Raises:
            CheckpointError: it was trained on another frozen policy.
        """
        require_same_frozen(frozen_fingerprints(self.model), state["frozen"], state["frozen"])
        self.add_instructions(state["spec"]["instructions"])
        self.learner.load_state_dict(state["learner"])

    def local_state_dict(self) -> dict[str, Any]:
        """See `OffPolicyAlgorithm.local_state_dict`."""
        return self.learner.local_state_dict() | {"episodes": self.sums.state_dict()}

    def load_local_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `OffPolicyAlgorithm.load_local_state_dict`."""
        of_learner = dict(state)
        if (episodes := of_learner.pop("episodes", None)) is not None:  # checkpoints of before have none
            self.sums.load_state_dict(episodes)
        self.learner.load_local_state_dict(of_learner)

    def train(self) -> None:
        """Switch the learner's networks to training mode; what is frozen stays in evaluation mode."""
        self.learner.train()

    def eval(self) -> None:
        """Switch the learner's networks to evaluation mode."""
        self.learner.eval()

    def close(self) -> None:
        """Free the captured graphs."""
        self.collector.close()
        self.learner.close()


def vla_sac_networks(num_q: int = 2) -> ActorQPackCfg:
    """Two hidden layers each; the actor starts close to the mean of its latent actions."""
    actor = MLPCfg(hidden_features=[256, 256], activations="ReLU", output_gain=0.01)
    critic = MLPCfg(hidden_features=[256, 256], activations="ReLU", layer_norm=True)
    return ActorQPackCfg(
        actor_cfg=TanhGaussianActorCfg(backbone_cfg=actor, init_std=0.5),
        critic_cfg=QNetworkCfg(backbone_cfg=critic, num_q=num_q),
    )


@configclass
class VLASACCfg(AlgorithmCfg):
    """Configuration of `VLASAC`: SAC that corrects the chunks of a frozen policy."""

    class_type: type = VLASAC

    init_from: str = ""
    """Checkpoint or run directory of the policy that is improved: of behavior cloning or fine-tuning."""
    actions: LatentActionsCfg = ResidualChunkCfg()
    """Meaning of what is learned."""
    learner: OffPolicyAlgorithmCfg = SACCfg(
        gamma=0.97,
        replay=FeatureReplayBufferCfg(),
        learning_starts=1000,
        temperature=TemperatureCfg(initial=0.1),
    )
    """SAC and its settings: `gamma` is per environment step, `learning_starts` and `capacity` count chunks."""
    networks: ActorQPackCfg = vla_sac_networks()
    """Actor and critics, which read features."""
    demonstrations: str = ""
    """Folder of a LeRobot data set that is half of every batch (RLPD), with sparse rewards; empty: none."""
    demonstration_reward: float = 1.0
    """Reward of the last step of every demonstration, which succeeds and terminates; that of the environment."""

    def check(self) -> Iterable[str]:
        """Sentences on what a learner of chunks can't have."""
        if not isinstance(self.learner.replay, FeatureReplayBufferCfg):
            yield (
                f"learner.replay: a {type(self.learner.replay).__name__} does not know how many actions of a chunk "
                "were executed; take FeatureReplayBufferCfg"
            )
        if self.learner.max_return is not None:
            yield "learner.max_return: scales rewards per step, and a step is a chunk here; leave it null"
        if self.demonstrations and self.learner.batch_size % 2:
            yield f"learner.batch_size: {self.learner.batch_size} is odd, and half of it are demonstrations"

    def check_rollout(self, num_envs: int, num_steps: int) -> Iterable[str]:
        """See `OffPolicyAlgorithmCfg.check_rollout`."""
        return (f"learner.{sentence}" for sentence in self.learner.check_rollout(num_envs, num_steps))
