"""Split and aggregate policy gradients: PPO in blocks of environments, of which one leads and the others explore.

Singla, Agarwal, Pathak 2024 (arXiv 2407.20230). All blocks share one actor and one critic, told apart by a learned
vector per block. Every block learns from its own data as PPO does; the leader, the last block, learns from data of
others as well (`relabelled.py`). It is the policy that is evaluated, played and exported.

Differences from the released code:

- the clip interval of the relabelled data lies around mu, as in the paper (`off_policy_clip`);
- the KL divergence that adapts the learning rate is that of the data that a block collected itself: between two blocks
  it is no size of an update;
- relabelled time-outs are left out, since the reward of a time-out holds the follower's value;
- actor and critic have vectors of their own, because they share nothing;
- every mini-batch has the same share of relabelled rows.

With one block it is PPO, bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Annotated, Any, Literal, Self

import torch
from tensordict import TensorDict
from torch import Tensor

from ...buffer.transition import Transition
from ...components.actor_critic import ActorCriticPackCfg
from ...components.block_std_actor import BlockStdActor, BlockStdActorCfg
from ...components.gaussian_actor import StateIndStdActorCfg
from ...configclass import Cfg, ConfigError, Range, configclass
from ...envs.obs_groups import BLOCK, resolve_obs_groups
from ..actor_policy import ActorPolicy
from ..algorithm import RunContext
from .block_mini_batches import BlockMiniBatches
from .ppo import PPO, PPOCfg


class SAPG(PPO):
    """PPO of several blocks, the last of which also learns from the others' data."""

    cfg: SAPGPPOCfg
    mini_batches: BlockMiniBatches

    def __init__(self, cfg: SAPGPPOCfg, *, policy: ActorCriticPackCfg, context: RunContext) -> None:
        spec = context.spec
        if BLOCK not in spec.obs_groups:
            raise ConfigError(
                f"SAPG learns in blocks of environments, which '{spec.task}' does not have: set "
                "env.groups.num_blocks=6 env.groups.observe_blocks=true."
            )
        groups = resolve_obs_groups(spec, ("actor", "critic"), context.obs_groups)
        for name in ("actor", "critic"):
            groups[name] = [*(group for group in groups[name] if group != BLOCK), BLOCK]
        super().__init__(cfg, policy=policy, context=replace(context, obs_groups=groups))
        if self.actor.encoder.blocks is None or self.critic.encoder.blocks is None:
            raise ConfigError(
                "SAPG tells blocks apart by learned vectors, which this policy lacks: set block_features=32 for "
                "policy.actor_cfg and policy.critic_cfg, or build it by algorithms.sapg_policy(policy)."
            )
        if "mask" in self.buffer.rows:
            raise ConfigError(f"SAPG needs rows that act at every step, and '{spec.task}' holds some: drop 'active'.")
        self.mini_batches = BlockMiniBatches(
            cfg, self.rollout, spec.num_blocks, recurrent=self.recurrent, whole=self.mini_batches.epochs.whole
        )
        self.evolution: Any = None
        if cfg.evolution is not None:
            tables = [self.actor.encoder.blocks.table, self.critic.encoder.blocks.table]
            tables += [self.actor.std.param] if isinstance(self.actor, BlockStdActor) else []
            self.evolution = cfg.evolution.build(tables=tables, optimizer=self.optimizer, context=self.context)

    @torch.no_grad()
    def process_env_step(self, transition: Transition) -> None:
        """Store a step, see `PPO`; it counts for the fitness of its block."""
        super().process_env_step(transition)
        if self.evolution is not None:
            self.evolution.record(transition)

    def update(self, data: Iterable[Transition] | None = None) -> dict[str, Tensor]:
        """Take the gradient steps of PPO with relabelled data of randomly chosen blocks."""
        metrics = super().update(data)
        if "dist/std" in self.buffer.rows:
            metrics["Policy/mean_std"] = self.buffer.rows["dist/std"][:, self.context.spec.leader_rows].mean()
        if self.mini_batches.relabelled is not None:
            metrics["Policy/importance_ratio"] = self.mini_batches.relabelled.ratio.mean()
        if self.evolution is not None:
            self.evolution.step()
            metrics["Policy/generations"] = self.evolution.generations.clone()
        return metrics

    def restart_episodes(self) -> None:
        """Discard the rollout and the running episodes, see `PPO`."""
        super().restart_episodes()
        if self.evolution is not None:
            self.evolution.restart_episodes()

    def _parts(self) -> dict[str, Any]:
        return {**super()._parts(), "evolution": self.evolution}

    def policy(self) -> LeaderPolicy:
        """Return the leader for play and export; it shares its parameters with the learner."""
        return LeaderPolicy(self.actor)


class LeaderPolicy(ActorPolicy):
    """Play the leader, whatever block the rows of the environment belong to."""

    @torch.no_grad()
    def forward(self, obs: TensorDict) -> Tensor:
        """Return actions `(N, *action.shape)` for observations `[N]`."""
        return super().forward(obs.exclude(BLOCK))


@configclass
class SAPGPPOCfg(PPOCfg):
    """Configuration of SAPG. The number of blocks is the environment's, `env.groups.num_blocks`.

    `entropy_coef` is the scale of the blocks' coefficients: half of it in the first block, linearly down to 0 in the
    last.
    """

    class_type: type = SAPG
    entropy_coef = 0.005
    off_policy_blocks: Annotated[int, Range(ge=0)] = 1
    """Number of randomly chosen blocks per update whose data the leader learns from too; 0: none."""
    off_policy_clip: Literal["mu", "one"] = "mu"
    """Middle of the clip interval of relabelled data: mu = pi / pi_follower before the update (paper), or 1 (code)."""
    max_importance_ratio: Annotated[float, Range(gt=0)] | None = None
    """Bound of mu (as the truncation of V-trace, arXiv 1802.01561); None: no bound, as in the paper."""
    evolution: Cfg | None = None
    """Evolution of the block vectors (`EvolutionCfg`, EPO); None: they only learn."""

    @classmethod
    def from_ppo(cls, ppo: PPOCfg, **options: Any) -> Self:
        """Return the same options in blocks, with entropy coefficients of blocks.

        Args:
            ppo: Options of PPO.
            options: Fields that differ.
        """
        return cls.extending(ppo, **{"entropy_coef": cls().entropy_coef, **options})

    def check(self) -> Iterable[str]:
        """Check PPO's options, and that advantages are normalized with those of the relabelled data."""
        yield from super().check()
        if self.normalize_advantage_per_mini_batch:
            yield "normalize_advantage_per_mini_batch: SAPG normalizes over the rollout; set it to false"
        if self.parity != "none":
            yield f"parity: rsl_rl has no SAPG to equal, got '{self.parity}'; leave it 'none'"


def sapg_policy(policy: ActorCriticPackCfg, block_features: int = 32) -> ActorCriticPackCfg:
    """Return `policy` with a learned vector per block, and a std per block where the std is no output of the network.

    Args:
        policy: Actor and critic.
        block_features: Width of the vectors.
    """
    policy = policy.copy()
    if type(policy.actor_cfg) is StateIndStdActorCfg:
        policy.actor_cfg = BlockStdActorCfg.extending(policy.actor_cfg)
    policy.actor_cfg.block_features = policy.critic_cfg.block_features = block_features
    return policy
