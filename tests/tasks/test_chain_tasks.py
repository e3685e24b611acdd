"""The registered tasks that train through the links of the wrapper chain, as the scripts train them."""

from __future__ import annotations

import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs import DynamicEnvCfg, GroupVecCfg, MultiModalCfg, ScriptedEnvCfg, check_vec_env
from RoboRenForce.runners.arguments import play_parser, train_parser
from RoboRenForce.runners.play_run import prepare_play
from RoboRenForce.runners.training_run import prepare_training
from RoboRenForce.utils.registry import load_task

pytestmark = pytest.mark.contract

FAST = ["report=false", "logger=[]", "algorithm.num_learning_epochs=1"]
PIXELS = "RoboRenForce-Gym-InvertedPendulumPixels"


@pytest.fixture(autouse=True)
def in_a_fresh_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def trained(*argv: str) -> tuple[Any, list[dict[str, float]]]:
    """The runner after `rrf train` with these arguments, still open, and its metrics."""
    run = prepare_training(train_parser(None).parse(list(argv)))
    runner = run.build_runner(run.build_env())
    runner.learn()
    run.finish(runner)
    return runner, [json.loads(line) for line in run.run_dir.metrics.read_text().splitlines()]


def small(task_id: str, *overrides: str) -> tuple[Any, list[dict[str, float]]]:
    return trained("--task", task_id, "--max_iterations", "2", *FAST, *overrides)


# --- DynamicEnv and GroupVec -----------------------------------------------------------------------------------------


def test_eval_rows_and_reward_terms_are_in_the_metrics_of_an_mjlab_run() -> None:
    pytest.importorskip("mjlab")
    runner, metrics = small(
        "RoboRenForce-MJLab-Go1FlatEval-PPO",
        *("--device", "cpu", "--num_envs", "6", "env.groups.num_eval_envs=2", "num_steps_per_env=6"),
        *("env.mjlab={episode_length_s: 0.1}", "init_at_random_ep_len=false", "max_iterations=1"),
    )
    assert runner.env.num_envs == runner.algorithm.context.spec.num_envs == 4
    last = metrics[-1]
    # Episodes of 5 steps: the eval rows have finished one each, driven by the mode of the policy.
    assert last["Eval/mean_episode_length"] == 5 and "Eval/mean_return" in last
    terms = {tag: value for tag, value in last.items() if tag.startswith("Reward/")}
    assert set(terms) == {f"Reward/{name}" for name in runner.env.spec.reward_terms}
    assert sum(terms.values()) == pytest.approx(last["Train/mean_reward"], rel=1e-4)
    critic, command = runner.algorithm.critic, runner.env.spec.extra_dims["command"]
    assert critic.encoder.flat_features == runner.env.spec.obs_dim(["critic"]) + command


def test_a_privileged_critic_reads_the_dynamics_that_the_actor_does_not_see() -> None:
    pytest.importorskip("RRF_gym_tasks")
    task = "RoboRenForce-Gym-CartPolePrivileged-PPORNN"
    runner, metrics = small(task, "num_steps_per_env=16", "eval_interval=1", "eval_episodes=2")
    assert "Eval/mean_reward" in metrics[-1]  # played in an environment of the same links
    algorithm = runner.algorithm
    assert algorithm.actor.encoder.flat_features == 2 and algorithm.critic.encoder.flat_features == 4
    played = prepare_play(play_parser(None).parse(["--episodes", "2", "--seed", "3"]))
    env = played.build_env()
    obs, extras = env.reset(seed=0)
    assert torch.equal(obs["policy"], obs["dynamics"][:, [0, 2]])  # positions are what velocities are hidden from
    assert torch.equal(obs["dynamics"], extras["dynamics"])
    played.evaluate(played.build_runner(env))
    check_vec_env(env)


