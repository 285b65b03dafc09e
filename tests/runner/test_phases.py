"""Kept events in the runner: in one record with what lets them in, tried again, parked, repaired, and never lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import msgspec
import pytest

from sagalog import (
    EventClock,
    Incoming,
    InMemoryJournal,
    JournalSagaStateStore,
    ManualClock,
    Outcome,
    RetryPolicy,
    SagaParkedError,
    SagaRecord,
    SagaRunner,
    SqliteJournal,
    TooManyKeptError,
    UnexpectedEventError,
    open_journal,
)
from sagalog.decision.record import decode_record, encode_record
from sagalog.decision.repair import cancel, drop, edit
from sagalog.operating.apply import apply as apply_repair

from ..phased import (
    Asked,
    Cancelled,
    Charge,
    Closed,
    Labelled,
    Orders,
    Paid,
    Placed,
    Reviewed,
    Shipped,
    Told,
)
from .conftest import Bench


@pytest.fixture(params=["memory", "sqlite"])
async def two(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    journal: Any = InMemoryJournal() if request.param == "memory" else SqliteJournal(tmp_path / "orders.db")
    yield Bench(journal)
    await journal.close()


@pytest.fixture(autouse=True)
def _nothing_fails() -> None:
    Orders.failing = set()


def runner(bench: Bench, **settings: Any) -> SagaRunner:
    return bench.runner(sagas=(Orders,), dispatch=settings.pop("dispatch", _accept), **settings)


def _accept(command: Any, context: Any = None) -> None:
    """Every command is accepted."""


def store(bench: Bench) -> Any:
    return bench.plain if bench.journal is None else JournalSagaStateStore(bench.journal, "phased")


async def record(bench: Bench) -> SagaRecord:
    saved = await (store(bench).load_with_tombstone("o") if bench.journal is not None else bench.plain.load("o"))
    assert saved is not None
    return decode_record(saved.payload)


async def log(bench: Bench) -> list[str]:
    return Orders().decode_state((await record(bench)).state_bytes()).log


async def version(bench: Bench) -> int:
    saved = await store(bench).load("o")
    assert saved is not None
    return int(saved.version)


async def repaired(bench: Bench, repair: Any) -> Any:
    assert bench.journal is not None
    return await apply_repair(bench.journal, "phased", "o", repair, now=ManualClock().now())


async def test_a_kept_event_is_accepted_known_and_handled_in_the_record_that_enters_its_phase(bench: Bench) -> None:
    async with runner(bench) as one:
        await one.handle(Placed("o"))
        await one.settle()
        receipt = await one.handle(Labelled("o", "a"), message_id="m")
        assert (receipt.kept, receipt.handled, receipt.outcomes) == (True, False, {"phased": Outcome.KEPT})
        assert (await one.handle(Labelled("o", "a"), message_id="m")).duplicate
        before = await version(bench)
        await one.handle(Paid("o"), message_id="p")
        written = await record(bench)
        assert [handled.id for handled in written.handled] == ["p", "m"]
        assert (written.kept, written.waking, written.phase) == ((), False, "PAID")
        assert await version(bench) == before + 1
        assert (await one.handle(Labelled("o", "a"), message_id="m")).duplicate
        assert (one.counters.kept, one.counters.duplicates) == (1, 2)
    assert (await log(bench))[-1] == "labelled a"


async def test_what_is_kept_outlives_its_worker(two: Bench) -> None:
    async with runner(two) as one:
        await one.handle(Placed("o"))
        await one.handle(Labelled("o", "a"), message_id="m")
    async with runner(two) as other:
        await other.handle(Paid("o"))
        assert (await other.handle(Labelled("o", "a"), message_id="m")).duplicate
    assert (await log(two))[-1] == "labelled a"


async def test_a_kept_event_that_fails_is_tried_again_and_then_parks_with_what_is_kept_behind_it(two: Bench) -> None:
    Orders.failing = {"b"}
    async with runner(two) as one:
        await one.handle(Placed("o"))
        for text in "abc":
            await one.handle(Labelled("o", text), message_id=text)
        assert (await one.handle(Paid("o"))).handled, "what entered the phase is not to blame"
        await one.settle()
        parked = await record(two)
        assert (parked.parked, parked.phase) == ("handling Labelled raised RuntimeError, 3 times", "PAID")
        assert [(held.id, held.kept) for held in parked.held] == [("b", True), ("c", True)]
        assert (parked.kept, await log(two)) == ((), ["placed", "in", "paid", "out", "in", "labelled a"])
        assert (await one.handle(Labelled("o", "d"), message_id="d")).held
        Orders.failing = set()
        await one.retry("phased", "o")
    assert (await log(two))[-3:] == ["labelled b", "labelled c", "labelled d"]


async def test_a_kept_event_that_was_parked_is_skipped_and_the_others_are_kept_again(two: Bench) -> None:
    Orders.failing = {"b"}
    async with runner(two) as one:
        await one.handle(Placed("o"))
        await one.handle(Asked("o", "SetTimer('reminder', Reminded('o'), after=timedelta(0))"))
        await one.settle()
        assert [kept.kind for kept in (await record(two)).kept] == ["timer"]
        await one.handle(Labelled("o", "b"), message_id="b")
        await one.handle(Paid("o"))
        await one.settle()
        assert [held.event.type for held in (await record(two)).held] == ["Labelled", "Reminded"]
        await one.skip("phased", "o")
        left = await record(two)
        assert [(kept.kind, kept.event.type) for kept in left.kept] == [("timer", "Reminded")]
        assert (await one.handle(Labelled("o", "b"), message_id="b")).duplicate
        await one.handle(Shipped("o"))
    assert (await log(two))[-2:] == ["shipped", "reminded"]


async def test_a_worker_that_ends_before_a_kept_event_is_handled_leaves_it_to_another(two: Bench) -> None:
    Orders.failing = {"a"}
    slow = RetryPolicy(attempts=None, base=timedelta(seconds=60), cap=timedelta(seconds=60))
    async with runner(two, handler_retry=slow, stop_timeout=timedelta(seconds=120)) as one:
        await one.handle(Placed("o"))
        await one.handle(Labelled("o", "a"))
        assert (await one.handle(Paid("o"))).handled
    left = await record(two)
    assert (left.phase, left.waking, len(left.kept)) == ("PAID", True, 1)
    Orders.failing = set()
    async with runner(two) as other:
        two.advance(seconds=6)
        await other.settle()
        assert (await record(two)).waking is False
    assert (await log(two))[-1] == "labelled a"


async def test_what_was_left_comes_before_an_event_that_comes_first_to_another_worker(two: Bench) -> None:
    Orders.failing = {"a"}
    slow = RetryPolicy(attempts=None, base=timedelta(seconds=60), cap=timedelta(seconds=60))
    async with runner(two, handler_retry=slow) as one:
        await one.handle(Placed("o"))
        await one.handle(Labelled("o", "a"))
        await one.handle(Paid("o"))
    Orders.failing = set()
    async with runner(two) as other:
        await other.handle(Labelled("o", "b"))
    assert (await log(two))[-2:] == ["labelled a", "labelled b"]


async def test_an_unexpected_event_is_judged_by_what_is_stored_and_not_by_what_a_worker_remembers(two: Bench) -> None:
    async with runner(two) as one, runner(two) as other:
        await one.handle(Placed("o"))
        await one.settle()
        with pytest.raises(UnexpectedEventError):
            await one.handle(Reviewed("o"), message_id="r")
        await other.handle(Paid("o"))
        await other.handle(Shipped("o"))
        assert (await one.handle(Reviewed("o"), message_id="r")).handled, "it was refused, so it is not known"
        assert (await one.handle(Labelled("o"))).ignored
    assert (await log(two))[-1] == "reviewed"


async def test_a_kept_event_comes_before_the_timers_that_are_due_after_the_one_that_lets_it_in(two: Bench) -> None:
    async with runner(two) as one:
        await one.handle(Placed("o"))
        await one.handle(Asked("o", "SetTimer('first', Paid('o'), after=timedelta(seconds=1))"))
        await one.handle(Asked("o", "SetTimer('second', Paid('o'), after=timedelta(seconds=2))"))
        await one.handle(Labelled("o", "a"))
        two.advance(seconds=3)
        await one.settle()
    assert (await log(two))[-5:] == ["paid", "out", "in", "labelled a", "paid again, PAID"]


async def test_the_phase_is_edited_from_outside_and_a_worker_handles_what_was_kept_for_it(two: Bench) -> None:
    async with runner(two) as one:
        await one.handle(Placed("o"))
        await one.handle(Labelled("o", "a"))
        await one.settle()
        applied = await repaired(two, edit(None, phase="PAID", note="by hand"))
        assert applied.effects == (
            "sets the phase PAID, where it was PLACED; no handler runs",
            "handles, of 1 kept, what that phase expects",
        )
        await one.settle()
        assert await log(two) == ["placed", "in", "labelled a"]
        again = await repaired(two, edit(None, phase="PAID"))
        assert again.effects == ("nothing: its phase is already PAID",)


async def test_a_kept_event_is_dropped_by_its_id_and_all_are_when_the_instance_is_cancelled(two: Bench) -> None:
    async with runner(two) as one:
        await one.handle(Placed("o"))
        for text in "ab":
            await one.handle(Labelled("o", text), message_id=text)
        await one.settle()
        told = await repaired(two, drop("a"))
        assert told.effects == ("drops the kept Labelled, message a; it counts as consumed",)
        told = await repaired(two, cancel(compensate=False))
        assert told.effects[0] == "drops the kept Labelled, message b; it counts as consumed"
        await one.settle()
        for text in "ab":
            assert (await one.handle(Labelled("o", text), message_id=text)).duplicate
    assert (await record(two)).finished


async def test_what_is_replayed_lets_kept_events_in_before_what_is_held_behind_it(two: Bench) -> None:
    async with runner(two) as one:
        await one.handle(Placed("o"))
        await one.handle(Labelled("o", "kept"))
        await one.handle(Asked("o", "1/0"))  # parks it
        assert (await one.handle(Paid("o"))).held
        assert (await one.handle(Labelled("o", "held"))).held
        await one.skip("phased", "o")
    assert (await log(two))[-5:] == ["paid", "out", "in", "labelled kept", "labelled held"]


async def test_a_held_event_that_its_phase_refuses_is_kept_for_its_sender_was_told_that_it_is_accepted(
    two: Bench,
) -> None:
    async with runner(two) as one:
        await one.handle(Placed("o"))
        await one.handle(Asked("o", "1/0"))
        assert (await one.handle(Reviewed("o"), message_id="r")).held
        assert (await one.handle(Paid("o"))).held
        await one.skip("phased", "o")
        assert [kept.id for kept in (await record(two)).kept] == ["r"]
        await one.handle(Shipped("o"))
    assert (await log(two))[-2:] == ["shipped", "reviewed"]


async def test_an_answer_that_the_phase_does_not_expect_parks_the_instance_that_asked(two: Bench) -> None:
    def answer(command: Any) -> Any:
        return Reviewed("o") if isinstance(command, Charge) else None

    async with runner(two, dispatch=answer) as one:
        await one.handle(Placed("o"))
        await one.settle()
    assert "its answer, a Reviewed, cannot be handled: Reviewed for saga 'phased'" in (await record(two)).parked


async def test_an_answer_for_which_there_is_no_room_waits_until_there_is(two: Bench) -> None:
    full = asyncio.Event()

    async def answer(command: Any) -> Any:
        if isinstance(command, Told) and command.text == "in":
            await full.wait()
            return Labelled("o", "answer")
        return None

    async with runner(two, dispatch=answer) as one:
        await one.handle(Placed("o"))
        for n in range(5):
            await one.handle(Labelled("o", str(n)))
        with pytest.raises(TooManyKeptError):
            await one.handle(Labelled("o", "6"))
        full.set()
        await asyncio.sleep(0)
        await one.handle(Paid("o"))
        await one.settle()
    assert (await log(two))[-1] == "labelled answer"
    assert (await record(two)).parked == ""


async def test_only_the_kept_event_that_makes_the_record_too_large_parks(two: Bench) -> None:
    async with runner(two, max_payload_bytes=3000) as one:
        await one.handle(Placed("o"))
        for text, times in (("a", 1), ("b", 3000), ("c", 1)):
            await one.handle(Labelled("o", text, times), message_id=text)
        assert (await one.handle(Paid("o"))).handled
        await one.settle()
        parked = await record(two)
        assert (parked.phase, [held.id for held in parked.held]) == ("PAID", ["b", "c"])
        assert (await log(two))[-1] == "labelled a"
        await one.skip("phased", "o")
        assert (await log(two))[-2:] == ["labelled a", "labelled c"]


async def test_in_a_callers_transaction_a_kept_event_that_fails_is_not_the_callers_fault(postgres_schema: str) -> None:
    Orders.failing = {"a"}
    async with open_journal(postgres_schema) as journal:
        bench = Bench(journal)
        async with runner(bench) as one:
            await one.handle(Placed("o"))
            await one.handle(Labelled("o", "a"))
            connection = await asyncpg.connect(postgres_schema.partition("?")[0])
            try:
                async with connection.transaction():
                    assert (await one.handle(Paid("o"), connection=connection)).handled
            finally:
                await connection.close()
            await one.settle()
            parked = await record(bench)
            assert (parked.phase, [held.event.type for held in parked.held]) == ("PAID", ["Labelled"])
            assert parked.parked == "handling Labelled raised RuntimeError, 3 times"


async def test_kept_messages_of_an_ended_saga_are_told_and_its_tombstone_knows_them(two: Bench) -> None:
    async with runner(two) as one:
        await one.handle(Placed("o"))
        await one.handle(Labelled("o", "a"), message_id="m")
        await one.handle(Cancelled("o"))
        await one.settle()
        ended = await record(two)
        assert (ended.status, ended.kept, ended.finished) == ("compensated", (), True)
        assert [audit.note for audit in ended.audit] == ["Labelled (m) was kept, and ended with the saga"]
        assert (await one.handle(Labelled("o", "a"), message_id="m")).duplicate


async def test_a_stored_phase_that_the_code_does_not_know_is_left_as_it_is_and_can_be_edited(two: Bench) -> None:
    async with runner(two) as one:
        await one.handle(Placed("o"))
        await one.settle()
    saved = await store(two).load("o")
    odd = msgspec.structs.replace(decode_record(saved.payload), phase="LOST")
    await store(two).save("o", encode_record(odd), expected_version=saved.version)
    async with runner(two) as one:
        with pytest.raises(SagaParkedError, match=r"its phase LOST is unknown to this code: if it was renamed"):
            await one.handle(Closed("o"))
        assert await version(two) == saved.version + 1
        await repaired(two, edit(None, phase="PAID"))
        assert (await one.handle(Closed("o"))).handled


async def test_the_same_log_fed_twice_gives_the_same_history_with_kept_events(tmp_path: Path) -> None:
    start = datetime(2030, 1, 1, tzinfo=UTC)
    events = [
        Placed("o"), Labelled("o", "a"), Reviewed("o"), Paid("o"), Labelled("o", "b"), Shipped("o"), Reviewed("o"),
        Labelled("o", "c"), Closed("o"),
    ]  # fmt: skip
    lines = [Incoming(one, f"m{n}", start + timedelta(minutes=15 * n)) for n, one in enumerate(events)]
    found = []
    for upto in (len(lines), 4):
        async with SqliteJournal(tmp_path / f"{upto}.db") as journal:
            for part in (lines[:upto], lines):
                async with SagaRunner(journal, sagas=[Orders], dispatch=_accept, clock=EventClock()) as one:
                    for line in part:
                        try:
                            await one.handle(line.event, message_id=line.message_id, at=line.at)
                        except UnexpectedEventError:
                            continue
                    await one.settle()
            saved = await JournalSagaStateStore(journal, "phased").load_with_tombstone("o")
            assert saved is not None
            last = decode_record(saved.payload)
            found.append((Orders().decode_state(last.state_bytes()).log, last.status, last.phase))
    assert found[0] == found[1]
    assert found[0][0] == [
        "placed", "in", "paid", "out", "in", "labelled a", "labelled b", "shipped", "reminded", "reviewed",
    ]  # fmt: skip
