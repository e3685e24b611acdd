"""A rollout written down decision by decision, and what is learned from it in plain loops over numbers.

Nothing here is a tensor of more than one number but what a network returns, and nothing comes from `functional`.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import product
from typing import Any

import frozen_runs
import torch
from RoboRenForce.algorithms import RunContext, Transition
from RoboRenForce.algorithms.vla_rl import GRPOCfg, ReinforcePPCfg, VLAPPOCfg
from RoboRenForce.components import OptimizerCfg
from RoboRenForce.components.action_heads import RegressionHeadCfg
from RoboRenForce.components.vla_value import ValueHeadCfg
from RoboRenForce.envs import GroupVecCfg
from RoboRenForce.networks import MLPCfg
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

ROWS, GROUP, STEPS, DIMS = 8, 4, 5, 2
SCRIPT = [["terminated@2", "time_out@7", "terminated@5"], ["time_out@4", "terminated@4"], ["terminated@5"]]
SCRIPT += [["time_out@7", "terminated@1"]]
HEAD = RegressionHeadCfg(chunk_size=frozen_runs.CHUNK, network=frozen_runs.REGRESSION.network, std=0.3, learn_std=True)
PLAIN_SGD = OptimizerCfg(kind="sgd", learning_rate=1.0, momentum=0.0, max_grad_norm=None)
"""A step is the gradient."""


@dataclass
class Decision:
    """One chunk of one row."""

    row: int
    wave: int
    prefix: Any
    """What the frozen backbone makes of the observation."""
    record: dict[str, Tensor]
    """Of the head, `(1, H, A)` each."""
    rewards: list[float]
    """Of executed actions, as the environment gave them."""
    values: list[float]
    """When it was collected: of the chunk, or of each action."""
    end: str
    """'terminated', 'time_out' or ''."""
    final: float
    """Value of the observation with which the step ended."""
    success: bool
    learned_rewards: list[float] = field(default_factory=list)
    advantage: list[float] = field(default_factory=list)
    """One, or one per executed action."""
    target: list[float] = field(default_factory=list)
    weight: float = 1.0


def environment(kind: Any) -> Any:
    """Episodes that end inside chunks, by termination and by time."""
    cfg = frozen_runs.env_cfg(num_envs=ROWS, script=SCRIPT, extras=["final_observations", "success"])
    cfg.groups = GroupVecCfg(group_size=GROUP) if kind is GRPOCfg else None
    return cfg.build()


def build(kind: Any, policy: str, env: Any, **options: Any) -> Any:
    """A learner whose networks say something: new ones end in zeros."""
    torch.manual_seed(0)
    value = {"value": ValueHeadCfg(network=MLPCfg(hidden_features=[8]))} if kind is VLAPPOCfg else {}
    steps = {"optimizer": PLAIN_SGD, "num_learning_epochs": 1, "num_mini_batches": 1}
    cfg = kind(init_from=policy, **(value | steps | options))
    rollout_steps = STEPS if kind is VLAPPOCfg else 3 * cfg.max_waves  # 7 actions are 3 chunks
    context = RunContext(spec=env.spec, device=frozen_runs.CPU, rollout_steps=rollout_steps)
    learner = cfg.build(policy=frozen_runs.policy_cfg(HEAD), context=context)
    learner.add_instructions(env.instruction_table.values())
    disturb(trained(learner).values(), 0.2, seed=1)
    return learner


def trained(learner: Any) -> dict[str, nn.Parameter]:
    return {name: p for name, p in learner.plain_module.named_parameters() if p.requires_grad}


@torch.no_grad()
def disturb(parameters: Iterable[nn.Parameter], scale: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in parameters:
        parameter.add_(scale * torch.randn(parameter.shape, generator=generator))


@torch.no_grad()
def move(learner: Any) -> None:
    """Move the weights as an epoch does: some ratios and some values leave their bounds."""
    disturb(learner.model.head.parameters(), 0.04, seed=5)
    if learner.value is not None:
        disturb(learner.value.parameters(), 0.005, seed=3)
        learner.value.network.output_layer.bias.add_(0.1)  # towards the returns, which are above new values


@torch.no_grad()
def value_of(learner: Any, obs: Any, row: int) -> float:
    """Value of one observation, of its first action if there are several; 0 without a value head."""
    if learner.value is None:
        return 0.0
    return float(learner.value(learner.model.encode(one(learner, obs, row))).flatten()[0])


def one(learner: Any, obs: Any, row: int) -> dict[str, Tensor]:
    return {name: obs[name][row : row + 1].clone() for name in learner.collector.groups}


@torch.no_grad()
def collect(learner: Any, env: Any) -> tuple[list[Decision], Any]:
    """Take a rollout; returns its decisions in order of time, and the observation after it.

    Some rows report success at every step, more of them in the second group.
    """
    obs, found = env.get_observations(), []
    reports = torch.tensor([row % GROUP < 1 + 2 * (row // GROUP) for row in range(ROWS)])
    while learner.is_collecting:
        running, wave = learner.running.clone(), 0 if learner.waves is None else learner.waves.wave
        out = learner.act(obs)
        step = Transition.of_step(obs, out.action, out.record, env.step_rows(out.action, running))
        step = replace(step, success=reports.clone())
        for place, row in enumerate(out.record["rows"].tolist()):
            count = int(step.executed_steps[row])
            record = {
                name.removeprefix("record/"): tensor[place : place + 1].clone()
                for name, tensor in out.record.items()
                if name.startswith("record/")
            }
            values = out.record["value"][place].flatten().tolist() if learner.value is not None else [0.0]
            end = "terminated" if step.terminated[row] else "time_out" if step.time_outs[row] else ""
            found.append(
                Decision(
                    row=row,
                    wave=wave,
                    prefix=learner.model.encode(one(learner, obs, row)),
                    record=record,
                    rewards=step.chunk_rewards[row, :count].tolist(),
                    values=values,
                    end=end,
                    final=value_of(learner, step.next_obs, row),
                    success=bool(reports[row]),
                )
            )
        learner.process_env_step(step)
        obs = step.reset_obs
    return found, obs


def credit(cfg: Any, decisions: list[Decision], last: list[float]) -> None:
    """Fill in advantages, targets and weights."""
    for row in range(ROWS):
        before = 0.0
        for decision in (d for d in decisions if d.row == row):
            decision.learned_rewards = []
            for reward in decision.rewards:
                change = reward - before if cfg.relative_reward else reward
                decision.learned_rewards.append(cfg.reward_coef * change - cfg.step_penalty)
                before = reward
            before = 0.0 if decision.end else before
    if isinstance(cfg, GRPOCfg):
        _compare(cfg, decisions)
        return
    for row in range(ROWS):
        _look_back(cfg, [d for d in decisions if d.row == row], last[row])
    if isinstance(cfg, ReinforcePPCfg) or cfg.normalize_advantage:
        everything = [advantage for d in decisions for advantage in d.advantage]
        mean, deviation = statistics.mean(everything), statistics.stdev(everything)
        for decision in decisions:
            decision.advantage = [(advantage - mean) / deviation for advantage in decision.advantage]


def _look_back(cfg: Any, life: list[Decision], following: float) -> None:
    """GAE of one row, from its last decision (or action) to its first; without a value head it sums up rewards."""
    judges = isinstance(cfg, VLAPPOCfg)
    by_action, lam = judges and cfg.reward_level == "action", cfg.lam if judges else 1.0
    trace = 0.0
    for decision in reversed(life):
        decision.advantage, decision.target = [], []
        rewards = decision.learned_rewards
        for number in reversed(range(len(rewards) if by_action else 1)):
            part, value = [rewards[number]] if by_action else rewards, decision.values[number]
            if decision.end and (not by_action or number + 1 == len(rewards)):
                following, trace = decision.final if decision.end == "time_out" else 0.0, 0.0
            reward = sum(cfg.gamma**k * reward for k, reward in enumerate(part))
            discount = cfg.gamma ** len(part)
            trace = reward + discount * following - value + discount * lam * trace
            following = value
            decision.advantage.insert(0, trace)
            if judges:
                decision.target.insert(0, trace + value)


def _compare(cfg: GRPOCfg, decisions: list[Decision]) -> None:
    episodes: dict[tuple[int, int], list[Decision]] = {}
    for decision in decisions:
        episodes.setdefault((decision.wave, decision.row), []).append(decision)
    success = {key: float(any(d.success for d in life)) for key, life in episodes.items()}
    returns = {key: sum(r for d in life for r in d.learned_rewards) for key, life in episodes.items()}
    scores = success if cfg.score == "success" else returns
    kept: dict[tuple[int, int], int] = {}
    for wave, first in product(range(1 + max(d.wave for d in decisions)), range(0, ROWS, GROUP)):
        group = [(wave, row) for row in range(first, first + GROUP)]
        mine = [scores[key] for key in group]
        mean, rate = statistics.mean(mine), statistics.mean(success[key] for key in group)
        bounded = rate if cfg.filters_success else mean
        useful = max(mine) > min(mine)
        useful &= cfg.lowest_mean is None or bounded >= cfg.lowest_mean
        useful &= cfg.highest_mean is None or bounded <= cfg.highest_mean
        for key in group:
            scale = statistics.stdev(mine) + 1e-6 if cfg.normalize_by_std and useful else 1.0
            elements = [1 if cfg.log_prob_level == "chunk" else len(d.rewards) for d in episodes[key]]
            kept |= {key: sum(elements)} if useful else {}
            for decision in episodes[key]:
                decision.advantage = [(scores[key] - mean) / scale if useful else 0.0]
                decision.weight = float(useful)
    if cfg.length_normalization:
        for key, elements in kept.items():
            for decision in episodes[key]:
                decision.weight = statistics.mean(kept.values()) / elements


def numbers(level: str, count: int) -> list[list[tuple[int, int]]]:
    """What each ratio (or entropy) of a chunk sums up, of which `count` actions were executed."""
    by_action = [[(action, dim) for dim in range(DIMS)] for action in range(count)]
    if level == "action":
        return by_action
    tokens = [token for action in by_action for token in action]
    return [tokens] if level == "chunk" else [[token] for token in tokens]


class Mean:
    """A weighted mean that can be differentiated."""

    def __init__(self) -> None:
        self.sum, self.weight = torch.zeros(()), 0.0

    def add(self, number: Any, weight: float = 1.0) -> None:
        self.sum, self.weight = self.sum + weight * number, self.weight + weight

    @property
    def mean(self) -> Tensor:
        return self.sum / max(self.weight, 1e-6)


def loss(cfg: Any, learner: Any, decisions: list[Decision]) -> tuple[Tensor, dict[str, float]]:
    """The loss of all decisions, which `credit` has been at, and its metrics."""
    names = ("policy_loss", "entropy", "approx_kl", "ratio", "pg_clipfrac", "kl_reference", "value_loss")
    means = {name: Mean() for name in (*names, "value_clipfrac")}
    for decision in (d for d in decisions if d.weight):
        prefix = decision.prefix
        _surrogate(cfg, means, decision, learner.model.head.evaluate(prefix, decision.record))
        if learner.reference is not None:
            now, then = (Normal(h.mean(prefix), h.bounded_log_std().exp()) for h in _heads(learner))
            apart = kl_divergence(now, Normal(then.mean.detach(), then.stddev.detach()))[0]
            for cells in numbers(cfg.entropy_level, len(decision.rewards)):
                means["kl_reference"].add(sum(apart[cell] for cell in cells), decision.weight)
        if learner.value is not None:
            for number, now in enumerate(learner.value(prefix).flatten()[: len(decision.target)]):
                _judge(cfg, means, now, decision.values[number], decision.target[number])
    total = means["policy_loss"].mean - cfg.entropy_coef * means["entropy"].mean
    total = total + cfg.kl_coef * means["kl_reference"].mean + cfg.value_loss_coef * means["value_loss"].mean
    return total, {f"actor/{name}": float(found.mean.detach()) for name, found in means.items() if found.weight}


def _heads(learner: Any) -> tuple[Any, Any]:
    return learner.model.head, learner.reference.head


def _surrogate(cfg: Any, means: dict[str, Mean], decision: Decision, found: Any) -> None:
    old, count = decision.record["log_prob"][0], len(decision.rewards)
    for cells in numbers(cfg.log_prob_level, count):
        log_ratio = sum(found.log_prob[0][cell] - old[cell] for cell in cells)
        assert isinstance(log_ratio, Tensor)
        means["approx_kl"].add(log_ratio.exp() - 1 - log_ratio, decision.weight)
        if cfg.max_log_ratio is not None:
            log_ratio = log_ratio.clamp(-cfg.max_log_ratio, cfg.max_log_ratio)
        advantage = decision.advantage[cells[0][0] if len(decision.advantage) > 1 else 0]
        ratio = log_ratio.exp()
        plain, cut = -advantage * ratio, -advantage * ratio.clamp(1 - cfg.clip_low, 1 + cfg.clip_high)
        worst = cut if cut > plain else plain
        bounded = cfg.dual_clip is not None and advantage < 0 and worst > -advantage * cfg.dual_clip
        means["policy_loss"].add(-advantage * cfg.dual_clip if bounded else worst, decision.weight)
        means["ratio"].add(ratio, decision.weight)
        means["pg_clipfrac"].add(float(bounded or bool(cut > plain)), decision.weight)
    for cells in numbers(cfg.entropy_level, count):
        means["entropy"].add(sum(found.entropy[0][cell] for cell in cells), decision.weight)


def _judge(cfg: Any, means: dict[str, Mean], now: Tensor, before: float, target: float) -> None:
    def error(value: Tensor) -> Tensor:
        far = (value - target).abs()
        if cfg.huber_delta is None or far <= cfg.huber_delta:
            return 0.5 * far**2
        return cfg.huber_delta * (far - 0.5 * cfg.huber_delta)

    worst, clipped = error(now), torch.zeros(())
    if cfg.value_clip is not None:
        clipped = error(before + (now - before).clamp(-cfg.value_clip, cfg.value_clip))
    means["value_clipfrac"].add(float(clipped > worst))
    means["value_loss"].add(clipped if clipped > worst else worst)


def episode_means(decisions: list[Decision]) -> dict[str, float]:
    """Metrics of the episodes that ended."""
    ended: list[list[Decision]] = []
    for key in {(d.wave, d.row) for d in decisions}:
        life: list[Decision] = []
        for decision in (d for d in decisions if (d.wave, d.row) == key):
            life.append(decision)
            if decision.end:
                ended.append(life)
                life = []
    length = statistics.mean(sum(len(d.rewards) for d in life) for life in ended)
    total = statistics.mean(sum(sum(d.rewards) for d in life) for life in ended)
    return {
        "env/success_once": statistics.mean(float(any(d.success for d in life)) for life in ended),
        "env/return": total,
        "env/episode_len": length,
        "env/reward": total / length,
        "env/num_trajectories": float(len(ended)),
    }


def is_close(found: Any, expected: float) -> bool:
    return math.isclose(float(found), expected, rel_tol=1e-3, abs_tol=2e-5)
