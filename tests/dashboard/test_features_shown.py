"""The page of an instance shows what it waits for: rules of timers, answers, joins, gathers and numbers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from sagalog import CommandRefused, InMemoryJournal, ManualClock, SagaRunner

from .. import asking, gathering, joining, numbered, ticking
from .conftest import board_of, browsing

SAGAS = [asking.AskSaga, gathering.GatherSaga, joining.JoinSaga, numbered.Meters, ticking.TickSaga]


def refuse_one(command: Any) -> Any:
    if isinstance(command, gathering.Ship):
        if command.number == 1:
            raise CommandRefused("too heavy")
        if command.number == 0:
            return gathering.Shipped(command.id, 0)
    return None


async def test_the_page_of_an_instance_shows_what_it_waits_for() -> None:
    journal, clock = InMemoryJournal(), ManualClock(datetime.now(UTC))
    async with SagaRunner(journal, sagas=SAGAS, dispatch=refuse_one, clock=clock) as running:
        await running.handle(ticking.Begun("ticks", "skip"))
        await running.handle(asking.Wanted("asks", "ignore", by_type=True))
        clock.advance(timedelta(minutes=3))
        await running.settle()
        await running.handle(joining.Ordered("joins"))
        await running.handle(joining.Paid("joins"))
        await running.handle(gathering.Begun("gathers", 4, wait=True))
        for number in (1, 4):
            await running.handle(numbered.Measured("counts", "a", number))
        await running.settle()
        clock.advance(timedelta(hours=1.5))
        await running.settle()
    async with browsing(board_of(journal, sagas=SAGAS)) as browser:
        shown = {
            name: (await browser.get("/instance", params={"saga": saga, "id": name})).text
            for saga, name in (
                ("ask", "asks"),
                ("gather", "gathers"),
                ("join", "joins"),
                ("numbered", "counts"),
                ("tick", "ticks"),
            )
        }
    assert '<code>Ask</code> 1/0</span><span class="count">late answer: ignore</span>' in shown["asks"]
    assert "<b>parcels</b> 2 of 4 have come, 1 of them refused" in shown["gathers"]
    assert '<span class="count">2 under way</span>' in shown["gathers"]
    assert "<b>ready</b> waits for <code>Reserved</code>" in shown["joins"]
    assert '<b>Measured/a</b></span><span class="count">5 comes next</span>' in shown["counts"]
    assert "every 1:00:00, missed: skip" in shown["ticks"]
    assert "timer tick missed" in shown["ticks"]
