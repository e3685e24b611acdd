"""What files may name: exploits by every way in, the roles of fields, and what goes on working."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import pytest
import torch
import yaml
from RoboRenForce import networks, runners
from RoboRenForce.cli import main
from RoboRenForce.configclass import Cfg, ConfigError, SubclassOf, apply_overrides, configclass, resolve
from RoboRenForce.configclass.trust import AllowList, only
from RoboRenForce.runners import summary
from RoboRenForce.runners.callbacks import Callback, CallbackCfg, ReportCallback
from RoboRenForce.utils.checkpoint import load_checkpoint, save_checkpoint
from RoboRenForce.utils.errors import UserError
from RoboRenForce.utils.registry import ENV_KEY, RUNNER_KEY, Task, load_task
from RRF_gym_tasks import GymEnvCfg
from RRF_gym_tasks.agents import ppo

pytestmark = pytest.mark.contract

TASK = "RoboRenForce-Gym-CartPole-PPO"
CHAIN = ["gymnasium.core:Wrapper.spec.fget", "gymnasium.envs.registration:EnvSpec.to_json", "os:system"]
"""Three functions that, applied to an environment one after another, hand its description to a shell."""


class Foreign(Callback):
    """A callback that no allow-list covers."""


class ForeignWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """A wrapper that no allow-list covers."""


class ForeignMLP(networks.MLP):
    """A network that no allow-list covers."""


def double_wrap(env: Any) -> Any:
    return ForeignWrapper(env)


@pytest.fixture
def rrf(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*words: str | Path) -> tuple[int, str]:
        """Exit code and everything that one command printed."""
        try:
            main([str(word) for word in words])
            code = 0
        except SystemExit as leave:
            code = int(leave.code or 0)
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


@pytest.fixture
def register() -> Iterator[Callable[..., str]]:
    made = []

    def add(task_id: str, **env: Any) -> str:
        entries = {ENV_KEY: GymEnvCfg(env_id="CartPole-v1", num_envs=2, **env), RUNNER_KEY: small_runner}
        gym.register(id=task_id, entry_point="none:none", disable_env_checker=True, kwargs=entries)
        made.append(task_id)
        return task_id

    yield add
    for task_id in made:
        del gym.registry[task_id]


def small_runner() -> Any:
    return ppo.cartpole().replace(max_iterations=1, num_steps_per_env=4, logger=[], report=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one short iteration."""
    root = tmp_path_factory.mktemp("runs")
    small = ["--num_envs", "2", "--max_iterations", "1", "num_steps_per_env=4", "report=false", "logger=[]"]
    main(["train", "--task", TASK, "--log_root", str(root), *small])
    return next(root.glob("*/*"))


@pytest.fixture
def witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that exists once a command or an import of an attacker was run; a module `evil` is on the path."""
    file = tmp_path / "PWNED"
    (tmp_path / "evil.py").write_text(f"open({str(file)!r}, 'w').close()\n\nclass Thing:\n    pass\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return file


def exploit(witness: Path) -> dict[str, Any]:
    return {"env_kwargs": {"sutton_barto_reward": f"$(touch {witness})"}, "wrappers": CHAIN}


# ------------------------------------------------------------------------------------------------------- the ways in


@pytest.mark.parametrize("flags", [[], ["--print_config"]], ids=["train", "print_config"])
def test_the_exploit_in_a_file_runs_nothing(rrf: Any, witness: Path, flags: list[str]):
    Path("x.yaml").write_text(yaml.safe_dump({"env": exploit(witness)}))
    code, printed = rrf("train", "--task", TASK, "--config", "x.yaml", "--max_iterations", 1, "--num_envs", 1, *flags)
    assert code == 1 and not witness.exists()
    assert "env.wrappers.2: a file may not name 'os:system'" in printed and "--trust" in printed
    assert "Traceback" not in printed


def forged(trained: Path, folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the run whose checkpoint says something else, with a valid checksum."""
    run = folder / "forged"
    shutil.copytree(trained, run)
    path = next(run.glob("model_*.pt"))
    data = load_checkpoint(path)
    change(data)
    save_checkpoint(path, data)
    return run


@pytest.mark.parametrize("command", ["play", "eval", "export", "train"])
@pytest.mark.parametrize(
    "change",
    [
        lambda data, witness: data["config"]["env"].update(exploit(witness)),
        lambda data, witness: data["config"]["agent"].update(callbacks=[{"_cfg": "evil:Thing"}]),
        lambda data, witness: data["config"]["env"].update(class_type="evil:Thing"),
        lambda data, witness: data["config"]["env"].update(env_id="evil:CartPole-v1"),
        lambda data, witness: data.update(task="evil:CartPole-v1"),
    ],
    ids=["wrappers", "callback", "class_type", "env_id", "task"],
)
def test_a_checkpoint_runs_nothing(rrf: Any, witness: Path, trained: Path, command: str, change: Any):
    run = forged(trained, witness.parent, lambda data: change(data, witness))
    target = ["--resume", run, "--max_iterations", 2] if command == "train" else ["--target", run, "--episodes", 1]
    code, printed = rrf(command, *target)
    assert code == 1 and not witness.exists()
    assert "--trust" in printed and "Traceback" not in printed


