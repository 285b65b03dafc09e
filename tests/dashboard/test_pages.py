"""What the pages tell, about whatever is in the journal."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import msgspec
import pytest
from starlette.applications import Starlette
from starlette.routing import Mount

from sagalog import InMemoryJournal, PersistentRepr, SagaRecord, SagaRunner, Status, open_journal
from sagalog.dashboard.mask import MASKED, Mask
from sagalog.decision.record import FORMAT, encode_record

from .. import phased
from ..orders import Noted, OrderSaga, Placed
from ..runner.trips import Asked, Booked, TripSaga
from ..servers.proxy import Proxy
from .conftest import EVIL, TOKEN, board_of, browsing, fill
from .test_overview import NOW


class Reader(HTMLParser):
    """The words of a page, its links, and its elements."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.words: list[str] = []
        self.links: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "a":
            self.links.append(dict(attrs).get("href") or "")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


async def read(browser: httpx.AsyncClient, page: str, expected: int = 200, /, **query: str) -> Reader:
    answer = await browser.get(page, params=query or None)
    assert answer.status_code == expected, answer.text
    return Reader(answer.text)


async def test_the_overview_counts_what_is_in_the_journal(client: httpx.AsyncClient) -> None:
    page = await read(client, "/")
    assert "Live 4 2 running, 0 compensating" in page.text
    assert "Need repair 2 1 parked, 1 failed to compensate" in page.text
    assert "handling Failing raised RuntimeError, 2 times 1 of order" in page.text
    assert "Undelivered 0 every command was accepted" in page.text


async def test_an_instance_page_tells_all_about_a_parked_one(client: httpx.AsyncClient) -> None:
    page = await read(client, "/instance", saga="order", id="parked")
    for part in (
        "Parked: handling Failing raised RuntimeError, 2 times",
        '"total": 8',
        "payment Overdue",
        "in 1",  # 15 min, or 14 min 59 s
        "Failing m4",
        "Noted m5",
        "Release undoes 1/0",
        "Parked by Failing parked",
        "Held Noted parked",
        "Reserve as 1/0",
        "set timer payment Overdue for",
        "accepted Reserve (1/0)",
        "by saga-",
        "1 message consumed",
    ):
        assert part in page.text, f"{part!r} is not in:\n{page.text}"


async def test_a_compensation_that_failed_says_what_is_left(client: httpx.AsyncClient) -> None:
    page = await read(client, "/instance", saga="order", id="failed")
    assert "Compensation failed. 2 commands still to be undone." in page.text
    assert "Refund undoes 3/0" in page.text or "Refund undoes 2/0" in page.text


async def test_a_finished_one_is_shown_as_long_as_it_is_remembered(client: httpx.AsyncClient) -> None:
    page = await read(client, "/instance", saga="order", id="finished")
    assert "cancelled finished: only remembered" in page.text
    assert "cancel by hand" in page.text.lower()


async def test_steps_come_a_page_at_a_time(client: httpx.AsyncClient, journal: InMemoryJournal) -> None:
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: None) as runner:
        await runner.handle(Placed("long"), message_id="l0")
        for number in range(40):
            await runner.handle(Noted("long", str(number)), message_id=f"l{number + 1}")
    seen: list[int] = []
    query = {"saga": "order", "id": "long"}
    while True:
        page = (await client.get("/instance", params=query)).text
        seen += [int(number) for number in re.findall(r'id="step-(\d+)"', page)]
        older = re.search(r'rel="next" href="[^"]*before=(\d+)"', page)
        if older is None:
            break
        query["before"] = older[1]
    latest = await journal.latest_message("saga::order::long")
    assert latest is not None
    assert seen == list(range(latest.sequence_nr, 0, -1))


async def test_what_is_not_there_is_not_found(client: httpx.AsyncClient) -> None:
    assert "There is no such instance" in (await read(client, "/instance", 404, saga="order", id="nobody")).text
    for query in ({}, {"saga": "order"}, {"saga": "a::b", "id": "c"}, {"saga": "order", "id": "x" * 2000}):
        await read(client, "/instance", 404, **query)
    await read(client, "/saga", 404, name="nothing")
    await read(client, "/instance/payload", 404, saga="order", id="parked", version="77")
    for number in ("-1", "x", "²", "9" * 18, "9" * 40):
        await read(client, "/instance", saga="order", id="parked", before=number, done=number)
        where = {"saga": "order", "id": "parked", "version": number}
        assert (await client.get("/instance/payload", params=where)).status_code == (404 if number == "9" * 18 else 200)
    await read(client, "/nothing", 404)
    await read(client, "/instance", saga="order", id="parked", before="not a number")


