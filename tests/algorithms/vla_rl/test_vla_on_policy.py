"""GRPO, PPO and REINFORCE++ of a tiny policy on the tabletop: what has to hold exactly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cloned_tabletop import clone, reach_cfg, small_policy
from RoboRenForce.algorithms.vla_rl import GRPOCfg, ReinforcePPCfg, VLAPPOCfg, equal_rewards
from RoboRenForce.algorithms.vla_rl.options import PolicyGradientOptions
from RoboRenForce.components import OptimizerCfg
from RoboRenForce.components.action_heads import FlowHeadCfg, RegressionHeadCfg
from RoboRenForce.components.vla_value import ValueHeadCfg
from RoboRenForce.configclass import ConfigError, UserError
from RoboRenForce.data import DataLoaderCfg, LeRobotDatasetCfg, LeRobotWriter
from RoboRenForce.envs import GroupVecCfg
from RoboRenForce.networks import MLPCfg
from RoboRenForce.runners import VLAGRPORunnerCfg, VLAPPORunnerCfg
from RoboRenForce.runners.vla_rl_runner import VLAPPORunner
from RoboRenForce.utils.checkpoint import load_checkpoint
from vla_cases import OUT_OF_MEMORY

HEAD = RegressionHeadCfg(chunk_size=4, std=0.3)
QUIET = OptimizerCfg(learning_rate=1e-3)
SMOOTH = OptimizerCfg(kind="sgd", learning_rate=0.3, momentum=0.9)
"""Unlike Adam's, its steps are smooth in the gradient, so that rounding stays rounding."""


