"""The page of an instance tells its keys, and each step which it took or gave up; a mask hides their values."""

from __future__ import annotations

from sagalog import InMemoryJournal, SagaRunner

from ..keyed import Deliver, Moved, Ordered, ParcelSaga
from .conftest import board_of, browsing


async def test_the_page_tells_the_keys_of_an_instance_and_a_mask_hides_them() -> None:
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[ParcelSaga], dispatch={Deliver: lambda command: None}) as running:
        await running.handle(Ordered("A", ["<b>c</b>", "d"]))
        await running.handle(Moved("A", old="d", new="e"))
        await running.settle()
    async with browsing(board_of(journal, sagas=[ParcelSaga])) as browser:
        page = (await browser.get("/instance?saga=parcel&id=A")).text
    assert "<h3>Keys</h3>" in page
    assert "customer <code>&lt;b&gt;c&lt;/b&gt;</code>" in page
    assert "<dt>takes the key</dt><dd>customer <code>e</code></dd>" in page
    assert "<dt>gives up the key</dt><dd>customer <code>d</code></dd>" in page
    async with browsing(board_of(journal, sagas=[ParcelSaga], masks=["customer"])) as browser:
        for address in ("/instance?saga=parcel&id=A", "/instance/payload?saga=parcel&id=A"):
            page = (await browser.get(address)).text
            assert "&lt;b&gt;c" not in page
            assert "customer" in page
