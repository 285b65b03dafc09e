"""An event sent from a form of the dashboard: checked, told what became of it, and only by who may repair."""

from __future__ import annotations

import html
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from playwright.async_api import expect

from sagalog import DefinitionError, EventClock, InMemoryJournal, SagaRunner
from sagalog.dashboard import dashboard_app
from sagalog.dashboard.access import OPERATOR
from sagalog.operating.steps import steps

from ..orders import OrderSaga, World
from .conftest import EVIL, QUICK, TOKEN, board_of, browsing
from .serving import chromium, served, sign_in, tab
from .test_access import ATTACKS, versions


def runner_of(**settings: Any) -> SagaRunner:
    return SagaRunner("sqlite:///unused.db", sagas=[OrderSaga], dispatch=World(), **settings)


@pytest.fixture
async def sender(journal: InMemoryJournal) -> AsyncIterator[httpx.AsyncClient]:
    """An operator of a dashboard that was given a runner."""
    async with browsing(board_of(journal, runner=runner_of()), signed_in=True) as browser:
        yield browser


async def form_of(browser: httpx.AsyncClient) -> dict[str, str]:
    page = (await browser.get("/send")).text.partition("<main")[2]
    return {
        name: html.unescape(value) for name, value in re.findall(r'<input[^>]* name="(\w+)"[^>]* value="([^"]*)"', page)
    }


async def send(browser: httpx.AsyncClient, kind: str, fields: str, **changes: str) -> httpx.Response:
    return await browser.post("/send", data={**await form_of(browser), "type": kind, "json": fields, **changes})


def said(answer: httpx.Response) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", html.unescape(answer.text.partition("<main")[2])))


async def test_the_form_offers_the_types_that_the_sagas_take_with_their_fields(sender: httpx.AsyncClient) -> None:
    page = (await sender.get("/send")).text
    offered = re.findall(r"<option[^>]*>(\w+)</option>", page)
    assert offered == sorted(cls.__name__ for cls in OrderSaga.event_types())
    assert '<a href="/send" aria-current="page">' in page
    shown = said(await sender.get("/send"))
    assert "Placed order_id: str , total: int (may be left out)" in shown


async def test_an_event_is_stored_and_told_of_and_a_worker_does_what_follows(
    sender: httpx.AsyncClient, journal: InMemoryJournal
) -> None:
    answer = await send(sender, "Placed", '{"order_id": "A/1", "total": 3}', message_id="by hand")
    assert answer.status_code == 200
    assert "Placed was sent as by hand" in said(answer)
    assert 'href="/instance?saga=order&amp;id=A%2F1"' in answer.text
    assert "handled" in said(answer)
    world = World()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=world, settings=QUICK) as worker:
        assert (await worker.state(OrderSaga, "A/1")).total == 3
        await worker.settle()
    assert "Reserve" in world.names


async def test_the_same_form_sent_twice_changes_nothing_twice(
    sender: httpx.AsyncClient, journal: InMemoryJournal
) -> None:
    form = {**await form_of(sender), "type": "Noted", "json": '{"order_id": "running", "text": "once"}'}
    assert form["message_id"].startswith("dashboard-")
    assert form["message_id"] != (await form_of(sender))["message_id"]
    assert "handled" in said(await sender.post("/send", data=form))
    before = versions(journal)
    assert "duplicate" in said(await sender.post("/send", data=form))
    assert versions(journal) == before


async def sent_by(journal: InMemoryJournal, correlation_id: str) -> tuple[list[str], list[str]]:
    """Who has sent what an instance has handled, and what came to be held, where that is known."""
    records = [step.view.record async for step in steps(journal, "order", correlation_id)]
    handled = [one.by for record in records if record is not None for one in record.handled if one.by]
    held = {one.by: one.id for record in records if record is not None for one in record.held if one.by}
    return handled, list(held)


async def test_who_has_sent_it_stands_in_the_record_and_on_the_page(
    sender: httpx.AsyncClient, journal: InMemoryJournal
) -> None:
    assert 'name="by"' in (await sender.get("/send")).text
    answer = await send(sender, "Noted", '{"order_id": "running", "text": "x"}', by=" Ada <b> ")
    assert 'value="Ada &lt;b&gt;"' in answer.text  # for the next one
    assert await sent_by(journal, "running") == (["Ada <b>"], [])
    assert "sent by Ada &lt;b&gt;" in (await sender.get("/instance?saga=order&id=running")).text


