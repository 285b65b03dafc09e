"""A clock that is set back: leases that were counted by it before do not keep their commands for so long."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sagalog import RunnerSettings, SagaRunner, SystemClock

from ..orders import OrderSaga, Placed, Reserve


class Ahead(SystemClock):
    """The clock of a machine, before it was set back by so much."""

    def __init__(self, by: timedelta) -> None:
        self.by = by

    def now(self) -> datetime:
        return datetime.now(UTC) + self.by


async def test_a_clock_that_is_not_the_machines_sleeps_by_its_own_time() -> None:
    clock = Ahead(timedelta(hours=-1))
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await clock.sleep_until(clock.now() + timedelta(minutes=30))  # which is past by the machine's


@pytest.mark.parametrize("by", [timedelta(minutes=10), timedelta(hours=25)])
async def test_a_dead_workers_commands_are_taken_over_although_its_clock_was_set_back(
    tmp_path: Path, by: timedelta
) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    settings = RunnerSettings(
        lease=timedelta(milliseconds=200), due_poll=timedelta(milliseconds=50), stop_timeout=timedelta(0)
    )

    async def hangs(command: Any) -> None:
        await asyncio.sleep(60)

    async with SagaRunner(url, sagas=[OrderSaga], dispatch=hangs, clock=Ahead(by), settings=settings) as dead:
        await dead.handle(Placed("a"))
    delivered: list[Any] = []
    async with SagaRunner(url, sagas=[OrderSaga], dispatch=delivered.append, settings=settings):
        async with asyncio.timeout(40):
            while not delivered:
                await asyncio.sleep(0.01)
    assert delivered[0] == Reserve("a")
