"""What an instance holds or keeps is in records that do not grow with all that came before, and nothing of it is lost."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from sagalog import (
    InMemoryJournal,
    InstanceFullError,
    Journal,
    PersistentRepr,
    Saga,
    SagalogError,
    SagaParkedError,
    SagaRecord,
    SagaRunner,
    SqliteJournal,
    open_journal,
    starts,
)
from sagalog.decision.pages import size_of
from sagalog.decision.record import decode_record
from sagalog.decision.repair import retry
from sagalog.journal.pages import made_whole
from sagalog.operating.apply import apply
from sagalog.operating.inspect import find, instances
from sagalog.operating.mend import audited, ended, replace, stored
from sagalog.operating.stats import stats
from sagalog.operating.steps import steps
from sagalog.operating.transfer import Brought, bring, export_lines, read_export

from ..orders import Failing, Noted, OrderSaga, Placed
from .conftest import Bench

AT = datetime(2030, 1, 1, tzinfo=UTC)
KEY = "saga::order::a"
TEXT = "x" * 200


class Counting(InMemoryJournal):
    """Counts the bytes that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    async def write_batch(self, records: Sequence[PersistentRepr]) -> list[SagalogError | None]:
        self.written += sum(len(record.payload) for record in records)
        return await super().write_batch(records)


class Interrupted(InMemoryJournal):
    """Lets something happen between the read of a record and that of what it names."""

    meanwhile: Callable[[], Coroutine[Any, Any, None]] | None = None

    async def replay_messages(self, *where: Any, **more: Any) -> AsyncIterator[PersistentRepr]:
        meanwhile, self.meanwhile = self.meanwhile, None
        if meanwhile is not None:
            await meanwhile()
        async for message in super().replay_messages(*where, **more):
            yield message


def text(number: int) -> str:
    return f"{number} {TEXT}"


async def park(runner: SagaRunner, key: str = "a") -> None:
    OrderSaga.fail_times = 9
    await runner.handle(Placed(key), message_id="placed")
    assert (await runner.handle(Failing(key), message_id="failing")).held


async def hold(runner: SagaRunner, numbers: range, key: str = "a") -> None:
    for number in numbers:
        receipt = await runner.handle(Noted(key, text(number)), message_id=f"note-{number}")
        assert receipt.held


async def newest(journal: Journal) -> SagaRecord:
    """Return the newest record as it is stored, without what it holds in earlier ones."""
    message = await journal.latest_message(KEY)
    assert message is not None
    return decode_record(message.payload)


async def all_of(journal: Journal) -> list[str]:
    message = await journal.latest_message(KEY)
    assert message is not None
    return [one.id for one in (await made_whole(journal, message))[1].held]


def ids(count: int) -> list[str]:
    return ["failing", *(f"note-{number}" for number in range(count))]


async def notes(bench: Bench) -> list[str]:
    return [line for line in await bench.log("a") if TEXT in line]


async def test_holding_four_times_as_many_one_by_one_writes_some_four_times_as_much() -> None:
    async def written(count: int) -> int:
        bench = Bench(journal := Counting())
        async with bench.runner() as runner:
            await park(runner)
            before = journal.written
            await hold(runner, range(count))
            return journal.written - before

    few = await written(200)
    assert await written(800) < 6 * few


