"""Optimizers over torch.optim against torch's own, and the parts around them against closed forms."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from RoboRenForce.components import EMACfg, FlatAdam, OptimizerCfg, ParamGroupCfg, ScheduleCfg
from RoboRenForce.components.param_groups import settings_of
from RoboRenForce.configclass import ConfigError
from RoboRenForce.utils.errors import CheckpointError
from torch import Tensor, nn

pytestmark = pytest.mark.oracle


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.Linear(6, 2))


def batch(index: int) -> Tensor:
    return torch.randn(8, 3, generator=torch.Generator().manual_seed(index))


def loss_of(module: nn.Module, x: Tensor) -> Tensor:
    return 10.0 * (module(x) - x[:, :2]).square().mean()


def steps(module: nn.Module, optimizer: Any, count: int, first: int = 0) -> list[dict[str, Tensor]]:
    norms = []
    for index in range(first, first + count):
        optimizer.backward(loss_of(module, batch(index)))
        norms.append(optimizer.step())
    return norms


REFERENCES: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "adamw": lambda groups: torch.optim.AdamW(groups, betas=(0.8, 0.9), eps=1e-6),
    "adam": lambda groups: torch.optim.Adam(groups, betas=(0.8, 0.9), eps=1e-6),
    "sgd": lambda groups: torch.optim.SGD(groups, momentum=0.7),
}


@pytest.mark.parametrize("kind", REFERENCES)
def test_groups_clipping_and_decay_are_those_of_torch(kind: str) -> None:
    module = network()
    reference = copy.deepcopy(module)
    optimizer = OptimizerCfg(
        kind=kind,
        learning_rate=1e-2,
        betas=(0.8, 0.9),
        eps=1e-6,
        momentum=0.7,
        weight_decay=0.3,
        max_grad_norm=0.5,
        groups=[
            ParamGroupCfg(pattern="2.*", multiplier=0.1),
            ParamGroupCfg(pattern="re:.*[.]bias", weight_decay=0.05),
            ParamGroupCfg(pattern="1.weight", learning_rate=5e-2),
        ],
    ).build(module)
    first, norm, last = reference
    theirs = REFERENCES[kind](
        [
            {"params": [first.weight], "lr": 1e-2, "weight_decay": 0.3},
            {"params": [first.bias, norm.bias], "lr": 1e-2, "weight_decay": 0.05},
            {"params": [norm.weight], "lr": 5e-2, "weight_decay": 0.0},  # a norm does not decay
            {"params": [last.weight], "lr": 1e-3, "weight_decay": 0.3},
            {"params": [last.bias], "lr": 1e-3, "weight_decay": 0.05},
        ]
    )
    for index in range(6):
        theirs.zero_grad()
        loss_of(reference, batch(index)).backward()
        expected = nn.utils.clip_grad_norm_(reference.parameters(), 0.5)
        theirs.step()
        torch.testing.assert_close(steps(module, optimizer, 1, index)[0], {"all": expected})
    for ours, other in zip(module.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, other, rtol=1e-5, atol=1e-6)


def test_muon_moves_matrices_and_adamw_the_rest() -> None:
    module = network()
    reference = copy.deepcopy(module)
    optimizer = OptimizerCfg(
        kind="muon", learning_rate=1e-2, max_grad_norm=None, groups=[ParamGroupCfg(pattern="2.weight", kind="adamw")]
    ).build(module)
    muon = torch.optim.Muon(
        [reference[0].weight], lr=1e-2, momentum=0.95, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"
    )
    rest = [p for name, p in reference.named_parameters() if name != "0.weight"]
    adamw = torch.optim.AdamW(rest, lr=1e-2, betas=(0.9, 0.95), weight_decay=0.0)
    for index in range(3):
        reference.zero_grad()
        loss_of(reference, batch(index)).backward()
        muon.step()
        adamw.step()
    steps(module, optimizer, 3)
    torch.testing.assert_close(list(module.parameters()), list(reference.parameters()), rtol=1e-5, atol=1e-6)


def test_flat_adam_is_the_same_optimizer_by_configuration() -> None:
    flat, module = network(), network()
    cfg = OptimizerCfg(kind="flat_adam", learning_rate=1e-2)
    optimizer = cfg.build(flat)
    assert isinstance(optimizer, FlatAdam)
    norms = steps(flat, optimizer, 4)
    others = steps(module, cfg.replace(kind="adam").build(module), 4)
    torch.testing.assert_close([n["all"] for n in norms], [n["all"] for n in others])
    torch.testing.assert_close([p.data for p in flat.parameters()], [p.data for p in module.parameters()])
    with pytest.raises(ConfigError, match="accumulation_steps: flat_adam has one group"):
        cfg.replace(accumulation_steps=2).build(network())


def test_micro_batches_accumulate_to_their_mean() -> None:
    whole, parts = network(), network()
    steps(whole, OptimizerCfg(learning_rate=1e-2).build(whole), 1)
    optimizer = OptimizerCfg(learning_rate=1e-2, accumulation_steps=4).build(parts)
    with pytest.raises(RuntimeError, match="after 0 calls of backward"):
        optimizer.step()
    for part in batch(0).split(2):
        optimizer.backward(loss_of(parts, part))
    optimizer.step()
    torch.testing.assert_close(list(parts.parameters()), list(whole.parameters()), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("kind", ["adamw", "sgd", "muon"])
def test_a_gradient_that_is_not_finite_changes_nothing_and_is_counted(kind: str) -> None:
    module = network()
    optimizer = OptimizerCfg(kind=kind, weight_decay=0.1, ema=EMACfg(decay=0.9)).build(module)
    steps(module, optimizer, 2)
    before = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(module.state_dict())
    optimizer.backward(loss_of(module, torch.full((1, 3), torch.inf)))
    norm = optimizer.step()["all"]
    assert not norm.isfinite()
    after = optimizer.state_dict()
    assert (float(after.pop("skipped")), float(before[0].pop("skipped"))) == (1.0, 0.0)
    torch.testing.assert_close((after, module.state_dict()), before, rtol=0, atol=0)
    steps(module, optimizer, 1)
    assert not torch.equal(module[0].weight, before[1]["0.weight"])


@pytest.mark.parametrize("kind", ["adam", "sgd", "muon"])
def test_a_saved_state_goes_on_as_if_never_interrupted(kind: str) -> None:
    module = network()
    cfg = OptimizerCfg(
        kind=kind,
        weight_decay=0.1,
        schedule=ScheduleCfg(kind="linear", warmup_steps=2, total_steps=9),
        ema=EMACfg(decay=0.7),
    )
    optimizer = cfg.build(module)
    steps(module, optimizer, 3)
    optimizer.lr.mul_(0.5)
    saved = copy.deepcopy((module.state_dict(), optimizer.state_dict()))
    steps(module, optimizer, 3, first=3)
    resumed = network()
    again = cfg.build(resumed)
    resumed.load_state_dict(saved[0])
    again.load_state_dict(saved[1])
    steps(resumed, again, 3, first=3)
    torch.testing.assert_close(resumed.state_dict(), module.state_dict(), rtol=0, atol=0)
    torch.testing.assert_close(again.state_dict(), optimizer.state_dict(), rtol=0, atol=0)
    del saved[1]["params"]["0.bias"]
    with pytest.raises(CheckpointError, match=r"lacks 'optimizer\.params\.0\.bias' \(1 missing, 0 unexpected names\)"):
        again.load_state_dict(saved[1])


# ---------------------------------------------------------------------------------------------- schedule and average


def half_cosine(progress: float) -> float:
    return 0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * progress))


@pytest.mark.parametrize(
    ("kind", "decay"),
    [("constant", lambda p: 1.0), ("linear", lambda p: 1.0 - 0.9 * p), ("cosine", half_cosine)],
)
def test_schedules_are_the_closed_forms(kind: str, decay: Callable[[float], float]) -> None:
    cfg = ScheduleCfg(kind=kind, warmup_steps=4, total_steps=14, final_share=0.1)
    got = [float(cfg.factor(torch.tensor(float(step)))) for step in range(20)]
    expected = [0.25, 0.5, 0.75, 1.0] + [decay(min((step - 4) / 10, 1.0)) for step in range(4, 20)]
    assert got == pytest.approx(expected, abs=1e-6)


def test_the_schedule_and_the_learning_rate_multiply() -> None:
    """Plain SGD on a linear loss moves a parameter by exactly the rate."""
    module = nn.Linear(1, 1, bias=False)
    optimizer = OptimizerCfg(
        kind="sgd",
        momentum=0.0,
        max_grad_norm=None,
        learning_rate=1.0,
        schedule=ScheduleCfg(kind="linear", warmup_steps=2, total_steps=6),
        groups=[ParamGroupCfg(pattern="weight", multiplier=2.0)],
    ).build(module)
    moved = []
    for step in range(5):
        if step == 3:
            optimizer.lr.fill_(0.5)
        before = module.weight.item()
        optimizer.backward(module.weight.sum())
        optimizer.step()
        moved.append(before - module.weight.item())
    assert moved == pytest.approx([1.0, 2.0, 2.0, 0.75, 0.5], abs=1e-6)


def test_the_average_is_the_closed_form_and_is_swapped_in_and_out() -> None:
    module = network()
    optimizer = OptimizerCfg(learning_rate=1e-2, ema=EMACfg(decay=0.75)).build(module)
    history = [module[0].weight.detach().clone()]
    for index in range(5):
        steps(module, optimizer, 1, index)
        history.append(module[0].weight.detach().clone())
    expected = 0.75**5 * history[0] + sum(0.25 * 0.75 ** (5 - k) * history[k] for k in range(1, 6))
    torch.testing.assert_close(optimizer.ema.copies["0.weight"], expected)
    with optimizer.ema.swapped_in():
        torch.testing.assert_close(module[0].weight.detach(), expected)
    assert torch.equal(module[0].weight, history[-1])
    torch.testing.assert_close(optimizer.ema.copies["0.weight"], expected)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "cosine"}, "total_steps: is not set; say at which step the cosine decay ends"),
        ({"kind": "linear", "warmup_steps": 5, "total_steps": 5}, "total_steps: 5 is not larger than warmup_steps = 5"),
    ],
)
def test_a_schedule_that_contradicts_itself_is_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ScheduleCfg(**changes).validate()


# ---------------------------------------------------------------------------------------------------------- patterns


def test_frozen_groups_are_not_trained() -> None:
    module = network()
    optimizer = OptimizerCfg(groups=[ParamGroupCfg(pattern="0.*", frozen=True)]).build(module)
    assert list(optimizer.params) == ["1.weight", "1.bias", "2.weight", "2.bias"]
    before = module[0].weight.clone()
    steps(module, optimizer, 2)
    assert torch.equal(module[0].weight, before) and module[0].weight.grad is None


@pytest.mark.parametrize(
    ("groups", "sentence"),
    [
        ([{"pattern": "0.wieght"}], r"groups\.0: pattern '0\.wieght' names no parameter; did you mean '0\.weight'\?"),
        (
            [{"pattern": "0.*", "multiplier": 0.1}, {"pattern": "*.bias", "learning_rate": 1e-3}],
            r"groups\.1: pattern '\*\.bias' sets another learning_rate for '0\.bias' than a group before it",
        ),
        ([{"pattern": "0.*", "multiplier": 0.1, "learning_rate": 1e-3}], "multiplier: is given beside learning_rate"),
        ([{"pattern": "re:0.("}], "is no regular expression"),
        ([{"pattern": "*", "frozen": True}], "no trainable parameter: was everything frozen"),
    ],
)
def test_patterns_that_say_nothing_or_two_things_are_refused(groups: list[dict[str, Any]], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        OptimizerCfg(groups=[ParamGroupCfg(**group) for group in groups]).build(network())


def test_groups_that_agree_may_overlap() -> None:
    groups = [ParamGroupCfg(pattern="0.*", multiplier=0.1), ParamGroupCfg(pattern="*.bias", weight_decay=0.2)]
    found = settings_of(dict(network().named_parameters()), OptimizerCfg(groups=[*groups, groups[0]]))
    scales, decays = ({name: part[place] for name, part in found.items()} for place in (1, 2))
    assert {name for name, scale in scales.items() if scale == 0.1} == {"0.weight", "0.bias"}
    assert {name for name, decay in decays.items() if decay == 0.2} == {"0.bias", "1.bias", "2.bias"}


def test_a_group_of_frozen_parameters_is_refused() -> None:
    module = network()
    module[0].requires_grad_(False)
    with pytest.raises(ConfigError, match=r"pattern '0\.\*' names frozen parameters only"):
        OptimizerCfg(groups=[ParamGroupCfg(pattern="0.*", multiplier=0.1)]).build(module)


def test_half_precision_parameters_are_refused_unless_allowed() -> None:
    with pytest.raises(ConfigError, match=r"'0\.weight' and 5 more trained parameters are torch\.bfloat16"):
        OptimizerCfg().build(network().bfloat16())
    module = network().bfloat16()
    optimizer = OptimizerCfg(learning_rate=1e-2, require_fp32=False, ema=EMACfg(decay=0.0)).build(module)
    optimizer.backward(module(batch(0).bfloat16()).float().square().mean())
    optimizer.step()
    torch.testing.assert_close(optimizer.ema.copies["0.weight"], module[0].weight.detach().float())
