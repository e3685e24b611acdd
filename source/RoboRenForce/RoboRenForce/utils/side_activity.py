"""Activities beside training, whose failure must not end it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import UserError

logger = logging.getLogger(__name__)


@contextmanager
def side_activity(what: str, consequence: str = "the run goes on", *, quiet: bool = False) -> Iterator[None]:
    """Turn a failure inside the block into a warning: the trained policy is worth more than a picture of it.

    Args:
        what: Start of the warning.
        consequence: End of the warning.
        quiet: True to log nothing, because it has failed before.
    """
    try:
        yield
    except (UserError, OSError) as error:
        if not quiet:
            logger.warning("%s failed (%s); %s.", what, " ".join(str(error).split()), consequence)
    except Exception as error:
        if not quiet:  # with the traceback, because the mistake may be in the user's own code
            logger.warning("%s failed (%s: %s); %s.", what, type(error).__name__, error, consequence, exc_info=error)
