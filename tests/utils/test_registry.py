"""Tasks by id: entry points of every form, copies, and what an unknown id is answered with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any

import gymnasium as gym
import pytest
from RoboRenForce.configclass import Cfg, ConfigError, Range, configclass
from RoboRenForce.utils import registry, task_packages
from RoboRenForce.utils.errors import MissingPackageError, UnknownTaskError, UserError
from RoboRenForce.utils.optional import is_installed, require_package
from RoboRenForce.utils.task_packages import Project

pytestmark = pytest.mark.contract


class Env:
    def __init__(self, cfg: EnvCfg) -> None:
        self.cfg = cfg


@configclass
class EnvCfg(Cfg):
    class_type: type = Env
    num_envs: Annotated[int, Range(ge=1)] = 8
    seed: int = 1
    device: str = "cpu"


@configclass
class RunnerCfg(Cfg):
    seed: int = 1
    sizes: list[int] = [64]


def make_runner_cfg() -> RunnerCfg:
    return RunnerCfg(sizes=[3])


@pytest.fixture
def register() -> Iterator[Any]:
    made: list[str] = []

    def add(task_id: str, env_cfg: Any = EnvCfg, runner_cfg: Any = RunnerCfg) -> str:
        kwargs = {"env_cfg_entry_point": env_cfg, "RoboRenForce_entry_point": runner_cfg}
        gym.register(id=task_id, entry_point="none:none", disable_env_checker=True, kwargs=kwargs)
        made.append(task_id)
        return task_id

    yield add
    for task_id in made:
        del gym.registry[task_id]


ENTRIES = [
    (RunnerCfg(sizes=[5]), [5]),
    (RunnerCfg, [64]),
    (make_runner_cfg, [3]),
    (f"{__name__}:make_runner_cfg", [3]),
    (f"{__name__}:RunnerCfg", [64]),
    (lambda: RunnerCfg(sizes=[7]), [7]),
]


@pytest.mark.parametrize(
    ("entry", "sizes"), ENTRIES, ids=["instance", "class", "function", "text", "text class", "lambda"]
)
def test_entry_points_may_be_given_in_every_form(register: Any, entry: Any, sizes: list[int]):
    task = registry.load_task(register("RoboRenForce-Test-Forms-PPO", runner_cfg=entry))
    assert isinstance(task.env_cfg, EnvCfg)
    assert task.runner_cfg.sizes == sizes


def test_a_loaded_task_is_a_copy(register: Any):
    task_id = register("RoboRenForce-Test-Copy-PPO", EnvCfg(), RunnerCfg())
    task = registry.load_task(task_id)
    task.env_cfg.num_envs = 1
    task.runner_cfg.sizes.append(9)
    assert registry.load_task(task_id) == registry.Task(task_id, EnvCfg(), RunnerCfg())


def test_overrides_and_files_reach_both_configurations(register: Any, tmp_path: Path):
    task = registry.load_task(register("RoboRenForce-Test-Both-PPO"))
    task.apply_overrides(["env.num_envs=2", "seed=3", "agent.sizes=[1]"])
    assert (task.env_cfg, task.runner_cfg) == (EnvCfg(num_envs=2), RunnerCfg(seed=3, sizes=[1]))
    (tmp_path / "task.yaml").write_text(task.to_yaml())
    again = registry.load_task(task.id)
    again.apply_yaml(tmp_path / "task.yaml")
    assert again == task


def test_both_configurations_are_validated_in_one_error(register: Any):
    task = registry.load_task(register("RoboRenForce-Test-Wrong-PPO", EnvCfg(num_envs=0), RunnerCfg(seed="a")))  # pyright: ignore
    with pytest.raises(ConfigError) as caught:
        task.validate()
    assert [problem.path for problem in caught.value.problems] == ["env.num_envs", "seed"]
    assert str(caught.value).startswith("Task RoboRenForce-Test-Wrong-PPO has 2 problems:")


def test_an_unknown_id_is_answered_with_the_nearest(register: Any):
    register("RoboRenForce-Test-HalfCheetah-PPO")
    with pytest.raises(
        UnknownTaskError,
        match="no task 'RoboRenForce-Test-HalfCheeta-PPO': did you mean 'RoboRenForce-Test-HalfCheetah-PPO'",
    ):
        registry.load_task("RoboRenForce-Test-HalfCheeta-PPO")
    assert issubclass(UnknownTaskError, UserError)


def test_a_task_of_a_package_that_is_not_installed_names_the_install_line(monkeypatch: pytest.MonkeyPatch):
    project = Project("RRF_mjlab", Path(), {task_packages.TASKS: {"mjlab": "no_such_tasks"}})
    monkeypatch.setattr(task_packages, "source_projects", lambda: (project,))
    monkeypatch.setattr(task_packages.metadata, "entry_points", lambda group: ())
    with pytest.raises(UnknownTaskError, match=r"RRF_mjlab is not installed: run `\./setup_ext\.sh RRF_mjlab`"):
        registry.load_task("RoboRenForce-MJLab-Go1-PPO")


def test_a_gymnasium_id_that_no_package_can_train_says_what_is_missing(register: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(registry, "_finders", [])
    register("RoboRenForce-Test-CartPole-PPO")
    with pytest.raises(UnknownTaskError, match="CartPole-v1 is a Gymnasium environment registered without"):
        registry.load_task("CartPole-v1")


def test_a_package_may_make_tasks_for_ids_of_its_simulator(register: Any, monkeypatch: pytest.MonkeyPatch):
    asked: list[str] = []

    def find(task_id: str) -> registry.Task | None:
        asked.append(task_id)
        return registry.Task(task_id, EnvCfg(), RunnerCfg()) if task_id in ("CartPole-v1", "Sim-Robot") else None

    monkeypatch.setattr(registry, "_finders", [])
    registry.add_task_finder(find)
    registry.add_task_finder(find)
    assert registry.load_task("Sim-Robot").id == "Sim-Robot"
    assert registry.load_task("CartPole-v1").runner_cfg == RunnerCfg()
    registry.load_task(register("RoboRenForce-Test-Own-PPO"))
    with pytest.raises(UnknownTaskError, match="There is no task 'Sim-Robott'"):
        registry.load_task("Sim-Robott")
    assert asked == ["Sim-Robot", "CartPole-v1", "Sim-Robott"]


def test_an_entry_point_that_is_no_configuration_is_refused(register: Any):
    with pytest.raises(
        UnknownTaskError, match=r"registers \{'a': 1\} as RoboRenForce_entry_point, expected a configuration"
    ):
        registry.load_task(register("RoboRenForce-Test-Dict-PPO", runner_cfg={"a": 1}))
    with pytest.raises(ConfigError, match="did you mean 'make_runner_cfg'"):
        registry.load_task(register("RoboRenForce-Test-Name-PPO", runner_cfg=f"{__name__}:make_runner_cgf"))


def test_tasks_are_listed_by_prefix(register: Any):
    ids = [register(f"RoboRenForce-Listed-{name}-PPO") for name in ("B", "A")]
    assert registry.list_tasks("RoboRenForce-Listed-") == sorted(ids)
    assert "CartPole-v1" not in registry.list_tasks()


def test_third_party_packages_are_found_through_their_entry_point(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "stranger_tasks.py").write_text(
        "import gymnasium as gym\n"
        f"gym.register('RoboRenForce-Stranger-Robot-PPO', 'none:none', disable_env_checker=True, kwargs=dict("
        f"env_cfg_entry_point='{__name__}:EnvCfg', RoboRenForce_entry_point='{__name__}:RunnerCfg'))\n"
    )
    (tmp_path / "broken_tasks.py").write_text("import no_such_simulator\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [
        EntryPoint("broken", "broken_tasks", task_packages.TASKS),
        EntryPoint("stranger", "stranger_tasks", task_packages.TASKS),
    ]
    monkeypatch.setattr(task_packages.metadata, "entry_points", lambda group: points)
    monkeypatch.setattr(task_packages, "source_projects", lambda: ())
    try:
        assert registry.load_task("RoboRenForce-Stranger-Robot-PPO").runner_cfg == RunnerCfg()
        assert "broken_tasks" not in sys.modules  # the id named its package, so no other was imported
        with pytest.raises(
            UnknownTaskError, match="broken_tasks can't be imported: No module named 'no_such_simulator'"
        ):
            registry.load_task("RoboRenForce-Other-Robot-PPO")
    finally:
        gym.registry.pop("RoboRenForce-Stranger-Robot-PPO", None)


def test_an_installation_from_before_is_named_in_one_sentence(monkeypatch: pytest.MonkeyPatch):
    now = {task_packages.TASKS: {"sim": "sim_tasks", "fastsim": "sim_tasks"}}
    monkeypatch.setattr(task_packages, "source_projects", lambda: (Project("RRF_sim", Path(), now),))
    points = [EntryPoint("sim", "sim_tasks", task_packages.TASKS)]
    monkeypatch.setattr(task_packages.metadata, "distribution", lambda name: SimpleNamespace(entry_points=points))
    assert list(task_packages.outdated()) == [
        "RRF_sim was installed before its entry points changed: run `pip install -e source/tasks/RRF_sim` again."
    ]
    points.append(EntryPoint("fastsim", "sim_tasks", task_packages.TASKS))
    assert not list(task_packages.outdated())


def test_a_source_tree_on_the_path_needs_no_installation(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "loose_tasks.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    loose = {task_packages.TASKS: {"Loose": "loose_tasks", "Other": "no_such_tasks"}}
    monkeypatch.setattr(task_packages, "source_projects", lambda: (Project("RRF_loose", tmp_path, loose),))
    monkeypatch.setattr(task_packages.metadata, "entry_points", lambda group: ())
    assert task_packages.announced() == {"loose": "loose_tasks"}
    assert registry.names_package("RoboRenForce-Other-Robot-PPO")
    assert not registry.names_package("RoboRenForce-Unheard-Robot-PPO")


def test_a_missing_optional_package_is_one_sentence_with_the_install_line():
    with pytest.raises(MissingPackageError) as caught:
        require_package("no_such_package.inner", extra="wandb", purpose="logging to W&B")
    assert str(caught.value) == (
        'logging to W&B needs no_such_package, which is not installed: run `pip install "RoboRenForce[wandb]"`.'
    )
    with pytest.raises(MissingPackageError, match="nsp is needed, which is not installed: run `pip install nsp`"):
        require_package("no_such_package", distribution="nsp")
    assert require_package("math").sqrt(4) == 2
    assert is_installed("math")
    assert not is_installed("no_such_package.inner")


def test_a_broken_optional_package_is_not_called_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    (tmp_path / "half_installed.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency") as caught:
        require_package("half_installed")
    assert not isinstance(caught.value, UserError)
