"""`@configclass`: declaring, constructing, building and validating."""

from __future__ import annotations

import collections.abc
import dataclasses
import enum
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
import pytest
from RoboRenForce import configclass as public_decorator
from RoboRenForce.configclass import MISSING, Cfg, ConfigError, Range, configclass

pytestmark = pytest.mark.contract

if TYPE_CHECKING:
    import torch


class Machine:
    def __init__(self, cfg: MachineCfg, extra: int = 0) -> None:
        self.cfg, self.extra = cfg, extra


class SpecialMachine(Machine): ...


class Copier(Machine):
    cfg: CopierCfg


@configclass
class NetCfg(Cfg):
    sizes: list[int] = [256, 256]
    activation: str = "ELU"


@configclass
class ConvCfg(NetCfg):
    kernel: tuple[int, int] = (3, 3)


@configclass
class MachineCfg(Cfg):
    class_type: type[Machine] = Machine
    net: NetCfg = NetCfg()
    rate: Annotated[float, Range(gt=0, le=1)] = 0.1
    mode: Literal["adaptive", "fixed"] = "fixed"
    steps: Annotated[int, Range(ge=1)] = 24
    name: str | None = None
    parts: list[NetCfg] = []
    table: dict[str, float] = {}
    function: Callable[[float], float] | None = None

    def check(self) -> Iterable[str]:
        if self.mode == "fixed" and self.rate > 0.5:
            yield "rate: is above 0.5 with a fixed schedule; lower it or set mode='adaptive'"
        if self.name == "both" and self.parts:
            yield "'name' and 'parts' exclude each other: drop one"


@configclass
class CopierCfg(MachineCfg):
    class_type: type[Machine] = Copier


def messages(cfg: Cfg) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        cfg.validate()
    return [str(problem) for problem in caught.value.problems]


# ---- Declaring


def test_an_override_without_annotation_keeps_type_and_place_of_the_inherited_field():
    @configclass
    class Child(MachineCfg):
        rate = 0.3
        net = ConvCfg(sizes=[8])

    @configclass
    class Grandchild(Child):
        steps = 7

    child = Grandchild()
    assert (child.rate, child.steps, child.net) == (0.3, 7, ConvCfg(sizes=[8]))
    assert [field.name for field in dataclasses.fields(Child)] == [
        field.name for field in dataclasses.fields(MachineCfg)
    ]
    child.rate = 3.0
    assert messages(child) == ["rate: got 3.0 (float), expected float > 0 and <= 1; write for example 0.3"]


def test_a_new_name_without_annotation_is_a_field_of_its_values_type():
    @configclass
    class Child(MachineCfg):
        depth = 3
        kind = Machine
        convert = len

    child = Child(depth=4)
    child.validate()
    assert (child.depth, child.kind, child.convert) == (4, Machine, len)
    child.depth = "deep"  # pyright: ignore
    child.kind = 3  # pyright: ignore
    child.convert = 3  # pyright: ignore
    assert [text.partition(":")[0] for text in messages(child)] == ["depth", "kind", "convert"]


def test_methods_properties_class_variables_and_nested_classes_are_no_fields():
    @configclass
    class Child(Cfg):
        limit: ClassVar[int] = 3
        size: int = 2

        class Inner:
            pass

        @property
        def twice(self) -> int:
            return 2 * self.size

        def thrice(self) -> int:
            return 3 * self.size

        @staticmethod
        def helper() -> int:
            return 1

    assert [field.name for field in dataclasses.fields(Child)] == ["size"]
    assert (Child().twice, Child().thrice(), Child.limit) == (4, 6, 3)


def test_an_annotation_alone_narrows_the_type_and_keeps_the_default():
    @configclass
    class Child(MachineCfg):
        net: ConvCfg
        new: int

    assert Child().net == NetCfg()
    assert Child().new is MISSING
    assert messages(Child(new=1)) == ["net: got a NetCfg, expected ConvCfg; give it ConvCfg"]


def test_defaults_are_fresh_for_every_instance_at_every_depth():
    first, second = MachineCfg(), MachineCfg()
    first.net.sizes.append(1)
    first.parts.append(NetCfg())
    first.table["a"] = 1.0
    assert second == MachineCfg()
    assert MachineCfg().net.sizes == [256, 256]


def test_the_default_given_in_a_class_body_is_not_shared_with_instances():
    shared = NetCfg()

    @configclass
    class Holder(Cfg):
        left: NetCfg = shared
        right: NetCfg = shared

    holder = Holder()
    holder.left.sizes[0] = 1
    shared.activation = "ReLU"
    assert holder.right.sizes == [256, 256]
    assert Holder().left.sizes == [256, 256]