def test_a_trusted_checkpoint_imports_what_it_names(rrf: Any, witness: Path, trained: Path):
    run = forged(trained, witness.parent, lambda data: data["config"]["agent"].update(callbacks=["evil:Thing"]))
    code, printed = rrf("eval", "--target", run, "--episodes", 1, "--trust")
    assert witness.exists()  # that is what --trust means
    assert code == 1 and "callbacks.0" in printed and "Traceback" not in printed  # and the role holds with it


def test_roles_hold_for_trusted_checkpoints_too(rrf: Any, witness: Path, trained: Path):
    run = forged(trained, witness.parent, lambda data: data["config"]["env"].update(exploit(witness)))
    code, printed = rrf("eval", "--target", run, "--episodes", 1, "--trust")
    assert code == 1 and not witness.exists() and "expected a class derived from Wrapper" in printed


def test_an_untouched_checkpoint_is_evaluated(rrf: Any, trained: Path):
    assert rrf("eval", "--target", trained, "--episodes", 1, "--num_envs", 1)[0] == 0


# ----------------------------------------------------------------------------------------------------- the mutations

REFUSED = {
    "builtin": "callbacks: ['builtins:eval']",
    "partial": "callbacks: ['functools:partial']",
    "class of the wrong kind": "callbacks: ['RoboRenForce.networks:MLPCfg']",
    "traversal through a module": "callbacks: [{class_type: 'RoboRenForce.runners.callbacks:shlex.join'}]",
    "traversal through torch": "policy: {actor_cfg: {_cfg: 'torch.nn:modules.sys.modules'}}",
    "foreign function in torch.nn": "env: {wrappers: ['torch.nn.functional:handle_torch_function']}",
    "torch outside of nn": "env: {wrappers: ['torch.hub:load']}",
    "re-export": "env: {wrappers: ['RoboRenForce.utils.registry:entry_points']}",
    "re-exported module": "env: {wrappers: ['RoboRenForce.runners.training_run:os.system']}",
    "instance": "env: {wrappers: ['RoboRenForce.runners.training_run:logger.info']}",
    "method": "env: {wrappers: ['RoboRenForce.configclass:Cfg.from_yaml']}",
    "function of ours": "env: {wrappers: ['RoboRenForce.cli:main']}",
    "private name": "env: {wrappers: ['RoboRenForce.utils.console:_StderrHandler']}",
    "private module": "env: {wrappers: ['RoboRenForce.cli.__main__:main']}",
    "dunder": "env: {wrappers: ['RoboRenForce.cli:main.__globals__']}",
    "name like ours": "callbacks: ['RoboRenForceEvil:CallbackCfg']",
    "submodule that is none": "callbacks: ['RoboRenForce.evil:CallbackCfg']",
    "blanks": "callbacks: [' os:system']",
    "script": "callbacks: ['./evil.py:Thing']",
    "_ref": "env: {wrappers: [{_ref: 'os:system'}]}",
    "_ref to a class": "callbacks: [{_ref: 'evil:Thing'}]",
    "_tuple": "env: {wrappers: {_tuple: ['os:system']}}",
    "_set": "env: {wrappers: {_set: [[1]]}}",
    "_ref in env_kwargs": "env: {env_kwargs: {render_mode: {_ref: 'os:system'}}}",
    "_ref in a list in env_kwargs": "env: {env_kwargs: {a: [{b: {_ref: 'evil:Thing'}}]}}",
    "_cfg in env_kwargs": "env: {env_kwargs: {a: {_cfg: 'RoboRenForce.networks:FlashNetCfg'}}}",
    "_cfg in a callback": "callbacks: [{_cfg: 'evil:Thing'}]",
    "_cfg that is no text": "policy: {_cfg: 3}",
    "_cfg of an environment": "env: {_cfg: 'evil:Thing'}",
    "_cfg at the top": "_cfg: evil:Thing",
    "_cfg of ours at the top": "_cfg: RoboRenForce.runners:OffPolicyRunnerCfg",
    "class_type": "algorithm: {class_type: 'evil:Thing'}",
    "class_type of another algorithm": "algorithm: {class_type: 'RoboRenForce.algorithms:SAC'}",
    "class_type that is a function": "algorithm: {class_type: 'RoboRenForce.cli:main'}",
    "network in the role of an environment": "env: {class_type: 'RoboRenForce.networks:MLP'}",
    "network in the role of a wrapper": "env: {wrappers: ['RoboRenForce.networks:MLP']}",
    "activation in the role of a network": "policy: {actor_cfg: {backbone_cfg: {class_type: 'torch.nn:ELU'}}}",
    "activation by reference": "policy: {actor_cfg: {backbone_cfg: {activations: 'os:system'}}}",
    "nested activation": "policy: {actor_cfg: {backbone_cfg: {activations: [[['evil:Thing', {}]], [], []]}}}",
    "env_id of a loaded module": "env: {env_id: 'os:CartPole-v1'}",
    "env_id": "env: {env_id: 'evil:CartPole-v1'}",
    "env_id as marked text": "env: {env_id: {_str: 'evil:CartPole-v1'}}",
    "env_id of a submodule": "env: {env_id: 'evil.thing:CartPole-v1'}",
    "alias": "env: &e {wrappers: [&w 'os:system', *w]}",
    "foreign wrapper in a package of wrappers": "env: {wrappers: ['gymnasium.wrappers.common:deepcopy']}",
}


