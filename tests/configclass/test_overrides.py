"""`path.to.field=value` and YAML files onto configurations."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from RoboRenForce.configclass import MISSING, Cfg, ConfigError, Range, apply_overrides, apply_yaml, configclass, to_yaml

pytestmark = pytest.mark.contract


@configclass
class NetCfg(Cfg):
    hidden_features: list[int] = [256, 256]
    activations: str | list[list[tuple[str, dict[str, Any]]]] = "ELU"


@configclass
class ConvCfg(NetCfg):
    kernel: tuple[int, int] = (3, 3)


@configclass
class TermCfg(Cfg):
    weight: Annotated[float, Range(ge=0)] = 1.0


@configclass
class MirrorCfg(TermCfg):
    axis: int = 0


@configclass
class AgentCfg(Cfg):
    net: NetCfg = NetCfg()
    normalizer: TermCfg | None = TermCfg()
    rate: Annotated[float, Range(gt=0, le=1)] = 0.1
    schedule: Literal["adaptive", "fixed", "on", "off"] = "fixed"
    seed: int | None = 1
    run_name: str = ""
    comment: str | None = None
    shuffle: bool = True
    shape: tuple[int, ...] = (3, 4)
    terms: list[TermCfg] = [TermCfg(), MirrorCfg()]
    scales: dict[str, float] = {"track": 1.0}
    by_number: dict[int, float] = {}
    function: Callable[[float], float] | None = None
    anything: Any = None
    required: int = MISSING


@configclass
class SimCfg(Cfg):
    num_envs: Annotated[int, Range(ge=1)] = 16
    net: NetCfg = NetCfg()


VALUES = [
    ("rate=1e-3", lambda c: c.rate, 0.001),
    ("rate=1", lambda c: c.rate, 1.0),
    ("net.hidden_features=[64,32]", lambda c: c.net.hidden_features, [64, 32]),
    ("net.hidden_features=[]", lambda c: c.net.hidden_features, []),
    ("net.hidden_features.1=32", lambda c: c.net.hidden_features, [256, 32]),
    ("net.activations=ReLU", lambda c: c.net.activations, "ReLU"),
    ("net.activations=[[[ELU,{alpha:0.5}]],[]]", lambda c: c.net.activations, [[("ELU", {"alpha": 0.5})], []]),
    ("schedule=adaptive", lambda c: c.schedule, "adaptive"),
    ("schedule=on", lambda c: c.schedule, "on"),
    ("seed=null", lambda c: c.seed, None),
    ("seed=1_000", lambda c: c.seed, 1000),
    ("seed = 7", lambda c: c.seed, 7),
    ("run_name=007", lambda c: c.run_name, "007"),
    ("run_name=true", lambda c: c.run_name, "true"),
    ("run_name=1e3", lambda c: c.run_name, "1e3"),
    ("run_name=", lambda c: c.run_name, ""),
    ("run_name='a b'", lambda c: c.run_name, "a b"),
    ("run_name=a=b", lambda c: c.run_name, "a=b"),
    ("run_name=first try (of two), it's late", lambda c: c.run_name, "first try (of two), it's late"),
    ("comment=null", lambda c: c.comment, None),
    ("shuffle=false", lambda c: c.shuffle, False),
    ("shape=[5]", lambda c: c.shape, (5,)),
    ("shape.0=9", lambda c: c.shape, (9, 4)),
    ("terms.0.weight=2", lambda c: c.terms, [TermCfg(weight=2.0), MirrorCfg()]),
    ("terms.1.axis=3", lambda c: c.terms[1], MirrorCfg(axis=3)),
    (
        f"terms=[{{weight:3}},{{_cfg:'{__name__}:MirrorCfg',axis:2}}]",
        lambda c: c.terms,
        [TermCfg(weight=3.0), MirrorCfg(axis=2)],
    ),
    (f"terms.0={__name__}:MirrorCfg", lambda c: c.terms, [MirrorCfg(), MirrorCfg()]),
    ("terms=[]", lambda c: c.terms, []),
    ("scales.track=2", lambda c: c.scales, {"track": 2.0}),
    ("scales.new=2", lambda c: c.scales, {"track": 1.0, "new": 2.0}),
    ("scales={a:1}", lambda c: c.scales, {"a": 1.0}),
    ("by_number.3=0.5", lambda c: c.by_number, {3: 0.5}),
    ("normalizer=null", lambda c: c.normalizer, None),
    ("normalizer={}", lambda c: c.normalizer, TermCfg()),
    ("normalizer={weight:4}", lambda c: c.normalizer, TermCfg(weight=4.0)),
    (f"net={__name__}:ConvCfg", lambda c: c.net, ConvCfg()),
    (f"net={{_cfg:'{__name__}:ConvCfg',kernel:[1,1]}}", lambda c: c.net, ConvCfg(kernel=(1, 1))),
    ("function=math:sqrt", lambda c: c.function, math.sqrt),
    ("anything=[1,{a:null},x]", lambda c: c.anything, [1, {"a": None}, "x"]),
    ("required=3", lambda c: c.required, 3),
    ("required=???", lambda c: c.required, MISSING),
]


@pytest.mark.parametrize(("override", "read", "expected"), VALUES, ids=[text for text, _, _ in VALUES])
def test_an_override_assigns_a_value_of_the_fields_type(override: str, read: Callable[[Any], Any], expected: Any):
    cfg = AgentCfg()
    apply_overrides(cfg, [override])
    assert read(cfg) == expected
    assert type(read(cfg)) is type(expected)


def test_overrides_apply_in_their_order():
    cfg = AgentCfg()
    apply_overrides(
        cfg, ["normalizer=null", "normalizer={}", "normalizer.weight=3", f"net={__name__}:ConvCfg", "net.kernel.1=5"]
    )
    assert cfg.normalizer == TermCfg(weight=3.0)
    assert cfg.net == ConvCfg(kernel=(3, 5))


MISTAKES = [
    ("ratee=1", "ratee: AgentCfg has no such field; did you mean 'rate'?"),
    ("net.hidden=[1]", "net.hidden: NetCfg has no such field; there is activations, hidden_features"),
    ("net.hiden_features=[1]", "net.hiden_features: NetCfg has no such field; did you mean 'hidden_features'?"),
    ("rate=fast", "rate: got 'fast' (str), expected float > 0 and <= 1; write for example 0.1"),
    ("rate=2", "rate: got 2.0 (float), expected float > 0 and <= 1; write for example 0.1"),
    ("rate='0.5'", "rate: got '0.5' (str), expected float > 0 and <= 1; write 0.5, without quotes"),
    ("seed=1.5", "seed: got 1.5 (float), expected int or None; write for example 1"),
    (
        "seed=None",
        "seed: got 'None' (str), expected int or None; write null in YAML and on the command line, None in Python",
    ),
    ("seed=true", "seed: got True (bool), expected int or None; write 1"),
    ("rate=null", "rate: got None, expected float > 0 and <= 1; write for example 0.1"),
    (
        "schedule=adaptiv",
        "schedule: got 'adaptiv' (str), expected 'adaptive' or 'fixed' or 'on' or 'off'; did you mean 'adaptive'?",
    ),
    ("net.hidden_features=64", "net.hidden_features: got 64 (int), expected list[int]; write [64]"),
    ("net.hidden_features=[64,x]", "net.hidden_features.1: got 'x' (str), expected int; give it int"),
    (
        "net.hidden_features.7=1",
        "net.hidden_features.7: net.hidden_features has 2 entries; count from 0, or assign the whole list",
    ),
    ("terms.0.axis=1", "terms.0.axis: TermCfg has no such field; there is weight"),
    ("terms.9.weight=1", "terms.9: terms has 2 entries; count from 0, or assign the whole list"),
    ("terms.0.weight=-1", "terms.0.weight: got -1.0 (float), expected float >= 0; write for example 1.0"),
    ("rate.x=1", "rate.x: rate holds 0.1, which has no fields; shorten the path"),
    ("required.x=1", "required.x: required is not set; assign required first"),
    ("comment.x=1", "comment.x: comment holds None, which has no fields; shorten the path"),
    ("net=3", "net: got 3 (int), expected NetCfg; give it NetCfg"),
    ("net=null", "net: got None, expected NetCfg; give it NetCfg"),
    (f"net={__name__}:TermCfg", f"net: got '{__name__}:TermCfg' (str), expected NetCfg; give it NetCfg"),
    (
        "net=nowhere:NetCfg",
        "net: 'nowhere:NetCfg' can't be imported (No module named 'nowhere'): check the module's name or install it.",
    ),
    ("function=math:squrt", "function: 'math:squrt' can't be found in math: did you mean 'sqrt'?"),
    (
        "shape=(1,2)",
        "shape: '(1,2)' can't be read (token recognition error at: '('); write lists as [1,2], dicts as {a:1}, text in",
    ),
    ("shape=[1", "shape: '[1' can't be read"),
    ("rate=${seed}", "rate: '${seed}' can't be read (interpolations are not supported)"),
    ("rate", "rate: is no override; write path.to.field=value"),
    ("=1", "=1: is no override; write path.to.field=value"),
    ("+new=1", "+new: fields can be neither added nor removed; write new=1 to change a field"),
    ("~rate=1", "~rate: fields can be neither added nor removed; write rate=1 to change a field"),
    ("net..x=1", "net.: NetCfg has no such field; there is activations, hidden_features"),
]


@pytest.mark.parametrize(("override", "message"), MISTAKES, ids=[text for text, _ in MISTAKES])
def test_a_wrong_override_names_the_path_and_the_fix(override: str, message: str):
    cfg = AgentCfg()
    with pytest.raises(ConfigError) as caught:
        apply_overrides(cfg, [override])
    assert str(caught.value).startswith(f"The command line has a problem: {message}")
    assert cfg == AgentCfg()


def test_all_wrong_overrides_are_reported_at_once_and_nothing_is_changed():
    cfg = AgentCfg()
    with pytest.raises(ConfigError, match="The command line has 2 problems"):
        apply_overrides(cfg, ["seed=5", "ratee=1", "rate=fast", "net.hidden_features.0=1"])
    assert cfg == AgentCfg()


def test_overriding_a_none_that_could_be_a_configuration_says_how():
    with pytest.raises(ConfigError, match=r"assign normalizer first, for example normalizer=\{\}"):
        apply_overrides(AgentCfg(normalizer=None), ["normalizer.weight=1"])


def test_the_first_word_of_a_path_selects_one_of_several_configurations():
    agent, env = AgentCfg(), SimCfg()
    configs = {"env": env, "agent": agent, "": agent}
    apply_overrides(configs, ["env.num_envs=4", "rate=0.5", "agent.seed=9", "env.net.hidden_features=[1]"])
    assert (env.num_envs, agent.rate, agent.seed, env.net, agent.net) == (
        4,
        0.5,
        9,
        NetCfg(hidden_features=[1]),
        NetCfg(),
    )
    with pytest.raises(ConfigError) as caught:
        apply_overrides(configs, ["env.num_env=4", "evn.num_envs=4", "env=4", "env.num_envs=0", "agent.rate=0"])
    assert [(problem.path, problem.fix) for problem in caught.value.problems] == [
        ("env.num_env", "did you mean 'num_envs'?"),
        ("evn", "did you mean 'env'?"),
        ("env", "name one of its fields"),
        ("env.num_envs", "write for example 4"),
        ("agent.rate", "write for example 0.5"),
    ]
    assert env.num_envs == 4


def test_a_yaml_file_may_name_a_few_fields(tmp_path: Path):
    file = tmp_path / "change.yaml"
    file.write_text(
        "rate: 5e-1\nnet:\n  activations: Tanh\nenv: {num_envs: 3}\nterms:\n- {weight: 2}\nscales: {a: 1}\n"
    )
    agent, env = AgentCfg(), SimCfg()
    apply_yaml({"env": env, "agent": agent, "": agent}, file)
    assert agent == AgentCfg(rate=0.5, net=NetCfg(activations="Tanh"), terms=[TermCfg(weight=2.0)], scales={"a": 1.0})
    assert env == SimCfg(num_envs=3)


def test_a_wrong_yaml_file_reports_everything_and_changes_nothing(tmp_path: Path):
    file = tmp_path / "change.yaml"
    file.write_text("seed: 3\nratee: 1\nnet: {activation: Tanh}\nevn: {}\nenv: {num_envs: 0, nett: 1}\nagent: 3\n")
    agent, env = AgentCfg(), SimCfg()
    with pytest.raises(ConfigError) as caught:
        apply_yaml({"env": env, "agent": agent, "": agent}, file)
    assert {problem.path: problem.fix for problem in caught.value.problems} == {
        "ratee": "did you mean 'rate'?",
        "net.activation": "did you mean 'activations'?",
        "evn": "did you mean 'env'?",
        "env.num_envs": "write for example 16",
        "env.nett": "did you mean 'net'?",
        "agent": "write its fields below it",
    }
    assert str(caught.value).startswith(f"{file} has 6 problems")
    assert (agent, env) == (AgentCfg(), SimCfg())


def test_printed_configurations_are_read_back():
    agent, env = AgentCfg(net=ConvCfg(kernel=(1, 2)), normalizer=None, required=2), SimCfg(num_envs=2)
    text = to_yaml({"env": env, "agent": agent, "": agent})
    fresh_agent, fresh_env = AgentCfg(), SimCfg()
    apply_yaml({"env": fresh_env, "agent": fresh_agent, "": fresh_agent}, text)
    assert (fresh_agent, fresh_env) == (agent, env)
    alone = AgentCfg()
    apply_yaml(alone, to_yaml(agent))
    assert alone == agent
