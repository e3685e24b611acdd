"""mjlab's tasks as a user meets them: the environment contract, the wrappers, every id, the scripts, wrong input."""

from __future__ import annotations

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

# Compiled kernels are kept between runs of the tests; the first run compiles for some minutes.
os.environ.setdefault("WARP_CACHE_PATH", str(Path.home() / ".cache" / "warp"))
os.environ.setdefault("MJLAB_WARP_QUIET", "1")

import pytest
import torch

pytest.importorskip("mjlab")

import mjlab.tasks  # noqa: F401 - registers the tasks
from mjlab.envs import ManagerBasedRlEnv
from mjlab.tasks.registry import load_env_cfg
from RoboRenForce.cli import main
from RoboRenForce.envs.check_vec_env import check_vec_env
from RoboRenForce.envs.vec_env import VecEnv
from RoboRenForce.runners import play_run
from RoboRenForce.runners.play_run import PlayRun
from RoboRenForce.utils import device as named_device
from RoboRenForce.utils.errors import UserError
from RoboRenForce.utils.export import TOLERANCE
from RoboRenForce.utils.registry import load_task
from RoboRenForce.utils.run_dir import RunDir, newest_run
from RRF_mjlab_tasks import registration
from RRF_mjlab_tasks.agents import runner_cfg_from_mjlab
from RRF_mjlab_tasks.env_cfg import MJLabEnvCfg
from RRF_mjlab_tasks.mjlab_utils import MJLabDynamicEnvWrapper, MJLabGroupVecWrapper
from RRF_mjlab_tasks.registration import OURS, mjlab_tasks

pytestmark = [pytest.mark.contract, pytest.mark.sim_mjlab]

SCRIPTS = Path(__file__).parents[3] / "scripts" / "renforce"
CARTPOLE, GO1 = "Mjlab-Cartpole-Balance", "Mjlab-Velocity-Flat-Unitree-Go1"
GO1_PPO = "RoboRenForce-MJLab-Go1Flat-PPO"
IDS_OF_MJLAB_1_6 = 12
GO1_JOINTS = [f"{side}_{joint}_joint" for side in ("FR", "FL", "RR", "RL") for joint in ("hip", "thigh", "calf")]


def mjlab_env(task: str, num_envs: int) -> ManagerBasedRlEnv:
    cfg = load_env_cfg(task)
    cfg.scene.num_envs = num_envs
    return ManagerBasedRlEnv(cfg, device="cpu")


# ----------------------------------------------------------------------------------------------------- the contract


@pytest.mark.parametrize("env_graph", ["off", "on"])
def test_an_environment_keeps_the_contract(env_graph: str) -> None:
    env = MJLabEnvCfg(task=CARTPOLE, num_envs=4, device="cpu", env_graph=env_graph).build()
    check_vec_env(env)
    env.close()


def test_a_robot_with_noise_commands_and_pushes_keeps_the_contract() -> None:
    env = MJLabEnvCfg(task=GO1, num_envs=2, device="cpu", env_graph="off").build()
    assert env.spec.obs_groups["policy"] == env.spec.obs_groups["actor"]
    assert {"command", "final_observations", "reward_terms"} <= set(env.spec.extras)
    check_vec_env(env, exact_final_observations=False)
    env.close()


# ----------------------------------------------------------------------------------------------------- the wrappers


def test_the_wrapper_of_the_readme_steps_mjlabs_environment() -> None:
    inner = mjlab_env(CARTPOLE, 5)
    env = MJLabDynamicEnvWrapper(inner)
    assert env.num_envs == 5 and env.unwrapped is inner
    obs, _ = env.reset()
    policy, critic = (inner.observation_manager.group_obs_dim[name][0] for name in ("actor", "critic"))
    expected = {"policy_dim": policy, "critic_dim": critic, "action_dim": 1, "command_dim": 0}
    assert expected.items() <= env.dim_params.items()
    assert env.dim_params["rewards_dim"] == len(inner.cfg.rewards)
    assert obs["actor"].shape == (5, policy)
    actions = torch.zeros(5, inner.action_manager.total_action_dim)
    obs, rewards, dones, extras = env.step(actions)
    assert torch.equal(obs["policy"], obs["actor"])
    torch.testing.assert_close(extras["reward_terms"].sum(1), rewards)
    assert not dones.any() and env.episode_length_buf.tolist() == [1] * 5
    env.close()


def test_the_group_wrapper_keeps_rows_for_evaluation() -> None:
    env = MJLabGroupVecWrapper(mjlab_env(CARTPOLE, 5), num_eval_envs=2)
    obs, _ = env.reset()
    assert env.num_envs == len(obs["actor"]) == 3 and len(env.eval_observations["actor"]) == 2
    env.close()
    assert MJLabGroupVecWrapper(mjlab_env(CARTPOLE, 5)).num_envs == 4  # a fifth by default


