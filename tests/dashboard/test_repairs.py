"""Repairs from the page: what is said before is what happens, and only to what was shown."""

from __future__ import annotations

import copy
import html
import re
from datetime import UTC, datetime, timedelta

import httpx
import msgspec
import pytest

from sagalog import InMemoryJournal, PersistentRepr, SagaRunner
from sagalog.decision.entries import Command
from sagalog.decision.record import encode_record
from sagalog.definition.codec import Typed
from sagalog.operating.inspect import find

from ..orders import Noted, OrderSaga, World
from .conftest import QUICK


async def ask(
    browser: httpx.AsyncClient, name: str, action: str, command: str = ""
) -> tuple[httpx.Response, dict[str, str]]:
    query = {"saga": "order", "id": name, "action": action, "command": command}
    answer = await browser.get("/repair", params=query)
    fields = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', answer.text.partition("<main")[2])
    return answer, {field: html.unescape(value) for field, value in fields}


async def confirm(browser: httpx.AsyncClient, name: str, form: dict[str, str], **more: str) -> httpx.Response:
    return await browser.post("/repair", params={"saga": "order", "id": name}, data={**form, **more})


async def status(journal: InMemoryJournal, name: str) -> str:
    (view,) = await find(journal, name, "order")
    return view.status


async def test_a_retry_says_what_it_will_do_does_it_and_a_worker_goes_on(
    operator: httpx.AsyncClient, journal: InMemoryJournal
) -> None:
    answer, form = await ask(operator, "parked", "retry")
    assert "replays 2 held messages, in the order they came: Failing (m4), Noted (m5)" in answer.text
    assert await status(journal, "parked") == "parked"  # asking changes nothing
    done = await confirm(operator, "parked", form, note="the bank <b>is</b> back", by="Ann")
    assert done.status_code == 303
    page = (await operator.get(done.headers["location"])).text
    assert "<b>Retry</b> is recorded" in page
    assert "the bank &lt;b&gt;is&lt;/b&gt; back" in page
    assert "Retry by Ann" in page
    world = World()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=world, settings=QUICK) as runner:
        await runner.settle()
    assert world.names == ["Note", "Note"]
    assert await status(journal, "parked") == "running"


@pytest.mark.parametrize(
    ("name", "action", "said", "after"),
    [
        ("parked", "skip", "drops the held Failing, message m4; it counts as consumed", "running"),
        ("parked", "cancel", "ends the instance as it stands", "cancelled"),
        ("parked", "cancel with compensation", "sends Release", "compensating"),
        ("failed", "skip", "drops the refused Refund: it is not undone", "compensating"),
        ("failed", "retry", "sends Refund, Release, last in first out", "compensating"),
        ("running", "cancel with compensation", "sends Refund, Release", "compensating"),
    ],
)
async def test_each_repair_does_what_it_says(
    operator: httpx.AsyncClient, journal: InMemoryJournal, name: str, action: str, said: str, after: str
) -> None:
    answer, form = await ask(operator, name, action)
    assert said in html.unescape(answer.text)
    assert (await confirm(operator, name, form)).status_code == 303
    assert await status(journal, name) == after


async def test_a_command_is_sent_again_under_its_id(operator: httpx.AsyncClient, journal: InMemoryJournal) -> None:
    page = html.unescape((await operator.get("/instance?saga=order&id=running")).text)
    assert "/repair?saga=order&id=running&action=resend&command=1%2F0" in page
    answer, form = await ask(operator, "running", "resend", "1/0")
    assert "sends Reserve (1/0) again, under the same id" in answer.text
    assert (await confirm(operator, "running", form)).status_code == 303
    world = World()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=world, settings=QUICK) as runner:
        await runner.settle()
    assert [entry for entry, _ in world.seen] == ["saga::order::running/1/0"]


async def test_what_moved_on_since_it_was_shown_is_left_alone_and_shown_anew(
    operator: httpx.AsyncClient, journal: InMemoryJournal
) -> None:
    _, form = await ask(operator, "parked", "skip")
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=World(), settings=QUICK) as runner:
        await runner.handle(Noted("parked", "even later"), message_id="m99")
    (before,) = await find(journal, "parked", "order")
    answer = await confirm(operator, "parked", form)
    assert answer.status_code == 409
    assert f"you saw step {int(form['version'])}. Nothing was changed" in answer.text
    (after,) = await find(journal, "parked", "order")
    assert after.version == before.version
    assert "How it stands, at step" in answer.text
    again = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', answer.text.partition("<main")[2]))
    assert int(again["version"]) == before.version
    assert (await confirm(operator, "parked", again)).status_code == 303


