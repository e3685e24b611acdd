"""What the pages say is true: commands run, snippets run, tables are complete, links and names lead somewhere."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import torch
from doc_pages import PAGES, ROOT, Command, Workplace, blocks, commands_of, name_of, snippets_of
from RoboRenForce import algorithms
from RoboRenForce.cli.commands import COMMANDS
from RoboRenForce.cli.demonstration_run import collect_demos_parser
from RoboRenForce.cli.vla_rl import benchmark_parser, configured_task, rl_play_parser, rl_train_parser
from RoboRenForce.cli.vla_tasks import PRETRAIN, apply_vla_flags, vla_parser
from RoboRenForce.configclass.fields import field_names
from RoboRenForce.envs import ScriptedEnvCfg
from RoboRenForce.runners.arguments import play_parser, train_parser
from RoboRenForce.runners.training_run import apply_flags
from RoboRenForce.utils.hub_models import repositories
from RoboRenForce.utils.optional import is_installed
from RoboRenForce.utils.registry import list_tasks, load_task
from RoboRenForce.utils.run_configs import find_run_config
from small_runs import ppo_cfg

pytest.importorskip("RRF_gym_tasks")

pytestmark = pytest.mark.contract

CORE = ROOT / "source/RoboRenForce/RoboRenForce"
PPO_PAGE = ROOT / "docs/algorithms/ppo.md"
OWN_TESTS = {"docs/configuration.md", "docs/adding/network.md", "docs/adding/environment.md", "docs/vla/tabletop.md"}
"""Pages whose snippets and commands are run by tests of their own."""
RUN_HERE = [page for page in PAGES if name_of(page) not in OWN_TESTS]
PACKAGES = {"mjlab": ("mjlab", "RRF_mjlab_tasks"), "d4rl": ("RRF_d4rl_tasks",)}
"""Part of a task id -> what it needs beyond RRF_gym."""
RUN_FILE_OR_METRIC = re.compile(
    r"(logs|params|videos|exported|Train|Eval|Val|Loss|Policy|Perf|Rnd|Gail|Amp|env|eval|rollout|actor|critic|time)/"
)
SCRIPT_TASK = "RoboRenForce-Gym-HalfCheetah-PPO"
"""What train_gym.py trains if no task is named."""


# ------------------------------------------------------------------------------------- every command names what exists


@pytest.mark.parametrize("command", [command for page in PAGES for command in commands_of(page)], ids=str)
def test_a_command_names_what_exists(command: Command):
    tool, *rest = command.words
    if command.verb:
        check_verb(command)
    elif tool == "torchrun":
        from torch.distributed.run import get_args_parser

        args = get_args_parser().parse_args(rest)
        words = ("python", args.training_script, *args.training_script_args)
        test_a_command_names_what_exists(Command(command.page, words))
    elif rest[:1] == ["scripts/data/collect_dataset.py"]:
        pytest.importorskip("RRF_d4rl_tasks.collection", exc_type=ImportError).collect_parser("").parse(rest[1:])
    elif tool == "python" and rest[0].startswith("scripts/vla/rl/"):
        check_vla_rl(*rest)
    elif tool == "python" and rest[0].startswith("scripts/vla/"):
        args = vla_parser("", task=PRETRAIN).parse(rest[1:])
        task = load_task(args.task or PRETRAIN)
        apply_flags(task, args, apply_vla_flags)
        assert (ROOT / rest[0]).is_file()
    elif rest[:1] == ["scripts/data/collect_demos.py"]:
        collect_demos_parser("").parse(rest[1:])
    elif tool == "python":
        script = (ROOT / rest[0]).read_text(encoding="utf-8")
        imported = re.findall(r"^(?:import|from) (\w+)", script, re.MULTILINE)  # their options are the script's, too
        beside = [(ROOT / rest[0]).parent / f"{name}.py" for name in imported]
        shared = tuple(path for path in beside if path.is_file())
        shared += (CORE / "runners" / "arguments.py",) * rest[0].endswith("record_motion.py")  # those of playing, too
        source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / rest[0], *shared))
        assert all(f'"{word.partition("=")[0]}"' in source for word in rest if word.startswith("--"))
    elif tool == "make":
        check_make(rest)
    elif tool == "./setup_ext.sh":
        check_setup(rest)
    elif tool == "pip":
        check_pip(rest)
    elif tool == "scripts/models/setup_models.sh":
        assert repositories(*[word for word in rest if word[0] not in "-/"])
    else:
        assert command.words == ("source", ".venv/bin/activate")


def check_vla_rl(script: str, *arguments: str) -> None:
    """A script of VLA RL: its options, the configuration that it names, and the overrides."""
    assert (ROOT / script).is_file()
    if script.endswith("play.py"):
        args = rl_play_parser("").parse(arguments)
    else:
        parser = benchmark_parser("") if "benchmark" in script else rl_train_parser("")
        args = parser.parse(arguments)
    if args.config_name is not None:
        task = configured_task(find_run_config(args.config_name))
        task.apply_overrides(args.overrides)
        task.validate()


def check_verb(command: Command) -> None:
    """Options, task ids and overrides of `rrf <verb>` or of a script."""
    verb, arguments = command.verb, command.arguments
    assert verb in COMMANDS
    if command.words[0] == "python" and command.words[1].startswith("scripts/"):
        assert (ROOT / command.words[1]).is_file()
    if verb == "list":
        assert list_tasks(*arguments)
    elif verb in ("play", "eval", "export"):
        play_parser("").parse(arguments)
    elif verb == "train":
        args = train_parser("").parse(arguments)
        made_on_the_page = f'id="{args.task}"' in command.page.read_text(encoding="utf-8")
        if args.resume is None and not made_on_the_page:
            for part, modules in PACKAGES.items():
                if part in str(args.task).lower() and not all(is_installed(module) for module in modules):
                    pytest.skip(f"{' or '.join(modules)} is not installed")
            task = load_task(args.task or SCRIPT_TASK)
            args.config = None  # a file that an earlier command of the page wrote
            args.overrides = [override for override in args.overrides if ":" not in override]  # classes of the page
            apply_flags(task, args)
            task.validate()


def check_make(words: list[str]) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, assigns, _ = word.partition("=")
        assert re.search(rf"^{name} \?=" if assigns else rf"^{name}:", makefile, flags=re.MULTILINE), word


def packages() -> dict[str, set[str]]:
    """Folder of each package -> its extras."""
    files = [*ROOT.glob("source/*/pyproject.toml"), *ROOT.glob("source/tasks/*/pyproject.toml")]
    projects = {file.parent: tomllib.loads(file.read_text(encoding="utf-8"))["project"] for file in files}
    return {name_of(path): set(project.get("optional-dependencies", {})) for path, project in projects.items()}


def check_setup(words: list[str]) -> None:
    known = {Path(folder).name: extras for folder, extras in packages().items()}
    rest = iter(words)
    for word in rest:
        if word == "--extras":
            assert set(next(rest).split(",")) <= set().union(*known.values())
        else:
            assert word in {*known, "--list"}


def check_pip(words: list[str]) -> None:
    assert words[0] == "install"
    for word in words[1:]:
        if not word.startswith("-"):
            folder, _, extras = word.rstrip("]").partition("[")
            assert {extra for extra in extras.split(",") if extra} <= packages()[folder]


def test_the_tested_version_of_every_dependency_is_stated():
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").split()}
    own = {Path(folder).name.lower() for folder in packages()}
    for file in [*ROOT.glob("source/*/pyproject.toml"), *ROOT.glob("source/tasks/*/pyproject.toml")]:
        project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
        extras = project.get("optional-dependencies", {})
        wanted = [*project["dependencies"], *(line for name in extras if name != "swanlab" for line in extras[name])]
        names = {re.match(r"[\w-]+", line)[0].lower() for line in wanted} - own
        assert {name.replace("_", "-") for name in names} <= pinned, file


# ------------------------------------------------------------------------------------ commands and snippets really run


def least_work(command: Command) -> list[str] | None:
    """The words of a command, with little to do; None if it is not run here."""
    text = " ".join(command.words)
    if "mjlab" in text.lower() or "Tabletop" in text:  # needs a GPU; run by the test of tabletop.md
        return None
    if ("offline" in text or "collect_dataset" in text) and not (
        is_installed("minari") and is_installed("RRF_d4rl_tasks")
    ):
        return None
    if ("EnvPool" in text and not is_installed("envpool")) or ("--export" in text and not is_installed("onnxscript")):
        return None
    if "train_offline" in text:
        batch = "algorithm.fit.batch_size=8" if "system_dynamics" in text else "algorithm.batch_size=8"
        size = ["--max_iterations", "1", "updates_per_iteration=2", batch, "eval_interval=0"]
        words = [*command.words, *size, "--device", "cpu", "report=false"]
        return words if "dataset.source=" in text else None  # others take their data from the hub
    if "collect_dataset" in text:
        few = ["--steps", "1", "--num_envs", "2", "env.max_episode_steps=3"]
        return [*command.words, *few, *(["--medium_return=-1e6"] if "mixed" in command.words else [])]
    if command.verb == "train":
        num_envs = "24" if re.search("SAPGPPO|EPO", text) else "4"  # several blocks
        length = "env.imagination.horizon=3" if "-Imagined-" in text else "env.max_episode_steps=3"
        size = ["--num_envs", num_envs, "num_steps_per_env=8", length, "--max_iterations", "1"]
        size = ["--max_iterations", "2"] if "--resume" in text else size
        return [*command.words, *size, "--device", "cpu", "report=false"]
    if command.verb in ("play", "eval", "export"):
        few = ["--episodes", "1", "--num_envs", "1", "--steps", "3", "env.max_episode_steps=5"]
        return [*command.words, *few, "--device", "cpu"]
    return list(command.words) if command.verb in ("list", "plot", "doctor") else None


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN_HERE, ids=name_of)
def test_the_commands_of_a_page_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any):
    place = Workplace(tmp_path, page, monkeypatch)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    for command in commands_of(page):
        words = least_work(command)
        if words is not None:
            code = place.run(*words)
            shown = capsys.readouterr()
            # The doctor's code tells about this machine.
            assert code == 0 or command.verb == "doctor", f"{words}\n{shown.out[-1000:]}\n{shown.err[-1000:]}"


def test_the_snippets_about_algorithms_learn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    page = ROOT / "docs/adding/algorithm.md"
    names = Workplace(tmp_path, page, monkeypatch).import_text("algorithm_page", snippets_of(page))
    assert names["after"].mean > 3 * names["before"].mean
    # The resume test on the page compares trained weights.
    first = names["make"]().algorithm.networks.state_dict()
    trained = names["straight"].algorithm.networks.state_dict()
    assert not torch.equal(first["actor.backbone.layers.0.weight"], trained["actor.backbone.layers.0.weight"])


# -------------------------------------------------------------------------------------------- tables, names and links


def rows_of(page: Path, title: str) -> list[list[str]]:
    """The cells of the table below a heading, without its head."""
    text = page.read_text(encoding="utf-8").partition(f"\n## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines[2:]]


def test_every_metric_of_ppo_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    names = Workplace(tmp_path, PPO_PAGE, monkeypatch).import_text("ppo_page", snippets_of(PPO_PAGE))
    options = {"algorithm": names["algorithm"].replace(num_mini_batches=2), "eval_interval": 2, "eval_episodes": 1}
    env_cfg = ScriptedEnvCfg(num_envs=4, extras=["final_observations", "success"])
    runner = ppo_cfg(**options).build(env=env_cfg.build(), eval_env=env_cfg.build(), log_dir=tmp_path / "run")
    runner.learn(2)
    logged = json.loads((tmp_path / "run/metrics.jsonl").read_text().splitlines()[-1])
    explained = {tag for row in rows_of(PPO_PAGE, "Metrics") for tag in re.findall(r"`(\w+/[\w<>]+)`", row[0])}
    assert explained - {"Episode/<key>"} == logged.keys() - {"iteration", "time"}


def test_every_option_of_ppo_is_listed_with_its_default():
    listed: dict[str, Any] = {}
    meaning = {"none": None, "true": True, "false": False, "empty": []}
    for names, defaults, _ in rows_of(PPO_PAGE, "Options"):
        for name, default in zip(re.findall(r"`(\w+)`", names), defaults.split(", "), strict=True):
            text = default.strip("`")
            listed[name] = text if default.startswith("`") else meaning[text] if text in meaning else float(text)
    cfg = algorithms.PPOCfg()
    assert listed == {name: getattr(cfg, name) for name in field_names(type(cfg)) if name != "class_type"}


def test_the_layers_on_the_page_are_those_that_are_proven():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    layers = next(entry["layers"] for entry in tools["importlinter"]["contracts"] if entry["type"] == "layers")
    shown = re.findall(r"^    (\w+(?: \| \w+)*) ", blocks(ROOT / "docs/architecture.md", "text")[0], flags=re.MULTILINE)
    assert [set(line.split(" | ")) for line in shown] == [set(re.findall(r"\w+", layer)) for layer in layers]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_tests_and_functions_that_a_page_names_exist(page: Path):
    text = page.read_text(encoding="utf-8")
    for path, function in re.findall(r"`([\w./]+/[\w.]*)(?:::(\w+))?`", text):
        if RUN_FILE_OR_METRIC.match(path) or "*" in path:
            continue
        places = [base / path for base in (ROOT, CORE, CORE / "algorithms") if (base / path).exists()]
        assert places, f"{path} does not exist"
        assert not function or f"def {function}(" in places[0].read_text(encoding="utf-8"), f"{path} has no {function}"
    for path, name in re.findall(r"`([\w/]+\.py)`: `(\w+)`", text):
        assert re.search(rf"^\s*(def|class) {name}\b", (CORE / path).read_text(encoding="utf-8"), re.MULTILINE), name


def anchors(page: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path):
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith(("http://", "https://")):
            path, _, anchor = link.partition("#")
            target = (page.parent / path).resolve() if path else page
            assert target.exists(), link
            assert not anchor or anchor in anchors(target), link


# ------------------------------------------------------------------------------------------------------- benchmarks


@pytest.fixture
def make_tables(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return __import__("make_tables")


def test_the_benchmark_page_is_what_the_result_files_say(make_tables: Any):
    page = (ROOT / "docs/benchmarks.md").read_text(encoding="utf-8")
    assert page == make_tables.render(ROOT / "benchmarks/results"), "run python benchmarks/make_tables.py"


def test_result_files_become_tables(make_tables: Any, tmp_path: Path):
    paired = {
        "benchmark": "paired",
        "arguments": {"steps": 7, "device": "cpu", "output": "a/b.json", "seed": None},
        "runs": {"ours": [{"steps_per_s": 30.0}, {"steps_per_s": 31.0}], "peer": [{"steps_per_s": 10.0}]},
        "medians": {"ours": {"steps_per_s": 30123.6, "return": 1.23456}, "peer": {"steps_per_s": 10000.0}},
        "speedup": 3.01,
        "command": "python benchmarks/make_tables.py --output a/b.json --check",
        "versions": {"torch": "2.0"},
        "hardware": {"gpus": [], "cpu_cores": 2},
    }
    timed = {"results": {"a_b": {"update_ms": 12.345678, "update_ms_all": [1, 2, 3]}, "c": {"speedup": 2}}}
    samples = {
        "runs": {
            "peer": [{"seed": 1, "ms": 1.0}, {"seed": 2, "ms": 2.0}, {"seed": 3, "ms": 9.0}],
            "ours": [{"seed": 1, "ms": 0.5}, {"seed": 2, "error": "out of memory"}],
            "failed": [{"seed": 1, "error": "out of memory"}],
        },
        "speedup": {"peer": 1.0, "ours": 4.0},
    }
    for name, data in (("b_paired", paired), ("a_timed", timed), ("c_samples", samples)):
        (tmp_path / f"{name}.json").write_text(json.dumps(data))
    page = make_tables.render(tmp_path)
    assert re.findall(r"^## (.*)$", page, re.MULTILINE) == ["a_timed", "b_paired", "c_samples"]
    head = "|  | update ms | speedup | samples |\n|---|---:|---:|---:|\n"
    assert head + "| a_b | 12.35 |  | 3 |\n| c |  | 2 |  |\n" in page
    assert "| ours | 30,124 | 1.235 | 2 |\n| peer | 10,000 |  | 1 |\n" in page
    head = "|  | ms | speedup | samples |\n|---|---:|---:|---:|\n"
    assert head + "| peer | 2 | 1 | 3 |\n| ours | 0.5 | 4 | 1, 1 failed |\n| failed |  |  | 0, 1 failed |\n\n" in page
    assert "Write docs/benchmarks.md from benchmarks/results/*.json." in page  # what the script says it does
    assert "Result: speedup 3.01.\n\nArguments: steps=7, device=cpu.\n\nMachine: gpus none, cpu cores 2.\n" in page
    assert "Versions: torch 2.0.\n\n```bash\npython benchmarks/make_tables.py --check\n```" in page