async def test_ids_and_payloads_hold_nothing_that_acts(client: httpx.AsyncClient) -> None:
    found = await read(client, "/instances", id="..", status="all")
    (link,) = {one for one in found.links if one.startswith("/instance?")}
    assert parse_qs(urlsplit(link).query)["id"] == [EVIL]
    for address in (link, "/instances?status=all", "/", "/saga?name=order", link.replace("/instance?", "/repair?")):
        answer = await client.get(address)
        scripts = [attributes for tag, attributes in Reader(answer.text).tags if tag == "script"]
        assert all(one.get("src", "").startswith("/static/") for one in scripts)
        assert "alert(1)" not in re.sub(r"&lt;script&gt;alert\(1\)", "", answer.text)
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", answer.text)
    page = await read(client, link)
    assert "<script>alert(1)</script>" in page.text
    assert "\\x1b[2J\\u202e" in page.text
    whole = await client.get(link.replace("/instance?", "/instance/payload?"))
    assert whole.headers["content-type"] == "text/plain; charset=utf-8"
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f\u202e]", whole.text)


@pytest.mark.parametrize("name", ["..", ".", "a/b", "", "%2e%2e", "?x=1#y", "😀", "\x00", "\r\nSet-Cookie: x=1", " "])
async def test_every_id_has_a_page_of_its_own(name: str) -> None:
    journal = InMemoryJournal()
    record = encode_record(SagaRecord(FORMAT, Status.RUNNING, msgspec.Raw(b'{"mine":1}'), NOW, NOW))
    await journal.write_messages([PersistentRepr(f"saga::a::{name}", 1, record)])
    async with browsing(board_of(journal)) as browser:
        (link,) = {one for one in (await read(browser, "/instances")).links if one.startswith("/instance?")}
        assert '"mine": 1' in (await read(browser, link)).text


@pytest.mark.parametrize(
    "payload",
    [b"\xff\x00", b"{}", b"[1]", b'{"format": 99}', b"", b"[" * 100_000],
    ids=lambda payload: payload[:9].hex(),
)
async def test_a_record_that_cannot_be_read_is_said_to_be_so_and_nothing_breaks(payload: bytes) -> None:
    journal = InMemoryJournal()
    await journal.write_messages([PersistentRepr("saga::a::x", 1, payload)])
    async with browsing(board_of(journal)) as browser:
        page = await read(browser, "/instance", saga="a", id="x")
        assert "cannot be read" in page.text or "Only the ids" in page.text
        await read(browser, "/")
        await read(browser, "/instances", status="all")
        await read(browser, "/instance/payload", 404, saga="a", id="x")


async def test_a_huge_state_is_cut_and_can_be_had_whole() -> None:
    journal = InMemoryJournal()
    state = msgspec.json.encode({"text": "x" * 500_000 + "the end"})
    record = encode_record(SagaRecord(FORMAT, Status.RUNNING, msgspec.Raw(state), NOW, NOW))
    await journal.write_messages([PersistentRepr("saga::a::x", 1, record)])
    async with browsing(board_of(journal)) as browser:
        answer = await browser.get("/instance", params={"saga": "a", "id": "x"})
        assert len(answer.text) < 60_000
        assert "more characters" in answer.text
        assert "the end" not in answer.text
        assert "the end" in (await browser.get("/instance/payload", params={"saga": "a", "id": "x"})).text


async def test_a_deep_state_is_shown_or_said_not_to_be() -> None:
    journal = InMemoryJournal()
    deep = msgspec.Raw(b'{"a":' * 900 + b"1" + b"}" * 900)
    record = encode_record(SagaRecord(FORMAT, Status.RUNNING, deep, NOW, NOW))
    await journal.write_messages([PersistentRepr("saga::a::x", 1, record)])
    async with browsing(board_of(journal, masks=["secret"])) as browser:
        await read(browser, "/instance", saga="a", id="x")


