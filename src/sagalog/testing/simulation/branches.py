"""Which branches of the user's sagas were run: read from the records that were stored."""

from __future__ import annotations

from collections import Counter
from typing import Any

from ...decision.entries import FINAL, Status
from ...decision.ids import is_refusal, parts_of
from ...decision.record import SagaRecord
from ...definition.saga import Saga
from .ledger import Ledger


def branches_of(sagas: list[Saga[Any]], ledger: Ledger) -> dict[str, dict[str, int]]:
    """Return for each saga what its instances did, and with 0 what its handlers and timers never did."""
    found: dict[str, Counter[str]] = {saga.name: Counter() for saga in sagas}
    for saga in sagas:
        counts = found[saga.name]
        counts.update({event.__name__: 0 for event in saga.event_types()})
        counts.update({f"when_all {join.name}": 0 for join in saga.joins()})
        counts.update({f"{command.__name__} refused": 0 for command in saga.refusals()})
        counts.update({f"{child} {how}": 0 for child in saga.children() for how in ("completed", "compensated")})
        counts.update({f"enters {phase.name}": 0 for phase in saga.phases or ()})
    for persistence_id, lives in ledger.lives.items():
        counts = found.get(parts_of(persistence_id)[0], Counter())  # a reservation of a key is of none
        for life in lives:
            before: SagaRecord | None = None
            for one in life:
                if one.record is not None:
                    _count(counts, persistence_id, before, one.record)
                    before = one.record
    return {saga: dict(counts) for saga, counts in found.items()}


def _count(counts: Counter[str], persistence_id: str, before: SagaRecord | None, record: SagaRecord) -> None:
    timers = before.timers.items() if before is not None else ()
    pending = {f"{persistence_id}/{timer.id}": (_title(before, name), timer) for name, timer in timers}
    for name, timer in record.timers.items():
        if not timer.send:
            counts.setdefault(_title(record, name), 0)
    for handled in record.handled:
        name, fired = pending.get(handled.id, ("", None))
        if fired is not None and fired.send:
            counts[f"scheduled {handled.type}"] += 1
            continue
        if fired is not None:
            counts[name] += 1
        refused, late = " refused" * is_refusal(handled.id), " too late" * handled.late
        counts[f"{handled.type}{refused}{late}"] += 1
    if record.phase and (before is None or (before.phase, before.incarnation) != (record.phase, record.incarnation)):
        counts[f"enters {record.phase}"] += 1
    if record.kept:
        known = {one.id for one in before.kept} if before is not None else set()
        counts.update(f"keeps {one.event.type}" for one in record.kept if one.id not in known)
    for name in before.gathers if before is not None and before.incarnation == record.incarnation else ():
        if name not in record.gathers:
            counts[f"gather {name} ends"] += 1
    for name, joined in record.joins.items():
        if joined.done and not (before is not None and before.joins.get(name) == joined):
            counts[f"when_all {name}"] += 1
    ended = (*FINAL, Status.COMPENSATION_FAILED)
    if record.status in ended and (before is None or before.status is not record.status):
        counts[f"ends {record.status.value}"] += 1
    if record.parked and not (before is not None and before.parked):
        counts["is parked"] += 1


def _title(record: SagaRecord | None, name: str) -> str:
    """Return what to count a timer as: deadlines of answers by the command, not each by its number."""
    title = name if record is None else record.timer_title(name)
    return f"timer {name}" if title == name else title.partition(" (")[0]
