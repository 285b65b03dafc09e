"""Requests, joins and gathers as an operator sees them: what waits for what, what came too late, what new code lacks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from click.testing import CliRunner
from msgspec import Raw

from sagalog import ManualClock, SagaRunner
from sagalog.cli.group import sagalog as command
from sagalog.decision.entries import Request
from sagalog.decision.gathering import Gathering
from sagalog.decision.record import SagaRecord
from sagalog.definition.codec import Typed
from sagalog.operating.inspect import SagaView
from sagalog.operating.readable import Code

from .. import waybills
from ..asking import Ask, AskSaga, Confirmed, Wanted
from ..gathering import Begun, Bill, GatherSaga, Shipped, Weigh
from ..gathering import Ship as Parcel
from ..joining import JoinSaga, Ordered, Paid, Reserved, Ship, Thank


def run(*arguments: str) -> str:
    return CliRunner().invoke(command, [*arguments]).output


def test_show_and_history_tell_what_waits_and_what_came_too_late(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/asks.db"

    async def fill() -> None:
        clock = ManualClock(datetime.now(UTC))
        async with SagaRunner(url, sagas=[AskSaga], dispatch={Ask: lambda command: None}, clock=clock) as runner:
            await runner.handle(Wanted("open"))
            await runner.handle(Wanted("late", "ignore", by_type=True))
            clock.advance(timedelta(minutes=3))
            await runner.settle()
            await runner.handle(Wanted("open"))

    async def answer() -> None:
        async with SagaRunner(url, sagas=[AskSaga], dispatch={Ask: lambda command: None}) as runner:
            await runner.handle(Confirmed("late"), message_id="c-1")

    asyncio.run(fill())
    assert "late    Ask (1/0) was not answered in time: ignore a late answer" in run("show", "late", "--journal", url)
    assert "timer   no answer to Ask (" in run("show", "open", "--journal", url)
    asyncio.run(answer())
    assert "ignored Confirmed, which came too late (c-1)" in run("history", "late", "--journal", url)


def test_check_names_an_answer_that_no_handler_takes() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    record = SagaRecord(1, "running", b"{}", at, at, requests=(Request("1/0", "Ask", "Gone"),))  # type: ignore[arg-type]
    reasons = Code([AskSaga()], lambda command: True).reasons(SagaView("ask", "a", 1, record))
    assert [reason.text for reason in reasons] == ["Ask waits for Gone, and no handler takes it"]


def test_show_and_history_tell_how_far_a_join_is_and_when_it_ran(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/joins.db"

    async def handle(*events: object) -> None:
        accepts = {Ship: lambda command: None, Thank: lambda command: None}
        async with SagaRunner(url, sagas=[JoinSaga], dispatch=accepts) as runner:
            for event in events:
                await runner.handle(event)

    asyncio.run(handle(Ordered("a"), Reserved("a")))
    assert "join    ready: waits for Paid" in run("show", "a", "--journal", url)
    asyncio.run(handle(Paid("a")))
    assert "join    ready: has run" in run("show", "a", "--journal", url)
    assert "ran ready, now that all have come" in run("history", "a", "--journal", url)


def test_show_and_history_tell_how_far_a_gather_is_and_when_it_ended(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/gathers.db"

    async def gather(parcels: int, key: str, *, answers: bool) -> None:
        def ship(command: Parcel) -> Shipped | None:
            return Shipped(command.id, command.number) if answers else None

        accepts = {Parcel: ship, Weigh: lambda command: None, Bill: lambda command: None}
        async with SagaRunner(url, sagas=[GatherSaga], dispatch=accepts) as runner:
            await runner.handle(Begun(key, parcels))
            await runner.settle()

    asyncio.run(gather(500, "open", answers=False))
    assert "gather  parcels: 0 of 500 have come; 20 under way" in run("show", "open", "--journal", url)
    asyncio.run(gather(30, "ended", answers=True))
    assert "gather parcels came to its end" in run("history", "ended", "--journal", url)


def test_check_names_a_gather_that_new_code_cannot_end() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    gathering = Gathering(10, Typed("Silence", Raw(b'{"id":"a"}')), Typed("Gone", Raw(b"{}")), sent=4)
    record = SagaRecord(1, "running", b"{}", at, at, gathers={"parcels": gathering})  # type: ignore[arg-type]
    reasons = Code([AskSaga()], lambda command: True).reasons(SagaView("ask", "a", 1, record))
    first, second = (reason.text for reason in reasons)
    assert first == "gather parcels: no method makes the 6 legs that are not sent"
    assert second.startswith("gather parcels: ")
    assert "Gone" in second


def test_history_tells_of_answers_that_no_handler_took_and_of_the_end_that_waits(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/waybills.db"

    async def fill() -> None:
        dispatch = {waybills.Load: waybills.answered}
        async with SagaRunner(url, sagas=[waybills.WaybillSaga], dispatch=dispatch) as runner:
            await runner.handle(waybills.Begun("a", legs=1, answer="unheard"))
            await runner.settle()

    asyncio.run(fill())
    told = run("history", "a", "--journal", url)
    assert "Unheard, which counts although no handler takes it (1/0/reply/Unheard/0)" in told
    assert "gather loads came to its end, keeps KeptEnd (saga::waybill::a/2/0)" in told
    assert "kept    KeptEnd, message saga::waybill::a/2/0" in run("show", "a", "--journal", url)
