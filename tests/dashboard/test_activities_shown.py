"""The page of an instance tells which activity is where, and each step what it did to them."""

from __future__ import annotations

from sagalog import InMemoryJournal, SagaRunner

from ..trips import TripRequested, TripSaga, World, refused
from .conftest import board_of, browsing


async def test_the_page_of_an_itinerary_tells_which_activity_is_where() -> None:
    journal = InMemoryJournal()
    world = World(answers={"hotel": refused("<b>full</b>")})
    async with SagaRunner(journal, sagas=[TripSaga(world)]) as running:
        await running.handle(TripRequested("T-1", car=False))
        await running.settle()
    async with browsing(board_of(journal, sagas=[TripSaga])) as browser:
        page = (await browser.get("/instance?saga=trip&id=T-1")).text
    assert "<h3>Activities</h3>" in page
    assert "<b>flight</b> undone" in page
    assert "<b>car</b> skipped: not needed" in page
    assert "<b>hotel</b> failed: refused: &lt;b&gt;full&lt;/b&gt;" in page
    assert "<dt>activities</dt><dd><b>flight</b> undone</dd>" in page