async def test_masked_fields_are_shown_nowhere() -> None:
    journal = InMemoryJournal()
    await fill(journal)
    async with browsing(board_of(journal, masks=["TEXT", "total", "err*", "log"])) as browser:
        for page in ("/instance", "/instance/payload"):
            text = (await browser.get(page, params={"saga": "order", "id": "parked"})).text
            assert MASKED in text
            assert "boom" not in text
            assert "later" not in text
            assert '"total": 8' not in text
            assert "&#34;total&#34;: 8" not in text
        evil = (await browser.get("/instance", params={"saga": "order", "id": EVIL})).text
        assert "pwned" not in evil
        assert f"<del>&#34;{MASKED}&#34;</del>" in evil  # that it has changed is seen


async def test_a_result_is_shown_and_masked_as_a_state_is() -> None:
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[TripSaga], dispatch=lambda command: None) as runner:
        await runner.handle(Asked("T-1"))
        await runner.handle(Booked("T-1", "B-77"))
        await runner.settle()
    for masks, shows in (([], True), (["number"], False), (["result", "trip", "number"], False)):
        async with browsing(board_of(journal, masks=masks)) as browser:
            page = await read(browser, "/instance", saga="trip", id="T-1")
            assert "Result Booking" in page.text
            assert ("B-77" in page.text) is shows
            assert ("pages" in page.text) is ("result" not in masks)
            assert (
                "B-77" in (await browser.get("/instance/payload", params={"saga": "trip", "id": "T-1"})).text
            ) is shows


@pytest.mark.parametrize(
    ("pattern", "hidden"),
    [
        ("password", {"password", "user.password", "users.password"}),
        ("card.*", {"card.number", "card.holder", "user.card.number"}),
        ("user.card.number", {"user.card.number"}),
        ("*_token", {"api_token", "user.api_token"}),
        ("PassWord", {"password", "user.password", "users.password"}),
    ],
)
def test_a_mask_hides_a_field_at_its_path(pattern: str, hidden: set[str]) -> None:
    paths = {
        "password",
        "user.password",
        "users.password",
        "card.number",
        "card.holder",
        "user.card.number",
        "api_token",
        "user.api_token",
        "number",
    }
    mask = Mask([pattern])
    assert {path for path in paths if mask.hides(tuple(path.split(".")))} == hidden
    assert Mask(["b"]).apply({"a": [{"b": {"c": 1}}, {"x": 1}], "b": [2]}) == {
        "a": [{"b": MASKED}, {"x": 1}],
        "b": MASKED,
    }


async def says(browser: httpx.AsyncClient, page: str, text: str, *, without: str = "\0") -> bool:
    words = Reader((await browser.get(page)).text).text
    return text in words and without not in words


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(40):
        while not await holds():
            await asyncio.sleep(0.02)  # the app is called directly: nothing else would let the journal have its turn


async def test_a_journal_that_is_down_says_so_and_comes_back_by_itself(postgres_schema: str) -> None:
    address = urlsplit(postgres_schema)
    assert address.port is not None
    proxy = Proxy(address.port)
    url = postgres_schema.replace(f":{address.port}/", f":{proxy.port}/") + "&connect_seconds=0.3&timeout_seconds=3"
    try:
        async with open_journal(postgres_schema) as journal:
            await fill(journal)
        async with browsing(board_of(url)) as browser:
            assert '"total": 8' in (await read(browser, "/instance", saga="order", id="parked")).text
            proxy.block()
            answer = await browser.get("/instance?saga=order&id=parked")
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "5"
            assert 'http-equiv="refresh"' in answer.text
            assert "The journal does not answer" in answer.text
            await until(lambda: says(browser, "/", "The journal does not answer"))  # the counts know soon
            assert "Need repair 2" in (await read(browser, "/")).text  # as last known
            proxy.block(False)
            await until(lambda: says(browser, "/instance?saga=order&id=parked", "Parked by Failing"))
            await until(lambda: says(browser, "/", "Need repair 2", without="The journal does not answer"))
    finally:
        proxy.close()