@pytest.mark.parametrize("version", ["", "0", "-1", "99999999999999999999", "x", "²"])
async def test_a_version_that_nobody_was_shown_repairs_nothing(
    operator: httpx.AsyncClient, journal: InMemoryJournal, version: str
) -> None:
    _, form = await ask(operator, "parked", "skip")
    assert (await confirm(operator, "parked", form, version=version)).status_code == 409
    assert await status(journal, "parked") == "parked"


@pytest.mark.parametrize(
    ("name", "action", "command", "said"),
    [
        ("parked", "resend", "99/0", "is not a command in the kept history"),
        ("parked", "resend", "'; DROP TABLE", "is not a command in the kept history"),
        ("parked", "explode", "", "there is no repair 'explode'"),
        ("finished", "retry", "", "it has ended"),
    ],
)
async def test_what_cannot_be_repaired_is_said(
    operator: httpx.AsyncClient, journal: InMemoryJournal, name: str, action: str, command: str, said: str
) -> None:
    answer, form = await ask(operator, name, action, command)
    assert answer.status_code == 409
    assert said in html.unescape(answer.text)
    assert form == {}
    token = re.search(r'name="form_token" value="(\w+)"', answer.text)
    assert token is not None
    before = dict(journal._highest)
    sent = {
        "form_token": token[1],
        "action": action,
        "command": command,
        "version": str(before[f"saga::order::{name}"]),
    }
    assert (await confirm(operator, name, sent)).status_code == 409
    assert dict(journal._highest) == before


async def test_a_repair_that_would_do_nothing_cannot_be_confirmed(operator: httpx.AsyncClient) -> None:
    answer, form = await ask(operator, "running", "retry")
    assert "nothing: it is not parked, it is running" in answer.text
    assert form == {}
    gone = await operator.get("/repair?saga=order&id=nobody&action=retry")
    assert gone.status_code == 404


async def test_what_the_code_cannot_read_is_said_on_its_page(
    operator: httpx.AsyncClient, journal: InMemoryJournal
) -> None:
    (view,) = await find(journal, "running", "order")
    assert view.record is not None
    record = copy.copy(view.record)
    record.state = msgspec.Raw(b'{"total":"seven"}')
    await journal.write_messages([PersistentRepr("saga::order::running", view.version + 1, encode_record(record))])
    page = html.unescape((await operator.get("/instance?saga=order&id=running")).text)
    assert "This code cannot continue it: state: stored JSON is not a valid OrderState" in page
    assert "seven" in page  # what can be read is shown


async def test_a_command_that_hangs_is_shown_with_its_age_and_can_be_dropped(
    operator: httpx.AsyncClient, journal: InMemoryJournal
) -> None:
    (view,) = await find(journal, "running", "order")
    assert view.record is not None
    record = copy.copy(view.record)
    sent = record.updated_at = record.updated_at - timedelta(hours=2)
    record.outbox = tuple(
        Command(f"{view.version + 1}/{index}", Typed(kind, msgspec.Raw(b"{}"), 1))
        for index, kind in enumerate(("Survey", "Note"))
    )
    record.leased_until = datetime.now(UTC) + timedelta(minutes=5)
    own = "saga::order::running"
    await journal.write_messages([PersistentRepr(own, view.version + 1, encode_record(record), due_at=sent)])
    page = html.unescape((await operator.get("/instance?saga=order&id=running")).text)
    assert "<b>Waits</b> for <code>Survey</code>" in page
    assert "a worker is at it" in page
    assert f"/repair?saga=order&id=running&action=drop&command={view.version + 1}%2F0" in page
    answer, form = await ask(operator, "running", "drop", f"{view.version + 1}/0")
    assert "drops Survey" in answer.text
    assert (await confirm(operator, "running", form)).status_code == 303
    (after,) = await find(journal, "running", "order")
    assert after.record is not None
    assert [entry.command.type for entry in after.record.outbox] == ["Note"]
    answer, _ = await ask(operator, "running", "drop", "9/9")
    assert answer.status_code == 409
    assert "is neither a command in the outbox nor a timer" in html.unescape(answer.text)