# ----------------------------------------------------------------------------------------------------------- the ids


def test_every_id_of_mjlab_and_ours_is_a_task() -> None:
    known = mjlab_tasks()
    assert len([task_id for task_id in known if task_id.startswith("Mjlab-")]) == IDS_OF_MJLAB_1_6
    assert len(OURS) == 40 and set(OURS.values()) <= set(known)
    for task_id in (*known, *OURS):
        task = load_task(task_id)
        task.validate()
        assert task.env_cfg.task == OURS.get(task_id, task_id)
        for cfg in (task.env_cfg, task.runner_cfg):
            again = type(cfg).from_dict(json.loads(json.dumps(cfg.to_dict())))
            assert again.to_dict() == cfg.to_dict(), task_id


@pytest.mark.parametrize("task_id", ["MountainCar-v0", "gymnasium.envs:FrozenLake-v1"])
def test_mjlab_is_not_imported_for_ids_of_gymnasium(task_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registration, "import_mjlab_tasks", lambda: pytest.fail("imported"))
    assert registration.find_mjlab_task(task_id) is None


# ------------------------------------------------------------------------------------------------------- the scripts


def script(name: str, *args: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    done = subprocess.run([sys.executable, str(SCRIPTS / name), *args], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return done


@pytest.mark.slow
@pytest.mark.parametrize("command", ["play_mjlab.py", pytest.param("rrf play", marks=pytest.mark.long)])
def test_training_is_resumed_played_and_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], command: str
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["--task", GO1_PPO, "--log_root", "runs"]
    script("train_mjlab.py", *given, "--num_envs", "4", "--max_iterations", "2", "--device", "cpu")
    monkeypatch.setattr(sys, "argv", ["train_mjlab.py", *given, "--resume", "--max_iterations", "3"])
    run_script("train_mjlab.py")
    assert "resumed from" in capfd.readouterr().err
    run = newest_run("runs", task=GO1_PPO)
    lines = [json.loads(line) for line in (run.root / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == [1, 2, 3]
    exported = keep_policies(monkeypatch)
    monkeypatch.setattr(play_run, "MEASURED_STEPS", 30)
    short = ["--episodes", "1", "--export", "env.mjlab={episode_length_s: 0.5}"]
    options = ["--target", str(run.root), "--num_envs", "2", *short]
    if command == "rrf play":
        main(["play", *options])
    else:
        monkeypatch.setattr(sys, "argv", [command, *options])
        run_script(command)
    evaluation = json.loads(run.evaluation.read_text())
    assert evaluation["deterministic"]["mean_length"] <= 25  # half a second at 50 Hz
    error = evaluation["velocity_error"]
    assert set(error) == {"linear", "angular", "num_envs", "steps"} and (error["num_envs"], error["steps"]) == (2, 30)
    check_export(run, *exported)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["Rgb", pytest.param("Depth", marks=pytest.mark.long)])
def test_image_tasks_train(tmp_path: Path, kind: str) -> None:
    """The camera is MuJoCo Warp's own, so this needs no renderer; two iterations change the weights of the CNN."""
    task = load_task(f"Mjlab-Lift-Cube-Yam-{kind}")
    task.env_cfg = task.env_cfg.replace(num_envs=2, device="cpu")
    task.runner_cfg = task.runner_cfg.replace(num_steps_per_env=8, report=False, logger=[])
    env = task.env_cfg.build()
    channels = {"Rgb": 3, "Depth": 1}[kind]
    assert env.spec.obs_groups["camera"] == (channels, 32, 32)
    assert env.get_observations()["camera"].std() > 1e-3  # it sees something
    runner = task.runner_cfg.build(env=env, log_dir=tmp_path, device="cpu", task=task.id, env_cfg=task.env_cfg)
    encoders = [network.encoder.image_encoders[0] for network in (runner.policy().actor, runner.algorithm.critic)]
    before = [encoder.layers[0].weight.detach().clone() for encoder in encoders]
    assert [encoder.out_features for encoder in encoders] == [64, 64]  # row and column of 32 channels
    runner.learn(2)
    for encoder, weight in zip(encoders, before, strict=True):
        assert (encoder.layers[0].weight - weight).abs().max() > 1e-6
    env.close()


def test_the_cnn_of_image_tasks_is_mjlabs() -> None:
    from mjlab.rl.spatial_softmax import SpatialSoftmaxCNN
    from mjlab.tasks.registry import load_rl_cfg

    options = dict(load_rl_cfg("Mjlab-Lift-Cube-Yam-Rgb").actor.cnn_cfg)
    temperature = options.pop("spatial_softmax_temperature")
    options.pop("spatial_softmax")
    theirs = SpatialSoftmaxCNN((32, 32), 3, temperature, **options)
    cfg = load_task("Mjlab-Lift-Cube-Yam-Rgb").runner_cfg.policy.actor_cfg.cnn_cfg
    ours = cfg.build((3, 32, 32), cfg.features)
    for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        mine.data.copy_(other.data)
    images = torch.rand(4, 3, 32, 32)
    torch.testing.assert_close(ours(images), theirs(images))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_pool": True}, "max_pool=True"),
        ({"norm": ["none", "batch"]}, "norm="),
        ({"padding": "reflect"}, "padding='reflect'"),
    ],
)
def test_options_that_our_cnn_lacks_are_refused(options: dict[str, Any], sentence: str) -> None:
    from mjlab.tasks.registry import load_rl_cfg

    cfg = load_rl_cfg("Mjlab-Lift-Cube-Yam-Rgb")
    cfg.actor.cnn_cfg = dict(cfg.actor.cnn_cfg) | options
    with pytest.raises(UserError, match=sentence):
        runner_cfg_from_mjlab(cfg, "Mjlab-Lift-Cube-Yam-Rgb")


