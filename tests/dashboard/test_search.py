"""Finding instances: every filter, a page at a time, with bounded work."""

from __future__ import annotations

import re
from html import unescape

import httpx
import msgspec
import pytest

from sagalog import InMemoryJournal, PersistentRepr, SagaRecord, Status
from sagalog.dashboard import search as module
from sagalog.decision.record import FORMAT, encode_record
from sagalog.journal import Journal

from .conftest import board_of, browsing
from .test_overview import NOW


async def write(journal: Journal, saga: str, name: str, status: Status = Status.RUNNING, parked: str = "") -> None:
    record = SagaRecord(FORMAT, status, msgspec.Raw(b"{}"), NOW, NOW, parked=parked)
    await journal.write_messages(
        [PersistentRepr(f"saga::{saga}::{name}", 1, encode_record(record), deleted=record.finished)]
    )


async def pages(browser: httpx.AsyncClient, **query: str) -> list[list[str]]:
    """All pages of a search, each as the ids that it shows: followed by the links, as a person would."""
    found: list[list[str]] = []
    address = str(httpx.URL("/instances", params=query))
    while address:
        page = (await browser.get(address)).text
        found.append([unescape(one) for one in re.findall(r'<a class="id" href="[^"]*">([^<]*)</a>', page)])
        following = re.search(r'rel="next" href="([^"]*)"', page)
        address = unescape(following[1]) if following else ""
        assert len(found) < 100
    return found


async def test_filters_and_pages_together_show_each_instance_once(
    any_journal: Journal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "PAGE", 4)
    monkeypatch.setattr(module, "BUDGET", 7)
    for saga in ("a", "ab", "b"):
        for number in range(9):
            await write(any_journal, saga, f"x{number}")
        await write(any_journal, saga, "y1", parked="the bank is away")
        await write(any_journal, saga, "y2", parked="the shelf is empty")
        for number in range(5):
            await write(any_journal, saga, f"z{number}", Status.COMPLETED)
    async with browsing(board_of(any_journal)) as browser:
        for query, expected in (
            ({}, 3 * 11),
            ({"saga": "a"}, 11),
            ({"saga": "a", "status": "all"}, 16),
            ({"status": "all"}, 48),
            ({"status": "completed"}, 15),
            ({"status": "completed", "id": "z3"}, 3),
            ({"status": "running", "id": "x"}, 27),
            ({"status": "parked"}, 6),
            ({"status": "parked", "saga": "ab", "reason": "BANK"}, 1),
            ({"status": "repair"}, 6),
            ({"id": "8", "anywhere": "1"}, 3),
            ({"id": "8"}, 0),
            ({"reason": "shelf"}, 3),
            ({"status": "compensated"}, 0),
            ({"status": "nonsense"}, 33),
            ({"saga": "none"}, 0),
        ):
            found = await pages(browser, **query)
            assert sum(map(len, found)) == expected, query
            assert all(len(page) <= 4 for page in found)


@pytest.mark.parametrize("after", ["x", "0:", "7:saga::a::", "0:saga::", "0:nothing", "1:saga::zz::z", "\x00"])
async def test_a_link_that_was_made_up_breaks_nothing(after: str) -> None:
    memory = InMemoryJournal()
    await write(memory, "a", "x")
    async with browsing(board_of(memory)) as browser:
        for status in ("live", "parked", "overdue", "undelivered", "all"):
            assert (await browser.get("/instances", params={"after": after, "status": status})).status_code == 200


async def test_a_search_that_found_nothing_yet_says_how_far_it_looked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUDGET", 10)
    memory = InMemoryJournal()
    for number in range(30):
        await write(memory, "a", f"{number:02}")
    async with browsing(board_of(memory)) as browser:
        page = (await browser.get("/instances?id=9&anywhere=1")).text
        assert "10 looked at" in page
        assert "Search on" in page
        assert "09" in page
        assert sum(map(len, await pages(browser, id="9", anywhere="1"))) == 3