async def test_what_two_workers_hold_in_turn_is_replayed_by_a_third_in_its_order(shared: Bench) -> None:
    assert shared.journal is not None
    async with shared.runner() as one, shared.runner() as other:
        await park(one)
        for number in range(0, 120, 10):
            await hold((one, other)[number // 10 % 2], range(number, number + 10))
    assert (await newest(shared.journal)).held_in
    assert await all_of(shared.journal) == ids(120)
    async with shared.runner() as third:
        for number in (0, 60, 119):
            receipt = await third.handle(Noted("a", "again"), message_id=f"note-{number}")
            assert receipt.duplicate
        OrderSaga.fail_times = 0
        done = await third.retry("order", "a")
        assert (done.replayed, done.parked) == (121, "")
        await third.settle()
    assert await notes(shared) == [text(number) for number in range(120)]
    assert not (await newest(shared.journal)).held_in


async def test_after_a_repair_that_fails_the_rest_is_held_and_more_behind_it(quick: Bench) -> None:
    assert quick.journal is not None
    async with quick.runner() as runner:
        await park(runner)
        await hold(runner, range(60))
        assert (await runner.handle(Failing("a"), message_id="failing too")).held
        await hold(runner, range(60, 90))
        await runner.skip("order", "a")
        assert await all_of(quick.journal) == ["failing too", *(f"note-{number}" for number in range(60, 90))]
        await hold(runner, range(90, 180))
    assert (await newest(quick.journal)).held_in
    async with quick.runner() as runner:
        await runner.skip("order", "a")
        await runner.settle()
    assert await notes(quick) == [text(number) for number in range(180)]


async def test_a_repair_from_outside_stores_all_of_it_in_one_record(quick: Bench) -> None:
    assert quick.journal is not None
    async with quick.runner() as runner:
        await park(runner)
        await hold(runner, range(90))
    OrderSaga.fail_times = 0
    applied = await apply(quick.journal, "order", "a", retry())
    assert len(applied.after.held) == 91
    assert not (await newest(quick.journal)).held_in
    async with quick.runner() as runner:
        await runner.settle()
    assert await notes(quick) == [text(number) for number in range(90)]


async def test_operators_see_all_that_is_held_and_each_step_what_it_held(quick: Bench) -> None:
    journal = quick.journal
    assert journal is not None
    async with quick.runner() as runner:
        await park(runner)
        await hold(runner, range(90))
    (view,) = await find(journal, "a", "order")
    assert view.record is not None
    assert [one.id for one in view.record.held] == ids(90)
    (listed,) = [view async for view in instances(journal, "order")]
    assert (listed.status, listed.record) == ("parked", view.record)
    assert (await stats(journal, "order"))[0].held == 91
    told = [[one.id for one in step.held] async for step in steps(journal, "order", "a")]
    assert [one for one in told if one] == [[one] for one in ids(90)]


async def test_what_would_make_the_whole_too_large_is_refused_and_the_rest_is_there(quick: Bench) -> None:
    assert quick.journal is not None
    async with quick.runner(max_payload_bytes=20_000) as runner:
        await park(runner)
        with pytest.raises(InstanceFullError):
            await hold(runner, range(200))
        held = await all_of(quick.journal)
        assert 50 < len(held) < 100
        assert held == ids(len(held) - 1)
        with pytest.raises(InstanceFullError):
            await hold(runner, range(len(held) - 1, 200))


async def test_a_store_of_four_methods_gets_all_in_each_record() -> None:
    bench = Bench(None)
    async with bench.runner() as runner:
        await park(runner)
        await hold(runner, range(60))
    assert [one.id for one in (await bench.record("a")).held] == ids(60)


@pytest.mark.parametrize("kind", ["store", "sqlite"])
async def test_where_all_of_it_is_in_each_record_an_eighth_of_the_limit_may_wait(kind: str, tmp_path: Path) -> None:
    async with SqliteJournal(tmp_path / "orders.db", history=0) as journal:
        bench = Bench(None if kind == "store" else journal)
        async with bench.runner(max_payload_bytes=40_000) as runner:
            await park(runner)
            told = await asyncio.gather(
                *(runner.handle(Noted("a", text(number)), message_id=f"note-{number}") for number in range(40)),
                return_exceptions=True,
            )
            errors = [one for one in told if isinstance(one, BaseException)]
            assert {type(one) for one in errors} == {InstanceFullError}
            assert "over the limit of 5,000" in str(errors[0])
            held = (await bench.record("a")).held
            assert [one.id for one in held] == ids(40 - len(errors))
            assert 4_500 < size_of(held) <= 5_000
            await runner.skip("order", "a")
            await runner.settle()
            for number in range(40):
                receipt = await runner.handle(Noted("a", text(number)), message_id=f"note-{number}")
                assert receipt.duplicate == (number < 40 - len(errors))
        assert await notes(bench) == [text(number) for number in range(40)]


async def test_one_event_always_has_room_to_be_held_where_all_of_it_is_in_each_record() -> None:
    bench = Bench(None)
    async with bench.runner(max_payload_bytes=40_000) as runner:
        OrderSaga.fail_times = 9
        await runner.handle(Placed("a"))
        assert (await runner.handle(Failing("a", "x" * 6_000))).held
        with pytest.raises(InstanceFullError):
            await hold(runner, range(1))


async def test_a_worker_that_keeps_no_history_beside_one_that_does_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "orders.db"
    async with SqliteJournal(path) as all_kept, SqliteJournal(path, history=2) as few_kept:
        bench = Bench(all_kept)
        async with bench.runner() as keeps, bench.runner(few_kept) as prunes:
            await park(keeps)
            await hold(keeps, range(60))
            assert (await newest(all_kept)).held_in
            await hold(prunes, range(60, 70))
            assert not (await newest(all_kept)).held_in
            await hold(keeps, range(70, 130))
            assert (await newest(all_kept)).held_in
            await hold(prunes, range(130, 140))
            await hold(keeps, range(140, 150))
            assert await all_of(all_kept) == ids(150)


@pytest.mark.parametrize("kind", ["sqlite", "postgres", "nats"])
async def test_where_few_records_are_kept_what_is_held_is_in_those_few(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = f"sqlite:///{tmp_path / 'orders.db'}?history=10"
    if kind == "postgres":
        url = request.getfixturevalue("postgres_schema") + "&history=10"
    if kind == "nats":
        url = request.getfixturevalue("nats_stream") + "&history=10"
    async with open_journal(url) as journal:
        bench, in_pages = Bench(journal), 0
        async with bench.runner() as one, bench.runner() as other:
            await park(one)
            for number in range(100):
                await hold((one, other)[number // 25 % 2], range(number, number + 1))
                record = await newest(journal)
                in_pages += bool(record.held_in)
                assert record.held_count == number + 2
            assert 40 < in_pages < 90  # the others have all of it
            assert await all_of(journal) == ids(100)
        OrderSaga.fail_times = 0
        async with bench.runner() as runner:
            assert (await runner.retry("order", "a")).replayed == 101
            await runner.settle()
        assert await notes(bench) == [text(number) for number in range(100)]


async def test_history_that_is_cut_makes_that_instance_unreadable_and_can_be_mended(quick: Bench) -> None:
    journal = quick.journal
    assert journal is not None
    async with quick.runner() as runner:
        await park(runner)
        await hold(runner, range(90))
        await runner.handle(Placed("b"), message_id="placed")
    lost = sum(page.count for page in (await newest(journal)).held_in)
    message = await journal.latest_message(KEY)
    assert message is not None
    await journal.delete_messages_to(KEY, message.sequence_nr - 1)
    async with quick.runner() as runner:
        with pytest.raises(SagaParkedError, match="messages that it holds, cannot be read"):
            await runner.handle(Noted("a", "more"), message_id="more")
        await runner.handle(Noted("b", "goes on"), message_id="more")
    seen = {view.correlation_id: view async for view in instances(journal, "order")}
    assert [seen[key].status for key in "ab"] == ["unreadable", "running"]
    assert (seen["a"].lost, (await stats(journal, "order"))[0].unreadable) == (lost, 1)
    with pytest.raises(SagaParkedError, match="edit --record"):
        await apply(journal, "order", "a", retry())
    old = await stored(journal, "order", "a")
    gone = await ended(journal, old)
    assert any(f"{lost} of its messages are lost" in effect for effect in gone.effects)
    assert old.view.record is not None
    await replace(journal, old, await audited(journal, old.view.record))
    assert len(await all_of(journal)) == 91 - lost
    OrderSaga.fail_times = 0
    async with quick.runner() as runner:
        await runner.retry("order", "a")
        await runner.settle()
    assert await notes(quick) == [text(number) for number in range(lost - 1, 90)]


async def test_a_record_that_is_replaced_while_its_pages_are_read_is_read_again() -> None:
    bench = Bench(journal := Interrupted())
    async with bench.runner() as runner:
        await park(runner)
        await hold(runner, range(90))

    async def meanwhile() -> None:
        await apply(journal, "order", "a", retry())
        message = await journal.latest_message(KEY)
        assert message is not None
        await journal.delete_messages_to(KEY, message.sequence_nr - 1)

    OrderSaga.fail_times = 0
    journal.meanwhile = meanwhile
    async with bench.runner() as runner:
        assert (await runner.handle(Noted("a", text(90)), message_id="note-90")).handled
        await runner.settle()
    assert await notes(bench) == [text(number) for number in range(91)]


@pytest.mark.parametrize("latest", [False, True])
@pytest.mark.parametrize("history", ["all", 0])
async def test_an_export_brings_all_that_is_held(tmp_path: Path, history: str | int, *, latest: bool) -> None:
    bench = Bench(source := InMemoryJournal())
    async with bench.runner() as runner:
        await park(runner)
        await hold(runner, range(90))
    lines = [line + b"\n" async for line in export_lines(source, at=AT, latest=latest)]
    async with SqliteJournal(tmp_path / "there.db", history=history) as target:
        for expected in (Brought.IMPORTED, Brought.THERE):
            assert [await bring(target, one) for one in read_export(lines)] == [expected]
        assert await all_of(target) == ids(90)
        OrderSaga.fail_times = 0
        there = Bench(target)
        async with there.runner() as runner:
            await hold(runner, range(90, 93))
            await runner.retry("order", "a")
            await runner.settle()
        assert await notes(there) == [text(number) for number in range(93)]


@dataclass
class Reading:
    meter: str
    n: int
    text: str = TEXT


@dataclass
class Readings:
    numbers: list[int] = field(default_factory=list)


class MeterSaga(Saga[Readings]):
    name = "order"  # so that the helpers of these tests find it
    most_kept = 500

    @starts(Reading, key="meter", sequence="n")
    def reading(self, state: Readings, event: Reading) -> None:
        state.numbers.append(event.n)


async def test_what_two_workers_keep_in_turn_is_handled_by_a_third_when_its_moment_comes(quick: Bench) -> None:
    journal = quick.journal
    assert journal is not None
    sagas = (MeterSaga,)
    async with quick.runner(sagas=sagas) as one, quick.runner(sagas=sagas) as other:
        for n in range(2, 92):
            receipt = await (one, other)[n // 10 % 2].handle(Reading("a", n), message_id=f"reading-{n}")
            assert receipt.kept
    stored_record = await newest(journal)
    assert stored_record.kept_in
    assert stored_record.kept_count == 90
    assert (await stats(journal, "order"))[0].kept == 90
    told = [one.id async for step in steps(journal, "order", "a") for one in step.kept]
    assert told == [f"reading-{n}" for n in range(2, 92)]
    async with quick.runner(sagas=sagas) as third:
        for n in (2, 50, 91):
            assert (await third.handle(Reading("a", n), message_id="under another id")).duplicate
        await third.handle(Reading("a", 1), message_id="reading-1")
        await third.settle()
        state: Readings = await third.state(MeterSaga, "a")
    assert state.numbers == list(range(1, 92))
    assert not (await newest(journal)).in_pages


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Any]:
    """Give a connection of the caller's own to what a journal is in."""
    if url.startswith("postgresql"):
        connection = await asyncpg.connect(url.partition("?")[0])
        try:
            yield connection
        finally:
            await connection.close()
    else:
        with closing(sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)) as connection:
            yield connection


@asynccontextmanager
async def transaction(connection: Any, *, commits: bool = True) -> AsyncIterator[None]:
    """Begin a transaction, and end it so."""
    if isinstance(connection, sqlite3.Connection):
        connection.execute("BEGIN")
        yield
        connection.execute("COMMIT" if commits else "ROLLBACK")
    else:
        opened = connection.transaction()
        await opened.start()
        yield
        await (opened.commit() if commits else opened.rollback())


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
async def test_what_is_held_in_transactions_is_read_as_they_see_it(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    url = request.getfixturevalue("postgres_schema") if kind == "postgres" else f"sqlite:///{tmp_path / 'orders.db'}"
    async with open_journal(url) as journal, connected(url) as connection:
        bench = Bench(journal)
        async with bench.runner() as runner:
            await park(runner)
            await hold(runner, range(30))
            async with transaction(connection):
                for number in range(30, 90):
                    await runner.handle(Noted("a", text(number)), message_id=f"note-{number}", connection=connection)
            async with transaction(connection, commits=False):
                for number in range(90, 120):
                    await runner.handle(Noted("a", "never"), message_id=f"never-{number}", connection=connection)
            await hold(runner, range(90, 120))
            assert (await newest(journal)).held_in
            assert await all_of(journal) == ids(120)
            OrderSaga.fail_times = 0
            await runner.retry("order", "a")
            await runner.settle()
        assert await notes(bench) == [text(number) for number in range(120)]
