"""The transition rule, without a loop, a store or a clock."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sagalog import (
    CancelTimer,
    CodecError,
    Compensate,
    Complete,
    DefinitionError,
    Outcome,
    Saga,
    SagaRecord,
    Schedule,
    Send,
    SetTimer,
    Status,
    on,
    starts,
)
from sagalog.decision.advance import advance
from sagalog.decision.draft import Draft
from sagalog.decision.message import Message, refusal, unhold
from sagalog.decision.parking import park, park_again
from sagalog.decision.record import encode_record

from ..orders import Asked, Charge, Note, Noted, OrderState, Overdue, Placed, Refund, Release, Reserve, Ship, Survey

NOW = datetime(2030, 1, 1, tzinfo=UTC)
RETENTION = timedelta(days=7)
PID = "saga::told::a"


class Told(Saga[OrderState]):
    """Does what the test says: `act` is called for every event but the first."""

    name = "told"
    messages = (Reserve, Release, Charge, Refund, Ship, Note, Survey, Overdue)
    act: Callable[[OrderState, Any], Any] = staticmethod(lambda state, event: None)

    @starts(Placed, key="order_id")
    def placed(self, state: OrderState, event: Placed) -> Any:
        state.log.append("placed")
        return Send(Reserve("a"), undo=Release("a"))

    @on(Asked, key="order_id")
    def asked(self, state: OrderState, event: Asked) -> Any:
        return type(self).act(state, event)

    @on(Overdue, key="order_id")
    def overdue(self, state: OrderState, event: Overdue) -> Any:
        state.log.append("overdue")

    @on(Noted, key="order_id", while_compensating=True)
    def noted(self, state: OrderState, event: Noted) -> Any:
        state.log.append(event.text)


SAGA, REGISTRY = Told(), Told.registry()


def draft(record: SagaRecord | None = None, version: int = 0, now: datetime = NOW) -> Draft:
    return Draft(SAGA, REGISTRY, PID, record, version, now, RETENTION)


def started() -> Draft:
    first = draft()
    assert advance(first, Message("m1", Placed("a"))) is Outcome.HANDLED
    return first


def acting(actions: Any, state: Callable[[OrderState], None] = lambda state: None) -> Draft:
    """Return a draft of version 2 in which an event made the saga do `actions`."""

    def act(current: OrderState, event: Any) -> Any:
        state(current)
        return actions

    Told.act = staticmethod(act)
    second = draft(started().record, 1)
    assert advance(second, Message("m2", Asked("a"))) is Outcome.HANDLED
    return second


def record_of(made: Draft) -> SagaRecord:
    assert made.record is not None
    return made.record


def log(made: Draft) -> list[str]:
    state: OrderState = SAGA.decode_state(record_of(made).state_bytes())
    return state.log


def outbox(made: Draft) -> list[tuple[str, str]]:
    return [(entry.id, entry.command.type) for entry in record_of(made).outbox]


def test_a_starting_event_makes_a_record_with_everything_in_it() -> None:
    made = started()
    assert outbox(made) == [("1/0", "Reserve")]
    assert record_of(made).inbox == ("m1",)
    assert [undo.of for undo in record_of(made).undo] == ["1/0"]
    assert (made.started, made.ended, made.changed) == (1, 0, True)


def test_an_event_that_may_not_start_changes_nothing() -> None:
    empty = draft()
    assert advance(empty, Message("m", Asked("a"))) is Outcome.NO_INSTANCE
    assert empty.record is None
    assert not empty.changed


def test_a_known_message_changes_nothing() -> None:
    again = draft(started().record, 1)
    before = encode_record(record_of(again))
    assert advance(again, Message("m1", Placed("a"))) is Outcome.DUPLICATE
    assert encode_record(record_of(again)) == before
    assert not again.changed


def test_the_stored_record_is_not_changed_by_the_draft() -> None:
    stored = record_of(started())
    before = encode_record(stored)
    everything = [
        Send(Charge("a"), undo=Refund("a")),
        SetTimer("t", Overdue("a"), after=timedelta(1)),
        CancelTimer("x"),
    ]
    for actions in (everything, [Schedule(Survey("a"), timedelta(1)), Complete()], Compensate()):
        acting(actions)
        Told.act = staticmethod(lambda state, event, actions=actions: actions)
        made = draft(stored, 1)
        made.accept(["1/0"])
        advance(made, Message("m2", Asked("a")))
        assert encode_record(stored) == before


def yielding(*parts: Any) -> Any:
    for part in parts:
        if isinstance(part, Exception):
            raise part
        yield part


@pytest.mark.parametrize(
    ("actions", "error"),
    [
        (lambda: yielding(Send(Charge("a")), RuntimeError("later")), RuntimeError),
        (lambda: [Send(Charge("a")), Ship("a")], DefinitionError),
        (lambda: Ship("a"), DefinitionError),
        (lambda: "text", DefinitionError),
        (lambda: [SetTimer("t", Overdue("a"))], DefinitionError),
        (lambda: [SetTimer("t", Overdue("a"), after=timedelta(1), at=NOW)], DefinitionError),
        (lambda: [SetTimer("t", Overdue("a"), at=datetime(2030, 1, 1))], DefinitionError),  # noqa: DTZ001
        (lambda: [SetTimer("t", Overdue("a"), after=timedelta(days=999_999_999))], DefinitionError),
        (lambda: [Schedule(Survey("a"), after=timedelta(days=999_999_999))], DefinitionError),
        (lambda: [SetTimer(7, Overdue("a"), after=timedelta(1))], DefinitionError),  # type: ignore[arg-type]
        (lambda: [SetTimer("", Overdue("a"), after=timedelta(1))], DefinitionError),
        (lambda: [SetTimer("schedule/1", Overdue("a"), after=timedelta(1))], DefinitionError),
        (lambda: [SetTimer("t", Survey("a"), after=timedelta(1))], DefinitionError),
        (lambda: [Compensate(), Send(Charge("a"), undo=Refund("a"))], DefinitionError),
        (lambda: [Compensate(), Complete()], DefinitionError),
        (lambda: [Complete(), SetTimer("t", Overdue("a"), after=timedelta(1))], DefinitionError),
        (lambda: [Compensate(), SetTimer("t", Overdue("a"), after=timedelta(1))], DefinitionError),
        (lambda: [Send(object())], DefinitionError),
        (lambda: [Send(Note("a", "\ud800"))], CodecError),
    ],
)
def test_a_handler_or_action_that_fails_leaves_the_draft_as_it_was(actions: Any, error: type[Exception]) -> None:
    def act(state: OrderState, event: Any) -> Any:
        state.log.append("must not be seen")
        return actions()

    Told.act = staticmethod(act)
    second = draft(started().record, 1)
    before = encode_record(record_of(second))
    with pytest.raises(error):
        advance(second, Message("m2", Asked("a")))
    assert encode_record(record_of(second)) == before
    assert not second.changed
    Told.act = staticmethod(lambda state, event: Send(Charge("a")))
    assert advance(second, Message("m3", Asked("a"))) is Outcome.HANDLED
    assert outbox(second) == [("1/0", "Reserve"), ("2/0", "Charge")]


def test_a_state_that_cannot_be_encoded_leaves_the_draft_as_it_was() -> None:
    def act(state: OrderState, event: Any) -> Any:
        state.log.append(object())  # type: ignore[arg-type]
        return Send(Charge("a"))

    Told.act = staticmethod(act)
    second = draft(started().record, 1)
    with pytest.raises(CodecError):
        advance(second, Message("m2", Asked("a")))
    assert not second.changed


async def test_handlers_may_be_coroutines_and_async_generators() -> None:
    async def coroutine() -> Any:
        await asyncio.sleep(0)
        return [Send(Charge("a"))]

    async def generator() -> Any:
        yield Send(Ship("a"))
        await asyncio.sleep(0)
        yield Send(Charge("a"))

    async def nothing() -> None: ...

    for made, types in ((coroutine, ["Charge"]), (generator, ["Ship", "Charge"]), (nothing, [])):
        Told.act = staticmethod(lambda state, event, made=made: made())
        second = draft(started().record, 1)
        outcome = advance(second, Message("m2", Asked("a")))
        assert not isinstance(outcome, Outcome)
        assert await outcome is Outcome.HANDLED
        assert [kind for _, kind in outbox(second)[1:]] == types


def test_several_messages_in_one_draft_are_one_step_with_distinct_command_ids() -> None:
    Told.act = staticmethod(lambda state, event: [Send(Note("a", event.action)), Send(Ship("a"))])
    made = draft(started().record, 1)
    for n in range(3):
        advance(made, Message(f"x{n}", Asked("a", str(n))))
    assert [entry for entry, _ in outbox(made)] == ["1/0", "2/0", "2/1", "2/2", "2/3", "2/4", "2/5"]
    assert [handled.id for handled in record_of(made).handled] == ["x0", "x1", "x2"]


def test_compensation_is_queued_backwards_behind_what_is_not_delivered() -> None:
    made = acting([Send(Charge("a"), undo=Refund("a")), Send(Ship("a")), Compensate()])
    assert [kind for _, kind in outbox(made)] == ["Reserve", "Charge", "Ship", "Refund", "Release"]
    assert [entry.undo for entry in record_of(made).outbox] == [False, False, False, True, True]
    assert record_of(made).status is Status.COMPENSATING
    made.accept(["1/0", "2/0", "2/1", "2/2"])
    assert record_of(made).status is Status.COMPENSATING
    made.accept([record_of(made).outbox[-1].id])
    assert record_of(made).status is Status.COMPENSATED


def test_compensation_with_its_own_commands_sends_those_in_the_order_given() -> None:
    made = acting(Compensate((Note("a", "1"), Ship("a"))))
    assert [kind for _, kind in outbox(made)] == ["Reserve", "Note", "Ship"]


def test_compensation_with_nothing_to_undo_is_done_at_once() -> None:
    made = draft(started().record, 1)
    made.accept(["1/0"])
    record_of(made).undo = []
    Told.act = staticmethod(lambda state, event: Compensate())
    advance(made, Message("m2", Asked("a")))
    assert record_of(made).status is Status.COMPENSATED


def test_compensation_cancels_timers_and_what_is_scheduled() -> None:
    made = acting([SetTimer("t", Overdue("a"), after=timedelta(1)), Schedule(Survey("a"), timedelta(1)), Compensate()])
    assert record_of(made).timers == {}


def test_completion_drops_timers_and_keeps_what_is_scheduled() -> None:
    made = acting([SetTimer("t", Overdue("a"), after=timedelta(1)), Schedule(Survey("a"), timedelta(1)), Complete()])
    assert [timer.send for timer in record_of(made).timers.values()] == [True]
    assert (record_of(made).status, made.ended) == (Status.COMPLETED, 1)


def test_a_refused_command_is_not_undone() -> None:
    made = draft(started().record, 1)
    command_id = f"{PID}/1/0"
    assert advance(made, refusal(Reserve("a"), command_id, "no stock")) is Outcome.HANDLED
    assert record_of(made).status is Status.COMPENSATED
    assert outbox(made) == []
    assert advance(made, refusal(Reserve("a"), command_id, "no stock")) is Outcome.DUPLICATE


def test_a_refused_undo_says_that_compensation_failed_and_keeps_the_rest() -> None:
    made = acting([Send(Charge("a"), undo=Refund("a")), Compensate()])
    made.accept(["1/0", "2/0"])
    refund = record_of(made).outbox[0]
    advance(made, refusal(Refund("a"), f"{PID}/{refund.id}", "no"))
    assert record_of(made).status is Status.COMPENSATION_FAILED
    assert [undo.command.type for undo in record_of(made).undo] == ["Release", "Refund"]


def test_a_command_refused_while_it_is_taken_back_is_not_taken_back() -> None:
    made = acting([Send(Charge("a"), undo=Refund("a")), Compensate()])
    made.accept(["1/0"])
    advance(made, refusal(Charge("a"), f"{PID}/2/0", "no money"))
    assert [kind for _, kind in outbox(made)] == ["Release"]
    assert record_of(made).status is Status.COMPENSATING


def test_a_command_refused_after_completion_compensates() -> None:
    made = acting([Send(Charge("a"), undo=Refund("a")), Complete()])
    made.accept(["1/0"])
    advance(made, refusal(Charge("a"), f"{PID}/2/0", "no money"))
    assert [kind for _, kind in outbox(made)] == ["Release"]
    assert (record_of(made).status, made.ended) == (Status.COMPENSATING, 0)


@pytest.mark.parametrize("status", [Status.COMPENSATING, Status.COMPENSATION_FAILED])
def test_events_during_compensation_are_ignored_unless_asked_for(status: Status) -> None:
    made = draft(started().record, 1)
    record_of(made).status = status
    assert advance(made, Message("m2", Asked("a"))) is Outcome.NO_INSTANCE
    assert advance(made, Message("m3", Noted("a", "x"))) is Outcome.HANDLED


def test_a_timer_fires_by_the_id_of_the_step_that_set_it() -> None:
    made = acting(SetTimer("t", Overdue("a"), after=timedelta(minutes=1)))
    timer = record_of(made).timers["t"]
    assert timer.due_at == NOW + timedelta(minutes=1)
    late = Message(f"{PID}/1/7", Overdue("a"), "timer", "t")
    assert advance(made, late) is Outcome.IGNORED
    assert advance(made, Message(f"{PID}/{timer.id}", Overdue("a"), "timer", "t")) is Outcome.HANDLED
    assert log(made) == ["placed", "overdue"]
    assert record_of(made).timers == {}


def test_a_parked_instance_holds_what_comes_and_gives_it_back_as_it_was() -> None:
    made = draft(started().record, 1)
    park(made, "because", Message("bad", Asked("a", "bad")))
    assert advance(made, Message("n", Noted("a", "x"))) is Outcome.HELD
    assert advance(made, Message("n", Noted("a", "x"))) is Outcome.DUPLICATE
    assert [held.id for held in record_of(made).held] == ["bad", "n"]
    again = unhold(record_of(made).held[0], made.registry)
    assert (again.id, again.event, again.kind) == ("bad", Asked("a", "bad"), "event")


def test_the_next_incarnation_remembers_what_the_last_one_consumed_until_retention_ends() -> None:
    ended = record_of(acting(Complete()))
    again = draft(ended, 2, NOW + timedelta(days=1))
    assert advance(again, Message("m3", Placed("a"))) is Outcome.HANDLED
    assert advance(again, Message("m1", Placed("a"))) is Outcome.DUPLICATE
    assert record_of(again).incarnation == 2
    assert outbox(again) == [("1/0", "Reserve"), ("3/0", "Reserve")]  # of the first life, not yet delivered
    much_later = draft(again.record, 3, NOW + timedelta(days=9))
    assert advance(much_later, Message("m2", Noted("a"))) is Outcome.HANDLED


def test_one_step_may_end_an_instance_and_start_it_anew_and_remembers_what_both_consumed() -> None:
    made = acting(Complete())
    before = [one.id for one in record_of(made).handled]
    advance(made, Message("m3", Placed("a")))
    record = record_of(made)
    assert (record.incarnation, record.status) == (2, Status.RUNNING)
    assert [one.id for one in record.handled] == [*before, "m3"]


def test_what_is_replayed_after_the_saga_has_ended_does_nothing_more() -> None:
    made = acting([Send(Charge("a"), undo=Refund("a")), SetTimer("t", Overdue("a"), after=timedelta(minutes=1))])
    timer = record_of(made).timers["t"]
    park(made, "because", Message("bad", Asked("a")))
    assert advance(made, Message(f"{PID}/{timer.id}", Overdue("a"), "timer", "t")) is Outcome.IGNORED  # it waits
    for entry, command in (("1/0", Reserve("a")), ("2/0", Charge("a"))):
        assert advance(made, refusal(command, f"{PID}/{entry}", "no")) is Outcome.HELD
    held, record_of(made).held, record_of(made).parked = record_of(made).held[1:], (), ""
    outcomes = [advance(made, unhold(one, made.registry)) for one in held]
    assert outcomes == [Outcome.HANDLED, Outcome.HANDLED]
    assert record_of(made).status is Status.COMPENSATED  # by the first refusal; there was nothing left to take back
    assert log(made) == ["placed"]


def test_an_instance_is_parked_for_a_reason_that_is_no_unicode_too() -> None:
    made = started()
    park(made, "because \ud800", Message("m2", Asked("a")))
    record = record_of(made)
    assert record.parked == "because \\ud800"
    assert encode_record(record)
    park_again(made, "\udfff", record.held)
    assert record_of(made).parked == "\\udfff"
