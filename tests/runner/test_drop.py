"""Repairs pass a command that hangs: `drop` takes it out of the outbox, `cancel` does not wait behind it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from sagalog import (
    CommandRefused,
    InMemoryJournal,
    PersistentRepr,
    RepairError,
    RunnerSettings,
    SagaRunner,
    Status,
    open_journal,
)
from sagalog.decision.entries import Held, Timer, Undo
from sagalog.decision.record import SagaRecord, decode_record, encode_record
from sagalog.decision.repair import Repair, cancel, drop, skip
from sagalog.definition.codec import Typed
from sagalog.operating.apply import Applied, apply

from ..orders import Asked, Cancelled, Charge, Note, Noted, OrderSaga, Paid, Placed, Refund, Release, Reserve

QUICK = RunnerSettings(
    lease=timedelta(milliseconds=300), due_poll=timedelta(milliseconds=50), stop_timeout=timedelta(milliseconds=200)
)


class Hangs:
    """Command handlers of which those for some types never return; it says when one is called, and what was accepted."""

    def __init__(self, *kinds: type) -> None:
        self.kinds = set(kinds)
        self.accepted: list[str] = []
        self.hung: list[str] = []
        self.cut: list[str] = []
        self.changed = asyncio.Event()

    async def __call__(self, command: Any) -> None:
        name = type(command).__name__
        if type(command) in self.kinds:
            self.note(self.hung, name)
            try:
                await asyncio.Event().wait()
            finally:
                self.note(self.cut, name)
        self.note(self.accepted, name)

    def note(self, where: list[str], name: str) -> None:
        where.append(name)
        self.changed.set()

    async def until(self, where: list[str], *names: str) -> None:
        async with asyncio.timeout(40):
            while not set(names) <= set(where):
                self.changed.clear()
                await self.changed.wait()


async def record_of(journal: InMemoryJournal, key: str = "a") -> SagaRecord:
    message = await journal.latest_message(f"saga::order::{key}")
    assert message is not None
    return decode_record(message.payload)


async def repair(journal: InMemoryJournal, made: Repair, key: str = "a") -> Applied:
    return await apply(journal, "order", key, made)


async def test_drop_passes_a_command_whose_handler_hangs() -> None:
    world, journal = Hangs(Reserve), InMemoryJournal()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=world, settings=QUICK) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Noted("a", "behind"))
        await world.until(world.hung, "Reserve")
        applied = await repair(journal, drop("1/0", note="the warehouse is gone", by="ada"))
        assert applied.effects == ("drops Reserve (1/0), which was not accepted; it may have been carried out",)
        await world.until(world.accepted, "Note")
        await world.until(world.cut, "Reserve")
        record = await record_of(journal)
        assert [undo.of for undo in record.undo] == ["1/0"]  # it may have been carried out
        assert (record.audit[0].action, record.audit[0].note, record.audit[0].by) == (
            "drop",
            "the warehouse is gone",
            "ada",
        )


@pytest.mark.parametrize("within", [True, False])
async def test_cancel_does_not_wait_behind_a_command_that_hangs(*, within: bool) -> None:
    world, journal = Hangs(Reserve), InMemoryJournal()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=world, settings=QUICK) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await world.until(world.hung, "Reserve")
        if within:
            effects = (await runner.cancel("order", "a")).effects
        else:
            effects = (await repair(journal, cancel(compensate=True))).effects
        assert effects == (
            "drops Reserve (1/0), which was not accepted; it may have been carried out",
            "drops Charge (2/0), which was not accepted; it may have been carried out",
            "sends Refund, Release, last in first out",
        )
        await world.until(world.accepted, "Refund", "Release")
        assert world.accepted == ["Refund", "Release"]
        await world.until(world.cut, "Reserve")


@pytest.mark.parametrize("status", [Status.RUNNING, Status.COMPLETED])
async def test_an_attempt_that_is_cut_off_is_no_failure(status: Status, caplog: pytest.LogCaptureFixture) -> None:
    """Also where another worker has ended the instance, so that nothing is left of it here."""
    world, journal = Hangs(Reserve), InMemoryJournal()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=world, settings=QUICK) as runner:
        await runner.handle(Placed("a"))
        await world.until(world.hung, "Reserve")
        message = await journal.latest_message("saga::order::a")
        assert message is not None
        record = decode_record(message.payload)
        record.outbox, record.timers, record.status = (), {}, status
        of_another = {"sequence_nr": 2, "payload": encode_record(record), "deleted": record.finished}
        await journal.write_messages([msgspec.structs.replace(message, **of_another)])
        await runner.handle(Asked("a", "nothing"))
        await world.until(world.cut, "Reserve")
        await runner.settle()
        assert runner.counters.dispatch_errors == 0
    assert not caplog.records


async def test_cancel_of_one_that_compensates_drops_what_is_in_the_way_of_its_undo_commands() -> None:
    world, journal = Hangs(Reserve), InMemoryJournal()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=world, settings=QUICK) as runner:
        await runner.handle(Placed("a"))
        await world.until(world.hung, "Reserve")
        await runner.handle(Cancelled("a"))
        assert (await record_of(journal)).status is Status.COMPENSATING
        assert (await repair(journal, cancel(compensate=True))).effects == (
            "drops Reserve (1/0), which was not accepted; it may have been carried out",
            "continues its compensation: sends Release, last in first out",
        )
        await world.until(world.accepted, "Release")


async def test_skip_names_what_an_instance_waits_for_and_how_to_pass_it() -> None:
    world, journal = Hangs(Reserve), InMemoryJournal()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=world, settings=QUICK) as runner:
        await runner.handle(Placed("a"))
        assert (await repair(journal, skip())).effects == (
            "nothing: it is not parked, it is running; it waits until Reserve (1/0) is accepted: `drop` takes that out "
            "of the outbox",
        )


async def test_dropping_the_last_undo_command_ends_the_compensation() -> None:
    world, journal = Hangs(Release), InMemoryJournal()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=world, settings=QUICK) as runner:
        await runner.handle(Placed("a"))
        await world.until(world.accepted, "Reserve")
        await runner.cancel("order", "a")
        await world.until(world.hung, "Release")
        (waiting,) = [entry for entry in (await record_of(journal)).outbox if entry.undo]
        applied = await repair(journal, drop(waiting.id))
        assert (applied.after.status, applied.after.finished) == (Status.COMPENSATED, True)


async def test_drop_cancels_a_timer_and_a_scheduled_command() -> None:
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: None, settings=QUICK) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Asked("a", "schedule"))
        await runner.handle(Placed("b"))
        (scheduled,) = (await record_of(journal)).timers.values()
        assert (await repair(journal, drop(scheduled.id))).effects == (f"drops the scheduled Survey ({scheduled.id})",)
        assert (await record_of(journal)).timers == {}
        (timer,) = (await record_of(journal, "b")).timers.values()
        assert (await repair(journal, drop(timer.id), "b")).effects == (
            f"drops the timer payment, that is Overdue ({timer.id})",
        )


@pytest.mark.parametrize("entry", ["9/9", "", "1/0/refused", "saga::order::a/1/0", "\x1b[2J"])
async def test_drop_of_what_does_not_wait_names_what_does_and_stores_nothing(entry: str) -> None:
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=Hangs(Reserve), settings=QUICK) as runner:
        await runner.handle(Placed("a"))
        before = await journal.latest_message("saga::order::a")
        with pytest.raises(RepairError, match=r"there wait Reserve \(1/0\), Overdue \(1/1\)"):
            await repair(journal, drop(entry))
        assert await journal.latest_message("saga::order::a") == before


async def test_dropping_the_command_that_parks_an_instance_lets_it_go_on() -> None:
    journal, accepted = InMemoryJournal(), []

    def dispatch(command: Any) -> None:
        if isinstance(command, Reserve):
            raise TypeError("it is written wrongly")
        accepted.append(type(command))

    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=dispatch, settings=QUICK) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        assert (await record_of(journal)).stuck == "1/0"
        assert (await runner.handle(Noted("a", "held"))).held
        applied = await repair(journal, drop("1/0"))
        assert applied.effects[1].startswith("replays 1 held message")
        await runner.settle()
        assert accepted == [Note]


async def test_cancel_leaves_what_an_earlier_life_still_delivers_and_says_that_it_waits_for_it() -> None:
    world, journal = Hangs(Charge), InMemoryJournal()
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=world, settings=QUICK) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await world.until(world.hung, "Charge")
        await runner.handle(Asked("a", "schedule"))  # it completes, and owes the Charge
        await runner.handle(Placed("a"))
        made = (await repair(journal, cancel(compensate=True))).effects
        assert made == (
            "drops Reserve (4/0), which was not accepted; it may have been carried out",
            "waits for Charge (2/0) of an earlier incarnation: `drop` skips one that hangs",
            "sends Release, last in first out",
        )
        await repair(journal, drop("2/0"))
        await world.until(world.accepted, "Release")


async def test_cancel_takes_back_only_what_this_life_did_when_its_compensation_has_failed() -> None:
    journal, accepted = InMemoryJournal(), []

    def dispatch(command: Any) -> None:
        if isinstance(command, Charge):
            raise TypeError("it is written wrongly")
        if isinstance(command, Refund):
            raise CommandRefused("no")
        accepted.append(type(command).__name__)

    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=dispatch, settings=QUICK) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        record = await record_of(journal)
        (first,) = record.undo
        record.undo = (first, msgspec.structs.replace(first, of="7/0", life=2))
        record.incarnation, record.status = 2, Status.COMPENSATION_FAILED
        await runner.stop()
        message = await journal.latest_message("saga::order::a")
        assert message is not None
        await journal.write_messages(
            [msgspec.structs.replace(message, sequence_nr=message.sequence_nr + 1, payload=encode_record(record))]
        )
        applied = await repair(journal, cancel(compensate=True))
        assert [(entry.of, entry.life) for entry in applied.after.outbox] == [("7/0", 2)]
        assert [undo.of for undo in applied.after.undo] == ["1/0"]


async def test_skipping_the_event_that_was_to_start_an_instance_leaves_none() -> None:
    journal = InMemoryJournal()
    now = datetime.now(UTC)
    record = SagaRecord(
        format=1,
        status=Status.RUNNING,
        state=msgspec.Raw(b"{}"),
        started_at=now,
        updated_at=now,
        parked="handling Placed failed",
    )

    def held(event: Any, message_id: str) -> Held:
        return Held(message_id, Typed(type(event).__name__, msgspec.Raw(msgspec.json.encode(event)), 1))

    record.held = (held(Placed("a"), "m1"), held(Noted("a", "later"), "m2"), held(Placed("a", 5), "m3"))
    await journal.write_messages([PersistentRepr("saga::order::a", 1, encode_record(record))])
    applied = await repair(journal, skip())
    assert applied.effects[:2] == (
        "drops the held Placed, message m1; it counts as consumed",
        "ends the instance: the dropped message was to start it",
    )
    async with SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: None, settings=QUICK) as runner:
        await runner.settle()
        after = await record_of(journal)
        # What may not start one met no instance; what may did start one.
        assert (after.status, after.incarnation, after.started_by) == (Status.RUNNING, 2, "Placed")
        assert msgspec.json.decode(after.state)["log"] == ["placed"]
        for message_id in ("m1", "m2", "m3"):
            assert (await runner.handle(Placed("a"), message_id=message_id)).duplicate


@pytest.fixture(params=["sqlite", "postgres", "nats"])
def url(request: pytest.FixtureRequest) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{request.getfixturevalue('tmp_path') / 'orders.db'}"
    found: str = request.getfixturevalue({"postgres": "postgres_schema", "nats": "nats_stream"}[request.param])
    return found


@pytest.mark.parametrize("made", [drop("1/0"), cancel(compensate=True)], ids=["drop", "cancel"])
async def test_an_operator_with_a_connection_of_his_own_passes_a_command_that_hangs(url: str, made: Repair) -> None:
    world = Hangs(Reserve)
    async with (
        SagaRunner(url, sagas=[OrderSaga], dispatch=world, settings=QUICK) as runner,
        open_journal(url) as own,
    ):
        await runner.handle(Placed("a"))
        await runner.handle(Noted("a", "behind"))
        await world.until(world.hung, "Reserve")
        await apply(own, "order", "a", made)
        await world.until(world.accepted, "Note" if made.action == "drop" else "Release")
        await world.until(world.cut, "Reserve")
        assert world.accepted == (["Note"] if made.action == "drop" else ["Release"])


@pytest.mark.parametrize(
    "more",
    [
        {"inbox": ("m0",)},
        {"recent": ("m0",)},
        {"started_by": "Placed"},
        {"undo": (Undo("1/0", Typed("Release", msgspec.Raw(b"{}"), 1)),)},
        {"timers": {"t": Timer("1/1", datetime.now(UTC), Typed("Overdue", msgspec.Raw(b"{}"), 1))}},
        {"status": Status.COMPENSATING},
    ],
    ids=lambda more: next(iter(more)),
)
async def test_skipping_an_event_of_an_instance_that_has_begun_does_not_end_it(more: dict[str, Any]) -> None:
    """Also of one that older code has written, which did not note what began it."""
    now = datetime.now(UTC)
    held = Held("m1", Typed("Noted", msgspec.Raw(b'{"order_id":"a"}'), 1))
    record = SagaRecord(
        format=1,
        status=more.pop("status", Status.RUNNING),
        state=msgspec.Raw(b"{}"),
        started_at=now,
        updated_at=now,
        parked="handling Noted failed",
        held=(held,),
        **more,
    )
    status = record.status
    journal = InMemoryJournal()
    await journal.write_messages([PersistentRepr("saga::order::a", 1, encode_record(record))])
    assert (await repair(journal, skip())).after.status is status
