"""What happens beside training must not end it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)


@contextmanager
def side_activity(what: str) -> Iterator[None]:
    """Let `what` fail with a warning: what was trained is worth more than a picture of it."""
    try:
        yield
    except Exception as error:  # noqa: BLE001 - it runs other people's code (encoders, file systems, simulators)
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        logger.warning("%s failed (%s); the run goes on.", what, reason)
