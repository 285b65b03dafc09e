"""Commands that do not leave: shown on the dashboard, paused and resumed there, by who has signed in."""

from __future__ import annotations

import html
import re
from datetime import timedelta

import httpx
import pytest

from sagalog import InMemoryJournal, SagaRunner
from sagalog.decision.circuits import OpenCircuit
from sagalog.journal.circuits import report_circuits
from sagalog.journal.controls import read_controls
from sagalog.journal.protocol import server_now

from ..orders import OrderSaga, Placed, Reserve, World
from .conftest import EVIL, QUICK, board_of, browsing


def fields(page: str, action: str) -> dict[str, str]:
    """Return the hidden fields of the form that does this."""
    for form in re.findall(r"<form.*?</form>", page, re.S):
        found = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form))
        if found.get("action") == action:
            return {name: html.unescape(value) for name, value in found.items()}
    raise AssertionError(f"no form to {action}")


async def test_an_operator_pauses_a_type_and_resumes_it(operator: httpx.AsyncClient, journal: InMemoryJournal) -> None:
    form = fields((await operator.get("/commands")).text, "pause")
    done = await operator.post("/commands", data={**form, "command": "Reserve", "note": "the <b>shop</b>", "by": "Ann"})
    assert done.status_code == 303
    page = (await operator.get(done.headers["location"])).text
    assert "<code>Reserve</code> by Ann: the &lt;b&gt;shop&lt;/b&gt;" in page
    assert "<code>Reserve</code> is paused" in (await operator.get("/")).text
    world = World()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=world, settings=QUICK) as runner:
        assert runner.paused["Reserve"].by == "Ann"
        await runner.handle(Placed("new"))
        await runner.settle()
        assert "Reserve" not in world.names
        done = await operator.post("/commands", data=fields(page, "resume"))
        assert done.status_code == 303
        assert "No command type is paused" in (await operator.get("/commands")).text
        assert not await runner.resume(Reserve)
        await runner.settle()
    assert "Reserve" in world.names


async def test_nothing_is_paused_without_a_session_its_form_token_and_our_own_page(
    operator: httpx.AsyncClient, client: httpx.AsyncClient, journal: InMemoryJournal
) -> None:
    page = (await client.get("/commands")).text
    assert "<button" not in page.partition("<main")[2]
    form = {**fields((await operator.get("/commands")).text, "pause"), "command": "Reserve"}
    refused = [
        await client.post("/commands", data=form),
        await operator.post("/commands", data={**form, "form_token": "wrong"}),
        await operator.post("/commands", data=form, headers={"origin": "http://evil.example"}),
        await operator.post("/commands", data=form, headers={"sec-fetch-site": "cross-site"}),
    ]
    assert [answer.status_code for answer in refused] == [403] * 4
    assert (await read_controls(journal))[0].paused == {}


@pytest.mark.parametrize("given", [{"command": ""}, {"command": "x" * 401}, {"command": "Reserve", "action": "other"}])
async def test_what_cannot_be_kept_is_refused_on_the_page(operator: httpx.AsyncClient, given: dict[str, str]) -> None:
    form = fields((await operator.get("/commands")).text, "pause")
    answer = await operator.post("/commands", data={**form, **given})
    assert answer.status_code == 409
    assert 'role="alert"' in answer.text


async def test_a_receiver_that_is_away_is_shown_until_its_worker_says_nothing_more(
    journal: InMemoryJournal,
) -> None:
    now = await server_now(journal)
    open_, dead = (
        OpenCircuit(name, worker, now - timedelta(minutes=9), now + timedelta(seconds=left), 7, "ConnectionError")
        for name, worker, left in ((f"Ship{EVIL[:30]}", "w1", 100), ("Mail", "w2", -1))
    )
    await report_circuits(journal, "w1", [open_], now)
    await report_circuits(journal, "w2", [dead], now)
    async with browsing(board_of(journal), signed_in=True) as browser:
        page = (await browser.get("/commands")).text
        assert "7 attempts in a row failed, the last with ConnectionError" in page
        assert "<code>Mail</code>" not in page
        assert "<script>alert" not in page
        assert "is away" in (await browser.get("/")).text
