"""Events that reach instances by a key: each that holds it, once, on every journal."""

from __future__ import annotations

import asyncio
import pickle
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sagalog import (
    AddKey,
    CodecError,
    DefinitionError,
    InMemoryJournal,
    InvalidEventError,
    JournalUnavailableError,
    Key,
    KeyTakenError,
    NoInstance,
    NoInstanceError,
    NotAllReachedError,
    Outcome,
    RunnerStoppedError,
    Saga,
    SagaParkedError,
    SagaRunner,
    SqliteJournal,
    on,
    open_journal,
    starts,
)
from sagalog.decision.record import decode_record

from ..keyed import Blocked, Closed, Deliver, Moved, Ordered, Parcel, ParcelSaga
from .callers import POSTGRES, SQLITE
from .conftest import Bench

HANDLED, DUPLICATE, NO_INSTANCE = Outcome.HANDLED, Outcome.DUPLICATE, Outcome.NO_INSTANCE


def runner(bench: Bench, source: Any = None, **more: Any) -> SagaRunner:
    more.setdefault("sagas", [ParcelSaga])
    return bench.runner(source, dispatch=lambda command: None, **more)


async def log(one: SagaRunner, name: str) -> list[str]:
    state: Parcel = await one.state(ParcelSaga, name)
    return state.log


async def test_each_instance_that_holds_the_key_handles_the_event(bench: Bench) -> None:
    async with runner(bench) as one:
        await one.handle(Ordered("A", ["c", "d"]))
        await one.handle(Ordered("B", ["c"]))
        await one.handle(Ordered("C", ["d"]))
        receipt = await one.handle(Blocked("c"), message_id="m-1")
        assert receipt.outcomes == {"parcel": HANDLED}
        assert receipt.instances == {"parcel": {"A": HANDLED, "B": HANDLED}}
        assert receipt.handled
        assert not receipt.ignored
        again = await one.handle(Blocked("c"), message_id="m-1")
        assert again.instances == {"parcel": {"A": DUPLICATE, "B": DUPLICATE}}
        assert again.duplicate
        assert [await log(one, name) for name in "ABC"] == [["blocked"], ["blocked"], []]


async def test_a_key_counts_from_the_step_that_adds_it_to_the_one_that_removes_it(bench: Bench) -> None:
    async with runner(bench) as one:
        await one.handle(Ordered("A"))
        await one.handle(Moved("A", new="c"))
        assert (await one.handle(Blocked("c"))).instances == {"parcel": {"A": HANDLED}}
        await one.handle(Moved("A", old="c", new="d"))
        assert (await one.handle(Blocked("c"))).outcomes == {"parcel": NO_INSTANCE}
        assert (await one.handle(Blocked("d"))).handled
        await one.handle(Moved("A", old=""))
        assert (await one.handle(Blocked("d"))).ignored


async def test_keys_end_with_the_life_of_an_instance(bench: Bench) -> None:
    async with runner(bench) as one:
        await one.handle(Ordered("A", ["c"]))
        await one.handle(Closed("A"))
        assert (await one.handle(Blocked("c"))).ignored
        await one.handle(Ordered("A"))  # its next life
        assert (await one.handle(Blocked("c"))).ignored
        await one.settle()
        await one.handle(Moved("A", new="c"))
        assert (await one.handle(Blocked("c"))).handled


async def test_the_policy_for_no_instance_is_that_of_the_runner(bench: Bench) -> None:
    async with runner(bench, no_instance=NoInstance.RAISE) as one:
        with pytest.raises(
            NoInstanceError, match=r"Blocked for saga 'parcel': no live instance holds this value of its k"
        ):
            await one.handle(Blocked("c"))
        await one.handle(Ordered("A", ["c"]))
        assert (await one.handle(Blocked("c"))).handled
    async with runner(bench, no_instance=NoInstance.WAIT, no_instance_wait=timedelta(seconds=10)) as one:
        waits = asyncio.ensure_future(one.handle(Blocked("e")))
        await one.handle(Moved("A", new="e"))
        assert (await waits).instances == {"parcel": {"A": HANDLED}}
    async with runner(bench, no_instance=NoInstance.WAIT, no_instance_wait=timedelta(0)) as one:
        with pytest.raises(NoInstanceError):
            await one.handle(Blocked("nobody"))