def test_a_factory_field_is_called_for_every_instance():
    @configclass
    class Holder(Cfg):
        values: list[int] = dataclasses.field(default_factory=lambda: [1])
        number: int = dataclasses.field(default=2)
        absent: int = dataclasses.field()

    first, second = Holder(), Holder()
    first.values.append(2)
    assert (second.values, second.number, second.absent) == ([1], 2, MISSING)


def test_both_missing_marks_are_understood():
    @configclass
    class Holder(Cfg):
        ours: int = MISSING
        dataclass: int = dataclasses.MISSING  # pyright: ignore

    assert messages(Holder()) == [
        "ours: is missing, expected int; set ours",
        "dataclass: is missing, expected int; set dataclass",
    ]


def test_missing_stays_one_object_through_copies_and_pickles():
    @configclass
    class Holder(Cfg):
        value: int = MISSING

    assert Holder().copy().value is MISSING
    assert pickle.loads(pickle.dumps(MISSING)) is MISSING


def test_two_bases_contribute_their_fields_and_overrides():
    @configclass
    class Left(Cfg):
        a: int = 1

    @configclass
    class Right(Cfg):
        b: list[int] = [1]

    @configclass
    class Both(Left, Right):
        b = [2]

    assert (Both().a, Both().b, Both(b=[3]).b) == (1, [2], [3])
    assert messages(Both(b=[3.5])) == ["b.0: got 3.5 (float), expected int; give it int"]


def test_post_init_and_super_work_in_subclasses_and_without_a_base():
    @configclass
    class Plain:
        value: int = 1
        seen: list[str] = []

        def __post_init__(self) -> None:
            self.seen.append("plain")

    @configclass
    class Child(Plain):
        def __post_init__(self) -> None:
            super().__post_init__()
            self.seen.append("child")

    class Named:
        def label(self) -> str:
            return "named"

    @configclass
    class Mixed(Named):
        value: int = 1

        def label(self) -> str:
            return super().label() + str(self.value)

    assert Child().seen == ["plain", "child"]
    assert isinstance(Plain(), Cfg)
    assert Mixed(value=2).label() == "named2"


def test_the_decorator_is_the_public_name_of_its_package():
    assert public_decorator is configclass


def test_a_subclass_without_the_decorator_is_refused():
    class Undecorated(MachineCfg):
        rate = 0.3

    class UndecoratedToo(Cfg):
        rate: float = 0.3

    for cls in (Undecorated, UndecoratedToo):
        with pytest.raises(TypeError, match=f"{cls.__name__} derives from a configuration: decorate it"):
            cls()


def test_fields_that_would_hide_methods_and_own_constructors_are_refused():
    with pytest.raises(TypeError, match=r"copy hides the method Cfg\.copy"):

        @configclass
        class Hiding(Cfg):
            copy: bool = False

    with pytest.raises(TypeError, match="defines __init__"):

        @configclass
        class Constructed(Cfg):
            def __init__(self) -> None:
                pass


# ---- Names


def test_an_undeclared_keyword_is_refused_with_the_nearest_name():
    with pytest.raises(TypeError, match="MachineCfg has no field 'ratee'; did you mean 'rate'"):
        MachineCfg(ratee=1.0)  # pyright: ignore
    with pytest.raises(TypeError, match="keywords only"):
        MachineCfg(Machine)  # pyright: ignore


def test_an_undeclared_attribute_is_refused_with_the_nearest_name():
    cfg = MachineCfg()
    with pytest.raises(AttributeError, match="MachineCfg has no field 'setps'; did you mean 'steps'"):
        cfg.setps = 3  # pyright: ignore
    with pytest.raises(AttributeError, match="NetCfg has no field 'zzz'; there is activation, sizes"):
        cfg.net.zzz = 3  # pyright: ignore
    assert cfg == MachineCfg()


def test_replace_refuses_undeclared_names_and_leaves_the_original():
    cfg = MachineCfg()
    changed = cfg.replace(rate=0.2, net=ConvCfg())
    assert (changed.rate, changed.net, cfg.rate) == (0.2, ConvCfg(), 0.1)
    changed.parts.append(NetCfg())
    assert cfg.parts == []
    with pytest.raises(AttributeError, match="did you mean 'rate'"):
        cfg.replace(rat=1)


# ---- Building


def test_build_constructs_the_class_with_a_copy_and_the_runtime_arguments():
    cfg = MachineCfg(class_type=SpecialMachine)
    machine = cfg.build(extra=5)
    cfg.net.sizes.append(1)
    assert type(machine) is SpecialMachine
    assert machine.extra == 5
    assert machine.cfg.net.sizes == [256, 256]


def test_build_accepts_the_class_as_text():
    assert type(MachineCfg(class_type=f"{__name__}:SpecialMachine").build()) is SpecialMachine  # pyright: ignore


