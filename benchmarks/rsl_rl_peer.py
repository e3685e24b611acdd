"""Releases of rsl_rl beside each other: where each is, and the options that make it fast.

A variant is called `rsl_rl_VERSION`, with `_bf16` for mixed precision and `_compile` for compiled models behind it: for
example `rsl_rl_5.5.1_bf16_compile`. Each runs in a process of its own that finds its release in a folder:

    pip install --no-deps --target FOLDER rsl-rl-lib==5.5.1
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from peer_scripts import environment_with

NAME = re.compile(r"rsl_rl_(\d+(?:\.\d+)+)(_bf16)?(_compile)?")


def add_peer_site(parser: argparse.ArgumentParser) -> None:
    """Add `--peer_site VERSION=FOLDER`, as often as there are releases."""
    parser.add_argument(
        "--peer_site",
        action="append",
        default=[],
        metavar="VERSION=FOLDER",
        help="folder of a release of rsl-rl-lib; without any, the installed one is measured",
    )


def sites_of(words: Sequence[str]) -> dict[str, str]:
    """Return version -> folder; the installed release, in no folder, if none is given."""
    if not words:
        return {version("rsl-rl-lib"): ""}
    wrong = [word for word in words if not all(word.partition("=")[::2])]
    if wrong:
        raise SystemExit(f"--peer_site got {wrong}; expected VERSION=FOLDER, for example 5.5.1=/folder.")
    return dict(word.split("=", 1) for word in words)


def variants_of(sites: Mapping[str, str]) -> list[str]:
    """Return every variant of these releases; mixed precision came with 5.5."""
    names = []
    for release in sites:
        has_bf16 = tuple(map(int, release.split(".")[:2])) >= (5, 5)
        switches = ["", "_compile"] + (["_bf16", "_bf16_compile"] if has_bf16 else [])
        names += [f"rsl_rl_{release}{switch}" for switch in switches]
    return names


def is_variant(name: str) -> bool:
    """Return True for the name of a variant of rsl_rl."""
    return NAME.fullmatch(name) is not None


def environment_of(name: str, sites: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables with which a process finds the release of a variant."""
    release = _parts(name)[0]
    if release not in sites:
        raise SystemExit(f"{name} has no folder; give --peer_site {release}=FOLDER (there is {', '.join(sites)}).")
    return environment_with(sites[release])


def switch_on(cfg: dict[str, Any], name: str) -> None:
    """Set a variant's options in a runner's configuration.

    Raises:
        RuntimeError: The release that this process finds is another one.
    """
    release, bf16, compiled = _parts(name)
    if (found := version("rsl-rl-lib")) != release:
        raise RuntimeError(f"{name} needs rsl-rl-lib {release} and finds {found}.")
    if bf16:
        cfg["algorithm"]["use_mixed_precision"] = True
    if compiled:
        cfg["torch_compile_mode"] = "default"


def _parts(name: str) -> tuple[str, bool, bool]:
    match = NAME.fullmatch(name)
    if match is None:
        raise SystemExit(f"'{name}' is no variant of rsl_rl; expected for example rsl_rl_5.5.1_bf16_compile.")
    return match[1], bool(match[2]), bool(match[3])