async def test_a_file_that_is_not_there_is_not_made_and_is_read_when_it_is(tmp_path: Path) -> None:
    file = tmp_path / "orders.db"
    app = board_of(f"sqlite:///{file}")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as browser:
        assert "does not exist, and was not created." in (await read(browser, "/instances", 503)).text
        assert not file.exists()
        async with open_journal(f"sqlite:///{file}") as journal:
            await fill(journal)
        await until(lambda: says(browser, "/instances", "handling Failing raised"))
    await app.stop()


async def test_it_works_below_a_path_of_another_app(journal: InMemoryJournal) -> None:
    dashboard = board_of(journal)
    app = Starlette(routes=[Mount("/admin/sagas", dashboard)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as browser:
        page = await read(browser, "/admin/sagas/")
        assert all(link.startswith(("/admin/sagas/", "#")) for link in page.links)
        for link in [*page.links, "/admin/sagas/static/dashboard.css"]:
            if link.startswith("/"):
                assert (await browser.get(link)).status_code == 200, link
        answer = await browser.post("/admin/sagas/login", data={"token": TOKEN, "next": "/elsewhere"})
        assert answer.headers["location"] == "/admin/sagas/"
        assert "Path=/admin/sagas" in answer.headers["set-cookie"]
        assert "Sign out" in (await browser.get("/admin/sagas/")).text
    await dashboard.stop()


async def test_every_page_has_what_a_screen_reader_needs(operator: httpx.AsyncClient) -> None:
    query = "saga=order&id=parked"
    for address in (
        "/",
        "/instances",
        f"/instance?{query}",
        "/saga?name=order",
        "/login",
        f"/repair?{query}&action=skip",
    ):
        page = Reader((await operator.get(address)).text)
        names = [tag for tag, _ in page.tags]
        assert names.count("h1") == 1, address
        assert names.count("main") == 1
        assert dict(page.tags)["html"]["lang"] == "en"
        labels = {attributes.get("for") for tag, attributes in page.tags if tag == "label"}
        for tag, attributes in page.tags:
            if tag in ("input", "select", "textarea") and attributes.get("type") != "hidden":
                assert attributes["id"] in labels, (address, attributes)
            if tag == "th":
                assert attributes.get("scope") in ("col", "row"), address
            if tag == "svg":
                assert attributes.get("aria-label") or attributes.get("aria-hidden"), address
            if tag == "img":
                assert "alt" in attributes
        assert names.count("table") == names.count("caption")
        ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(ids) == len(set(ids)), address


@pytest.mark.parametrize("saga", ["a::b", "a:", "::", ""])
async def test_a_saga_name_that_is_none_never_shows_another_instance(saga: str) -> None:
    journal = InMemoryJournal()
    record = encode_record(SagaRecord(FORMAT, Status.RUNNING, msgspec.Raw(b'{"mine":1}'), NOW, NOW))
    await journal.write_messages([PersistentRepr(f"saga::a::{name}", 1, record) for name in ("b::c", ":c", "c")])
    async with browsing(board_of(journal)) as browser:
        await read(browser, "/instance", 404, saga=saga, id="c")
        assert '"mine": 1' in (await read(browser, "/instance", saga="a", id="c")).text


async def test_the_pages_tell_phases_and_what_is_kept() -> None:
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[phased.Orders], dispatch=lambda command: None) as runner:
        for order in ("new", "old"):
            await runner.handle(phased.Placed(order))
            await runner.handle(phased.Labelled(order, "<b>x</b>"), message_id=f"label {order}")
        await runner.handle(phased.Paid("old"))
        await runner.settle()
    async with browsing(board_of(journal, sagas=[phased.Orders])) as browser:
        page = (await browser.get("/instance?saga=phased&id=new")).text
        assert "phase <b>PLACED</b>" in page
        assert "Kept messages" in page
        assert "label new" in page
        assert "<b>x</b>" not in page
        page = (await browser.get("/instance?saga=phased&id=old")).text
        assert '<span class="badge">kept</span>' in page
        assert "<dt>enters</dt><dd>PAID</dd>" in page
        listed = (await browser.get("/instances?saga=phased&phase=PAID")).text
        assert ("id=old" in listed, "id=new" in listed) == (True, False)
        assert (
            '<a href="/instances?saga=phased&amp;phase=PAID">PAID</a> 1'
            in (await browser.get("/saga?name=phased")).text
        )
