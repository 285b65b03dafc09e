"""Telling that a journal took long to open: a log that is recovered, a migration, a server that is away for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ..logs import about, log

SLOW_SECONDS = 2.0


@contextmanager
def told_if_slow(where: str, clock: Callable[[], float] = time.monotonic) -> Iterator[None]:
    """Log how long the opening of a journal took, if that was long; also where it failed. `where` holds no secrets."""
    begun = clock()
    opened = False
    try:
        yield
        opened = True
    finally:
        took = clock() - begun
        if took >= SLOW_SECONDS:
            how = "took" if opened else "failed after"
            log.warning("opening the journal %s %s %.1f s", where, how, took, extra=about())
