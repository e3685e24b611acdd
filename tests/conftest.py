"""What every test can rely on: a fixed seed, one thread, an off-screen renderer."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Generator, Iterator
from typing import Any

# Before anything imports MuJoCo: it chooses its renderer once, and without a display only an off-screen one works.
os.environ.setdefault("MUJOCO_GL", "egl")
# The networks of the tests are too small to share: more threads make them slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import pytest
import torch
from hypothesis import settings
from RoboRenForce.utils.errors import MissingPackageError
from RoboRenForce.utils.optional import is_installed

settings.register_profile("tests", deadline=None, print_blob=True)
settings.load_profile("tests")
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seed() -> int:
    """The seed that every test starts from; tests that need others say so."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    return 0


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """The signals of a terminal as an interactive shell leaves them, for this process and those that it starts.

    Under nohup, in the background of a script and in many CI systems some are ignored, which children inherit.
    """
    usual = {signal.SIGINT: signal.default_int_handler}
    usual |= {number: signal.SIG_DFL for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _skipping_what_is_missing(item: pytest.Item) -> Generator[None, Any, Any]:
    """Skip a test that needs a package which is not there; one that is there and said to be missing fails."""
    try:
        return (yield)
    except MissingPackageError as error:
        if error.name and not is_installed(error.name.partition(".")[0]):
            pytest.skip(str(error))
        raise


pytest_runtest_setup = pytest.hookimpl(wrapper=True)(_skipping_what_is_missing)
pytest_runtest_call = pytest.hookimpl(wrapper=True)(_skipping_what_is_missing)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs a GPU where there is none."""
    if torch.cuda.is_available():
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)
