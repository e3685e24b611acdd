"""Configurations to plain data, JSON and YAML and back: equal in value and in type, whatever they hold."""

from __future__ import annotations

import enum
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from RoboRenForce.configclass import MISSING, Cfg, ConfigError, configclass, resolve

pytestmark = pytest.mark.contract


def double(x: float) -> float:
    return 2 * x


class Color(enum.Enum):
    RED = "r"
    BLUE = "b"


class Role:
    @classmethod
    def make(cls) -> Role:
        return cls()


class Special(Role): ...


@configclass
class PartCfg(Cfg):
    size: int = 1
    tags: tuple[str, ...] = ()


@configclass
class BigPartCfg(PartCfg):
    weight: float = 2.5
    inner: PartCfg | None = None


@configclass
class OtherCfg(Cfg):
    anything: Any = None


@configclass
class WholeCfg(Cfg):
    class_type: type[Role] = Role
    number: float = 1.0
    text: str = ""
    maybe: int | None = None
    choice: Literal["a", "b", 1, 2] = "a"
    color: Color = Color.RED
    path: Path = Path("x")
    pair: tuple[int, str] = (1, "a")
    nested: list[tuple[str, dict[str, float]]] = []
    activations: str | list[list[tuple[str, dict[str, Any]]]] = "ELU"
    flexible: list[int] | tuple[int, ...] | set[int] | None = None
    sequence: Sequence[int] = (1,)
    by_number: dict[int, float] = {}
    mapping: Mapping[str, tuple[int, ...]] = {}
    function: Callable[[float], float] | None = None
    function_or_text: Callable[..., Any] | str = double
    part: PartCfg = BigPartCfg()
    base_part: PartCfg = PartCfg()
    maybe_part: PartCfg | None = None
    either: PartCfg | OtherCfg = OtherCfg()
    parts: list[PartCfg] = []
    named_parts: dict[str, PartCfg | None] = {}
    anything: Any = None


TEXT = st.text(st.characters(codec="utf-8", exclude_characters="\x85\u2028\u2029"), max_size=8) | st.sampled_from(
    [
        "???",
        "on",
        "no",
        "null",
        "~",
        "1e-3",
        "0x1f",
        "1:30",
        "2024-01-01",
        "math:sqrt",
        "",
        " x ",
        "a: b",
        "_tuple",
        "- x",
        "1_000",
        ".inf",
        "=",
        "<<",
    ]
)
INTEGERS = st.integers(-(2**70), 2**70)
FLOATS = st.floats(allow_nan=False)
CALLABLES = st.sampled_from(
    [double, math.sqrt, len, torch.relu, torch.nn.functional.elu, torch.nn.functional.gelu, Role.make]
)
CLASSES = st.sampled_from([Role, Special, int, torch.nn.ELU])
SCALARS = st.none() | st.booleans() | INTEGERS | FLOATS | TEXT