async def test_an_instance_that_is_parked_holds_the_event_for_its_repair(bench: Bench) -> None:
    async with runner(bench) as one:
        await one.handle(Ordered("A", ["c"]))
        await one.handle(Ordered("B", ["c", "d"]))
        assert (await one.handle(Blocked("d", "boom"))).held
        receipt = await one.handle(Blocked("c"))
        assert receipt.instances == {"parcel": {"A": HANDLED, "B": Outcome.HELD}}
        assert receipt.held
        await one.retry(ParcelSaga.name, "B")
        await one.cancel(ParcelSaga.name, "B")
        assert (await one.handle(Blocked("d"))).ignored


async def test_who_gives_the_key_up_in_between_is_passed_over(quick: Bench) -> None:
    """The lookup has found it, and then another event comes first."""
    async with runner(quick, no_instance=NoInstance.RAISE) as one:
        await one.handle(Ordered("A", ["c"]))
        await one.handle(Ordered("B", ["c"]))
        journal: Any = quick.journal
        real = journal.latest_by_terms

        async def moved_after(*args: Any, **keywords: Any) -> Any:
            found = await real(*args, **keywords)
            journal.latest_by_terms = real
            await one.handle(Moved("A", old="c"))
            return found

        journal.latest_by_terms = moved_after
        assert (await one.handle(Blocked("c"))).instances == {"parcel": {"A": NO_INSTANCE, "B": HANDLED}}
        assert await log(one, "A") == []


async def test_another_worker_is_seen_at_once(shared: Bench) -> None:
    async with runner(shared) as one, runner(shared) as two:
        await one.handle(Ordered("A", ["c"]))
        assert (await two.handle(Blocked("c"))).handled
        await two.handle(Moved("A", old="c", new="d"))
        assert (await one.handle(Blocked("c"))).ignored
        assert (await one.handle(Blocked("d"))).handled


async def test_an_event_is_accepted_when_all_have_stored_it_and_sent_again_it_reaches_the_rest(quick: Bench) -> None:
    async with runner(quick) as one:
        for name in "ABC":
            await one.handle(Ordered(name, ["c"]))
        await one.settle()
        journal: Any = quick.journal
        real = journal.write_batch

        async def refuse_b(records: Any) -> Any:
            kept = [record for record in records if not record.persistence_id.endswith("::B")]
            answers = dict(zip([record.persistence_id for record in kept], await real(kept), strict=True))
            refused = JournalUnavailableError("full")
            return [answers.get(record.persistence_id, refused) for record in records]

        journal.write_batch = refuse_b
        with pytest.raises(NotAllReachedError) as raised:
            await one.handle(Blocked("c"), message_id="m")
        assert (raised.value.correlation_ids, raised.value.stored) == (("B",), 2)
        assert isinstance(raised.value.why, JournalUnavailableError)
        journal.write_batch = real
        again = await one.handle(Blocked("c"), message_id="m")
        assert again.instances == {"parcel": {"A": DUPLICATE, "B": HANDLED, "C": DUPLICATE}}
        assert again.handled
        assert not again.duplicate


async def test_of_a_damaged_holder_the_error_tells_that_the_others_have_stored_the_event(quick: Bench) -> None:
    async with runner(quick) as one:
        for name in "ABC":
            await one.handle(Ordered(name, ["c"]))
        await one.settle()
    journal: Any = quick.journal
    found = await journal.latest_message("saga::parcel::B")
    broken = msgspec.structs.replace(found, sequence_nr=found.sequence_nr + 1, payload=b"{broken", terms=found.terms)
    await journal.write_messages([msgspec.structs.replace(broken, terms=("parcel @customer=c",))])
    async with runner(quick) as one:
        for _ in range(2):
            with pytest.raises(NotAllReachedError) as raised:
                await one.handle(Blocked("c"), message_id="m")
            error = raised.value
            assert isinstance(error.why, SagaParkedError)
            assert str(error) == (
                "Blocked for saga 'parcel', by its key 'customer': 2 instances stored it, 'B' could not: saga 'parcel', "
                f"id 'B' is parked: {error.why.reason}. Sent again under the same message id, it reaches only the rest."
            )
        assert [await log(one, name) for name in "AC"] == [["blocked"]] * 2
        assert error.__cause__ is error.why
        again = pickle.loads(pickle.dumps(error))
        assert (str(again), again.correlation_ids, again.stored) == (str(error), ("B",), 2)


