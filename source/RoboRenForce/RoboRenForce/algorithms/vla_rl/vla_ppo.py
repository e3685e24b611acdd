"""PPO for vision-language-action policies: a value head judges observations, and GAE credits chunks or actions.

Schulman et al. 2017 (arXiv 1707.06347) with GAE (arXiv 1506.02438) over decisions: a chunk of n executed actions counts
as one step of discount gamma^n. For VLA policies VLA-RL (arXiv 2505.18719), RLinf-VLA (arXiv 2510.06710) and pi_RL
(arXiv 2510.25889).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Literal

import torch
from tensordict import TensorDict
from torch import Tensor
from typing_extensions import override

from ...buffer.transition import ActOut, Transition
from ...components import OptimizerCfg
from ...components.vla_policy import VLAPolicy
from ...components.vla_value import ValueHead, ValueHeadCfg
from ...configclass import ConfigError, Range, configclass
from ..functional import chunk_discount, chunk_reward, executed_mask, gae, masked_var, normalize_advantage
from .chunk_rollout import ChunkRollout
from .host_flags import HostFlags
from .options import PolicyGradientOptions, value_rate
from .vla_on_policy import Targets, VLAOnPolicy


class VLAPPO(VLAOnPolicy):
    """Rollouts of a number of steps; episodes go on from one to the next."""

    cfg: VLAPPOCfg
    whole_episodes = False

    def __init__(self, cfg: VLAPPOCfg, **runtime: Any) -> None:
        super().__init__(cfg, **runtime)
        spec = self.context.spec
        if "final_observations" not in spec.extras:
            raise ConfigError(
                f"VLAPPO bootstraps time-outs with the value of the final observation, which '{spec.task}' lacks: name "
                "final_observations in its spec.extras, or choose GRPO, which needs no value."
            )
        if cfg.critic_warmup and self.context.distributed.is_distributed:
            raise ConfigError(
                "algorithm.critic_warmup trains the value alone, and several processes wait for the gradients of the "
                "policy too: set it to 0, or use one process."
            )
        self._last: Transition | None = None
        self._last_step = 0
        self._cut = HostFlags(spec.num_envs, self.device)
        """Rows that the newest step cut by a time-out."""
        self._final: tuple[int, Tensor, dict[str, Tensor]] | None = None
        """Such rows of a step, and their final observations, whose values are to be found."""

    @override
    def build_value(self, policy: VLAPolicy) -> ValueHead:
        cfg = self.cfg.value.replace(per_action=self.cfg.reward_level == "action")
        width, state_dim = cfg.width(policy.backbone.width, policy.head), policy.spec.state.dim
        head = cfg.build(width=width, state_dim=state_dim, chunk_size=policy.chunk_size)
        return head.to(self.device)

    @override
    def trains_policy(self) -> bool:
        return int(self.iteration) >= self.cfg.critic_warmup

    @override
    def act(self, obs: TensorDict) -> ActOut:
        """See `VLAOnPolicy.act`.

        Which rows the step before has cut is asked when the device has this work to do, before the environment writes
        over their final observations.
        """
        out = super().act(obs)
        self._keep_final()
        return out

    @override
    def after_step(self, transition: Transition, mask: Tensor) -> None:
        self._keep_final()  # where steps come from elsewhere, and nothing has acted between them
        self._value_final()
        self._last, self._last_step = transition, self.rollout.step - 1
        self._cut.send(transition.time_outs & mask)

    def _keep_final(self) -> None:
        """Copy the final observations of the rows that ran out of time in the newest step, and of no other."""
        last = self._last
        if self._cut.is_empty or last is None or last.next_obs is None:
            return
        rows = self._cut.rows()
        self._cut.clear()
        if len(rows):
            seen = {name: last.next_obs[name][rows] for name in self.collector.groups}
            self._final = self._last_step, rows, seen

    def _value_final(self) -> None:
        """Find the values that time-outs bootstrap with; the record of `act` has been stored."""
        if self._final is not None:
            step, rows, seen = self._final
            value = self.collector.values(seen).view(len(rows), -1)[:, 0]
            self.rollout.bootstrap[step].index_copy_(0, rows, value)
            self._final = None

    @override
    def restart_episodes(self) -> None:
        super().restart_episodes()
        self._cut.clear()
        self._final = None

    @override
    def targets(self, rollout: ChunkRollout) -> Targets:
        if self._last is None:
            raise RuntimeError("VLAPPO updates after a rollout, and there is none.")
        self._keep_final()
        self._value_final()
        last = self.collector.values(self._last.reset_obs, keep=True).view(rollout.mask.shape[1], -1)[:, 0]
        by_action = self.cfg.reward_level == "action"
        advantage, returns, mask = (self._over_actions if by_action else self._over_chunks)(rollout, last)
        values = rollout.values[: rollout.step]
        total = self.context.distributed.sum_
        unexplained = masked_var(returns - values, mask, total) / (masked_var(returns, mask, total) + 1e-8)
        if self.cfg.normalize_advantage:
            advantage = normalize_advantage(advantage, mask=mask, total=total)
        decisions = rollout.decisions(advantage)
        return Targets(
            advantage=decisions if by_action else decisions.squeeze(1),
            weight=torch.ones(len(decisions), device=self.device),
            returns=rollout.decisions(returns),
            metrics={"critic/explained_variance": 1.0 - unexplained},
        )

    def _over_chunks(self, rollout: ChunkRollout, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """GAE with one step per decision: advantages, returns and mask `(T, N, 1)`."""
        steps, cfg = rollout.step, self.cfg
        discount = chunk_discount(rollout.executed[:steps], cfg.gamma)
        reward = chunk_reward(rollout.rewards[:steps], cfg.gamma) + discount * rollout.bootstrap[:steps]
        value, mask = rollout.values[:steps, :, 0], rollout.mask[:steps]
        advantage, returns = gae(reward, value, rollout.done[:steps], last, gamma=discount, lam=cfg.lam, mask=mask)
        return advantage.unsqueeze(2), returns.unsqueeze(2), mask.unsqueeze(2)

    def _over_actions(self, rollout: ChunkRollout, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """GAE with one step per executed action: advantages, returns and mask `(T, N, E)`."""
        steps, cfg, width = rollout.step, self.cfg, rollout.chunk
        executed = rollout.executed[:steps]
        mask = executed_mask(executed, width)
        # The last executed action of a chunk is the one with which an episode ended.
        is_last = torch.arange(width, device=self.device) == (executed - 1).unsqueeze(2)
        done = is_last & rollout.done[:steps].unsqueeze(2)
        reward = rollout.rewards[:steps] + cfg.gamma * is_last * rollout.bootstrap[:steps].unsqueeze(2)
        in_time = [_by_action(tensor) for tensor in (reward, rollout.values[:steps], done, mask)]
        reward, value, done, flat = in_time
        advantage, returns = gae(reward, value, done, last, gamma=cfg.gamma, lam=cfg.lam, mask=flat)
        return _by_chunk(advantage, width), _by_chunk(returns, width), mask


def _by_action(per_chunk: Tensor) -> Tensor:
    """`(T, N, E)` -> `(T * E, N)`, in order of time."""
    return per_chunk.transpose(1, 2).flatten(0, 1)


def _by_chunk(per_action: Tensor, width: int) -> Tensor:
    """Undo `_by_action`."""
    return per_action.unflatten(0, (-1, width)).transpose(1, 2)


@configclass
class VLAPPOCfg(PolicyGradientOptions):
    """Configuration of `VLAPPO`."""

    class_type: type = VLAPPO

    value: ValueHeadCfg = ValueHeadCfg()
    """Value head; `per_action` follows from `reward_level`."""
    lam: Annotated[float, Range(ge=0, le=1)] = 0.95
    """Trace decay of GAE, per decision, or per action with `reward_level="action"`."""
    reward_level: Literal["chunk", "action"] = "chunk"
    """What has an advantage of its own: a chunk, or each of its actions (with values of their own)."""
    normalize_advantage: bool = True
    """Shift and scale advantages to mean 0 and deviation 1 over the rollout."""
    critic_warmup: Annotated[int, Range(ge=0)] = 0
    """Iterations at the start that train the value head alone."""
    clip_high: float = 0.2
    optimizer: OptimizerCfg = OptimizerCfg(
        learning_rate=5e-6, betas=(0.9, 0.95), weight_decay=0.01, groups=[value_rate(1e-4)]
    )
    num_learning_epochs = 4

    def check(self) -> Iterable[str]:
        """Sentences on options that contradict one another."""
        yield from super().check()
        if self.reward_level == "action" and self.log_prob_level == "chunk":
            yield (
                "log_prob_level: is 'chunk', whose one ratio can't have the advantages of several actions; set it to "
                "action or token, or reward_level=chunk"
            )