async def test_who_has_sent_what_is_held_stands_in_the_record_until_it_is_handled_and_after(
    sender: httpx.AsyncClient, journal: InMemoryJournal
) -> None:
    assert "held" in said(await send(sender, "Noted", '{"order_id": "parked", "text": "x"}', by="ada"))
    assert await sent_by(journal, "parked") == ([], ["ada"])
    assert "sent by ada" in said(await sender.get("/instance?saga=order&id=parked"))
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=World(), settings=QUICK) as worker:
        await worker.skip(OrderSaga, "parked")
        await worker.settle()
    assert await sent_by(journal, "parked") == (["ada"], ["ada"])


async def test_who_is_known_to_have_signed_in_is_asked_for_no_name_and_cannot_give_another(
    journal: InMemoryJournal,
) -> None:
    board = board_of(journal, runner=runner_of())
    async with browsing(board, signed_in=True) as known:

        async def signed_in_elsewhere(scope: Any, receive: Any, send: Any) -> None:
            await board({**scope, OPERATOR: "grace"}, receive, send)

        transport = httpx.ASGITransport(signed_in_elsewhere)
        browser = httpx.AsyncClient(transport=transport, base_url=known.base_url, cookies=known.cookies)
        for page in ("/send", "/repair?saga=order&id=parked&action=skip", "/commands"):
            shown = await browser.get(page)
            assert 'name="by"' not in shown.text
            assert "Your name, grace , is kept" in said(shown)
        await send(browser, "Noted", '{"order_id": "running", "text": "x"}', by="another operator or worker")
    assert await sent_by(journal, "running") == (["grace"], [])


WRONG = {
    "no JSON": ("Placed", '{"order_id": ', "it is not JSON in UTF-8"),
    "nested too deeply": ("Placed", "[" * 5000, "it is not JSON in UTF-8"),
    "a field of another type": ("Placed", '{"order_id": "A", "total": "secret"}', "got `str` - at `$.total`"),
    "a field that is missing": ("Placed", '{"total": 1}', "missing required field `order_id`"),
    "another value altogether": ("Placed", "7", "that JSON is not a valid Placed: Expected `object`, got `int`"),
    "an unknown type": ("Nothing", "{}", "no saga takes 'Nothing'"),
    "no key": ("Placed", '{"order_id": ""}', "order_id"),
    "an id that is too long": ("Placed", '{"order_id": "A"}', "message id"),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG)
async def test_what_is_wrong_with_an_event_is_said_and_nothing_is_stored(
    wrong: str, sender: httpx.AsyncClient, journal: InMemoryJournal
) -> None:
    kind, fields, told = WRONG[wrong]
    before = versions(journal)
    changes = {"message_id": "x" * 5000} if "too long" in wrong else {}
    answer = await send(sender, kind, fields, **changes)
    assert answer.status_code in (409, 422)
    assert told in said(answer)
    assert "Nothing was stored" in said(answer)
    assert html.escape(fields, quote=False) in answer.text.replace("&#34;", '"')  # one need not write it again
    assert versions(journal) == before


async def test_what_nobody_takes_is_told(sender: httpx.AsyncClient) -> None:
    answer = await send(sender, "Noted", '{"order_id": "nobody"}')
    assert answer.status_code == 200
    assert "no instance" in said(answer)


async def test_a_saga_that_declines_says_why(journal: InMemoryJournal) -> None:
    strict = runner_of(settings=type(QUICK)(no_instance="raise"))
    async with browsing(board_of(journal, runner=strict), signed_in=True) as browser:
        answer = await send(browser, "Noted", '{"order_id": "nobody"}')
        assert answer.status_code == 409
        assert "there never was such an instance," in said(answer)


async def test_what_is_typed_is_escaped(sender: httpx.AsyncClient) -> None:
    for kind, fields, message_id in ((EVIL, EVIL, "m"), ("Noted", EVIL, EVIL)):
        answer = await send(sender, kind, fields, message_id=message_id)
        assert answer.status_code == 422
        assert "<script>alert" not in answer.text
    answer = await send(sender, "Placed", '{"order_id": "<script>alert(1)</script>"}')
    assert "<script>alert" not in answer.text


