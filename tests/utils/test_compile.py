"""Functions that many objects compile, each for itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from RoboRenForce.utils.compile import compile_own

pytestmark = pytest.mark.contract

MANY = 12
"""More than the eight graphs that torch keeps with one function's code."""


class Scale:
    """Instances differ in what torch guards on."""

    def __init__(self, factor: float) -> None:
        self.factor = factor

    def __call__(self, x: torch.Tensor, *, shift: float = 1.0) -> torch.Tensor:
        return x * self.factor + shift


def test_every_instance_is_compiled_however_many_there_are() -> None:
    compilations = []

    def backend(graph: Any, inputs: Any) -> Any:
        compilations.append(graph)
        return graph.forward

    def closure(factor: float) -> Any:
        return lambda x: x * factor

    x = torch.arange(3.0)
    for index in range(MANY):
        factor = 2.0 + index
        method = compile_own(Scale(factor).__call__, backend=backend)
        inner = compile_own(closure(factor), backend=backend)
        assert torch.equal(method(x), x * factor + 1.0) and torch.equal(method(x, shift=2.0), x * factor + 2.0)
        assert torch.equal(inner(x), x * factor)
    assert len(compilations) == 3 * MANY
