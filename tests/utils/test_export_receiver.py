"""Exported files are enough: the receiver of docs/export.md plays them in plain Gymnasium as we evaluate them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from doc_pages import ROOT, files_of
from gymnasium import spaces
from RoboRenForce import components, networks
from RoboRenForce.algorithms import ActorPolicy
from RoboRenForce.algorithms.history_policy import HistoryPolicy
from RoboRenForce.cli import main
from RoboRenForce.components import for_simulator
from RoboRenForce.components.simulator_policy import _SimulatorActions
from RoboRenForce.envs import ActionSpec, MultiModalCfg, VecEnv, VecEnvWrapper, with_previous_action
from RoboRenForce.envs.simulator_interface import ActionInterface
from RoboRenForce.runners.evaluation import evaluate
from RoboRenForce.utils.export import export_policy
from RoboRenForce.utils.run_dir import newest_run

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.contract
gym_tasks = pytest.importorskip("RRF_gym_tasks.gym_env")
action_maps = pytest.importorskip("RRF_gym_tasks.spaces")

SEED, EPISODES = 5, 3
receiver: dict[str, Any] = {}
exec(files_of(ROOT / "docs/export.md")["receiver.py"], receiver)  # the page is what is tested

BOXES = {
    "torque": spaces.Box(-2.0, 2.0, (1,)),
    "skew": spaces.Box(np.float32([-1.0, 0.0, -3.0]), np.float32([2.0, 0.5, 7.0])),
    "half_open": spaces.Box(np.float32([-0.3, -np.inf]), np.float32([np.inf, 0.1])),
    "matrix": spaces.Box(-0.7, 0.1, (2, 2), np.float64),
    "unit": spaces.Box(-1.0, 1.0, (2,)),
}
OBSERVATIONS = {
    "vector": spaces.Box(-np.inf, np.inf, (3,)),
    "cell": spaces.Discrete(5, start=2),
    "groups": spaces.Dict(
        {
            "angle": spaces.Box(-np.inf, np.inf, (2, 2)),
            "mode": spaces.Discrete(3, start=-1),
            "speed": spaces.Box(-np.inf, np.inf, (2,), np.float64),
        }
    ),
}


class Plant(gym.Env):
    """Numbers that every action moves and that every observation shows; rewards tell all actions apart."""

    def __init__(self, observed: str, action: str) -> None:
        self.observation_space = OBSERVATIONS[observed]
        self.action_space = spaces.Discrete(4, start=3) if action == "choice" else BOXES[action]
        self.observed = observed

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.state = 4.0 + 2.0 * self.np_random.standard_normal(6)
        return self.observation(), {}

    def observation(self) -> Any:
        x = self.state
        cell = int(np.clip(np.floor(x[0]), 0, 4))
        if self.observed == "vector":
            return x[:3].astype(np.float32)
        if self.observed == "cell":
            return cell + 2
        return {"speed": x[:2], "mode": cell % 3 - 1, "angle": 10.0 * x[2:].reshape(2, 2).astype(np.float32)}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(np.asarray(action, self.action_space.dtype)), action
        numbers = np.asarray(action, np.float64).reshape(-1)
        push = float(numbers @ np.arange(1, len(numbers) + 1))
        self.state = 0.8 * self.state + 0.3 * np.roll(self.state, 1) * np.cos(push) + 0.2 * push
        return self.observation(), push + float(self.state[0]), bool(self.state[1] < -8.0), False, {}


class Recorder(gym.Wrapper):
    """Keeps the actions of every episode."""

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.episodes: list[list[Any]] = []

    def reset(self, **options: Any) -> Any:
        self.episodes.append([])
        return super().reset(**options)

    def step(self, action: Any) -> Any:
        self.episodes[-1].append(action)
        return super().step(action)


def kept(player: Any, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Filled with the actions that a receiver chooses."""
    chosen: list[Any] = []
    act = player.act
    monkeypatch.setattr(player, "act", lambda obs: (chosen.append(act(obs)), chosen[-1])[1])
    return chosen


@pytest.fixture(autouse=True, scope="module")
def plant() -> Iterator[None]:
    gym.register("Plant-v0", Plant, max_episode_steps=12)
    yield
    del gym.registry["Plant-v0"]


def make_env(observed: str, action: str, **options: Any) -> VecEnv:
    cfg = gym_tasks.GymEnvCfg(num_envs=EPISODES, wrappers=[Recorder], **{"env_id": "Plant-v0", **options})
    return cfg.replace(env_kwargs={} if observed == "pendulum" else {"observed": observed, "action": action}).build()


