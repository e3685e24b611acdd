"""torch.compile for functions that many objects of one process share."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

import torch


def compile_own(function: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Compile a private copy of `function`, so that instances do not share torch's recompile limit.

    torch keeps the graphs of a function with its code, at most eight of them, and runs it eagerly from the ninth on.
    Methods and closures of all instances share their code: without a copy of it, the ninth learner of a process would
    not be compiled. For fixed shapes: torch remembers by file and line which sizes changed and would compile the second
    learner for any size, which fails if weights are views of one flat tensor.

    Args:
        function: Function, closure or bound method, undecorated: the wrapped function of a decorator is not copied.
        options: Options of `torch.compile`.
    """
    method = isinstance(function, types.MethodType)
    shared: Any = function.__func__ if method else function
    own = types.FunctionType(
        shared.__code__.replace(), shared.__globals__, shared.__name__, shared.__defaults__, shared.__closure__
    )
    own.__kwdefaults__ = shared.__kwdefaults__
    bound = types.MethodType(own, function.__self__) if method else own
    return torch.compile(bound, dynamic=False, **options)
