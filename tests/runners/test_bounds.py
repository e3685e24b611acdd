"""What a file asks for is bounded before anything is allocated, and refused in one sentence."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import RRF_gym_tasks  # noqa: F401 - registers its tasks
import torch
from RoboRenForce import networks
from RoboRenForce.configclass import ConfigError
from RoboRenForce.envs.spec import EnvSpec
from RoboRenForce.networks.activation import _MODULES, activation_problem
from RoboRenForce.runners.checkpoint_task import task_of_checkpoint
from RoboRenForce.runners.saved_run import load_run
from RoboRenForce.utils.device import find_device
from RoboRenForce.utils.errors import CheckpointError, MissingPackageError, UnknownTaskError, UserError
from RoboRenForce.utils.registry import load_task
from RoboRenForce.utils.run_dir import RunDir, read_yaml, write_yaml
from RRF_gym_tasks.gym_env import GymEnvCfg
from RRF_gym_tasks.make_gym import make_env
from small_runs import ppo_cfg, scripted

pytestmark = pytest.mark.contract

HUGE = 10**500
"""No float, and more than any counter."""


# ----------------------------------------------------------------------------------------------------------- run.yaml


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[" * 50_000, "is nested too deeply"),
        ("a: " + "9" * 5_000, "holds a number that can't be read"),
        (
            "a0: &a0 [x]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]\n" for i in range(1, 9)),
            "holds more than 100000 values .* once its anchors are written out",
        ),
        ("a: &a [*a]\n", "nested in itself"),
        ("a: 1\n" * 300_000, "is no configuration"),
        ("a: 1\na: 2\n", "appears twice"),
    ],
)
def test_the_facts_of_a_run_are_bounded(tmp_path: Path, text: str, sentence: str) -> None:
    path = RunDir(tmp_path).params("run")
    path.parent.mkdir()
    path.write_text(text)
    start = time.process_time()  # of this process: a busy machine makes it no slower
    with pytest.raises(UserError, match=sentence) as caught:
        RunDir(tmp_path).run_info()
    assert time.process_time() - start < 5 and "\n" not in str(caught.value)


def test_the_facts_of_a_run_come_back_as_they_were(tmp_path: Path) -> None:
    shared = [1, 2]
    facts = {
        "task": "1e-3",
        "command": "rrf: 'a' \x1b\ud800",
        "started": "2026-01-01",
        "a": shared,
        "b": shared,
        "n": 1e-5,
    }
    write_yaml(tmp_path / "run.yaml", facts)
    assert read_yaml(tmp_path / "run.yaml") == facts


# ------------------------------------------------------------------------------------------------- specs of checkpoints


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("whole")
    ppo_cfg().build(env=scripted(), log_dir=folder).learn(1)
    return load_run(folder / "model_1.pt")


def refusal(whole: dict[str, Any], path: Path, change: Callable[[dict[str, Any]], Any]) -> str:
    data = copy.deepcopy(whole)
    change(data)
    torch.save(data, path)
    with pytest.raises(CheckpointError) as caught:
        load_run(path)
    assert "\n" not in str(caught.value) and str(caught.value).isprintable()
    return str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"obs_groups": {"policy": shape}} for shape in ([10**13], [10**5] * 3, [-3], [0], ["a"], [3.0], [True], 3)),
        {"obs_groups": {"policy": [10**9], "more": [1]}},
        {"obs_groups": {5: [3]}},
        {"obs_groups": {"\x1b[31m": [3]}},
        {"obs_groups": {"policy": [HUGE]}},
        {"max_episode_length": -HUGE, "num_envs": 4},
        {"obs_groups": [3]},
        *({"num_envs": value} for value in (10**15, 0, "x", True, 2.0)),
        *({"obs_dtypes": {"policy": name}} for name in ("load", "nope", 5, ["float32"], "Tensor", "quint8")),
        *({"extras": value} for value in ([[1]], "abc", 5, [5])),
        {"reward_terms": [None]},
        {"extra_dims": {"command": -1}},
        {"extra_dims": {"command": 10**13}},
        *({"max_episode_length": value} for value in ("x", -1, 2**63, 1.5)),
        *({"step_dt": value} for value in ("x", 0.0, -1.0, float("nan"), float("inf"), [1])),
        {"task": "a\x1b[31m"},
        {"nothing": 5},
    ],
    ids=lambda wrong: str(next(iter(wrong))),
)
def test_a_spec_of_another_kind_or_size_is_refused(tmp_path: Path, whole: dict[str, Any], wrong: Any) -> None:
    message = refusal(whole, tmp_path / "model_1.pt", lambda data: data["spec"].update(wrong))
    assert "its spec is none" in message and next(iter(wrong)) in message


@pytest.mark.parametrize(
    "wrong",
    [
        *({"dim": value} for value in (10**13, 0, "x", 2.0)),
        *({"chunk": value} for value in ("x", -1, 10**9, None)),
        *({"low": value} for value in (("a",), (0.0,) * 9, 5, "ab", (float("nan"),))),
        {"kind": "both"},
        {"kind": ["continuous"]},
    ],
)
def test_an_action_of_another_kind_or_size_is_refused(tmp_path: Path, whole: dict[str, Any], wrong: Any) -> None:
    message = refusal(whole, tmp_path / "model_1.pt", lambda data: data["spec"]["action"].update(wrong))
    assert f"action.{next(iter(wrong))}" in message


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda data: data.update(script=5), "script is 5, expected str or NoneType"),
        (lambda data: data.update(task="a\x1b[31m"), "expected a printable name"),
        (lambda data: data.update(iteration=HUGE), "iteration is 1000000000"),
        (lambda data: data["spec"].update(action=None), "spec.action is None"),
    ],
)
def test_other_parts_of_a_checkpoint_are_refused(
    tmp_path: Path, whole: dict[str, Any], change: Callable[[dict[str, Any]], Any], sentence: str
) -> None:
    assert sentence in refusal(whole, tmp_path / "model_1.pt", change)


def test_only_dtypes_are_looked_up_in_torch() -> None:
    spec = scripted().spec.to_dict()
    for name in ("uint8", "bool", "bfloat16", "int64"):
        group = next(iter(spec["obs_groups"]))
        assert EnvSpec.from_dict(spec | {"obs_dtypes": {group: name}}).dtype_of(group) is getattr(torch, name)
    made = EnvSpec(**{**vars(scripted().spec), "obs_dtypes": {"policy": "load"}})
    with pytest.raises(ConfigError, match=r"obs_dtypes\.policy is 'load', expected one of float32"):
        made.dtype_of("policy")


def test_a_script_can_not_write_to_the_terminal() -> None:
    data = {"task": "Nobody-Has-It", "script": "/tmp/\x1b[31mx.py", "config": {"agent": {}, "env": None}}
    with pytest.raises(UnknownTaskError) as caught:
        task_of_checkpoint(data)
    assert str(caught.value).isprintable() and r"'/tmp/\x1b[31mx.py'" in str(caught.value)


@pytest.mark.parametrize("seed", [2**70, -1, HUGE], ids=["large", "negative", "huge"])
def test_a_seed_that_no_generator_takes_is_refused(seed: int) -> None:
    task = load_task("RoboRenForce-Gym-CartPole-PPO")
    agent = task.runner_cfg.to_dict() | {"seed": seed}
    with pytest.raises(ConfigError, match="seed"):
        task.restore({"agent": agent, "env": None})


# ------------------------------------------------------------------------------------------------------------ networks


def mlp(*activation: Any) -> networks.MLPCfg:
    return networks.MLPCfg(hidden_features=[8], activations=[[activation], []])


@pytest.mark.parametrize(
    ("name", "kwargs"),
    [
        ("PReLU", {"num_parameters": 10**12}),
        ("PReLU", {"num_parameters": 10**12, "device": "cpu"}),
        ("PReLU", {"num_parameters": 10**30}),
        ("PReLU", {"num_parameters": 5}),
        ("PReLU", {"num_parameters": -1}),
        ("PReLU", {"device": "foo"}),
        ("PReLU", {"dtype": "float64"}),
        ("ELU", {"alpha": "foo"}),
        ("Softmax", {"dim": 7}),
        ("Hardtanh", {"min_val": 2.0}),
        ("Hardtanh", {"min_val": "a"}),
        ("GELU", {"approximate": "x"}),
    ],
)
def test_an_activation_that_fails_in_the_forward_pass_is_refused_before(name: str, kwargs: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=name) as caught:
        mlp(name, kwargs).validate()
    assert len(str(caught.value)) < 800
    if "num_parameters" in kwargs and kwargs["num_parameters"] > 10**6:
        assert activation_problem(name, kwargs) is not None  # behind the output too, whose width is not known


def test_every_activation_is_accepted_without_drawing_random_numbers() -> None:
    before = torch.get_rng_state()
    for name in _MODULES:
        assert activation_problem(name, {}, 8) is None and activation_problem(name, {}) is None, name
    mlp("PReLU", {"num_parameters": 8}).validate()
    mlp("Softmax", {"dim": -1}).validate()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    "cfg",
    [
        networks.MLPCfg(hidden_features=[100_000_000_000]),
        networks.RNNCfg(hidden_size=10**11),
        networks.RNNCfg(num_layers=10**11),
        networks.TransformerCfg(dim=8 * 10**11),
        networks.FlashNetCfg(width=10**11),
        networks.StackCfg(window=10**11),
        networks.CNNCfg(channels=[10**11, 64, 64]),
        networks.CNNCfg(kernel_sizes=10**11),
        networks.CNNCfg(features=10**11),
    ],
    ids=lambda cfg: type(cfg).__name__,
)
def test_layers_have_a_largest_width(cfg: Any) -> None:
    with pytest.raises(ConfigError, match=r"at most|<="):
        cfg.validate()


# --------------------------------------------------------------------------------------------- devices, environments


@pytest.mark.parametrize("name", ["meta", "vulkan:3", "xla", "foo", "", "cuda:300", "cuda:99999999999", "\x1b"])
def test_only_devices_that_learn_are_found(name: str) -> None:
    with pytest.raises(UserError, match="There is no device") as caught:
        find_device(name)
    assert str(caught.value).isprintable()
    assert find_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize("env_id", ["GymV26Environment-v0", "GymV21Environment", "gymnasium:GymV26Environment-v0"])
def test_a_file_does_not_name_what_imports_anything(env_id: str) -> None:
    task = load_task("RoboRenForce-Gym-CartPole-PPO")
    with pytest.raises(ConfigError, match="imports what its arguments name"):
        task.apply_yaml(f"env: {{env_id: '{env_id}'}}", trust=False)


def test_the_old_gym_without_its_package_is_one_sentence() -> None:
    with pytest.raises(MissingPackageError, match=r"Gymnasium can't make GymV26Environment-v0: .*shimmy") as caught:
        make_env(GymEnvCfg(env_id="GymV26Environment-v0"), pictures=False)
    assert "\n" not in str(caught.value)