def make_policy(env: VecEnv, cfg: components.ActorCfg, groups: list[str], *, history: bool = False) -> ActorPolicy:
    """A random policy that reacts strongly, with a normalizer that knows the environment's observations."""
    torch.manual_seed(0)
    spec = with_previous_action(env.spec) if history else env.spec
    cfg = cfg.replace(normalizer_cfg=components.EmpiricalNormalizerCfg(clip=1.5))
    actor = cfg.build(spec=spec, groups=[*groups, "previous_action"] if history else groups)
    with torch.no_grad():
        for parameter in actor.backbone.parameters():
            parameter.copy_(0.7 * torch.randn_like(parameter) if parameter.dim() > 1 else torch.zeros(()))
    env.reset(seed=1)
    for _ in range(10):
        shape = (env.num_envs, *env.spec.action.shape)
        action = torch.randn(shape) if env.spec.action.kind == "continuous" else torch.randint(4, shape)
        obs = env.step(action)[0]
        if history:
            obs["previous_action"] = action
        actor.update_normalizer(obs)
    return (HistoryPolicy if history else ActorPolicy)(actor)


SMALL = networks.MLPCfg(hidden_features=[8])
GRU = networks.RNNCfg(hidden_size=6)
PPO, SAC = components.StateIndStdActorCfg(backbone_cfg=SMALL), components.TanhGaussianActorCfg(backbone_cfg=SMALL)
CHOICE = components.CategoricalActorCfg(backbone_cfg=SMALL)
PENDULUM = {"env_id": "Pendulum-v1", "max_episode_steps": 12}
CASES: dict[str, dict[str, Any]] = {
    "pendulum-ppo": {"observed": "pendulum", "cfg": PPO, **PENDULUM},
    "pendulum-masked-recurrent": {
        "observed": "pendulum",
        "cfg": PPO.replace(backbone_cfg=GRU),
        "obs_mask": [1],
        **PENDULUM,
    },
    "discrete-actions-from-3": {"action": "choice", "cfg": CHOICE, "onnx_actions": "simulator"},
    "discrete-observations-masked": {"observed": "cell", "action": "half_open", "cfg": PPO, "obs_mask": [0, 3]},
    "groups-out-of-order-sac": {
        "observed": "groups",
        "action": "skew",
        "cfg": SAC,
        "groups": ["speed", "mode", "angle"],
        "frame_skip": 2,
        "onnx_actions": "simulator",
    },
    "history-in-another-unit": {
        "observed": "groups",
        "action": "matrix",
        "cfg": SAC.replace(backbone_cfg=GRU),
        "groups": ["mode", "angle"],
        "history": True,
        "onnx_actions": "simulator",
    },
    "not-rescaled": {"action": "skew", "cfg": PPO, "rescale_actions": False, "onnx_actions": None},
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_is_played_with_its_metadata_alone(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = {
        "observed": "vector",
        "action": "torque",
        "groups": ["policy"],
        "history": False,
        "onnx_actions": "policy",
    }
    options |= CASES[name]
    cfg, groups, history, onnx_actions = (options.pop(key) for key in ("cfg", "groups", "history", "onnx_actions"))
    env = make_env(**options)
    policy = make_policy(env, cfg, groups, history=history)
    interface, exportable = env.simulator_interface(), policy.exportable()
    episodes = [inner.get_wrapper_attr("episodes") for inner in env.envs]
    for kept_before in episodes:
        kept_before.clear()
    expected = evaluate(env, policy, EPISODES, seed=SEED).returns
    given = [first for first, *_ in episodes]
    assert np.std(np.concatenate(given), axis=0).max() > 0.05  # the actions say something

    players = []
    for actions in ("policy", "simulator"):
        folder = tmp_path / actions
        formats = ["pt2", "onnx"] if actions == onnx_actions else ["pt2"]
        export_policy(for_simulator(exportable, interface, actions), folder, formats=formats)
        players += [
            receiver[{"onnx": "Receiver", "pt2": "Pt2Receiver"}[name]](folder / f"policy.{name}") for name in formats
        ]
    for player in players:
        chosen = kept(player, monkeypatch)
        for row in range(EPISODES):
            chosen.clear()
            total = receiver["play"](player, SEED + row)
            got = np.repeat(chosen, env.cfg.frame_skip, axis=0)[: len(given[row])]
            np.testing.assert_allclose(got, given[row], atol=1e-4)
            assert got.dtype == np.asarray(given[row]).dtype
            assert total == pytest.approx(expected[row], abs=1e-3)
    env.close()


def test_a_run_is_exported_and_played_as_it_was_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    small = ["--num_envs", "2", "num_steps_per_env=16", "env.max_episode_steps=12", "report=false", "logger=[]"]
    main(["train", "--task", "RoboRenForce-Gym-Pendulum-PPO", "--device", "cpu", "--max_iterations", "1", *small])
    run = newest_run("logs/RFRL")
    main(["eval", "--episodes", "2", "--seed", "7", "--export_formats", "pt2", "--export_actions", "simulator"])
    expected = json.loads(run.evaluation.read_text())["deterministic"]["returns"]
    assert [path.name for path in run.exported.iterdir()] == ["policy.pt2"]
    player = receiver["Pt2Receiver"](str(run.exported / "policy.pt2"))
    assert player.action["units"] == "simulator" and player.action["low"] == [-2.0]
    assert [receiver["play"](player, seed) for seed in (7, 8)] == pytest.approx(expected, abs=1e-3)


# --------------------------------------------------------------------------------------- the formula, for every space


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("space", [*BOXES.values(), spaces.Discrete(4, start=3), spaces.Discrete(2, start=-7)], ids=str)
def test_the_formula_is_what_the_adapter_does(space: spaces.Space[Any], rescale: bool) -> None:
    actions = action_maps.ActionMap(space, "Plant-v0", rescale)
    interface = actions.interface
    single = actions.spec.shape
    policy = 1.7 * torch.randn(50, *single) if single else torch.randint(int(space.n), (50,))
    expected = actions.to_simulator(policy)
    played = _SimulatorActions(torch.nn.Identity(), interface)(policy)
    wanted = np.asarray(expected, np.float64).reshape(50, -1)
    np.testing.assert_allclose(played.numpy().reshape(50, -1), wanted, atol=1e-6)
    for units, given in (("policy", policy), ("simulator", played)):
        known = json.loads(json.dumps(interface.to_metadata(units)))
        got = [receiver["to_simulator"](action, known) for action in given.numpy()]
        np.testing.assert_allclose(np.asarray(got, np.float64), np.asarray(expected, np.float64), atol=1e-6)
        assert all(space.contains(np.asarray(action, space.dtype)) for action in got)


def test_actions_are_clipped_before_they_are_scaled() -> None:
    """Where the simulator has no bounds, as mjlab's, nothing else would clip them."""
    free = ActionInterface("continuous", 2, (2,), "float32").unscaled()
    interface = replace(free, clip_low=(-1.0, -1.0), clip_high=(1.0, 1.0), scale=(2.5, 4.0), offset=(0.0, 1.0))
    policy = torch.tensor([[-3.0, 9.0], [0.5, -0.5]])
    wanted = [[-2.5, 5.0], [1.25, -1.0]]
    assert _SimulatorActions(torch.nn.Identity(), interface)(policy).tolist() == wanted
    known = json.loads(json.dumps(interface.to_metadata("policy")))
    assert [receiver["to_simulator"](action, known).tolist() for action in policy.numpy()] == wanted
    # In a file that gives the simulator's actions nothing is left to do, or it would be done twice.
    left = interface.to_metadata("simulator")
    assert receiver["to_simulator"](np.float32([2.5, 5.0]), left).tolist() == [2.5, 5.0]


def test_an_environment_without_a_simulator_clips_to_its_bounds() -> None:
    interface = ActionInterface.of(ActionSpec("continuous", 2, (-1.0, -2.0), (3.0, 4.0)))
    got = receiver["to_simulator"](np.float32([9.0, -9.0]), interface.to_metadata("policy"))
    assert got.tolist() == [3.0, -2.0]
    endless = ActionInterface.of(ActionSpec("continuous", 2)).to_metadata("policy")
    assert receiver["to_simulator"](np.float32([9.0, -9.0]), endless).tolist() == [9.0, -9.0]
    assert endless["low"] == [None, None]


def test_renamed_groups_and_pictures_are_traced_to_the_simulator() -> None:
    space = spaces.Dict({"state": spaces.Box(-1, 1, (2,)), "goal": spaces.Discrete(3, start=4)})
    sources = action_maps.ObsLayout(space, "Plant-v0", names={"state": "policy"}).sources
    assert sources["policy"]["source"] == {"key": "state", "space": "box", "keep": None}
    assert sources["goal"]["source"] == {"key": "goal", "space": "discrete", "n": 3, "start": 4, "keep": None}
    env = make_env("pendulum", "torque", **PENDULUM, image_group="camera", image_size=[8, 8])
    interface = env.simulator_interface()
    assert interface.observations["camera"]["source"]["space"] == "render"
    assert interface.simulator["wrappers"] == ["test_export_receiver:Recorder"]
    chained = MultiModalCfg(images={"front": "camera"}, keep=["policy"], instruction="swing", chunk_size=3)
    interface = chained.build(env=VecEnvWrapper(env)).simulator_interface()
    assert interface.observations.keys() == {"front", "policy"} and interface.action.shape == (3, 1)
    assert interface.action.scale == (2.0,)
    env.close()


def test_the_parts_of_mujocos_observations_are_named() -> None:
    pytest.importorskip("mujoco")
    env = gym_tasks.GymEnvCfg(env_id="Hopper-v5", num_envs=1, frame_skip=2).build()
    interface = env.simulator_interface()
    assert interface.observations["policy"]["parts"] == [{"name": "qpos", "size": 5}, {"name": "qvel", "size": 6}]
    assert interface.simulator["frame_skip"] == 2 and interface.simulator["id"] == "Hopper-v5"
    env.close()
    env = gym_tasks.GymEnvCfg(env_id="Hopper-v5", num_envs=1, obs_mask=[0]).build()
    assert env.simulator_interface().observations["policy"]["parts"] is None  # some of it is hidden
    env.close()
