"""The page of an instance shows its family, with links, and each step what it heard of it."""

from __future__ import annotations

from sagalog import InMemoryJournal, RetryPolicy, RunnerSettings, SagaRunner

from ..families import Delivered, Ordered, OrderSaga, ParcelSaga
from .conftest import board_of, browsing


async def test_the_page_of_an_instance_shows_its_parent_and_its_children() -> None:
    journal = InMemoryJournal()
    settings = RunnerSettings(handler_retry=RetryPolicy(attempts=1))
    async with SagaRunner(
        journal, sagas=[OrderSaga, ParcelSaga], dispatch=lambda command: None, settings=settings
    ) as running:
        for event in (Ordered("a", 2), Delivered("a-0"), Ordered("b<", 1, "raise")):
            await running.handle(event)
            await running.settle()
    async with browsing(board_of(journal, sagas=[OrderSaga, ParcelSaga])) as browser:
        page = (await browser.get("/instance?saga=order&id=a")).text
        child = (await browser.get("/instance?saga=parcel&id=a-1")).text
        other = (await browser.get("/instance?saga=order&id=b%3C")).text
    assert "<h3>Family</h3>" in page
    assert 'href="/instance?saga=parcel&amp;id=a-1">parcel a-1</a> running' in page
    assert "Children: 1 running, 1 completed." in page
    assert "parcel completed" in page
    assert "parent <a" in child
    assert "parcel b&lt;-0</a> parked: handling ShipParcel raised ValueError, 1 time" in other
