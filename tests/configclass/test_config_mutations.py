"""Two hundred ways to get a configuration wrong, each answered with the path and the repair before anything starts.

Every mutation starts from the valid configuration of a registered task and goes through the front door of training,
once in a YAML file and once on the command line. Nothing can be built meanwhile: an error that comes late fails here.
"""

from __future__ import annotations

import random
import re
import string
import typing
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from RoboRenForce.configclass import MISSING, Cfg, ConfigError, Range
from RoboRenForce.configclass.fields import field_types
from RoboRenForce.configclass.hints import arms, simplify
from RoboRenForce.configclass.validators import fits
from RoboRenForce.utils.registry import Task, list_tasks, load_task

pytest.importorskip("RRF_gym_tasks")

from RoboRenForce.runners.arguments import train_parser
from RoboRenForce.runners.training_run import prepare_training

pytestmark = pytest.mark.contract

TASKS = list_tasks("RoboRenForce-Gym-")
WRONG_VALUES = ["wide", 3, -1, 2.5, True, None, [], ["x"], [[1.5]], {}, {"x": 1}]


@dataclass
class Place:
    """A field of a valid task: where it is, what it may hold and what holds it."""

    path: str
    name: str
    hint: Any
    holder: Cfg


@dataclass
class Mutation:
    """One mistake."""

    kind: str
    path: str
    """What the message must name."""
    value: Any
    expected: str
    """What the message must say besides the path."""
    others: dict[str, Any] = field(default_factory=dict)
    """Further fields that are changed, to values that are right by themselves."""

    @property
    def changes(self) -> dict[str, Any]:
        return {self.path: self.value, **self.others}


def fields_of(task: Task) -> list[Place]:
    def below(cfg: Cfg, path: str) -> Iterator[Place]:
        for name, hint in field_types(type(cfg)).items():
            where = f"{path}{name}"
            yield Place(where, name, hint, cfg)
            value = getattr(cfg, name)
            if isinstance(value, Cfg):
                yield from below(value, f"{where}.")

    return [*below(task.env_cfg, "env."), *below(task.runner_cfg, "")]


def misspell(name: str, rng: random.Random) -> str:
    place = rng.randrange(len(name))
    letter = rng.choice(string.ascii_lowercase)
    return rng.choice(
        [
            name[:place] + name[place + 1 :],
            name[:place] + letter + name[place:],
            name[:place] + letter + name[place + 1 :],
        ]
    )


def wrong_type(place: Place, rng: random.Random) -> Mutation | None:
    # On the command line a text field takes everything as text, so only lists and dicts are wrong there.
    takes_text = fits("wide", place.hint)
    candidates = [[], ["x"], {"x": 1}] if takes_text else WRONG_VALUES
    wrong = [value for value in candidates if not _would_be_accepted(value, place.hint)]
    if not wrong:
        return None
    value = rng.choice(wrong)
    # A dictionary in the place of a configuration is read as its fields.
    expected = "no such field" if isinstance(value, dict) and _takes_configuration(place.hint) else "expected "
    return Mutation("wrong type", place.path, value, expected)


def _would_be_accepted(value: Any, hint: Any) -> bool:
    """Whether a value of a YAML file fits, where lists may become tuples and dicts configurations."""
    if isinstance(value, list):
        return fits(value, hint) or fits(tuple(value), hint)
    if isinstance(value, dict) and _takes_configuration(hint):
        return not value or fits(value, hint)
    return fits(value, hint)


def _takes_configuration(hint: Any) -> bool:
    return any(isinstance(arm, type) and issubclass(arm, Cfg) for arm in arms(hint))


def typo(place: Place, rng: random.Random) -> Mutation | None:
    name = misspell(place.name, rng)
    if name in field_types(type(place.holder)):
        return None
    path = place.path.removesuffix(place.name) + name
    return Mutation("typo", path, 1, "no such field")


def missing(place: Place, rng: random.Random) -> Mutation | None:
    if place.path in ("env.seed", "experiment_name"):  # filled in from the runner's seed and the task's id
        return None
    return Mutation("missing", place.path, MISSING, "is missing, expected ")


def out_of_range(place: Place, rng: random.Random) -> Mutation | None:
    ranges = [item for arm in (place.hint, *arms(place.hint)) for item in simplify(arm)[1] if isinstance(item, Range)]
    if not ranges:
        return None
    bounds = ranges[0]
    outside = [
        *([bounds.ge - 1] if bounds.ge is not None else []),
        *([bounds.gt, bounds.gt - 1] if bounds.gt is not None else []),
        *([bounds.le + 1] if bounds.le is not None else []),
        *([bounds.lt, bounds.lt + 1] if bounds.lt is not None else []),
    ]
    value = rng.choice(outside)
    integers = any(simplify(arm)[0] is int for arm in arms(place.hint))
    return Mutation("out of range", place.path, int(value) if integers else float(value), "expected ")