@pytest.fixture(scope="module")
def cloned(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A policy that has seen a few demonstrations for a few steps."""
    yield clone(HEAD, tmp_path_factory.mktemp("cloned"), episodes=8, steps=5)


def options(kind: type[PolicyGradientOptions], cloned: Path, **fields: Any) -> Any:
    """Options, with a small value head."""
    value = {"value": ValueHeadCfg(network=MLPCfg(hidden_features=[16]))} if kind is VLAPPOCfg else {}
    defaults: dict[str, Any] = {"optimizer": QUIET, "num_mini_batches": 2, "gamma": 0.95}
    return kind(init_from=str(cloned), **(value | defaults | fields))


def runner(algorithm: Any, *, num_envs: int = 8, seed: int = 0, log_dir: Path | None = None, **env: Any) -> Any:
    """A runner with an environment of its own."""
    whole = not isinstance(algorithm, VLAPPOCfg)
    cfg_type = VLAGRPORunnerCfg if whole else VLAPPORunnerCfg
    env_cfg = reach_cfg(num_envs, seed=7, max_episode_length=10, **({"reward": "dense"} | env))
    env_cfg.groups = GroupVecCfg(group_size=4) if isinstance(algorithm, GRPOCfg) else None
    fields: dict[str, Any] = {} if whole else {"num_steps_per_env": 4}
    cfg = cfg_type(
        policy=small_policy(HEAD), algorithm=algorithm, seed=seed, logger=[], report=False, save_interval=1, **fields
    )
    return cfg.build(env=env_cfg.build(), log_dir=log_dir)


def weights(run: VLAPPORunner) -> dict[str, torch.Tensor]:
    """Copies of the trained weights."""
    named = run.learner.plain_module.named_parameters()
    return {name: p.detach().clone() for name, p in named if p.requires_grad}


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], atol: float = 0.0) -> bool:
    """Compare weights."""
    assert first.keys() == second.keys()
    return all(torch.allclose(first[name], second[name], atol=atol, rtol=0) for name in first)


KINDS = [GRPOCfg, VLAPPOCfg, ReinforcePPCfg]


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_ratio_is_one_and_learning_moves_the_policy(kind: Any, cloned: Path) -> None:
    run = runner(options(kind, cloned, num_learning_epochs=1, num_mini_batches=1))
    before = weights(run)
    run.learn(1)
    assert abs(run.metrics["actor/ratio"] - 1.0) < 1e-5 and run.metrics["actor/approx_kl"] < 1e-6
    assert run.metrics["actor/pg_clipfrac"] == 0 and run.metrics["actor/grad_norm"] > 0
    assert not same(before, weights(run))
    run.learn(1)  # the weights have moved, and the next rollout is of the new ones
    assert abs(run.metrics["actor/ratio"] - 1.0) < 1e-5
    for name in ("env/episode_len", "rollout/returns_mean", "rollout/advantages_mean", "time/generate_rollouts"):
        assert name in run.metrics
    assert run.metrics["Perf/chunk_samples_per_second"] > 0 and run.metrics["Perf/env_frames_per_second"] > 0


@pytest.mark.parametrize("kind", KINDS)
def test_stored_features_and_encoded_observations_give_the_same_gradients(kind: Any, cloned: Path) -> None:
    found = []
    for store in ("features", "observations"):
        run = runner(options(kind, cloned, store=store, optimizer=SMOOTH))
        run.learn(2)
        kept = run.learner.rollout.store.rows
        assert any(name.startswith("prefix/") for name in kept) == (store == "features")
        assert any(name == "obs/front" and rows.dtype == torch.uint8 for name, rows in kept.items()) == (
            store == "observations"
        )
        found.append(weights(run))
    assert same(*found, atol=2e-5)
    first = weights(runner(options(kind, cloned, store="features", optimizer=SMOOTH)))
    assert not same(first, found[0], atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_micro_batches_add_up_to_the_mini_batch(kind: Any, cloned: Path) -> None:
    found = []
    for size in (None, 3):
        extra = {"length_normalization": True} if kind is GRPOCfg else {}
        run = runner(options(kind, cloned, micro_batch_size=size, entropy_coef=0.01, **extra))
        run.learn(1)
        found.append(weights(run))
    assert same(*found, atol=2e-5)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
def test_out_of_memory_halves_micro_batches_and_changes_nothing_else(
    cloned: Path, monkeypatch: pytest.MonkeyPatch, error: RuntimeError
) -> None:
    run = runner(options(GRPOCfg, cloned))
    run.learn(1)
    expected = weights(run)
    run = runner(options(GRPOCfg, cloned))
    module = run.learner.plain_module
    forward = module.forward

    def small_memory(batch: Any, *args: Any, **kwargs: Any) -> Any:
        if len(batch.executed) > 5:
            raise error
        return forward(batch, *args, **kwargs)

    monkeypatch.setattr(module, "forward", small_memory)
    run.learn(1)
    assert run.learner.epochs.micro_batch_size <= 5
    assert same(expected, weights(run), atol=2e-5)


def test_rows_whose_episode_has_ended_are_neither_encoded_nor_stored(
    cloned: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = runner(options(GRPOCfg, cloned))
    model, sizes = run.learner.model, []
    encode = model.encode
    monkeypatch.setattr(model, "encode", lambda obs: sizes.append(len(obs["proprio"])) or encode(obs))
    stepped = run.env.step_rows
    held: list[int] = []

    def step_rows(actions: torch.Tensor, active: torch.Tensor, **options: Any) -> Any:
        held.append(int((~active).sum()))
        assert not actions[~active].any()
        return stepped(actions, active, **options)

    monkeypatch.setattr(run.env, "step_rows", step_rows)
    run.learn(1)
    acted = [8 - count for count in held]
    assert sizes[-len(acted) :] == acted  # the check of log-probabilities comes first
    assert run.learner.rollout.mask[: len(acted)].sum(1).tolist() == acted
    assert run.metrics["rollout/num_samples"] == sum(acted)


def test_the_shown_success_is_that_of_all_episodes(cloned: Path) -> None:
    """And not of the newest hundred: where a success ends an episode, those would be the failures."""
    run = runner(options(GRPOCfg, cloned), num_envs=160)
    run.learn(1)
    assert run.metrics["Train/success_rate"] == run.metrics["env/success_once"]
    assert run.metrics["Train/mean_reward"] == run.metrics["env/return"]
    assert run.metrics["Train/mean_episode_length"] == run.metrics["env/episode_len"]


def test_every_iteration_of_grpo_starts_all_groups_from_new_states(cloned: Path) -> None:
    run = runner(options(GRPOCfg, cloned))
    starts: list[torch.Tensor] = []
    act = run.learner.act

    def watched(obs: Any) -> Any:
        if run.learner.rollout.step == 0:
            starts.append(obs["proprio"].clone())
        return act(obs)

    run.learner.act = watched
    run.learn(3)
    assert len(starts) == 3
    for start in starts:
        groups = start.view(2, 4, -1)
        assert (groups == groups[:, :1]).all() and not torch.equal(groups[0], groups[1])
    assert not torch.equal(starts[0], starts[1]) and not torch.equal(starts[1], starts[2])


def test_dynamic_sampling_collects_further_waves_up_to_its_bound(cloned: Path) -> None:
    # With sparse rewards hardly any episode of a policy that has learned nothing succeeds.
    run = runner(options(GRPOCfg, cloned, max_refills=2, min_useful_groups=1.0), reward="sparse")
    run.learn(1)
    rollout = run.learner.rollout
    assert run.metrics["rollout/waves"] == 3 and rollout.wave.max() == 2
    assert run.metrics["rollout/num_samples"] > 8 * 3
    dense = runner(options(GRPOCfg, cloned, max_refills=2), reward="dense")
    dense.learn(1)
    assert dense.metrics["rollout/waves"] == 1


def test_advantages_that_are_all_zero_are_said_once(cloned: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Rewards differ, and all groups are left out."""
    run = runner(options(GRPOCfg, cloned, lowest_mean=1e6))
    run.learn(22)
    assert run.metrics["rollout/is_silent"] == 1 and run.metrics["rollout/rewards_are_equal"] == 0
    told = [entry.message for entry in caplog.records if "have been 0 for 20 iterations" in entry.message]
    assert len(told) == 1 and told[0].startswith("Iteration 20: ")


@pytest.mark.parametrize("reward_coef", [0.0, 1.0])
def test_the_same_reward_for_every_action_is_said_once(
    cloned: Path, reward_coef: float, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Episodes of other lengths have other returns, so that advantages are not 0."""
    monkeypatch.setattr(equal_rewards, "PATIENCE", 3)
    run = runner(options(VLAPPOCfg, cloned, reward_coef=reward_coef, step_penalty=0.1))
    run.learn(5)
    assert run.metrics["rollout/is_silent"] == 0
    assert run.metrics["rollout/rewards_are_equal"] == (reward_coef == 0.0)
    told = [entry.message for entry in caplog.records if "has got the same reward for 3 iterations" in entry.message]
    assert len(told) == (reward_coef == 0.0)


def test_an_iteration_without_useful_groups_changes_no_weight(cloned: Path) -> None:
    run = runner(options(GRPOCfg, cloned, lowest_mean=1e6))
    before = weights(run)
    run.learn(1)
    assert same(before, weights(run)) and run.metrics["actor/num_steps"] == 0


def test_critic_warmup_trains_the_value_alone(cloned: Path) -> None:
    run = runner(options(VLAPPOCfg, cloned, critic_warmup=1, freeze_backbone=False))
    before = weights(run)
    run.learn(1)
    moved = {name for name, tensor in weights(run).items() if not torch.equal(tensor, before[name])}
    assert moved and all(name.startswith("value.") for name in moved)
    run.learn(1)
    moved = {name for name, tensor in weights(run).items() if not torch.equal(tensor, before[name])}
    assert any(name.startswith("head.") for name in moved) and any(name.startswith("backbone.") for name in moved)


@pytest.mark.parametrize("trains_backbone", [False, True])
def test_the_divergence_from_the_reference_pulls_back(trains_backbone: bool, cloned: Path) -> None:
    found = {}
    for coef in (1e-6, 10.0):
        cfg = options(
            GRPOCfg, cloned, kl_coef=coef, freeze_backbone=not trains_backbone, num_learning_epochs=4, clip_high=0.5
        )
        run = runner(cfg)
        run.learn(2)
        found[coef] = run.metrics["actor/kl_reference"]
    assert 0 < found[10.0] < 0.7 * found[1e-6]


def test_divergence_in_the_reward_of_reinforce_pp(cloned: Path) -> None:
    run = runner(options(ReinforcePPCfg, cloned, kl_reward_coef=0.1, num_learning_epochs=4))
    run.learn(1)
    assert abs(run.metrics["rollout/kl_reference"]) < 1e-5  # the policy is still the reference
    run.learn(1)
    assert abs(run.metrics["rollout/kl_reference"]) > 1e-3


def test_kl_stop_ends_an_update_early(cloned: Path) -> None:
    run = runner(options(GRPOCfg, cloned, kl_stop=1e-4, num_learning_epochs=8))
    run.learn(1)
    assert 1 <= run.metrics["actor/num_steps"] < 16


def test_the_learning_rate_follows_the_kl(cloned: Path) -> None:
    run = runner(options(GRPOCfg, cloned, desired_kl=1e-6, num_learning_epochs=4))
    run.learn(1)
    assert run.metrics["actor/lr"] < 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_and_resumed_is_bit_for_bit_uninterrupted(kind: Any, cloned: Path, tmp_path: Path) -> None:
    extra = {"kl_coef": 0.1} if kind is GRPOCfg else {}
    whole = runner(options(kind, cloned, **extra))
    whole.learn(3)
    first = runner(options(kind, cloned, **extra), log_dir=tmp_path / "run")
    first.learn(2)
    path = first.save(tmp_path / "checkpoint.pt")
    second = runner(options(kind, cloned, **extra))
    second.load(path)
    second.learn(1)
    assert same(weights(whole), weights(second))
    counted = ("actor/policy_loss", "env/episode_len", "rollout/num_samples")
    assert [whole.metrics[name] for name in counted] == [second.metrics[name] for name in counted]


def test_checkpoints_hold_what_is_trained_and_know_their_base(cloned: Path, tmp_path: Path) -> None:
    run = runner(options(GRPOCfg, cloned))
    run.learn(1)
    path = run.save(tmp_path / "rl.pt")
    state = load_checkpoint(path, schema={"algorithm": dict})["algorithm"]
    assert not any(name.startswith("backbone.") for name in state["policy"]["tensors"])
    other = clone(HEAD, tmp_path, episodes=8, steps=1, seed=5)
    with pytest.raises(UserError, match=r"frozen weights .* are not those"):
        runner(options(GRPOCfg, other)).load(path)


def test_a_policy_of_rl_is_played_greedily_from_its_checkpoint(cloned: Path, tmp_path: Path) -> None:
    run = runner(options(VLAPPOCfg, cloned))
    run.learn(1)
    path = run.save(tmp_path / "rl.pt")
    player = runner(options(VLAPPOCfg, cloned))
    player.load(path, resume=False)
    obs = run.env.get_observations()
    assert torch.equal(player.policy()(obs), run.policy()(obs)) and player.policy()(obs).shape == (8, 4, 3)


# ------------------------------------------------------------------------------------------------------ bad input


def test_what_cannot_be_learned_from_is_refused_in_a_sentence(cloned: Path) -> None:
    with pytest.raises(ConfigError, match=r"init_from is empty, expected the run whose policy"):
        runner(options(GRPOCfg, Path()).replace(init_from=""))
    env = reach_cfg(8).build()
    cfg = VLAGRPORunnerCfg(policy=small_policy(HEAD), algorithm=options(GRPOCfg, cloned), logger=[])
    with pytest.raises(ConfigError, match=r"has no such groups: set env.groups=GroupVecCfg"):
        cfg.build(env=env)
    ragged = reach_cfg(10)
    ragged.groups = GroupVecCfg(group_size=4)
    with pytest.raises(ConfigError, match="group_size=4 must divide the 10 training environments"):
        ragged.build()
    with pytest.raises(ConfigError, match="the policy's RegressionHead has no action expert: take a policy of the pi"):
        runner(options(VLAPPOCfg, cloned, value=ValueHeadCfg(features="expert")))
    with pytest.raises(ConfigError, match="log_prob_level: is 'chunk'"):
        options(VLAPPOCfg, cloned, reward_level="action", log_prob_level="chunk").validate()
    with pytest.raises(ConfigError, match="features of a backbone that is trained change with it"):
        options(GRPOCfg, cloned, store="features", freeze_backbone=False).validate()


def test_a_head_without_density_is_refused(tmp_path: Path) -> None:
    head = FlowHeadCfg(chunk_size=4)
    path = clone(head, tmp_path, episodes=4, steps=1)
    cfg = VLAPPORunnerCfg(policy=small_policy(head), algorithm=options(VLAPPOCfg, path), logger=[])
    with pytest.raises(UserError, match="density"):
        cfg.build(env=reach_cfg(4).build())


# -------------------------------------------------------------------------------------------- demonstrations beside RL


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of a few frames like those of the environment."""
    pytest.importorskip("pyarrow")
    features = {
        "observation.state": {"dtype": "float32", "shape": [4]},
        "action": {"dtype": "float32", "shape": [3]},
        "observation.images.front": {"dtype": "image", "shape": [32, 32, 3], "names": ["height", "width", "channels"]},
    }
    root, draw = tmp_path_factory.mktemp("data") / "reach", np.random.default_rng(0)
    with LeRobotWriter.create(root, fps=10, features=features) as writer:
        for _ in range(2):
            for _ in range(8):
                frame = {name: np.array(numbers, np.float32) for name, numbers in SHOWN.items()}
                picture = draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                writer.add_frame({**frame, "observation.images.front": picture}, task="reach for the red block")
            writer.save_episode()
    return root


SHOWN = {"observation.state": [0.0, -0.9, 1.0, 0.0], "action": [0.3, 0.3, 1.0]}
"""The same action whatever is seen."""


def test_demonstrations_are_learned_beside_and_their_order_is_resumed(
    cloned: Path, recorded: Path, tmp_path: Path
) -> None:
    fields: dict[str, Any] = {
        "sft_coef": 100.0,
        "sft_dataset": LeRobotDatasetCfg(data_root=str(recorded)),
        "sft_loader": DataLoaderCfg(batch_size=8, num_workers=0),
        "num_learning_epochs": 4,
    }
    whole = runner(options(GRPOCfg, cloned, **fields))
    whole.learn(1)
    first_loss = whole.metrics["actor/sft_loss"]
    whole.learn(3)
    assert whole.metrics["actor/sft_loss"] < 0.9 * first_loss
    first = runner(options(GRPOCfg, cloned, **fields))
    first.learn(2)
    path = first.save(tmp_path / "checkpoint.pt")
    second = runner(options(GRPOCfg, cloned, **fields))
    second.load(path)
    second.learn(2)
    assert same(weights(whole), weights(second))
