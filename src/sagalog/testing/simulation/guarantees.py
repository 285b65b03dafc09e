"""Rules about the records of one persistence id: each follows from the one before, as one step of one saga can."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from ...decision.children import live_children
from ...decision.entries import FINAL, Status, Timer
from ...decision.ids import is_refusal, parts_of
from ...decision.inbox import each
from ...decision.record import SagaRecord
from ...definition.recurring import LATE
from .ledger import Landed
from .outside import Outside, SentEvent


def _record(landed: Landed) -> SagaRecord:
    assert landed.record is not None
    return landed.record


def check_first(persistence_id: str, first: Landed) -> None:
    """A life begins with its first incarnation; what came with its starting event may have ended it, and begun the next."""
    record = _record(first)
    # Each but the last one took a message to end it, too.
    began = 1 + (len(record.handled) + len(record.held) + len(record.kept) - 1) // 2
    assert 1 <= record.incarnation <= max(1, began), f"{persistence_id} begins with incarnation {record.incarnation}"
    assert all(audit.by_engine for audit in record.audit), f"{persistence_id} begins with a repair"


def check_pair(persistence_id: str, before: Landed, after: Landed) -> None:
    """Nothing is forgotten from one record to the next, and nothing comes from nowhere."""
    a, b = _record(before), _record(after)
    here = f"{persistence_id}#{after.message.sequence_nr}"
    assert b.audit[: len(a.audit)] == a.audit, f"{here} forgets repairs"
    if a.incarnation == b.incarnation:
        _check_same_life(here, a, b)
    else:
        _check_next_life(here, a, b, after.message.sequence_nr)
    _check_timers(persistence_id, here, a, b)
    _check_held(here, a, b)
    _check_kept(here, a, b)


def _check_same_life(here: str, a: SagaRecord, b: SagaRecord) -> None:
    assert set(each(a.inbox)) <= set(each(b.inbox)), f"{here} forgets messages: it was not made from the one before"
    assert b.started_at == a.started_at, f"{here} is of another beginning than the one before"
    assert b.inherited == a.inherited, f"{here} forgets what earlier lives consumed"
    for name, joined in a.joins.items():
        kept = b.joins.get(name)
        assert kept is not None, f"{here} forgets how far the join {name} is"
        assert kept.done or (not joined.done and set(joined.came) <= set(kept.came)), f"{here}: {name} goes back"
    if a.status in FINAL and b.status is not a.status:
        told = any(is_refusal(one.id) for one in b.handled) or b.audit != a.audit
        allowed = told and a.status is Status.COMPLETED
        assert allowed, f"{here}: it was {a.status}, and is {b.status}"
    if a.status in (Status.COMPENSATING, Status.COMPENSATION_FAILED):
        assert b.status is not Status.RUNNING, f"{here}: it was {a.status}, and runs again"


def _check_next_life(here: str, a: SagaRecord, b: SagaRecord, number: int) -> None:
    assert b.incarnation > a.incarnation, f"{here} is of an earlier incarnation than the one before"
    # By another message, by the acceptance of its last undo command, or by an operator who drops what could not be undone,
    # or the event that was to start it, or who cancels what has nothing to undo.
    made = b.audit[len(a.audit) :]
    cancelled = any(audit.action.startswith("cancel") for audit in made)
    repaired = bool(made) and (cancelled or a.status is Status.COMPENSATION_FAILED or not a.started_by)
    ended_in_this_step = len(b.handled) + len(b.held) + len(b.kept) >= 2 or a.status is Status.COMPENSATING or repaired
    assert a.status in FINAL or ended_in_this_step, f"{here} begins anew, and the life before had not ended"
    assert set(each(a.inbox)) <= {*each(b.inherited), *each(b.inbox)}, (
        f"{here} begins anew, and forgets what was consumed"
    )
    for name, timer in b.timers.items():
        assert timer.send or timer.id.startswith(f"{number}/"), f"{here} begins anew, with the old timer {name}"


def _check_timers(persistence_id: str, here: str, a: SagaRecord, b: SagaRecord) -> None:
    left = {timer.id for timer in b.timers.values()}
    known = {*(one.id for one in b.handled), *each(b.inbox), *(held.id for held in (*b.held, *b.kept))}
    decided = bool(b.handled) or b.audit != a.audit or b.status is not a.status or b.incarnation != a.incarnation
    handled = {one.id for one in b.handled}
    for name, timer in a.timers.items():
        fired = f"{persistence_id}/{timer.id}" in known
        decided = decided or _passed_over(name, timer, b)
        assert timer.id in left or fired or decided, f"{here} drops the timer {name}, and nobody asked for it"
        assert timer.id in left or fired or not timer.send, f"{here} drops a scheduled command"
        if f"{persistence_id}/{timer.id}" in handled:
            assert b.updated_at >= timer.due_at, f"timer {name} of {persistence_id} fired early"
            assert timer.id not in left, f"{here}: timer {name} fired, and is pending still"
    ended = b.status in FINAL and any(not timer.send for timer in b.timers.values())
    assert not ended, f"{here} has ended, with a timer pending"


def _passed_over(name: str, timer: Timer, record: SagaRecord) -> bool:
    """Say whether a recurring timer moved on because its time had been missed, as its rule asks."""
    after, rule = record.timers.get(name), timer.rule
    if after is None or rule is None or after.rule != rule or rule.missed != "skip":
        return False
    return after.due_at > timer.due_at and record.updated_at - timer.due_at > LATE


def _check_held(here: str, a: SagaRecord, b: SagaRecord) -> None:
    held, known = [one.id for one in b.held], {*each(b.inbox), *each(b.inherited), *(one.id for one in b.handled)}
    before = [one.id for one in a.held]
    kept_now = {one.id for one in b.kept}
    lost = [
        one.id
        for one in a.held
        if one.kind == "event" and one.id not in held and one.id not in known and one.id not in kept_now
    ]
    assert not lost, f"{here} loses held messages: {', '.join(lost)}"
    plain = [one.id for one in b.held if not one.kept]  # the others were kept, and waited for something else
    again = [one for one in before if one in plain]
    assert plain[: len(again)] == again, f"{here} holds its messages in another order"
    replayed = [one.id for one in b.handled if one.id in before and one.how != "kept"]
    assert replayed == [one for one in before if one in replayed], f"{here} replays out of order: {replayed}"
    # One that begins the next incarnation waits for this one to end, and what came after it waits behind it.
    assert not held or b.parked or (b.held[0].waits and b.status not in FINAL), (
        f"{here} holds messages, and is not parked"
    )


def _check_kept(here: str, a: SagaRecord, b: SagaRecord) -> None:
    """What is kept stays kept, in its order, until it is handled, held or let go.

    Of one type the older goes first; of one sequence the one with the lower number.
    """
    left, handled = [one.id for one in b.kept], [one.id for one in b.handled]
    known = {*handled, *each(b.inbox), *each(b.inherited), *(one.id for one in b.held)}
    ended = b.status in FINAL or b.incarnation != a.incarnation or b.audit != a.audit
    lost = [
        one.id for one in a.kept if one.id not in left and one.id not in known and not (ended and one.kind == "timer")
    ]
    assert not lost, f"{here} loses kept messages: {', '.join(lost)}"
    again = [one.id for one in a.kept if one.id in left]
    assert left[: len(again)] == again, f"{here} keeps its messages in another order"
    for kind in {(one.event.type, one.sequence) for one in a.kept}:
        before = [
            one.id for one in sorted(a.kept, key=lambda one: one.number) if (one.event.type, one.sequence) == kind
        ]
        woken = [one for one in handled if one in before]
        assert woken == [one for one in before if one in woken], f"{here} handles what it kept out of order: {woken}"


def check_ended(persistence_id: str, last: Landed) -> None:
    """A compensation comes to an end, and says so."""
    record = _record(last)
    idle = record.status is Status.COMPENSATING and not record.stuck and not any(one.undo for one in record.outbox)
    idle = idle and not live_children(record)  # whose end it waits for
    assert not idle, f"{persistence_id} compensates for ever: nothing is left to undo, and it does not say so"


def check_twice(persistence_id: str, lives: list[list[Landed]], retention: timedelta, skew: float) -> None:
    """A message id changes an instance at most once, until retention ends."""
    seen: dict[str, Landed] = {}
    for life in lives:
        for one in life:
            for handled in one.record.handled if one.record is not None else ():
                earlier = seen.setdefault(handled.id, one)
                if earlier is one:
                    continue
                age = _record(one).updated_at - _record(earlier).updated_at
                forgotten = earlier not in life and age >= retention - timedelta(seconds=2 * skew)
                assert forgotten, f"{persistence_id} was changed twice by {handled.id}"


def check_order(
    persistence_id: str, lives: list[list[Landed]], outside: Outside, *, waits: bool, by_key: Callable[[Any], object]
) -> None:
    """What was accepted before another was sent, or reached the same worker before it, was handled before it.

    An event that reached others by a key (`by_key` says so) may reach this instance with a later delivery.
    """
    saga = parts_of(persistence_id)[0]
    records = [landed.record for life in lives for landed in life if landed.record is not None]
    handled = [
        outside.sent[one.id]
        for record in records
        for one in record.handled
        if one.id in outside.sent and one.how != "kept"  # which was handled later on purpose
        if not by_key(outside.sent[one.id].event)
    ]
    latest: SentEvent | None = None
    arrived: dict[str, SentEvent] = {}
    for sent in handled:
        accepted = sent.known.get(saga)
        assert latest is None or accepted is None or latest.began < accepted, (
            f"{persistence_id} handled {latest.message_id if latest else ''} before {sent.message_id}, which was accepted "
            "before the other was sent"
        )
        if latest is None or sent.began > latest.began:
            latest = sent
        if len(sent.attempts) == 1 and not waits:
            worker = sent.attempts[0][0]
            before = arrived.get(worker)
            assert before is None or before.began < sent.began, (
                f"{persistence_id} handled {before.message_id if before else ''} before {sent.message_id}, which came to "
                f"{worker} before it"
            )
            arrived[worker] = sent