def wrong_choice(place: Place, rng: random.Random) -> Mutation | None:
    choices = [
        choice
        for arm in arms(place.hint)
        if typing.get_origin(simplify(arm)[0]) is Literal
        for choice in typing.get_args(simplify(arm)[0])
        if isinstance(choice, str)
    ]
    if not choices:
        return None
    value = misspell(rng.choice(choices), rng)
    return None if fits(value, place.hint) else Mutation("wrong choice", place.path, value, "expected ")


def conflict(place: Place, rng: random.Random) -> Mutation | None:
    """Values that are right by themselves and contradict each other."""
    number = round(rng.uniform(0.01, 0.1), 4)
    conflicts = [
        Mutation("conflict", "algorithm.min_lr", number, "swap", {"algorithm.max_lr": number / 10}),
        Mutation("conflict", "policy.actor_cfg.init_std", number, "between", {"policy.actor_cfg.min_std": 2 * number}),
        Mutation("conflict", "policy.critic_cfg.backbone_cfg.activations", [[]] * rng.randint(5, 99), "expected "),
        Mutation("conflict", "policy.actor_cfg.backbone_cfg.activations", [[]] * rng.randint(5, 99), "expected "),
        Mutation("conflict", "algorithm.num_mini_batches", rng.choice([997, 1009, 2003, 4093, 8191]), "divide"),
    ]
    return rng.choice(conflicts)


KINDS = [wrong_type, typo, missing, out_of_range, wrong_choice, conflict]


def mutations(count: int) -> list[tuple[str, Mutation]]:
    """`count` different mistakes, spread evenly over kinds, tasks and fields."""
    rng = random.Random(20)
    places = {task_id: fields_of(load_task(task_id)) for task_id in TASKS}
    found: dict[str, tuple[str, Mutation]] = {}
    while len(found) < count:
        task_id = rng.choice(TASKS)
        mutation = KINDS[len(found) % len(KINDS)](rng.choice(places[task_id]), rng)
        paths = {place.path for place in places[task_id]}
        if mutation is not None and (mutation.kind == "typo" or mutation.changes.keys() <= paths):
            found.setdefault(f"{task_id} {mutation}", (task_id, mutation))
    return list(found.values())


@pytest.fixture(autouse=True)
def nothing_may_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every attempt to build an environment or a learner a failure of its own kind."""

    def refuse(self: Cfg, *_: Any, **__: Any) -> None:
        raise AssertionError(f"{type(self).__name__} was built although the configuration is wrong")

    monkeypatch.setattr(Cfg, "build", refuse)


def train(task_id: str, *arguments: str) -> None:
    """What `train_gym.py` does with a command line."""
    run = prepare_training(train_parser(None).parse(["--task", task_id, *arguments]))
    run.build_env()


def plain(value: Any) -> Any:
    return "???" if value is MISSING else value


def as_yaml(mutation: Mutation) -> str:
    from RoboRenForce.configclass.yaml_text import dump

    data: dict[str, Any] = {}
    for path, value in mutation.changes.items():
        holder = data
        *words, name = path.split(".")
        for word in words:
            holder = holder.setdefault(word, {})
        holder[name] = plain(value)
    return dump(data)


def as_overrides(mutation: Mutation) -> list[str]:
    return [f"{path}={as_text(value)}" for path, value in mutation.changes.items()]


def as_text(value: Any) -> str:
    if value is None or value is True:
        return {None: "null", True: "true"}[value]
    return str(plain(value)).replace("'", "").replace(" ", "")


def assert_explained(message: str, mutation: Mutation) -> None:
    """The message names the path, says what is wrong, and says what to write instead."""
    pattern = rf"(?:^|problem: |  ){re.escape(mutation.path)}(?:\.[\w.]+)?: (.+)"
    line = next((match[1] for match in (re.search(pattern, line) for line in message.splitlines()) if match), None)
    assert line is not None, f"no path in: {message}"
    assert mutation.expected in line, message
    if mutation.kind != "conflict":
        assert re.search(r"; (did you mean|there is|write|give it|set) .+", line), f"no repair in: {message}"
    assert len(message) < 700, message


MUTATIONS = mutations(200)


@pytest.mark.parametrize(("task_id", "mutation"), MUTATIONS, ids=lambda value: str(value)[:70])
def test_a_mistake_is_answered_with_its_path_and_its_repair(
    task_id: str, mutation: Mutation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(as_yaml(mutation))
    for way in (["--config", "wrong.yaml"], as_overrides(mutation)):
        with pytest.raises(ConfigError) as caught:
            train(task_id, *way)
        assert_explained(str(caught.value), mutation)
    assert not Path("logs").exists()  # no run directory either