def test_build_validates_before_anything_is_constructed():
    class Bomb(Machine):
        def __init__(self, *_: Any, **__: Any) -> None:
            raise AssertionError("constructed")

    with pytest.raises(ConfigError, match="steps: got 0 "):
        MachineCfg(class_type=Bomb, steps=0).build()


def test_build_refuses_a_class_that_reads_another_configuration():
    assert type(CopierCfg().build()) is Copier
    with pytest.raises(
        ConfigError, match=r"class_type: .*Copier reads the fields of CopierCfg, which MachineCfg lacks"
    ):
        MachineCfg(class_type=Copier).build()


def test_build_without_a_class_says_so():
    with pytest.raises(ConfigError, match="NetCfg describes no class"):
        NetCfg().build()


# ---- Validating


def test_all_problems_are_reported_at_once_with_dotted_paths():
    cfg = MachineCfg(
        net=ConvCfg(sizes=[1, "a"], kernel=(3,)),  # pyright: ignore
        rate=2.0,
        mode="adaptve",  # pyright: ignore
        steps=MISSING,
        parts=[NetCfg(), ConvCfg(activation=None), 3],  # pyright: ignore
        table={"a": 1.0, "b": "x"},  # pyright: ignore
    )
    with pytest.raises(ConfigError) as caught:
        cfg.build()
    assert str(caught.value).splitlines() == [
        "MachineCfg has 8 problems:",
        "  net.sizes.1: got 'a' (str), expected int; give it int",
        "  net.kernel: got length 1, expected 2; write for example (3, 3)",
        "  rate: got 2.0 (float), expected float > 0 and <= 1; write for example 0.1",
        "  mode: got 'adaptve' (str), expected 'adaptive' or 'fixed'; did you mean 'adaptive'?",
        "  steps: is missing, expected int >= 1; set steps",
        "  parts.1.activation: got None, expected str; write for example 'ELU'",
        "  parts.2: got 3 (int), expected NetCfg; give it NetCfg",
        "  table.b: got 'x' (str), expected float; give it float",
    ]


def test_contradictions_are_reported_under_their_field_once_the_fields_are_right():
    assert messages(MachineCfg(rate=0.9)) == [
        "rate: is above 0.5 with a fixed schedule; lower it or set mode='adaptive'"
    ]
    assert messages(MachineCfg(name="both", parts=[NetCfg()])) == ["'name' and 'parts' exclude each other: drop one"]
    assert len(messages(MachineCfg(rate=0.9, steps=0))) == 1

    @configclass
    class Outer(Cfg):
        machine: MachineCfg = MachineCfg(rate=0.9)

    assert messages(Outer())[0].startswith("machine.rate: is above 0.5")


class Color(enum.Enum):
    RED = 1


VALUES = [
    (int, 3, [3.0, "3", True, None]),
    (float, 3, ["3", True, None, [3.0], np.float32(3)]),
    (bool, True, [1, 0, "true"]),
    (str, "a", [3, None, b"a"]),
    (int | None, None, ["None", 1.5]),
    (float | str, "a", [None, [1.0]]),
    (Literal[1, "a"], 1, [True, 1.0, "b", 2, [1]]),
    (list[int], [1], [(1,), [1.0], 1, "1"]),
    (list, [1, "a"], [(1,), {}]),
    (tuple[int, ...], (1, 2), [[1, 2], (1, "a"), 1]),
    (tuple[int, str], (1, "a"), [(1,), (1, 2), [1, "a"]]),
    (tuple, (1, "a"), [[1]]),
    (dict[str, int], {"a": 1}, [{"a": "b"}, {1: 1}, [("a", 1)]]),
    (dict[int, list[float]], {1: [1.0]}, [{1: 1.0}]),
    (set[int], {1}, [[1], {"a"}]),
    (collections.abc.Sequence[int], (1,), ["ab", {1: 2}, (1.5,)]),
    (collections.abc.Mapping[str, int], {"a": 1}, [[1]]),
    (Any, 1j, []),
    (object, 3, []),
    (type, int, [3, "int"]),
    (type[Machine], SpecialMachine, [int, 3]),
    (type[Machine], f"{__name__}:SpecialMachine", [f"{__name__}:NetCfg", "nowhere:Machine", f"{__name__}:Machin"]),
    (Callable[[int], int], abs, [3, "abs", NetCfg()]),
    (Callable, "math:sqrt", ["math:squrt", "math.sqrt"]),
    (NetCfg, ConvCfg(), [MachineCfg(), {}, NetCfg]),
    (NetCfg | None, None, [3]),
    (NetCfg | MachineCfg, MachineCfg(), [3]),
    (Cfg, NetCfg(), [3]),
    (Path, Path("a"), ["a"]),
    (Color, Color.RED, ["RED", 1]),
    (Annotated[int, Range(ge=1)], 1, [0, -1, "1"]),
    (Annotated[float, Range(gt=0, lt=1)], 0.5, [0.0, 1.0, float("nan")]),
    (Annotated[float, Range(gt=0)] | None, None, [0.0]),
    (Annotated[float | None, Range(gt=0)], None, [0.0]),
    (Annotated[list[int], Range(ge=1)], [1], [[1, 0]]),
    (Annotated[int, Range(ge=1), Range(le=3)], 3, [0, 4]),
    (collections.abc.Set[int], frozenset({1}), [[1], {"a"}]),
    (list[Annotated[int, Range(ge=1)]], [1], [[1, 0]]),
    (Annotated[Any, Range(ge=1)], ["a", {"b": 1}], [0, [{"b": 0.5}]]),
    (str | list[list[tuple[str, dict[str, Any]]]], [[("ELU", {})], []], [[["ELU", {}]], [[("ELU",)]], 3]),
]