def small_task() -> Task:
    return Task(TASK, GymEnvCfg(env_id="CartPole-v1", num_envs=2), small_runner())


@pytest.mark.parametrize("text", REFUSED.values(), ids=list(REFUSED))
def test_mutations_of_the_exploit_are_refused(witness: Path, text: str):
    Path("x.yaml").write_text(text)
    task = small_task()
    with pytest.raises(ConfigError):
        task.apply_yaml(Path("x.yaml"))
        task.validate()
    assert not witness.exists()


ALLOWED = {
    "network": "policy: {actor_cfg: {backbone_cfg: {_cfg: 'RoboRenForce.networks:FlashNetCfg'}}}",
    "network by its module": "policy: {actor_cfg: {backbone_cfg: 'RoboRenForce.networks.flash_net:FlashNetCfg'}}",
    "network as text": "policy: {actor_cfg: {backbone_cfg: 'RoboRenForce.networks:MLPCfg'}}",
    "actor": "policy: {critic_cfg: {_cfg: 'RoboRenForce.components:VNetworkCfg'}}",
    "class_type": "policy: {actor_cfg: {backbone_cfg: {class_type: 'RoboRenForce.networks:MLP'}}}",
    "activation": "policy: {actor_cfg: {backbone_cfg: {activations: GELU}}}",
    "callback": "callbacks: [{class_type: 'RoboRenForce.runners.callbacks:ReportCallback'}]",
    "wrapper of Gymnasium": "env: {wrappers: ['gymnasium.wrappers:RecordEpisodeStatistics']}",
    "env_id of Gymnasium": "env: {env_id: 'gymnasium.envs:CartPole-v1'}",
    "text that looks like a reference": "run_name: os:system",
    "text in env_kwargs": "env: {env_kwargs: {a: os:system}}",
}


@pytest.mark.parametrize("text", ALLOWED.values(), ids=list(ALLOWED))
def test_what_files_name_legitimately_is_taken(tmp_path: Path, text: str):
    (tmp_path / "x.yaml").write_text(text)
    task = small_task()
    task.apply_yaml(tmp_path / "x.yaml")
    task.validate()
    assert task != small_task() or "MLP" in text or "VNetwork" in text


def test_the_users_own_class_needs_trust(tmp_path: Path):
    (tmp_path / "x.yaml").write_text(f"callbacks: [{{class_type: '{__name__}:Foreign'}}]")
    with pytest.raises(ConfigError, match=r"callbacks\.0\.class_type: a file may not name .*Foreign'.*--trust"):
        small_task().apply_yaml(tmp_path / "x.yaml")
    task = small_task()
    task.apply_yaml(tmp_path / "x.yaml", trust=True)
    assert task.runner_cfg.callbacks == [CallbackCfg(class_type=Foreign)]


def test_the_command_line_is_trusted_and_has_roles():
    task = small_task()
    task.apply_overrides(
        [f"env.wrappers=['{__name__}:ForeignWrapper']", "env.class_type=RRF_gym_tasks.gym_env:GymVecEnv"]
    )
    assert task.env_cfg.wrappers == [ForeignWrapper]
    for override in (
        f"env.wrappers=['{__name__}:double_wrap']",
        "env.wrappers=['os:system']",
        "algorithm.class_type=os:system",
    ):
        with pytest.raises(ConfigError, match="expected a class"):
            task.apply_overrides([override])