def test_groups_that_start_together_reach_the_learner() -> None:
    pytest.importorskip("RRF_gym_tasks")
    runner, _ = small("RoboRenForce-Gym-PendulumGroups-PPO", "num_steps_per_env=16")
    env = runner.env
    obs, extras = env.reset(seed=5)
    assert extras["group_id"].tolist() == [row // 4 for row in range(16)]
    groups = obs["policy"].view(4, 4, -1)
    assert torch.equal(groups, groups[:, :1].expand_as(groups)) and len(groups[:, 0].unique(dim=0)) == 4
    for _ in range(200):  # all episodes are cut at once, so nobody waits
        obs, _, dones, extras = env.step(torch.rand(16, 1))
        assert bool(extras["active"].all())
    groups = obs["policy"].view(4, 4, -1)
    assert bool(dones.all()) and torch.equal(groups, groups[:, :1].expand_as(groups))
    check_vec_env(env)


def test_eval_rows_resume_with_the_run() -> None:
    """Interrupted after two iterations and resumed, the eval statistics are those of one run."""
    pytest.importorskip("RRF_gym_tasks")
    task = ["--task", "RoboRenForce-Gym-CartPole-PPO", "--num_envs", "6", "num_steps_per_env=24", *FAST]
    task += ["env.groups={num_eval_envs: 2}", "algorithm.num_mini_batches=2"]
    _, whole = trained(*task, "--max_iterations", "4")
    trained(*task, "--max_iterations", "4", "--run_name", "parts", "save_interval=2")
    (parts,) = Path("logs/RFRL").glob("*/*_parts")
    (parts / "model_4.pt").unlink()
    _, resumed = trained("--resume", str(parts / "model_2.pt"))
    for tag in ("Eval/mean_return", "Eval/mean_episode_length", "Train/mean_reward"):
        assert resumed[-1][tag] == whole[-1][tag]


# --- MultiModal ------------------------------------------------------------------------------------------------------


def count_frames(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by the number of every environment that is rendered."""
    from RRF_gym_tasks import rendering

    frames: list[int] = []
    draw = rendering.frame
    monkeypatch.setattr(rendering, "frame", lambda env, env_id: frames.append(0) or draw(env, env_id))
    return frames


def test_frames_inside_a_chunk_are_neither_rendered_nor_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("RRF_gym_tasks")
    cfg = load_task(f"{PIXELS}-PPO").env_cfg.for_evaluation(3, 0)
    cfg.multi_modal.chunk_size = 4
    cfg.max_episode_steps = 6
    env = cfg.build()
    frames = count_frames(monkeypatch)
    moved: list[int] = []
    inner, uploaded = env.unwrapped, env.unwrapped._upload
    monkeypatch.setattr(inner, "_upload", lambda arrays: moved.append("obs/image" in arrays) or uploaded(arrays))
    obs, *_ = env.step(torch.zeros(3, 4))
    assert len(frames) == 3 and moved == [False, False, False, True]
    shown = inner.render()  # what the last of the four actions led to
    assert obs["camera"].shape == (3, 64, 64, 3) and obs["camera"].dtype == torch.uint8
    assert torch.equal(obs["camera"][0], torch.from_numpy(shown.copy()))
    frames.clear()
    obs, _, dones, extras = env.step(torch.zeros(3, 4))
    # Cut after the second action: one picture of the last state and one of the new episode in each row.
    assert dones.tolist() == [1, 1, 1] and extras["executed_steps"].tolist() == [2, 2, 2] and len(frames) == 6
    assert (extras["final_observations"]["camera"] != obs["camera"]).any()
    env.close()


@pytest.mark.parametrize("algorithm", ["PPO", "SAC"])
def test_pixels_proprioception_chunks_and_an_instruction_are_trained_on(algorithm: str) -> None:
    pytest.importorskip("RRF_gym_tasks")
    sizes = {"PPO": ["--num_envs", "2", "num_steps_per_env=8"], "SAC": ["num_steps_per_env=16"]}
    small_sac = ["report=false", "logger=[]", "algorithm.learning_starts=16", "algorithm.batch_size=8"]
    options = FAST if algorithm == "PPO" else [*small_sac, "algorithm.replay.capacity=100"]
    runner, _ = trained("--task", f"{PIXELS}-{algorithm}", "--max_iterations", "2", *options, *sizes[algorithm])
    actor, env = runner.algorithm.actor, runner.env
    assert actor.encoder.image_groups == ["camera"] and actor.encoder.flat_features == 2
    assert env.spec.action.shape == (2,)  # two actions of one dimension each
    assert list(env.instruction_table.values()) == ["Balance the pole."]
    played = prepare_play(play_parser(None).parse(["--episodes", "2"]))
    played.evaluate(played.build_runner(played.build_env()))


def test_the_pixel_task_keeps_the_contract() -> None:
    pytest.importorskip("RRF_gym_tasks")
    env = load_task(f"{PIXELS}-PPO").env_cfg.for_evaluation(2, 0).build()
    check_vec_env(env, num_steps=12)
    env.close()


@pytest.mark.parametrize("end", ["closed", "forgotten"])
def test_pictures_do_not_depend_on_other_environments_that_end(end: str) -> None:
    pytest.importorskip("RRF_gym_tasks")

    def drawn() -> Any:
        env = load_task(f"{PIXELS}-PPO").env_cfg.for_evaluation(2, 0).build()
        env.reset(seed=3)
        return env

    others, env = [drawn(), drawn()], drawn()
    before = env.reset(seed=3)[0]["camera"].clone()
    assert before.any()
    for other in others:
        if end == "closed":
            other.close()
    del other, others
    gc.collect()
    for _ in range(2):
        assert torch.equal(env.reset(seed=3)[0]["camera"], before)
    env.close()


def test_recorded_data_has_the_texts_of_its_instruction_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    minari = pytest.importorskip("minari")
    collection = pytest.importorskip("RRF_d4rl_tasks.collection")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    argv = ["--task", f"{PIXELS}-PPO", "--steps", "4", "--num_envs", "2", "--output", "pole/random-v0"]
    recording = collection.prepare_collection(collection.collect_parser(None).parse(argv))
    recording.write(recording.record())
    data = minari.load_dataset("pole/random-v0")
    texts = json.loads(data.storage.metadata["instructions"])
    for episode in data.iterate_episodes():
        assert episode.observations["camera"].dtype == "uint8"
        assert {texts[str(number)] for number in episode.observations["instruction_id"].flatten()} == {
            "Balance the pole."
        }


# --- composition by configuration ------------------------------------------------------------------------------------


def test_any_adapters_configuration_names_the_links() -> None:
    cfg = ScriptedEnvCfg(
        num_envs=4,
        image_shape=[4, 4, 3],
        dynamic=DynamicEnvCfg(observe=["command"]),
        groups=GroupVecCfg(group_size=2),
        multi_modal=MultiModalCfg(images={"eye": "image"}, proprio=["policy"], keep=["command"], instruction="go"),
    )
    env = ScriptedEnvCfg.from_dict(cfg.to_dict()).build()
    assert set(env.spec.obs_groups) == {"eye", "proprio", "command", "instruction_id"}
    assert {"group_id", "active", "instruction"} <= set(env.spec.extras)
    check_vec_env(env)
    assert ScriptedEnvCfg().build().spec.obs_groups.keys() == {"policy", "critic"}


def test_the_environment_of_an_evaluation_has_every_row_alone() -> None:
    blocks = GroupVecCfg(num_blocks=2, observe_blocks=True, num_eval_envs=2)
    env = ScriptedEnvCfg(num_envs=6, groups=blocks).for_evaluation(3, seed=9).build()
    assert env.num_envs == 3 and env.cfg.seed == 9 and env.get_observations()["block"].tolist() == [[0.0]] * 3
    texts = MultiModalCfg(proprio=["policy"], instruction=["left", "right"])
    env = ScriptedEnvCfg(num_envs=2, groups=GroupVecCfg(group_size=2), multi_modal=texts).for_evaluation(3, 0).build()
    assert env.instructions == ["left", "right", "left"] and "group_id" not in env.spec.extras


def test_eval_rows_below_multi_modal_are_refused() -> None:
    links = {"groups": GroupVecCfg(num_eval_envs=1), "multi_modal": MultiModalCfg(proprio=["policy"], instruction="go")}
    with pytest.raises(ConfigError, match="groups: num_eval_envs can't be combined with multi_modal"):
        ScriptedEnvCfg(**links).build()
