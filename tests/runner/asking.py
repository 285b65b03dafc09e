"""A runner of trips, and callers who wait for how they end."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from sagalog import SagaRunner

from .conftest import Bench
from .trips import TripSaga

SOON = timedelta(seconds=15)  # for what has to come; so long a broken runner is waited for


def runner(bench: Bench, source: Any = None, **more: Any) -> SagaRunner:
    more.setdefault("dispatch", lambda command: None)
    return bench.runner(source, sagas=[TripSaga], **more)


async def waiting(asked: SagaRunner, number: int = 1) -> None:
    """Return when so many calls wait, and each has looked at what is stored."""
    while True:
        started = asked._started
        assert started is not None
        waiters = [one for some in started.engine.awaited.by_id.values() for one in some]
        if len(waiters) == number and all(one.looked for one in waiters):
            return
        await asyncio.sleep(0)