def run_script(name: str) -> None:
    runpy.run_path(str(SCRIPTS / name), run_name="__main__")


def keep_policies(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Filled with the policy and the environment that a play exports."""
    kept: list[Any] = []
    export = PlayRun.export

    def keep(self: PlayRun, runner: Any) -> None:
        kept.extend([runner.policy(), runner.env])
        export(self, runner)

    monkeypatch.setattr(PlayRun, "export", keep)
    return kept


def check_export(run: RunDir, policy: Any, env: VecEnv) -> None:
    """The ONNX file says what mjlab's says and computes what the play policy computes."""
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(str(run.exported / "policy.onnx"), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    assert metadata["joint_names"].split(",") == GO1_JOINTS
    for name in ("default_joint_pos", "joint_stiffness", "joint_damping", "action_scale"):
        assert len([float(number) for number in metadata[name].split(",")]) == len(GO1_JOINTS), name
    assert metadata["command_names"] == "twist"
    known, (observed,) = json.loads(metadata["action"]), json.loads(metadata["observations"])
    assert known["units"] == "policy" and observed["source"]["key"] == "actor"
    assert [part["name"] for part in observed["parts"]] == metadata["observation_names"].split(",")
    assert json.loads(metadata["step_dt"]) == env.spec.step_dt and json.loads(metadata["metadata_version"]) == 1
    assert {"base_lin_vel", "joint_pos", "actions", "command"} <= set(metadata["observation_names"].split(","))
    obs = env.get_observations()
    obs = obs.apply(lambda group: 3.0 * torch.randn_like(group))
    (actions,) = session.run(["actions"], {"obs": obs["actor"].numpy()})
    expected = policy(obs)
    assert expected.shape == (env.num_envs, len(GO1_JOINTS)) and expected.std() > 1e-3
    torch.testing.assert_close(torch.from_numpy(actions), expected, atol=TOLERANCE, rtol=1e-5)


# --------------------------------------------------------------------------------------------------------- bad input


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one sentence with which a command ends."""
    with pytest.raises(SystemExit) as left:
        main(list(argv))
    assert left.value.code == 1
    errors = capsys.readouterr().err
    assert "Traceback" not in errors
    (error,) = [line for line in errors.splitlines() if line.startswith("Error: ")]
    return error


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--task", "Mjlab-Velocity-Flat-Unitree-Go2"], f"Mjlab-Velocity-Flat-Unitree-Go2.*{GO1}"),
        (["--task", "RoboRenForce-MJLab-Go1Flt-PPO"], f"RoboRenForce-MJLab-Go1Flt-PPO.*{GO1_PPO}"),
        (["--task", "Mjlab-Tracking-Flat-Unitree-G1", "--device", "cpu"], r"does not exist.*env\.motion_file=PATH"),
        (["--task", CARTPOLE, "--device", "cpu", "env.motion_file=absent.npz"], "motion_file.*absent.npz.*exist"),
        (["--task", CARTPOLE, "--device", "cpu", "env.mjlab={sim.njmx: 3}"], r"no 'njmx' in sim\.njmx.*njmax"),
        (["--task", CARTPOLE, "--device", "cpu", "env.mjlab={episode_length_s: long}"], "got 'long'.*expected float"),
    ],
)
def test_wrong_input_is_one_sentence(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert re.search(sentence, refused(capsys, "train", "--num_envs", "2", *argv))


def test_a_missing_gpu_is_one_sentence(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(named_device.torch.cuda, "is_available", lambda: False)
    error = refused(capsys, "train", "--task", GO1_PPO, "--device", "cuda")
    assert "needs an NVIDIA GPU" in error and "use --device cpu" in error


def test_the_checkpoint_of_another_robot_is_refused(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--num_envs", "4", "--device", "cpu", "--max_iterations", "1", "report=false", "logger=[]"]
    main(["train", "--task", CARTPOLE, *small])
    run = newest_run("logs/RFRL")
    error = refused(capsys, "train", "--task", GO1_PPO, "--device", "cpu", "--resume", str(run.root))
    assert f"belongs to task '{CARTPOLE}', not to '{GO1_PPO}'" in error
    error = refused(capsys, "play", "--target", str(run.root), "--num_envs", "2", f"env.task={GO1}")
    assert re.search(r"'actor'.*\(48,\) here and \(5,\) there", error)


# ------------------------------------------------------------------------------------------------- bounded actions


def test_bounded_actions_are_scaled_and_clipped_and_known_to_the_spec() -> None:
    env = MJLabEnvCfg(task=GO1, num_envs=2, device="cpu", env_graph="off", action_bound=2.5).build()
    assert env.spec.action.low == (-1.0,) * 12 and env.spec.action.high == (1.0,) * 12
    env.step(torch.tensor([[0.5] * 12, [-3.0] * 12]))
    torch.testing.assert_close(env.unwrapped.action_manager.action, torch.tensor([[1.25] * 12, [-2.5] * 12]))
    scale = [float(value) for value in env.export_metadata("run")["action_scale"].split(",")]
    own = env.unwrapped.action_manager.get_term("joint_pos").scale[0]
    torch.testing.assert_close(torch.tensor(scale), 2.5 * own, atol=1e-3, rtol=0)
    # A file that gives mjlab's own actions has mjlab's own scale.
    scale = [float(value) for value in env.export_metadata("run", actions="simulator")["action_scale"].split(",")]
    torch.testing.assert_close(torch.tensor(scale), own, atol=1e-3, rtol=0)
    action = env.simulator_interface().action
    assert action.scale == (2.5,) * 12 and action.clip_low == (-1.0,) * 12 and action.clip_high == (1.0,) * 12
    assert action.to_metadata("policy")["high"] == [None] * 12
    env.close()


def test_receivers_are_told_mjlabs_terms_and_clipping() -> None:
    env = MJLabEnvCfg(task=GO1, num_envs=2, device="cpu", env_graph="off", clip_actions=1.5).build()
    interface = env.simulator_interface()
    known = interface.action.to_metadata("policy")
    env.step(torch.tensor([[0.5] * 12, [-3.0] * 12]))
    torch.testing.assert_close(env.unwrapped.action_manager.action, torch.tensor([[0.5] * 12, [-1.5] * 12]))
    assert (known["clip_low"], known["clip_high"], known["scale"]) == ([-1.5] * 12, [1.5] * 12, [1.0] * 12)
    assert interface.observations["policy"] == interface.observations["actor"]
    entry = interface.observations["policy"]
    assert entry["source"]["key"] == "actor" and sum(part["size"] for part in entry["parts"]) == 48
    assert {"name": "joint_pos", "size": 12} in entry["parts"] and {"name": "command", "size": 3} in entry["parts"]
    assert interface.simulator["frame_skip"] == env.unwrapped.cfg.decimation
    env.close()


def test_joint_limits_as_bounds_lead_each_joint_to_its_farther_limit() -> None:
    env = MJLabEnvCfg(task=GO1, num_envs=2, device="cpu", env_graph="off", action_bound="joint_limits").build()
    simulator = env.unwrapped
    robot, term = simulator.scene["robot"].data, simulator.action_manager.get_term("joint_pos")
    reached = []
    for sign in (-1.0, 1.0):
        env.step(torch.full((2, 12), sign))
        reached.append(term._raw_actions * term.scale + robot.default_joint_pos)
    low, high = robot.default_joint_pos_limits.unbind(-1)
    touches = ((reached[0] - low).abs() < 1e-4) | ((reached[1] - high).abs() < 1e-4)
    assert touches.all() and (reached[0] < low + 1e-4).all() and (reached[1] > high - 1e-4).all()
    env.close()


def test_bounds_that_can_not_be_had_are_refused_in_words() -> None:
    with pytest.raises(UserError, match=r"action_bound=joint_limits.*give env.action_bound a number"):
        MJLabEnvCfg(task=CARTPOLE, num_envs=2, device="cpu", env_graph="off", action_bound="joint_limits").build()
    with pytest.raises(UserError, match=r"clip_actions: 1.0 has no meaning beside action_bound=2.0"):
        MJLabEnvCfg(clip_actions=1.0, action_bound=2.0).validate()
