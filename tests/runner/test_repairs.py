"""Guarantee 8: repairs made from outside keep order, state and audit, whatever the workers do meanwhile."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import msgspec
import pytest

from sagalog import (
    CodecError,
    ConflictError,
    InMemoryJournal,
    JournalSagaStateStore,
    JournalUnavailableError,
    ManualClock,
    NoInstanceError,
    OutcomeUnknownError,
    RepairError,
    RetryPolicy,
    SagaParkedError,
    Send,
    Status,
    starts,
)
from sagalog.decision.record import Held, encode_record
from sagalog.decision.repair import cancel, edit, retry, skip
from sagalog.definition.codec import Typed, encode
from sagalog.operating.apply import apply as apply_repair
from sagalog.operating.apply import resending

from ..orders import (
    Cancelled,
    Charge,
    Closed,
    Failing,
    Noted,
    OrderSaga,
    OrderState,
    Paid,
    Placed,
    Refund,
    Release,
    Reserve,
    Ship,
)
from .conftest import Bench, Gate

# Its clock is the bench's: an operator's and a worker's agree, as those of a server do.
apply = partial(apply_repair, now=ManualClock().now())


async def park(bench: Bench, runner: Any, *later: Any, fails: int = 3) -> None:
    """Park order a with the event `bad`, and let `later` be held behind it."""
    OrderSaga.fail_times = fails
    await runner.handle(Placed("a"))
    await runner.settle()
    assert (await runner.handle(Failing("a"), message_id="bad")).held
    for number, event in enumerate(later):
        assert (await runner.handle(event, message_id=f"h{number}")).held


def journal(bench: Bench) -> Any:
    assert bench.journal is not None
    return bench.journal


async def test_a_worker_with_the_parked_instance_in_memory_replays_after_a_repair_from_outside(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"), Noted("a", "2"))
        applied = await apply(journal(shared), "order", "a", retry(note="the bank is back", by="ada"))
        assert applied.effects == (
            "replays 3 held messages, in the order they came: Failing (bad), Noted (h0), Noted (h1)",
        )
        assert (applied.before.parked != "", applied.after.parked) == (True, "")
        assert len(applied.after.held) == 3
        await runner.settle()
        assert (await runner.handle(Noted("a", "1"), message_id="h0")).duplicate
    record = await shared.record("a")
    assert (record.parked, record.held) == ("", ())
    assert await shared.log("a") == ["placed", "recovered", "1", "2"]
    assert [(entry.action, entry.note, entry.by) for entry in record.audit] == [("retry", "the bank is back", "ada")]
    assert [c.text for _, c in shared.world.seen if hasattr(c, "text")] == ["recovered", "1", "2"]


async def test_a_note_that_is_no_unicode_is_refused_and_nothing_is_stored(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner)
    for repair in (retry(note="a\ud800"), skip(by="\udfff")):
        with pytest.raises(CodecError, match="in audit, a text holds a lone surrogate"):
            await apply(journal(shared), "order", "a", repair)
    record = await shared.record("a")
    assert record.parked
    assert record.audit == ()


async def test_a_worker_claims_what_was_repaired_by_itself(shared: Bench) -> None:
    replayed = asyncio.Event()

    def dispatch(command: Any) -> None:
        if type(command).__name__ == "Note":
            replayed.set()

    async with shared.runner(dispatch=dispatch) as runner:
        await park(shared, runner)
        await apply(journal(shared), "order", "a", retry())
        await replayed.wait()


async def test_what_arrives_between_repair_and_replay_goes_behind_what_was_held(shared: Bench) -> None:
    gate = Gate(JournalSagaStateStore(journal(shared), "order"))
    gate.deaf = True  # the event comes before any claim
    async with shared.runner(gate) as runner:
        await park(shared, runner, Noted("a", "held"))
        await apply(journal(shared), "order", "a", retry())
        assert (await runner.handle(Noted("a", "between"), message_id="n")).handled
        assert (await runner.handle(Failing("a"), message_id="bad")).duplicate
    assert await shared.log("a") == ["placed", "recovered", "held", "between"]


async def test_a_duplicate_of_a_held_event_starts_the_replay_and_stays_a_duplicate(shared: Bench) -> None:
    gate = Gate(JournalSagaStateStore(journal(shared), "order"))
    gate.deaf = True
    async with shared.runner(gate) as runner:
        await park(shared, runner, Noted("a", "held"))
        await apply(journal(shared), "order", "a", retry())
    async with shared.runner(gate) as other:
        assert (await other.handle(Noted("a", "held"), message_id="h0")).duplicate
    assert await shared.log("a") == ["placed", "recovered", "held"]


async def test_a_timer_that_fell_due_meanwhile_comes_after_what_was_held(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "held"))
        await apply(journal(shared), "order", "a", retry())
        shared.advance(hours=1)
        await runner.settle()
    assert await shared.log("a") == ["placed", "recovered", "held", "overdue"]


async def test_a_repair_while_events_keep_arriving_keeps_their_order(shared: Bench) -> None:
    async with shared.runner() as one, shared.runner() as two:
        await park(shared, one)
        reached = asyncio.Event()

        async def keep_sending() -> None:
            for number in range(24):
                await (one, two)[number % 2].handle(Noted("a", str(number)), message_id=str(number))
                if number == 8:
                    reached.set()

        sending = asyncio.create_task(keep_sending())
        await reached.wait()
        applied = await apply(journal(shared), "order", "a", retry())
        assert applied.changes
        await sending
        await one.settle()
    assert await shared.log("a") == ["placed", "recovered", *(str(number) for number in range(24))]


async def test_a_worker_that_dies_in_the_replay_leaves_it_to_another(shared: Bench) -> None:
    gate = Gate(JournalSagaStateStore(journal(shared), "order"))
    entered = asyncio.Event()

    async def hold(key: str, payload: bytes) -> None:
        if entered.is_set():
            raise JournalUnavailableError("it is dead")
        entered.set()
        await asyncio.Event().wait()

    async with shared.runner() as healthy:
        await park(shared, healthy, Noted("a", "held"))
    await apply(journal(shared), "order", "a", retry())
    dead = shared.runner(gate, stop_seconds=0)
    gate.before = hold
    async with dead:
        await entered.wait()  # it has claimed and replayed, and nothing of it is saved
    calls = len(OrderSaga.calls)
    async with shared.runner() as other:
        await other.settle()
        assert (await shared.record("a")).held  # the dead one's lease
        shared.advance(seconds=6)
        await other.settle()
    assert len(OrderSaga.calls) == calls + 1
    assert await shared.log("a") == ["placed", "recovered", "held"]


async def test_a_replay_that_fails_again_parks_with_the_rest_held(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"), fails=4)
        await apply(journal(shared), "order", "a", retry())
        await runner.settle()
        record = await shared.record("a")
        assert record.parked.startswith("replaying Failing failed: RuntimeError at ")
        assert [held.id for held in record.held] == ["bad", "h0"]
        assert runner.counters.parked == 2
        await apply(journal(shared), "order", "a", retry())
        await runner.settle()
    assert await shared.log("a") == ["placed", "recovered", "1"]


async def test_only_the_held_event_that_makes_the_record_too_large_parks_it_again(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"), Noted("a", "x" * 1500), Noted("a", "3"))
    size = len((await shared.stored("a")).payload)  # type: ignore[union-attr]
    async with shared.runner(max_payload_bytes=size + 600) as small:
        await apply(journal(shared), "order", "a", retry())
        await small.settle()
        record = await shared.record("a")
        assert [held.id for held in record.held] == ["h1", "h2"]
        assert record.parked.startswith("replaying Noted failed: the record of an instance")
        await apply(journal(shared), "order", "a", skip())
        await small.settle()
    assert await shared.log("a") == ["placed", "recovered", "1", "3"]


async def test_of_two_operators_at_once_one_repairs_and_the_other_is_told(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"), Noted("a", "2"))
    done = await asyncio.gather(
        *(apply(journal(shared), "order", "a", skip(by=name)) for name in ("ada", "bob", "eve")),
    )
    assert [applied.changes for applied in done].count(True) == 1
    told = {applied.effects for applied in done if not applied.changes}
    assert told == {("nothing: it is repaired already; what it holds is replayed as soon as a worker takes it",)}
    record = await shared.record("a")
    assert [held.id for held in record.held] == ["h0", "h1"]
    assert len(record.audit) == 1


async def test_with_an_expected_version_a_concurrent_step_is_never_overwritten(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner)
        shown = (await shared.stored("a")).version  # type: ignore[union-attr]
        await runner.handle(Noted("a", "meanwhile"))
        before = await shared.stored("a")
        with pytest.raises(ConflictError):
            await apply(journal(shared), "order", "a", retry(), expected_version=shown)
        assert await shared.stored("a") == before
        both = await asyncio.gather(
            *(apply(journal(shared), "order", "a", retry(), expected_version=shown + 1) for _ in range(2)),
            return_exceptions=True,
        )
    assert sorted(type(one).__name__ for one in both) == ["Applied", "ConflictError"]


async def test_a_second_retry_and_one_of_an_instance_that_is_not_parked_change_nothing_and_say_so(
    shared: Bench,
) -> None:
    async with shared.runner() as runner:
        await park(shared, runner)
        first = await apply(journal(shared), "order", "a", retry())
        second = await apply(journal(shared), "order", "a", retry())
        assert (second.changes, second.version) == (False, first.version)
        await runner.settle()
        before = await shared.stored("a")
        third = await apply(journal(shared), "order", "a", retry())
        assert third.effects == ("nothing: it is not parked, it is running",)
        assert third.after is third.before
        assert await shared.stored("a") == before


async def test_a_dry_run_says_the_same_and_changes_nothing(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"))
    before = await shared.stored("a")
    assert before is not None
    dry = await apply(journal(shared), "order", "a", skip(note="n"), dry_run=True)
    assert await shared.stored("a") == before
    done = await apply(journal(shared), "order", "a", skip(note="n"))
    assert (dry.effects, dry.version) == (done.effects, done.version)
    assert dry.effects[0] == "drops the held Failing, message bad; it counts as consumed"
    assert done.version == before.version + 1


async def test_what_was_skipped_counts_as_consumed(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"), fails=99)
        await apply(journal(shared), "order", "a", skip())
        await runner.settle()
        assert (await runner.handle(Failing("a"), message_id="bad")).duplicate
    assert await shared.log("a") == ["placed", "1"]


@pytest.mark.parametrize("repair", [retry(), skip(), cancel(compensate=True), edit(b"{}", state_version=1)])
async def test_what_is_not_there_or_not_readable_is_named(shared: Bench, repair: Any) -> None:
    with pytest.raises(NoInstanceError, match="the repair"):
        await apply(journal(shared), "order", "nobody", repair)
    await JournalSagaStateStore(journal(shared), "order").save("bad", b"{")
    with pytest.raises(SagaParkedError, match="damaged"):
        await apply(journal(shared), "order", "bad", repair)
    async with shared.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Closed("a"))
        await runner.settle()
    with pytest.raises(NoInstanceError):
        await apply(journal(shared), "order", "a", repair)


async def stick(bench: Bench, command: type, *events: Any) -> Any:
    """Let `command` fail until it parks order a; return the runner, started."""
    bench.world.fail = {command: 2}
    runner = bench.runner(dispatch_retry=RetryPolicy(attempts=2, base_seconds=0.001, cap_seconds=0.001))
    await runner.start()
    for event in events:
        await runner.handle(event)
    while runner.counters.parked == 0:
        await asyncio.sleep(0.001)
    await runner.settle()
    assert (await bench.record("a")).stuck
    return runner


async def test_retry_delivers_a_stuck_command_again_with_all_its_attempts(shared: Bench) -> None:
    runner = await stick(shared, Reserve, Placed("a"))
    try:
        shared.world.fail = {Reserve: 1}
        assert (await runner.handle(Noted("a", "held"))).held
        applied = await apply(journal(shared), "order", "a", retry())
        assert applied.effects[0] == "delivers Reserve (1/0) again"
        while "Note" not in shared.world.names:
            await asyncio.sleep(0.001)
        await runner.settle()
    finally:
        await runner.stop()
    assert shared.world.names == ["Reserve"] * 4 + ["Note"]
    assert len({command_id for command_id, command in shared.world.seen if isinstance(command, Reserve)}) == 1


async def test_skip_drops_a_stuck_command_and_says_that_nobody_knows_how_far_it_came(shared: Bench) -> None:
    runner = await stick(shared, Reserve, Placed("a"))
    try:
        applied = await apply(journal(shared), "order", "a", skip())
        assert applied.effects == ("drops Reserve (1/0), which was not accepted; it may have been carried out",)
        await runner.handle(Noted("a", "on"))
        await runner.settle()
    finally:
        await runner.stop()
    assert shared.world.names == ["Reserve", "Reserve", "Note"]
    assert [undo.of for undo in (await shared.record("a")).undo] == ["1/0"]


async def test_a_completed_instance_whose_last_command_is_stuck_can_be_repaired(shared: Bench) -> None:
    runner = await stick(shared, Ship, Placed("a"), Closed("a"))
    try:
        record = await shared.record("a")
        assert (record.status, record.finished) == (Status.COMPLETED, False)
        assert (await runner.retry("order", "a")).effects == ("delivers Ship (2/0) again",)
        await runner.settle()
    finally:
        await runner.stop()
    assert shared.world.names == ["Reserve", "Ship", "Ship", "Ship"]
    saved = await shared.stored("a")
    assert saved is not None
    assert saved.tombstone


async def test_skipping_the_last_stuck_undo_ends_the_compensation(shared: Bench) -> None:
    runner = await stick(shared, Release, Placed("a"), Cancelled("a"))
    try:
        assert (await shared.record("a")).status is Status.COMPENSATING
        await apply(journal(shared), "order", "a", skip())
        assert (await shared.record("a")).status is Status.COMPENSATED
    finally:
        await runner.stop()


async def test_cancel_with_compensation_keeps_a_stuck_undo_and_goes_on(shared: Bench) -> None:
    runner = await stick(shared, Refund, Placed("a"), Paid("a"), Cancelled("a"))
    try:
        applied = await apply(journal(shared), "order", "a", cancel(compensate=True))
        assert applied.effects == ("goes on with its compensation: sends Refund, Release, last in first out",)
        await runner.settle()
    finally:
        await runner.stop()
    assert shared.world.names == ["Reserve", "Charge", "Refund", "Refund", "Refund", "Release"]
    assert (await shared.record("a")).status is Status.COMPENSATED


@pytest.mark.parametrize(("again", "sent"), [(retry, ["Refund", "Refund", "Release"]), (skip, ["Refund", "Release"])])
async def test_a_failed_compensation_is_taken_up_from_outside(shared: Bench, again: Any, sent: list[str]) -> None:
    shared.world.refuse = {Refund}
    async with shared.runner() as runner:
        for event in (Placed("a"), Paid("a"), Cancelled("a")):
            await runner.handle(event)
        await runner.settle()
        assert (await shared.record("a")).status is Status.COMPENSATION_FAILED
        shared.world.refuse = set()
        await apply(journal(shared), "order", "a", again())
        await runner.settle()
    assert shared.world.names[2:] == sent
    assert (await shared.record("a")).status is Status.COMPENSATED


async def test_cancel_from_outside_compensates_and_knows_what_it_dropped(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"), fails=99)
        applied = await apply(journal(shared), "order", "a", cancel(compensate=True, by="ada"))
        assert applied.effects[-1] == "sends Release, last in first out"
        await runner.settle()
        assert (await runner.handle(Failing("a"), message_id="bad")).duplicate
        assert (await runner.handle(Noted("a", "1"), message_id="h0")).duplicate
    assert shared.world.names == ["Reserve", "Release"]
    record = await shared.record("a")
    assert record.status is Status.COMPENSATED
    assert [(entry.action, entry.by) for entry in record.audit] == [("cancel with compensation", "ada")]


async def test_cancel_as_it_stands_leaves_a_tombstone_that_knows_its_messages(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner)
        applied = await apply(journal(shared), "order", "a", cancel(compensate=False))
        assert applied.effects == (
            "drops the held Failing, message bad; it counts as consumed",
            "drops the timers payment",
            "does not undo what was done: Release not sent",
            "ends the instance as it stands",
        )
        saved = await shared.stored("a")
        assert saved is not None
        assert (saved.tombstone, (await shared.record("a")).status) == (True, Status.CANCELLED)
        assert (await runner.handle(Failing("a"), message_id="bad")).duplicate
        assert await journal(shared).ids_by_prefix("saga::order::") == []
        shared.advance(days=8)
        await runner.settle()
        assert await shared.stored("a") is None


async def test_edit_replaces_the_state_and_leaves_the_rest(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"))
        new = encode({"total": 2, "paid": True, "log": ["by hand"]})
        applied = await apply(journal(shared), "order", "a", edit(new, state_version=1))
        assert applied.effects == ("replaces the state", "stays parked: retry it when the state is right")
        same = await apply(journal(shared), "order", "a", edit(new, state_version=1))
        assert same.effects == ("nothing: the state is the same",)
        await runner.retry("order", "a")
        await runner.settle()
    assert await shared.log("a") == ["by hand", "recovered", "1"]
    assert [entry.action for entry in (await shared.record("a")).audit] == ["edit", "retry"]


async def test_an_edit_does_not_take_commands_from_the_worker_that_delivers_them(shared: Bench) -> None:
    hold, called = asyncio.Event(), asyncio.Event()
    seen: list[str] = []

    async def slow(command: Any) -> None:
        seen.append(type(command).__name__)
        called.set()
        await hold.wait()

    async with shared.runner(dispatch=slow) as one, shared.runner(dispatch=slow) as two:
        await one.handle(Placed("a"))
        await called.wait()
        await apply(journal(shared), "order", "a", edit(encode({"log": ["by hand"]}), state_version=1))
        await two._due_loop.look(two._caches["order"], shared.clock.now())  # type: ignore[union-attr]
        assert seen == ["Reserve"]
        hold.set()
        await one.settle()
    assert seen == ["Reserve"]
    assert await shared.log("a") == ["by hand"]


async def test_resend_sends_an_accepted_command_again_under_the_same_id(shared: Bench) -> None:
    async with shared.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
        repair = await resending(journal(shared), "order", "a", "1/0", by="ada")
        applied = await apply(journal(shared), "order", "a", repair)
        assert applied.effects == ("sends Reserve (1/0) again, under the same id",)
        with pytest.raises(RepairError, match="is in the outbox already"):
            await apply(journal(shared), "order", "a", repair)
        await runner.settle()
    assert [command_id for command_id, _ in shared.world.seen] == ["saga::order::a/1/0"] * 2


async def test_resend_of_an_instance_that_has_ended_leaves_it_ended(shared: Bench) -> None:
    async with shared.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Closed("a"))
        await runner.settle()
        repair = await resending(journal(shared), "order", "a", "saga::order::a/2/0")
        await apply(journal(shared), "order", "a", repair)
        await runner.settle()
        assert (await runner.handle(Noted("a"))).ignored
    assert shared.world.names == ["Reserve", "Ship", "Ship"]
    saved = await shared.stored("a")
    assert saved is not None
    assert saved.tombstone
    assert (await shared.record("a")).status is Status.COMPLETED


async def test_a_command_that_was_refused_may_be_refused_again_when_it_is_resent(shared: Bench) -> None:
    shared.world.refuse = {Charge}
    async with shared.runner() as runner:
        for event in (Placed("a"), Paid("a")):
            await runner.handle(event)
            await runner.settle()
        assert shared.world.names == ["Reserve", "Charge", "Release"]
        charge = shared.world.seen[1][0]
        await apply(journal(shared), "order", "a", await resending(journal(shared), "order", "a", charge))
        await runner.settle()
    assert shared.world.names == ["Reserve", "Charge", "Release", "Charge"]
    assert shared.world.seen[3][0] == charge
    assert (await shared.record("a")).finished


@pytest.mark.parametrize("unknown", ["9/0", "1/7", "x", "99999999999999999999/0", "saga::order::b/1/0", ""])
async def test_a_command_that_history_does_not_have_cannot_be_resent(shared: Bench, unknown: str) -> None:
    async with shared.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
    with pytest.raises(RepairError, match="is not a command in the kept history"):
        await resending(journal(shared), "order", "a", unknown)


class Picky(OrderSaga):
    """Does not start with a total of 13, as long as `picky`."""

    name = "order"
    picky = True

    @starts(Placed, key="order_id")
    def placed(self, state: OrderState, event: Placed):
        if event.total == 13 and self.picky:
            raise RuntimeError
        state.log.append("placed")
        return Send(Reserve(event.order_id))


async def test_a_held_event_that_begins_the_next_life_and_fails_is_kept(shared: Bench) -> None:
    Picky.picky, Picky.fail_times = True, 3
    async with shared.runner(sagas=[Picky]) as runner:
        await park(shared, runner, Closed("a"), Placed("a", 13), Noted("a", "second life"))
        await apply(journal(shared), "order", "a", retry())
        await runner.settle()
        record = await shared.record("a")
        assert record.incarnation == 2
        assert record.parked.startswith("replaying Placed failed: RuntimeError at ")
        assert [held.id for held in record.held] == ["h1", "h2"]
        Picky.picky = False
        await apply(journal(shared), "order", "a", retry())
        await runner.settle()
    assert shared.world.names == ["Reserve", "Note", "Ship", "Reserve", "Note"]
    assert await shared.log("a") == ["placed", "second life"]


async def test_what_an_ended_compensation_still_holds_is_not_buried_with_it(shared: Bench) -> None:
    shared.world.refuse = {Release}
    OrderSaga.fail_times = 99
    async with shared.runner() as runner:
        await park(shared, runner)
        await runner.cancel("order", "a")
        await runner.settle()
        record = await shared.record("a")
        assert record.status is Status.COMPENSATION_FAILED
    # What a handler for an event while compensating would leave: parked, and held, beside the failed compensation.
    held = (Held("late", Typed("Placed", msgspec.Raw(encode(Placed("a", 9))))),)
    record.parked, record.held = "a handler raised", held
    version = (await shared.stored("a")).version  # type: ignore[union-attr]
    await JournalSagaStateStore(journal(shared), "order").save("a", encode_record(record), expected_version=version)
    applied = await apply(journal(shared), "order", "a", skip())
    assert (applied.after.status, applied.after.finished) == (Status.COMPENSATED, False)
    async with shared.runner() as runner:
        await runner.settle()
        assert (await runner.handle(Placed("a", 9), message_id="late")).duplicate
    assert (await shared.record("a")).incarnation == 2
    assert await shared.log("a") == ["placed"]


class _LosesAnswers(InMemoryJournal):
    """Loses the answer of the next write, which is stored or not."""

    stored: bool | None = None
    down = False

    async def write_messages(self, messages: Any, *, atomic: bool = False) -> None:
        stored, self.stored = self.stored, None
        if stored is None or stored:
            await super().write_messages(messages, atomic=atomic)
        if stored is not None:
            raise OutcomeUnknownError("no answer")

    async def latest_message(self, persistence_id: str) -> Any:
        if self.down:
            raise JournalUnavailableError("down")
        return await super().latest_message(persistence_id)


@pytest.mark.parametrize("stored", [True, False])
async def test_a_repair_without_an_answer_is_made_once(stored: bool) -> None:
    bench = Bench(_LosesAnswers())
    async with bench.runner() as runner:
        await park(bench, runner, Noted("a", "1"))
    held = await bench.record("a")
    bench.journal.stored = stored  # type: ignore[union-attr]
    applied = await apply(journal(bench), "order", "a", skip())
    record = await bench.record("a")
    assert len(record.audit) == len(held.audit) + 1
    assert [one.id for one in record.held] == ["h0"]
    assert applied.changes
    assert applied.version == (await bench.stored("a")).version  # type: ignore[union-attr]


async def test_a_journal_that_stops_answering_during_a_repair_does_not_claim_that_nothing_is_stored() -> None:
    bench = Bench(_LosesAnswers())
    async with bench.runner() as runner:
        await park(bench, runner)
    bench.journal.down = True  # type: ignore[union-attr]
    with pytest.raises(JournalUnavailableError):
        await apply(journal(bench), "order", "a", retry())
    bench.journal.down = False  # type: ignore[union-attr]
    real = bench.journal.write_messages  # type: ignore[union-attr]

    async def write(messages: Any, *, atomic: bool = False) -> None:
        bench.journal.stored, bench.journal.down = True, True  # type: ignore[union-attr]
        await real(messages, atomic=atomic)

    bench.journal.write_messages = write  # type: ignore[union-attr,method-assign]
    with pytest.raises(OutcomeUnknownError, match="may or may not be stored"):
        await apply(journal(bench), "order", "a", retry())