class Seating(ParcelSaga):
    """Who hears of it takes a seat that only one may have."""

    name = "parcel"
    keys = (Key("customer"), Key("address"), Key("seat", unique=True))

    @on(Blocked, key="customer", by="customer")
    def blocked(self, parcel: Parcel, event: Blocked) -> Any:
        parcel.log.append(event.what)
        yield AddKey("seat", event.what)


async def test_where_all_want_one_unique_key_the_error_does_not_say_that_nothing_was_stored(quick: Bench) -> None:
    async with runner(quick, sagas=[Seating]) as one:
        for name in "ABC":
            await one.handle(Ordered(name, ["c"]))
        for _ in range(2):
            with pytest.raises(NotAllReachedError) as raised:
                await one.handle(Blocked("c", "s-1"), message_id="m")
            assert isinstance(raised.value.why, KeyTakenError)
            assert raised.value.stored == 1
            assert "othing was stored" not in str(raised.value)
        logs = {name: await log(one, name) for name in "ABC"}
        assert sorted(logs.values()) == [[], [], ["s-1"]]
        assert set(raised.value.correlation_ids) == {name for name, found in logs.items() if not found}


async def test_where_a_page_cannot_be_looked_up_the_pages_before_are_told_of(quick: Bench) -> None:
    async with runner(quick) as one:
        await asyncio.gather(*(one.handle(Ordered(f"P{n:03}", ["c"])) for n in range(150)))
        await one.settle()
        journal: Any = quick.journal
        real, looks = journal.latest_by_terms, 0

        async def away_later(*args: Any, **keywords: Any) -> Any:
            nonlocal looks
            looks += 1
            if looks > 1:
                raise JournalUnavailableError("away")
            return await real(*args, **keywords)

        journal.latest_by_terms = away_later
        with pytest.raises(NotAllReachedError) as raised:
            await one.handle(Blocked("c"), message_id="m")
        assert 0 < raised.value.stored < 150
        assert raised.value.correlation_ids == ()
        journal.latest_by_terms = real
        receipt = await one.handle(Blocked("c"), message_id="m")
        assert len(receipt.instances["parcel"]) == 150


class Audit(Saga[Parcel]):
    """The same event, by its correlation id."""

    name = "audit"

    @starts(Blocked, key="customer")
    def blocked(self, state: Parcel, event: Blocked) -> None:
        state.log.append(event.what)
        event.what = "changed by audit"

    @on(Ordered, key="order")
    def ordered(self, state: Parcel, event: Ordered) -> None: ...


async def test_one_event_goes_by_its_correlation_id_in_one_saga_and_by_a_key_in_another(quick: Bench) -> None:
    async with runner(quick, sagas=[Audit, ParcelSaga], no_instance=NoInstance.RAISE) as one:
        with pytest.raises(NoInstanceError) as raised:
            await one.handle(Blocked("c"), message_id="m")
        assert raised.value.__notes__ == [
            "saga audit has it; sent again under the same message id, it reaches only the others"
        ]
        await one.stop()
    async with runner(quick, sagas=[Audit, ParcelSaga]) as one:
        await one.handle(Ordered("A", ["c"]))
        await one.handle(Ordered("B", ["c"]))
        receipt = await one.handle(Blocked("c"), message_id="m")
        assert receipt.outcomes == {"audit": DUPLICATE, "parcel": HANDLED}
        assert receipt.instances == {"parcel": {"A": HANDLED, "B": HANDLED}}
        assert (await one.handle(Blocked("c", "twice"))).handled
        assert await log(one, "A") == ["blocked", "twice"]