@pytest.mark.parametrize("attack", ATTACKS)
async def test_an_event_that_did_not_begin_on_our_page_is_refused(
    attack: str, sender: httpx.AsyncClient, journal: InMemoryJournal
) -> None:
    changes = dict(ATTACKS[attack])
    headers = changes.pop("headers", {})
    form = {**await form_of(sender), "type": "Placed", "json": '{"order_id": "forged"}', **changes}
    before = versions(journal)
    answer = await sender.post("/send", data=form, headers=headers)
    assert answer.status_code == 403
    assert versions(journal) == before


async def test_who_has_not_signed_in_is_shown_no_form_and_sends_nothing(journal: InMemoryJournal) -> None:
    async with browsing(board_of(journal, runner=runner_of())) as reader:
        asked = await reader.get("/send")
        assert (asked.status_code, asked.headers["location"]) == (303, "/login?next=%2Fsend")
        before = versions(journal)
        answer = await reader.post("/send", data={"type": "Placed", "json": '{"order_id": "A"}', "message_id": "m"})
        assert answer.status_code == 403
        assert versions(journal) == before


async def test_without_a_runner_there_is_no_form(operator: httpx.AsyncClient, journal: InMemoryJournal) -> None:
    asked = await operator.get("/send")
    assert asked.status_code == 404
    assert "--runner" in said(asked)
    assert 'href="/send"' not in (await operator.get("/")).text
    form_token = re.search(r'name="form_token" value="(\w+)"', asked.text)
    assert form_token is not None
    before = versions(journal)
    sent = {"form_token": form_token[1], "type": "Placed", "json": '{"order_id": "A"}'}
    assert (await operator.post("/send", data=sent)).status_code == 404
    assert versions(journal) == before


async def test_a_journal_that_is_away_is_told_and_the_form_stays(
    sender: httpx.AsyncClient, journal: InMemoryJournal, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sagalog import OutcomeUnknownError

    async def lost(records: Any) -> Any:
        raise OutcomeUnknownError("the connection broke")

    form = await form_of(sender)
    monkeypatch.setattr("sagalog.dashboard.sender.SEND_SECONDS", 0.2)
    monkeypatch.setattr(journal, "write_batch", lost)
    answer = await sender.post("/send", data={**form, "type": "Placed", "json": '{"order_id": "A"}'})
    assert answer.status_code == 503
    assert "It may be stored" in said(answer)
    assert form["message_id"] in answer.text
    monkeypatch.undo()
    assert "handled" in said(await sender.post("/send", data={**form, "type": "Placed", "json": '{"order_id": "A"}'}))


@pytest.mark.parametrize("runner", [OrderSaga, SagaRunner("memory://", sagas=[OrderSaga], clock=EventClock())])
def test_what_cannot_send_is_refused_when_the_dashboard_is_made(runner: Any) -> None:
    with pytest.raises(DefinitionError, match="runner=|EventClock"):
        dashboard_app(InMemoryJournal(), token=TOKEN, runner=runner)


@pytest.mark.filterwarnings("default::ResourceWarning")
async def test_an_event_is_sent_by_clicks_and_its_instance_is_looked_at(journal: InMemoryJournal) -> None:
    async with served(board_of(journal, runner=runner_of())) as address, chromium() as browser:
        _, page, complaints = await tab(browser, viewport={"width": 360, "height": 700})
        await sign_in(page, address)
        await page.get_by_role("navigation").get_by_role("link", name="Send an event").click()
        await page.get_by_label("Event type").wait_for()
        assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        await page.get_by_label("Event type").select_option("Placed")
        await page.get_by_label("Its fields, as JSON").fill('{"order_id": "clicked", "total": "five"}')
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("alert")).to_contain_text("at `$.total`")
        await expect(page.get_by_label("Event type")).to_have_value("Placed")
        await page.get_by_label("Its fields, as JSON").fill('{"order_id": "clicked", "total": 5}')
        await page.get_by_role("button", name="Send").click()
        await page.get_by_role("link", name="clicked").click()
        await expect(page.get_by_role("region", name="State")).to_contain_text('"total": 5')
        assert [one for one in complaints if "422" not in one] == []
