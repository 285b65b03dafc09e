"""The clock that workers share: the server's, as far as a round trip lets it be known."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Self

import pytest

from sagalog.runner.clock import ServerClock


class Server:
    """Tells a time that is an hour ahead; some of its answers take long to arrive."""

    def __init__(self, *seconds: float) -> None:
        self.seconds = list(seconds)

    async def server_time(self) -> datetime:
        told = datetime.now(UTC) + timedelta(hours=1)
        await asyncio.sleep(self.seconds.pop(0))
        return told


async def test_a_slow_answer_is_not_what_the_clock_goes_by_if_a_quick_one_follows() -> None:
    server = Server(0.2, 0, 0, 0, 0)
    clock = ServerClock(server)
    await clock.synchronize()
    ahead = clock.now() - datetime.now(UTC)
    assert abs(ahead - timedelta(hours=1)) < timedelta(seconds=0.05)


async def test_the_server_is_not_asked_without_end_where_all_its_answers_are_slow() -> None:
    server = Server(*[0.01] * 9)
    await ServerClock(server).synchronize()
    assert len(server.seconds) == 4


class SetForward(datetime):
    """This machine's clock, after it was set forward by a day."""

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + timedelta(days=1)


async def test_it_does_not_follow_this_machines_clock_when_that_is_set(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = ServerClock(Server(0))
    await clock.synchronize()
    before = clock.now()
    sleeps = asyncio.ensure_future(clock.sleep_until(before + timedelta(hours=1)))
    for module in ("sagalog.runner.clock", "sagalog.waiting"):
        monkeypatch.setattr(f"{module}.datetime", SetForward)
    assert clock.now() - before < timedelta(hours=1)
    late = asyncio.ensure_future(clock.sleep_until(before + timedelta(hours=1)))
    done, _ = await asyncio.wait([sleeps, late], timeout=0.05)
    assert not done
    sleeps.cancel()
    late.cancel()