class Bouncing(ParcelSaga):
    name = "parcel"

    @on(Blocked, key="customer", by="customer")
    async def blocked(self, parcel: Parcel, event: Blocked) -> Any:
        parcel.log.append(event.what)
        if event.what == "around":
            await self.runner.handle(Blocked(event.customer, "again"))  # type: ignore[attr-defined]


async def test_a_handler_that_waits_for_itself_is_told_so(quick: Bench) -> None:
    saga = Bouncing()
    async with runner(quick, sagas=[saga]) as one:
        saga.runner = one  # type: ignore[attr-defined]
        await one.handle(Ordered("A", ["c"]))
        await one.handle(Ordered("B", ["c"]))
        with pytest.raises(DefinitionError, match="its event handler waits for Blocked of itself"):
            await one.handle(Blocked("c", "around"))
        assert await log(one, "A") == await log(one, "B") == []


async def test_an_answer_reaches_by_a_key(quick: Bench) -> None:
    """A command handler answers an event that is for others."""
    async with quick.runner(sagas=[ParcelSaga], dispatch=lambda command: Blocked("c", f"by {command.order}")) as one:
        await one.handle(Ordered("A", ["c"]))
        await one.settle()
        await one.handle(Ordered("B", ["c"]))
        await one.settle()
        assert await log(one, "A") == ["by A", "by B"]
        assert await log(one, "B") == ["by B"]


async def test_a_wrong_key_is_refused_before_anything_is_stored(quick: Bench) -> None:
    async with runner(quick) as one:
        for wrong in ("", None, 1.5):
            with pytest.raises((InvalidEventError, CodecError), match="nothing was stored"):
                await one.handle(Blocked(wrong))  # type: ignore[arg-type]


async def test_a_stopping_runner_says_so(quick: Bench) -> None:
    one = runner(quick, no_instance=NoInstance.WAIT, no_instance_wait=timedelta(seconds=60))
    await one.start()
    waits = asyncio.ensure_future(one.handle(Blocked("c")))
    while not one.gauges().in_flight:
        await asyncio.sleep(0)
    await one.stop()
    with pytest.raises(RunnerStoppedError):
        await waits


async def test_a_thousand_instances_hold_one_key_and_the_loop_goes_on(tmp_path: Any) -> None:
    bench = Bench(SqliteJournal(tmp_path / "many.db"))
    async with runner(bench) as one:
        await asyncio.gather(*(one.handle(Ordered(f"P{n}", ["c"])) for n in range(1000)))
        await one.settle()
        most, turns = 0, 0

        async def watch() -> None:
            nonlocal most, turns
            while True:
                turns += 1
                if turns % 20 == 0:  # to look at all instances takes longer than a turn
                    most = max(most, len(list(one._started.caches["parcel"].active())))  # type: ignore[union-attr]
                await asyncio.sleep(0)

        watching = asyncio.ensure_future(watch())
        receipt = await one.handle(Blocked("c"), message_id="m")
        watching.cancel()
        assert 0 < most <= 100
        assert turns > 20
        assert len(receipt.instances["parcel"]) == 1000
        assert set(receipt.instances["parcel"].values()) == {HANDLED}
    await bench.journal.close()  # type: ignore[union-attr]


async def test_within_a_transaction_all_hold_or_none(postgres_schema: str) -> None:
    import asyncpg

    connection = await asyncpg.connect(postgres_schema.partition("?")[0])
    async with open_journal(postgres_schema) as journal, runner(Bench(journal)) as one:
        for name in "ABC":
            await one.handle(Ordered(name, ["c"]))
        await one.settle()
        transaction = connection.transaction()
        await transaction.start()
        await one.handle(Moved("C", old="c"), connection=connection)
        receipt = await one.handle(Blocked("c"), message_id="m", connection=connection)
        assert receipt.instances == {"parcel": {"A": HANDLED, "B": HANDLED}}
        await transaction.rollback()
        assert [await log(one, name) for name in "ABC"] == [[], [], []]
        async with connection.transaction():
            await one.handle(Blocked("c"), message_id="m", connection=connection)
        assert [await log(one, name) for name in "ABC"] == [["blocked"]] * 3
        await one.settle()
    await connection.close()