@pytest.mark.parametrize(("hint", "good", "bad"), VALUES, ids=lambda value: str(value)[:40])
def test_values_are_checked_against_annotations(hint: Any, good: Any, bad: list[Any]):
    @configclass
    class Holder(Cfg):
        field: hint = good  # pyright: ignore

    holder = Holder()
    holder.validate()
    for value in bad:
        holder.field = value
        for message in messages(holder):
            assert message.startswith(("field: ", "field."))
            assert "; " in message or ": " in message[7:]


def test_repairs_are_proposed_in_words():
    @configclass
    class Holder(Cfg):
        sizes: tuple[int, ...] = (1, 2)
        items: list[int] = []
        number: int = 1
        maybe: int | None = None
        net: NetCfg = NetCfg()

    holder = Holder(sizes=[3, 4], items=(5,), number="7", maybe="None", net=ConvCfg)  # pyright: ignore
    assert [problem.fix for problem in _problems(holder)] == [
        "write [3, 4] as a tuple",
        "write (5,) as a list",
        "write 7, without quotes",
        "write null in YAML and on the command line, None in Python",
        "write ConvCfg()",
    ]
    assert [problem.fix for problem in _problems(Holder(items=3, number=2.0))] == ["write [3]", "write 2"]  # pyright: ignore


def _problems(cfg: Cfg) -> Any:
    with pytest.raises(ConfigError) as caught:
        cfg.validate()
    return caught.value.problems


def test_bounds_of_a_container_are_those_of_its_numbers():
    @configclass
    class Holder(Cfg):
        whole: Annotated[list[int], Range(ge=1)] = [1]
        entries: list[Annotated[int, Range(ge=1)]] = [1]
        table: Annotated[dict[str, float], Range(lt=0)] = {}

    assert messages(Holder(whole=[2, 0], entries=[2, 0], table={"a": 0.5})) == [
        "whole.1: got 0 (int), expected int >= 1; give it int >= 1",
        "entries.1: got 0 (int), expected int >= 1; give it int >= 1",
        "table.a: got 0.5 (float), expected float < 0; give it float < 0",
    ]
    assert messages(Holder(whole=3)) == ["whole: got 3 (int), expected list[int] with numbers >= 1; write [3]"]  # pyright: ignore


def test_annotations_may_name_what_is_defined_later_or_only_for_type_checkers():
    @configclass
    class Holder(Cfg):
        later: LaterCfg | None = None
        function: Callable[[torch.Tensor], torch.Tensor] | None = None
        dtype: torch.dtype | None = None

    Holder(later=LaterCfg(), function=abs, dtype="anything").validate()  # pyright: ignore
    assert messages(Holder(later=NetCfg(), function=3)) == [  # pyright: ignore
        "later: got a NetCfg, expected LaterCfg or None; write for example None",
        "function: got 3 (int), expected a function or 'module:name' or None; write for example None",
    ]


@configclass
class LaterCfg(Cfg):
    value: int = 1


def test_configurations_inside_anything_are_validated_too():
    @configclass
    class Holder(Cfg):
        things: Any = None

    assert messages(Holder(things=[{"a": NetCfg(sizes=["x"])}]))[0].startswith("things.0.a.sizes.0: got 'x'")  # pyright: ignore


def test_a_key_that_does_not_fit_is_shown():
    @configclass
    class Holder(Cfg):
        table: dict[str, int] = {}

    assert messages(Holder(table={1: 1, "a": "b"})) == [  # pyright: ignore
        "table.1: the key does not fit: got 1 (int), expected str; give it str",
        "table.a: got 'b' (str), expected int; give it int",
    ]


def test_importing_configclass_imports_nothing_heavy():
    code = (
        "import sys, RoboRenForce.configclass; "
        "print([name for name in ('torch', 'numpy', 'omegaconf', 'gymnasium', 'pydantic') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