def test_the_command_line_imports_only_for_fields_that_expect_a_name(witness: Path):
    task = small_task()
    task.apply_overrides(["run_name=evil:Thing", "env.env_kwargs.a=evil:Thing", "env.env_id=evil:CartPole-v1"])
    assert not witness.exists()


def test_a_task_keeps_what_python_gave_it(rrf: Any, register: Any, tmp_path: Path):
    """A wrapper function and a class of the task's own script, which no file could name."""
    task_id = register("Held-CartPole-PPO", wrappers=[double_wrap, ForeignWrapper])
    assert rrf("train", "--task", task_id, "--log_root", tmp_path)[0] == 0
    run = next(tmp_path.glob("*/*"))
    assert rrf("eval", "--target", run, "--episodes", 1)[0] == 0
    assert rrf("eval", "--target", run, "--episodes", 1, "--trust")[0] == 0
    # Held as a wrapper is not held as a callback.
    (tmp_path / "x.yaml").write_text(f"callbacks: [{{class_type: '{__name__}:ForeignWrapper'}}]")
    with pytest.raises(ConfigError, match="expected a class derived from Callback"):
        load_task(task_id).apply_yaml(tmp_path / "x.yaml")


def test_a_wrapper_that_needs_more_than_an_environment_is_one_sentence():
    with pytest.raises(UserError, match=r"wrappers: RecordVideo\(.*\) can't be called with an environment alone"):
        GymEnvCfg(env_id="CartPole-v1", num_envs=1, wrappers=[gym.wrappers.RecordVideo]).build()


# ----------------------------------------------------------------------------------------- configurations by themselves


@configclass
class HolderCfg(Cfg):
    function: Callable[..., Any] | str = "x"
    either: Annotated[type | str, SubclassOf(networks.Network)] = networks.MLP
    anything: Any = None


@pytest.mark.parametrize(
    "text", ["function: evil:Thing", "either: evil:Thing", "either: torch.nn:ELU", "anything: {_ref: 'torch.nn:ELU'}"]
)
def test_from_yaml_of_a_file_has_the_same_rule(witness: Path, text: str):
    Path("x.yaml").write_text(text)
    with pytest.raises(ConfigError):
        HolderCfg.from_yaml("x.yaml")
    with pytest.raises(ConfigError):
        HolderCfg.from_yaml(text, trust=False)
    assert not witness.exists()


@configclass
class PlaceCfg(Cfg):
    where: Cfg | Path = Path("x")


def test_writing_a_configuration_imports_nothing(witness: Path):
    """It is read back on trial, and text that only looks like a reference must stay text."""
    cfg = PlaceCfg.from_yaml("where: evil:Thing", trust=False)
    assert cfg.where == Path("evil:Thing")
    assert cfg.to_dict() == {"where": "evil:Thing"}
    assert not witness.exists()


def test_from_yaml_of_a_trusted_file(tmp_path: Path):
    cfg = HolderCfg(function=small_runner, either=ForeignMLP, anything=[Foreign])
    cfg.to_yaml(tmp_path / "x.yaml")
    with pytest.raises(ConfigError):
        HolderCfg.from_yaml(tmp_path / "x.yaml")
    assert HolderCfg.from_yaml(tmp_path / "x.yaml", trust=True) == cfg


@pytest.mark.parametrize("name", ["torch:relu", "torch.nn.functional:gelu", "torch._C._nn:gelu", "torch.nn:ELU"])
def test_activations_of_torch_may_be_named(name: str):
    expected = resolve(name)
    with only(AllowList.of()):
        assert resolve(name) is expected


def test_a_class_that_is_built_differently_is_one_sentence():
    cfg = runners.callbacks.CallbackCfg(class_type=torch.nn.Linear)
    with pytest.raises(ConfigError, match="class_type: the class Linear can't be built with CallbackCfg"):
        cfg.build()
    assert type(CallbackCfg(class_type=ReportCallback).build()) is ReportCallback
    override = networks.MLPCfg()
    with pytest.raises(ConfigError, match="expected a class derived from MLP"):
        apply_overrides(override, ["class_type=RoboRenForce.networks:Network"])


def test_printed_commands_carry_the_consent_that_the_checkpoint_needs() -> None:
    task_id = "RoboRenForce-Gym-CartPole-PPO"
    task = load_task(task_id)
    config = {"agent": task.runner_cfg.to_dict(), "env": task.env_cfg.to_dict()}
    assert summary.consent(task_id, config) == ""
    config["agent"]["algorithm"] = {"_cfg": "my_module:MyCfg"}
    assert summary.consent(task_id, config) == " --trust"
    task = load_task("gymnasium.envs:CartPole-v1")
    config = {"agent": task.runner_cfg.to_dict(), "env": task.env_cfg.to_dict()}
    assert summary.consent(task.id, config) == " --task gymnasium.envs:CartPole-v1"