def containers(children: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    keys = TEXT | st.integers(-3, 3) | st.sampled_from(["_cfg", "_ref", "_dict", "_str"]) | st.tuples(st.integers(0, 2))
    hashable = st.integers(-3, 3) | TEXT
    return (
        st.lists(children, max_size=3)
        | st.lists(children, max_size=3).map(tuple)
        | st.dictionaries(keys, children, max_size=3)
        | st.sets(hashable, max_size=3)
        | st.frozensets(hashable, max_size=3)
    )


PARTS = st.builds(PartCfg, size=INTEGERS, tags=st.lists(TEXT, max_size=2).map(tuple))
BIG_PARTS = st.builds(BigPartCfg, size=INTEGERS | st.just(MISSING), weight=FLOATS, inner=st.none() | PARTS)
ANYTHING = st.recursive(
    SCALARS
    | CALLABLES
    | CLASSES
    | st.sampled_from(list(Color))
    | st.just(MISSING)
    | PARTS
    | BIG_PARTS
    | TEXT.map(Path),
    containers,
    max_leaves=6,
)
OTHERS = st.builds(OtherCfg, anything=ANYTHING)
FIELDS = {
    "class_type": st.sampled_from([Role, Special]),
    "number": FLOATS | INTEGERS,
    "text": TEXT,
    "maybe": st.none() | INTEGERS,
    "choice": st.sampled_from(["a", "b", 1, 2]),
    "color": st.sampled_from(Color),
    "path": TEXT.map(Path),
    "pair": st.tuples(INTEGERS, TEXT),
    "nested": st.lists(st.tuples(TEXT, st.dictionaries(TEXT, FLOATS, max_size=2)), max_size=2),
    "activations": TEXT
    | st.lists(st.lists(st.tuples(TEXT, st.dictionaries(TEXT, SCALARS, max_size=1)), max_size=2), max_size=2),
    "flexible": st.none()
    | st.lists(INTEGERS, max_size=2)
    | st.lists(INTEGERS, max_size=2).map(tuple)
    | st.sets(INTEGERS, max_size=2),
    "sequence": st.lists(INTEGERS, max_size=2) | st.lists(INTEGERS, max_size=2).map(tuple),
    "by_number": st.dictionaries(INTEGERS, FLOATS, max_size=2),
    "mapping": st.dictionaries(TEXT, st.lists(INTEGERS, max_size=2).map(tuple), max_size=2),
    "function": st.none() | CALLABLES,
    "function_or_text": CALLABLES | TEXT,
    "part": PARTS | BIG_PARTS,
    "base_part": PARTS | BIG_PARTS,
    "maybe_part": st.none() | PARTS | BIG_PARTS,
    "either": PARTS | BIG_PARTS | OTHERS,
    "parts": st.lists(PARTS | BIG_PARTS, max_size=2),
    "named_parts": st.dictionaries(TEXT, st.none() | PARTS | BIG_PARTS, max_size=2),
    "anything": ANYTHING,
}
CONFIGS = st.fixed_dictionaries({}, optional=FIELDS).map(lambda chosen: WholeCfg(**chosen))


def assert_same(left: Any, right: Any) -> None:
    """Equal in value and type at every depth; int and float may stand for one another where a float is asked for."""
    if isinstance(left, Cfg):
        assert type(left) is type(right)
        left, right = vars(left), vars(right)
    if type(left) in (int, float) and type(right) in (int, float):
        assert left == right
        return
    assert type(left) is type(right), (left, right)
    if isinstance(left, dict):
        assert list(left) == list(right)
        for key in left:
            assert_same(left[key], right[key])
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert_same(a, b)
    else:
        assert left == right


@settings(max_examples=400, deadline=None)
@given(CONFIGS)
def test_every_configuration_survives_dict_json_and_yaml(cfg: WholeCfg):
    data = cfg.to_dict()
    assert_same(WholeCfg.from_dict(data), cfg)
    assert_same(WholeCfg.from_yaml(cfg.to_yaml()), cfg)
    # Plain data also means that other readers understand it: a strict YAML reader reads the same values.
    assert WholeCfg.from_dict(data).to_dict() == data
    assert_same(yaml.safe_load(cfg.to_yaml()), data)


@settings(max_examples=100, deadline=None)
@given(CONFIGS.filter(lambda cfg: not cfg.by_number))
def test_plain_data_is_json_too(cfg: WholeCfg):
    text = json.dumps(cfg.replace(anything=None, either=OtherCfg()).to_dict())
    assert_same(WholeCfg.from_dict(json.loads(text)), cfg.replace(anything=None, either=OtherCfg()))


def test_the_written_form_is_readable():
    cfg = WholeCfg(part=PartCfg(size=3), maybe_part=BigPartCfg(), parts=[PartCfg()], activations=[[("ELU", {})], []])
    data = cfg.to_dict()
    assert data["class_type"] == f"{__name__}:Role"
    assert data["part"] == {"_cfg": f"{__name__}:PartCfg", "size": 3, "tags": []}
    assert data["base_part"] == {"size": 1, "tags": []}
    assert data["maybe_part"]["_cfg"] == f"{__name__}:BigPartCfg"
    assert data["parts"] == [{"size": 1, "tags": []}]
    assert data["activations"] == [[["ELU", {}]], []]
    assert data["function_or_text"] == {"_ref": f"{__name__}:double"}
    assert data["color"] == "RED"


def test_a_partial_dict_keeps_the_defaults_of_the_rest():
    cfg = WholeCfg.from_dict({"part": {"weight": 1}, "parts": [{"size": 2}, {"_cfg": f"{__name__}:BigPartCfg"}]})
    assert cfg == WholeCfg(part=BigPartCfg(weight=1.0), parts=[PartCfg(size=2), BigPartCfg()])
    assert type(cfg.part.weight) is float  # pyright: ignore


def test_a_base_class_restores_the_subclass_that_is_named():
    data = {"_cfg": f"{__name__}:BigPartCfg", "weight": 3.0}
    assert PartCfg.from_dict(data) == BigPartCfg(weight=3.0)
    with pytest.raises(ConfigError, match="expected BigPartCfg"):
        BigPartCfg.from_dict({"_cfg": f"{__name__}:OtherCfg"})


def test_all_mistakes_in_the_data_are_reported_at_once():
    data = {
        "numbr": 1,
        "number": "1.0",
        "part": {"wieght": 1, "inner": {"size": "a"}},
        "either": 3,
        "class_type": f"{__name__}:Roll",
        "parts": [{"size": 1}, {"_cfg": f"{__name__}:OtherCfg"}, {"_cfg": "nowhere:PartCfg"}],
        "pair": [1],
        "anything": {"_tuple": 3},
        "color": "GREEN",
    }
    with pytest.raises(ConfigError) as caught:
        WholeCfg.from_dict(data)
    assert {problem.path: problem.fix for problem in caught.value.problems} == {
        "numbr": "did you mean 'number'?",
        "number": "write 1.0, without quotes",
        "part.wieght": "did you mean 'weight'?",
        "part.inner.size": "write for example 1",
        "either": "give it PartCfg or OtherCfg",
        "class_type": "",
        "parts.1": "give it PartCfg",
        "parts.2": "",
        "pair": "write for example (1, 'a')",
        "anything": "remove the mark",
        "color": "write for example RED",
    }
    assert f"Roll' can't be found in {__name__}: did you mean 'Role'?" in str(caught.value)


@pytest.mark.parametrize("value", [lambda x: x, torch.zeros(1), object(), 1j, type("Local", (), {})])
def test_what_can_not_be_written_is_refused_with_its_path(value: Any):
    with pytest.raises(ConfigError, match=r"either\.anything\.0: "):
        WholeCfg(either=OtherCfg(anything=[value])).to_dict()


def test_yaml_traps_are_closed():
    text = "text: on\nnumber: 1e-3\nmaybe: 0x10\nanything: [yes, no, 1:30, 2024-01-01, 1_000, .5, null, ~, True]\n"
    cfg = WholeCfg.from_yaml(text)
    assert (cfg.text, cfg.number, cfg.maybe) == ("on", 0.001, 16)
    assert cfg.anything == ["yes", "no", "1:30", "2024-01-01", "1_000", 0.5, None, None, True]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("number: 1\nnumber: 2\n", "'number' appears twice"),
        ("number: [1\n", "is not valid YAML"),
        ("anything: !!python/object/apply:os.system [ls]\n", "is not valid YAML"),
        ("- 1\n- 2\n", "holds a list, expected fields"),
        ("no_such_file.yaml", r"no configuration file no_such_file\.yaml"),
    ],
)
def test_broken_yaml_is_one_sentence(text: str, message: str):
    with pytest.raises(ConfigError, match=message):
        WholeCfg.from_yaml(text)


def test_files_are_written_and_read(tmp_path: Path):
    cfg = WholeCfg(text="ä: ö", part=BigPartCfg(inner=PartCfg(size=4)))
    cfg.to_yaml(tmp_path / "cfg.yaml")
    assert WholeCfg.from_yaml(tmp_path / "cfg.yaml") == cfg
    assert WholeCfg.from_yaml(str(tmp_path / "cfg.yaml")) == cfg
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert WholeCfg.from_yaml(tmp_path / "empty.yaml") == WholeCfg()


def test_references_resolve_and_explain_themselves():
    assert resolve("torch.nn:ELU") is torch.nn.ELU
    assert resolve(f"{__name__}:Role.make") == Role.make
    for reference, message in [
        ("torch.nn.ELU", "write 'module:name'"),
        ("torchh.nn:ELU", "can't be imported .*No module named 'torchh'"),
        ("torch.nn:ELUU", "can't be found in torch.nn: did you mean 'ELU'"),
    ]:
        with pytest.raises(ConfigError, match=message):
            resolve(reference)