@pytest.mark.parametrize("driver", ["asyncpg", "psycopg", "sqlite3", "aiosqlite"])
async def test_an_event_reaches_who_took_the_key_in_the_same_transaction(
    driver: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if driver in SQLITE:
        url = path = f"{tmp_path}/keys.db"
        begin, url = SQLITE[driver](path), f"sqlite:///{path}"
    else:
        url = request.getfixturevalue("postgres_schema")
        begin = POSTGRES[driver](url.partition("?")[0])
    async with open_journal(url) as journal, runner(Bench(journal)) as one:
        await one.handle(Ordered("before", ["c"]))
        await one.settle()
        async with begin() as transaction:
            used = transaction.connection
            for number in range(150):  # of more than one page
                await one.handle(Ordered(f"{number}", ["c"]), connection=used)
            await one.handle(Moved("0", old="c"), connection=used)
            receipt = await one.handle(Blocked("c"), connection=used)
            names = {"before", *(f"{number}" for number in range(1, 150))}
            assert receipt.instances == {"parcel": dict.fromkeys(names, HANDLED)}
            await transaction.commit()
        assert await log(one, "149") == ["blocked"]
        await one.settle()


async def test_a_refusal_may_add_a_key(quick: Bench) -> None:
    from sagalog import CommandRefused

    def refuse(command: Deliver) -> None:
        raise CommandRefused("street")

    async with quick.runner(sagas=[ParcelSaga], dispatch=refuse) as one:
        await one.handle(Ordered("A", ["c"]))
        await one.settle()
        journal: Any = quick.journal
        record = decode_record((await journal.latest_message("saga::parcel::A")).payload)
        assert record.keys == {"customer": ("c",), "address": ("street",)}


async def test_a_journal_without_an_index_finds_by_looking_at_all(tmp_path: Any) -> None:
    class Plain(InMemoryJournal):
        latest_by_terms = None  # type: ignore[assignment]

    async with runner(Bench(Plain())) as one:
        for n in range(250):
            await one.handle(Ordered(f"P{n}", ["c" if n % 2 else "d"]))
        receipt = await one.handle(Blocked("c"))
        assert len(receipt.instances["parcel"]) == 125


class Made(ParcelSaga):
    """What its handler makes of an event is a key that no event could carry."""

    name = "parcel"
    keys = (Key("customer"), Key("address"), Key("seat", unique=True))
    made: Any = None

    @on(Moved, key="order")
    def moved(self, parcel: Parcel, event: Moved) -> Any:
        yield AddKey(event.new or "", self.made)


@pytest.mark.parametrize("key", ["customer", "seat"])
async def test_odd_values_of_plain_and_unique_keys_end_alike(quick: Bench, key: str) -> None:
    saga = Made()
    async with runner(quick, sagas=[saga]) as one:
        await one.handle(Ordered("A"))
        await one.settle()
        before = (await one.instance(Made, "A")).version
        saga.made = "\udc80"
        with pytest.raises(DefinitionError, match="contains a lone surrogate"):
            await one.handle(Moved("A", new=key))
        after = await one.instance(Made, "A")
        assert (after.version, after.parked) == (before, "")
        for number in (2**63, 10**1100, 10**5000):
            saga.made = number
            assert (await one.handle(Moved("A", new=key))).handled


async def test_an_event_held_for_a_repair_is_handled_also_after_a_held_one_that_gives_the_key_up(quick: Bench) -> None:
    async with runner(quick) as one:
        await one.handle(Ordered("A", ["c", "d"]))
        assert (await one.handle(Blocked("d", "boom"))).held
        assert (await one.handle(Moved("A", old="c"))).held
        assert (await one.handle(Blocked("c"), message_id="m")).instances == {"parcel": {"A": Outcome.HELD}}
        await one.skip(ParcelSaga.name, "A")
        await one.settle()
        assert await log(one, "A") == ["blocked"]
        assert (await one.handle(Blocked("c"), message_id="m")).ignored  # nobody holds the key any more
        assert await log(one, "A") == ["blocked"]
