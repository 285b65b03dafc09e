"""What must hold whatever the saga does, and what the user says: judged on every run by what is stored and was seen.

Read from the ledger and from outside, never from a runner's memory. `guarantees` has the rules about records,
`deliveries` those about commands.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from ...decision import ids
from ...decision.entries import FINAL, Status
from ...decision.ids import GAP
from ...decision.inbox import each
from ...decision.phases import phase_of
from ...decision.record import SagaRecord
from ...decision.sequences import gap_in, sequence_of
from ...definition.saga import Saga
from ...runner import NoInstance
from .asking import Askers
from .by_key import check_reached, check_unique
from .deliveries import HandlerCalls
from .families import check_family
from .guarantees import check_ended, check_first, check_order, check_pair, check_twice
from .itineraries import check_activities, check_itinerary_ended
from .ledger import Landed
from .situation import Situation
from .world import Finished


def judge(run: Situation, askers: Askers) -> None:
    """Raise AssertionError for the first thing that is wrong."""
    finished: list[Finished] = []
    check_unique(run.ledger)
    for persistence_id in sorted(run.ledger.lives):
        lives = [life for life in run.ledger.lives[persistence_id] if _has_records(life)]
        if ids.instance_of(persistence_id) is None or not lives:
            continue  # a reservation of a key, or what fenced who wanted one
        for number, life in enumerate(lives):
            readable = _readable(persistence_id, life)
            deliveries = HandlerCalls(run, persistence_id, number, readable)
            check_first(persistence_id, readable[0])
            _check_activities(run, persistence_id, readable)
            for before, after in pairwise(readable):
                check_pair(persistence_id, before, after)
                deliveries.check_pair(before, after)
            deliveries.check()
            check_family(run, persistence_id, readable)
            check_ended(persistence_id, readable[-1])
            finished += _finished(run, persistence_id, readable, deliveries)
        check_twice(persistence_id, lives, run.settings.retention, run.skew)
        _nothing_accepted_is_lost(run, persistence_id, lives)
        code = next(saga for saga in run.sagas if saga.name == ids.parts_of(persistence_id)[0])
        waits = run.settings.no_instance is NoInstance.WAIT
        check_order(persistence_id, lives, run.outside, waits=waits, by_key=code.key_of)
    for sent in run.outside.sent.values():
        for saga in sent.known:
            code = next(one for one in run.sagas if one.name == saga)
            if (key := code.key_of(sent.event)) is not None:
                check_reached(run, sent, saga, (key[0].name, key[1]))
                continue
            correlation_id = code.correlation_id(sent.event)
            own = ids.persistence_id(saga, str(correlation_id))
            assert own in run.ledger.lives, f"{sent.message_id} was accepted, and {own} never was there"
    askers.check()
    for instance in finished:
        assert run.world.may_park or instance.status != "parked", _stays_parked(run, instance)
        run.world.check(instance)
    run.world.check_all(finished)


def _has_records(life: list[Landed]) -> bool:
    return any(one.record is not None for one in life)


def _check_activities(run: Situation, persistence_id: str, life: list[Landed]) -> None:
    table = next(saga for saga in run.sagas if saga.name == ids.parts_of(persistence_id)[0]).activities
    before: SagaRecord | None = None
    for one in life if table is not None else ():
        assert one.record is not None
        assert table is not None
        check_activities(f"{persistence_id}#{one.message.sequence_nr}", table, before, one.record)
        before = one.record
    if table is not None and before is not None:
        check_itinerary_ended(persistence_id, table, before)


def _readable(persistence_id: str, life: list[Landed]) -> list[Landed]:
    numbers = [one.message.sequence_nr for one in life]
    assert numbers == list(range(1, len(numbers) + 1)), f"{persistence_id} has gaps in its numbers: {numbers}"
    return [one for one in life if one.record is not None]


def _stays_parked(run: Situation, instance: Finished) -> str:
    persistence_id = ids.persistence_id(instance.saga, instance.correlation_id)
    newest = run.ledger.newest(persistence_id)
    reason = newest.record.parked if newest is not None and newest.record is not None else ""
    return f"{persistence_id} stays parked, whatever its operator does: {reason}"


def _nothing_accepted_is_lost(run: Situation, persistence_id: str, lives: list[list[Landed]]) -> None:
    name, correlation_id = ids.parts_of(persistence_id)
    known: set[str] = set()
    for life in lives:
        newest = next(one.record for one in reversed(life) if one.record is not None)
        known.update(each(newest.inbox), each(newest.inherited), (held.id for held in (*newest.held, *newest.kept)))
        _nothing_waits_in_vain(persistence_id, next(saga for saga in run.sagas if saga.name == name), newest)
        for one in life:
            # What an operator dropped was never handled, and is forgotten when retention ends.
            if one.record is not None:
                known.update((handled.id for handled in one.record.handled), each(one.record.inbox))
                known.update(each(one.record.inherited))  # one step may drop it, and begin the next life
    saga = next(saga for saga in run.sagas if saga.name == name)
    for sent in run.outside.sent.values():
        if name in sent.known and saga.correlation_id(sent.event) == correlation_id:
            assert sent.message_id in known, (
                f"{sent.message_id} {type(sent.event).__name__} was accepted, and {persistence_id} does not know it"
            )


def _nothing_waits_in_vain(persistence_id: str, saga: Saga[Any], newest: SagaRecord) -> None:
    """Nothing is kept that could be handled: by the phase it is in, or because the saga has ended."""
    if newest.parked or not newest.kept:
        return
    assert newest.status not in FINAL, f"{persistence_id} has ended, and keeps messages still"
    for key in {one.sequence for one in newest.kept if one.sequence} if newest.status is Status.RUNNING else ():
        gap, known = gap_in(saga, persistence_id, newest, key), sequence_of(saga, key)
        assert gap is not None, f"{persistence_id} keeps {key}, of which nothing is missing"
        waited_for = known is None or known.gap_within is None or GAP + key in newest.timers
        assert waited_for, f"{persistence_id} waits for {gap} without end, and its deadline is forgotten"
    table, phase = saga.phase_table, phase_of(saga, newest)
    if table is None or phase is None or newest.status is not Status.RUNNING:
        return
    expected = {
        event.__name__ for event in saga.event_types() if table.expects(event, phase) and event not in saga.numberings
    }
    waits = [one.event.type for one in newest.kept if one.event.type in expected]
    assert not waits, f"{persistence_id} keeps {', '.join(waits)}, which its phase {phase.name} expects"


def _finished(run: Situation, persistence_id: str, life: list[Landed], deliveries: HandlerCalls) -> list[Finished]:
    """Return one for each incarnation. Where one ended and the next began in one step, neither can be told apart."""
    name, correlation_id = ids.parts_of(persistence_id)
    saga = next(saga for saga in run.sagas if saga.name == name)
    last = {one.record.incarnation: one.record for one in life if one.record is not None}
    final = max(last)
    found = []
    for incarnation, record in list(last.items()):
        if incarnation != final and record.status not in FINAL:
            last[incarnation + 1] = last.get(incarnation + 1, record)
            continue
        if incarnation - 1 in last and last[incarnation - 1].status not in FINAL:
            continue
        status = "parked" if record.parked and incarnation == final else record.status.value
        state = saga.decode_state(record.state_bytes())
        repairs = [audit.action for audit in record.audit]
        found.append(Finished(name, correlation_id, status, state, deliveries.commands(incarnation), repairs))
    return found
