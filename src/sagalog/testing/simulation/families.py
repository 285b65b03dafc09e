"""Rules about parents and children: one child for each start, each end heard once, and parents compensated last."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from ...decision.children import is_life, start_of
from ...decision.entries import FINAL, Command, Status
from ...decision.ids import end_id, parent_in
from ...decision.record import SagaRecord
from .ledger import Landed
from .situation import Situation


class _Start(msgspec.Struct, frozen=True):
    """A child that was asked for: the entry, the record that had it first, and what landed of the child."""

    id: str
    entry: Command
    landed: Landed
    child: list[Landed]

    def before(self, tick: int) -> SagaRecord | None:
        """Return the child as it was at a moment."""
        return next((one.record for one in reversed(self.child) if one.tick < tick), None)


def check_family(run: Situation, persistence_id: str, life: list[Landed]) -> None:
    """Raise AssertionError for the first thing that is wrong between the instance and its children."""
    starts = list(_starts(run, persistence_id, life))
    for one in starts:
        _check_one(one)
        _check_told(persistence_id, one, life)
    for landed in life:
        assert landed.record is not None
        _check_heard(persistence_id, landed.record)
        _check_last(persistence_id, landed, starts)


def _starts(run: Situation, persistence_id: str, life: list[Landed]) -> Iterator[_Start]:
    known: set[str] = set()
    for landed in life:
        for entry in landed.record.outbox if landed.record is not None else ():
            if entry.family != "start" or entry.id in known:
                continue
            known.add(entry.id)
            started_as = start_of(persistence_id, entry)
            child = [
                one
                for several in run.ledger.lives.get(entry.to, ())
                for one in several
                if one.record is not None and one.record.parent == started_as
            ]
            yield _Start(started_as, entry, landed, child)


def _check_one(one: _Start) -> None:
    """A start makes one child, once it is stored."""
    lives = {(record.started_at, record.incarnation) for landed in one.child if (record := landed.record) is not None}
    assert len(lives) <= 1, f"{one.id} made {len(lives)} children"
    for landed in one.child:
        assert landed.tick > one.landed.tick, f"{one.id} began a child before it was stored"


def _check_told(persistence_id: str, one: _Start, life: list[Landed]) -> None:
    """In the end the child runs, or its parent has heard how it ended, or that it was not started."""
    newest = life[-1].record
    assert newest is not None
    told = [
        handled.type.rpartition(" ")[2]
        for landed in life
        for handled in (landed.record.handled if landed.record is not None else ())
        if handled.id == end_id(one.id)
    ]
    repaired = _repaired(newest)
    child = one.child[-1].record if one.child else None
    waits = one.entry in newest.outbox or any(held.id == end_id(one.id) for held in newest.held)
    assert child is not None or told == ["failed"] or waits or repaired, f"{one.id} was asked for, and never began"
    if child is None or repaired or _repaired(child):
        return
    if told:
        assert told == [child.status.value], f"{one.id} has {told[0]}, its parent heard, and it is {child.status}"
    awaited = newest.incarnation == one.entry.life and one.entry.id in newest.children and not newest.finished
    owes = any(command.family == "tell" and command.to == one.id for command in child.outbox)
    assert not awaited or waits or owes or child.status not in FINAL, (
        f"{persistence_id} waits for the end of {one.id}, which is {child.status}"
    )


def _check_heard(persistence_id: str, record: SagaRecord) -> None:
    """A life hears of its own children, and of no earlier one's."""
    for handled in record.handled:
        parent = parent_in(handled.id) if handled.id.endswith("/ended") else None
        if parent is not None:
            lives = {record.incarnation, record.incarnation - 1} if len(record.handled) > 1 else {record.incarnation}
            assert parent.life in lives, f"{persistence_id} hears {handled.id} in its life {record.incarnation}"


def _check_last(persistence_id: str, landed: Landed, starts: list[_Start]) -> None:
    """What a parent did itself is undone when its children have ended."""
    record = landed.record
    assert record is not None
    undoing = any(entry.undo and not entry.family and entry.life == record.incarnation for entry in record.outbox)
    if _repaired(record) or not (undoing or record.status is Status.COMPENSATED):
        return
    for one in starts:
        if one.entry.life != record.incarnation:
            continue
        child = one.before(landed.tick)
        assert child is None or child.status in FINAL, (
            f"{persistence_id}#{landed.message.sequence_nr} is undone before {one.id}, which is {child.status}"
        )


def has_left(run: Situation, persistence_id: str, entry: Command, by: int) -> bool:
    """Say whether an entry between parent and child was carried out before that tick: what it asks for is stored."""
    if entry.family == "tell":
        parent = parent_in(entry.to)
        assert parent is not None
        landed = _landed(run, parent.persistence_id, by)
        heard = any(_knows(record, end_id(entry.to)) for record in landed)
        newest = landed[-1] if landed else None
        if heard or newest is None or newest.status in FINAL:
            return True
        return not is_life(newest, parent) or parent.entry not in newest.children
    started_as = start_of(persistence_id, entry)
    own = _landed(run, persistence_id, by)
    failed = any(_knows(record, end_id(started_as)) for record in own)
    children = [record for record in _landed(run, entry.to, by) if record.parent == started_as]
    if entry.family == "start":
        return failed or bool(children)
    return failed or (bool(children) and children[-1].status is not Status.RUNNING)


def _repaired(record: SagaRecord) -> bool:
    return not all(audit.by_engine or audit.action == "retry" for audit in record.audit)


def _knows(record: SagaRecord, message_id: str) -> bool:
    return any(one.id == message_id for one in record.handled) or any(one.id == message_id for one in record.held)


def _landed(run: Situation, persistence_id: str, by: int) -> list[SagaRecord]:
    return [
        one.record
        for life in run.ledger.lives.get(persistence_id, ())
        for one in life
        if one.record is not None and one.tick <= by
    ]
