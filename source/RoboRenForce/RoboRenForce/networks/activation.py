"""Activation functions by name."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules import activation as torch_activations

from ..configclass import ConfigError

_MODULES: dict[str, type[nn.Module]] = {
    name.lower(): getattr(nn, name)
    for name in [*torch_activations.__all__, "Identity"]
    if name not in ("MultiheadAttention", "Threshold", "GLU", "Softmax2d")  # not elementwise, or not without arguments
}
_MODULES["swish"] = nn.SiLU

MOST_FEATURES = 65_536
"""Maximum width of a layer; above it two layers have more weights than a GPU can train."""

ActivationSpec = Sequence[tuple[str, Mapping[str, Any]]]
"""Activations applied one after another after a layer: `[("ELU", {"alpha": 1.0})]`, or `[]` for none."""


def activation_problem(name: str, kwargs: Mapping[str, Any], width: int | None = None) -> str | None:
    """Describe an error in an activation's name or arguments; None if there is none.

    Args:
        name: As in `build_activation`.
        kwargs: Arguments of its constructor.
        width: Features of the layer before it; None if unknown.
    """
    if name.lower() not in _MODULES:
        known = {cls.__name__.lower(): cls.__name__ for cls in _MODULES.values()}
        near = difflib.get_close_matches(name.lower(), known, n=3, cutoff=0.4) or ["elu", "relu", "tanh"]
        return f"unknown activation '{name}'; did you mean {', '.join(known[key] for key in near)}?"
    if "device" in kwargs:  # it would allocate there, also here
        return f"activation '{name}' can't have a device of its own: leave it out, it follows the network"
    try:
        # Constructors check little, so it is called too; on "meta", nothing is allocated whatever the arguments.
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            module = _MODULES[name.lower()](**kwargs).eval()  # in training, RReLU draws random numbers
            parameters = sum(parameter.numel() for parameter in module.parameters())
            if parameters <= MOST_FEATURES:
                # "meta" checks no dimensions; it is for the parameters.
                module(torch.zeros(2, width or max(parameters, 1), device="meta" if parameters else "cpu"))
    except Exception as error:  # noqa: BLE001 - constructors of torch raise anything: RuntimeError, AssertionError, IndexError
        reason = " ".join(str(error).split("\n\n")[0].split())
        return f"activation '{name}' does not accept {str(dict(kwargs))[:200]}: {reason[:300] or type(error).__name__}"
    if parameters > MOST_FEATURES:
        return f"activation '{name}' has {parameters:,} parameters; expected at most {MOST_FEATURES:,}"
    return None


def build_activation(name: str, **kwargs: Any) -> nn.Module:
    """Build the activation module `name` (any case, a class of `torch.nn`) with `kwargs`.

    Raises:
        ConfigError: No such activation; the message names the nearest ones.
    """
    if (problem := activation_problem(name, kwargs)) is not None:
        raise ConfigError(f"{problem[0].upper()}{problem[1:]}")
    return _MODULES[name.lower()](**kwargs)


def per_layer_activations(activations: str | Sequence[ActivationSpec], num_hidden: int) -> Sequence[ActivationSpec]:
    """Return one list of (name, keyword arguments) per linear layer, output included: `num_hidden + 1` lists.

    A plain name applies to the hidden layers and leaves the output linear.
    """
    if isinstance(activations, str):
        return [[(activations, {})]] * num_hidden + [[]]
    return activations


def activations_problems(activations: str | Sequence[ActivationSpec], hidden: Sequence[int]) -> list[str]:
    """List errors in an `activations` field for hidden layers of these widths."""
    num_hidden = len(hidden)
    if isinstance(activations, str):
        problem = activation_problem(activations, {})
        return [] if problem is None else [f"activations: {problem}"]
    layers, problems = activations, []
    if len(layers) != num_hidden + 1:
        problems.append(
            f"activations: got {len(layers)} entries for {num_hidden} hidden layers, expected {num_hidden + 1}; write "
            f"one per layer and one for the output, [[('ELU', {{}})]] * {num_hidden} + [[]], or simply 'ELU'"
        )
    for index, layer in enumerate(layers):
        width = hidden[index] if index < num_hidden and 1 <= hidden[index] <= MOST_FEATURES else None
        found = [activation_problem(name, kwargs, width) for name, kwargs in layer]
        problems += [f"activations: in entry {index}, {problem}" for problem in found if problem is not None]
    return problems
