"""Finding instances: every filter, a page at a time, with bounded work."""

from __future__ import annotations

import re
from html import unescape
from urllib.parse import urlencode

import httpx
import msgspec
import pytest

from sagalog import InMemoryJournal, PersistentRepr, SagaRecord, SagaRunner, Status
from sagalog.dashboard import search as module
from sagalog.decision.record import FORMAT, encode_record
from sagalog.journal import Journal

from ..guests import Came, GuestSaga, RoomSaga, Went
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


@pytest.mark.parametrize("saga", ["a", "\x00", "x" * 2000])
@pytest.mark.parametrize("where", ["\x00", "customer\x00=c-1", "x" * 2000 + "=1", "=", "customer=\x00", "\ud800=1"])
async def test_a_field_that_no_index_can_have_is_found_nowhere(saga: str, where: str) -> None:
    memory = InMemoryJournal()
    await write(memory, "a", "x")
    async with browsing(board_of(memory)) as browser:
        query = urlencode({"saga": saga, "where": where}, errors="surrogatepass")
        answer = await browser.get(f"/instances?{query}")
    assert answer.status_code == 200
    assert "There is no such instance." in answer.text


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


async def test_a_field_of_the_index_leads_to_its_instances_page_by_page(
    any_journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the journal's index where it has one, and by looking through the records elsewhere: with the same pages."""
    monkeypatch.setattr(module, "PAGE", 4)
    for saga in ("a", "b"):
        for number in range(12):
            index = {"customer": f"c-{number % 2}", "mark": None}
            ended = Status.COMPLETED if number == 11 else Status.RUNNING
            record = SagaRecord(FORMAT, ended, msgspec.Raw(b"{}"), NOW, NOW, index=index)
            terms = (f"{saga} customer={index['customer']}", f"{saga} mark")
            name = f"saga::{saga}::{saga}{number:02}"
            message = PersistentRepr(name, 1, encode_record(record), deleted=record.finished, terms=terms)
            await any_journal.write_messages([message])
    odd = [f"{saga}{number:02}" for saga in "ab" for number in (1, 3, 5, 7, 9)]
    async with browsing(board_of(any_journal)) as browser:
        for query, expected in (
            ({"where": "customer=c-1"}, odd),
            ({"where": " customer=c-1", "saga": "a"}, odd[:5]),
            ({"where": "customer=c-1", "id": "b0"}, odd[5:]),
            ({"where": "customer=c-1", "status": "all"}, [*odd, "a11", "b11"]),
            ({"where": "customer=c"}, []),
            ({"where": "customer"}, []),
            ({"where": "mark", "saga": "b"}, [f"b{number:02}" for number in range(11)]),
            ({"where": "customer=c-1", "after": "2:saga::a::\x00garbage"}, None),
        ):
            answer = await browser.get("/instances", params=query)
            if expected is None:
                assert answer.status_code < 500 or "an offset of this journal" in answer.text
                continue
            found = [one for page in await pages(browser, **query) for one in page]
            assert sorted(found) == sorted(expected), query
    async with browsing(board_of(any_journal, masks=["customer"])) as browser:
        text = (await browser.get("/instances", params={"where": "customer=c-1"})).text
        assert "customer=c-1" not in text  # or the masked value could be guessed
        assert "a00" in text


async def test_a_key_leads_to_the_instances_that_hold_it_page_by_page(
    any_journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PAGE", 4)
    async with SagaRunner(any_journal, sagas=[GuestSaga, RoomSaga]) as runner:
        for number in range(9):
            badge = "blue" if number % 3 == 0 else None
            await runner.handle(Came(f"g{number}", number, company="blue", badge=badge))
        await runner.handle(Went("g8"))
        await runner.settle()
    everyone = [f"g{number}" for number in range(8)]
    async with browsing(board_of(any_journal)) as browser:
        for query, expected in (
            ({"where": "company=blue"}, everyone * 2),
            ({"where": "company=blue", "saga": "room"}, everyone),
            ({"where": "room=5"}, ["g5", "g5"]),
            ({"where": "room=5", "saga": "room", "status": "all"}, ["g5"]),
            ({"where": "badge=blue"}, ["g0", "g3", "g6"] * 2),
            ({"where": "badge"}, ["g1", "g2", "g4", "g5", "g7"] * 2),
            ({"where": "room=8"}, []),
            ({"where": "company"}, []),
        ):
            found = [one for page in await pages(browser, **query) for one in page]
            assert sorted(found) == sorted(expected), query
