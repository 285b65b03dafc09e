"""Rules about the commands of one life: when they leave, in which order, under which id, and that all of them do."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

from ...decision.entries import Command, Status
from ...decision.ids import persistence_id, refusal_id, reply_id
from ...decision.inbox import each
from ...decision.record import SagaRecord
from .clock import EPOCH
from .families import has_left
from .ledger import Landed
from .outside import HandlerCall
from .situation import Situation

_SLACK = 5.0  # seconds between the end of a lease and a call that was under way then


class HandlerCalls:
    """What reached command handlers, beside what the records of that life say."""

    def __init__(self, run: Situation, persistence_id: str, life: int, records: list[Landed]) -> None:
        self._run = run
        self._persistence_id = persistence_id
        self._records = records
        self._seen: dict[str, list[HandlerCall]] = {}
        for one in run.outside.deliveries:
            if one.persistence_id == persistence_id and one.life == life:
                self._seen.setdefault(one.id, []).append(one)
        self._decided: dict[str, tuple[Command, Landed]] = {}  # by command id
        self._order: list[str] = []  # command ids, in the order of their outboxes
        self._gone: set[str] = set()  # left an outbox undelivered, as they may
        for landed in records:
            assert landed.record is not None
            behind = ""
            for entry in reversed(landed.record.outbox):
                if entry.family:  # between parent and child: see families.py
                    continue
                behind = self._decide(entry, landed, behind)

    def _decide(self, entry: Command, landed: Landed, behind: str) -> str:
        """Note a command, and its place before the one that stands behind it in the outbox; return its id."""
        command_id = f"{self._persistence_id}/{entry.id}"
        if command_id not in self._decided:
            self._order.insert(self._order.index(behind) if behind else len(self._order), command_id)
        first, _ = self._decided.setdefault(command_id, (entry, landed))
        assert first == entry, f"{command_id} names two commands: {first.command.type} and {entry.command.type}"
        return command_id

    def _ended(self, entry: Command, by: int, *, refused: bool | None = None) -> bool:
        """Say whether a command was answered before that tick."""
        return any(
            one.ended is not None and one.ended < by and (refused is None or one.refused is refused)
            for one in self._seen.get(f"{self._persistence_id}/{entry.id}", ())
        )

    def _needless(self, entry: Command) -> bool:
        """Say whether it is an undo of what was refused: there is nothing to take back."""
        command_id = f"{self._persistence_id}/{entry.of}"
        return bool(entry.of) and any(one.refused for one in self._seen.get(command_id, ()))

    def check_pair(self, before: Landed, after: Landed) -> None:
        """A command leaves the outbox when it was accepted or refused, and for few other reasons."""
        a, b = before.record, after.record
        assert a is not None
        assert b is not None
        left = {entry.id for entry in b.outbox}
        waits = False  # something before it in the outbox is not accepted
        for entry in a.outbox:
            if entry.id in left:
                waits = True
                continue
            dropped = _dropped(entry, a, b)
            if entry.family:
                doubted = a.status is not b.status or any(held.kind == "refused" for held in b.held)
                undone = entry.family == "tell" and doubted  # it has not completed after all, or may not have
                assert dropped or undone or has_left(self._run, self._persistence_id, entry, after.tick), (
                    f"{self._persistence_id}/{entry.id} {entry.title} left the outbox in "
                    f"#{after.message.sequence_nr}, and nothing came of it"
                )
                continue
            assert not (waits and entry.undo) or dropped or self._needless(entry), (
                f"{self._persistence_id}/{entry.id} undoes, and left the outbox before an earlier command, in "
                f"#{after.message.sequence_nr}"
            )
            if self._ended(entry, after.tick) and not dropped:
                continue
            failed = (entry.undo and b.status is Status.COMPENSATION_FAILED) or _given_up(entry, a, b)
            self._gone.add(f"{self._persistence_id}/{entry.id}")
            assert failed or dropped or self._needless(entry), (
                f"{self._persistence_id}/{entry.id} {entry.command.type} left the outbox in "
                f"#{after.message.sequence_nr}, and was neither accepted nor refused"
            )
        came = [entry.id for entry in b.outbox if entry not in a.outbox]
        due = {timer.id for timer in a.timers.values() if timer.send}
        for one in came:
            number = one.partition("/")[0]
            assert one in due or int(number) == after.message.sequence_nr, (
                f"{self._persistence_id}/{one} came into the outbox in #{after.message.sequence_nr}"
            )

    def check(self) -> None:
        """All the rest, when everything has come to its end."""
        for command_id, calls in self._seen.items():
            assert command_id in self._decided, f"{command_id} is of no stored step"
            entry, landed = self._decided[command_id]
            for one in calls:
                assert one.began > landed.tick, f"{command_id} left before its step was stored"
                assert one.undo is entry.undo, f"{command_id} is told to be an undo, or not to be one, wrongly"
            self._not_long_after(entry, calls)
        self._refusals_are_told()
        self._replies_are_stored()
        self._in_order()
        self._compensated()

    def _not_long_after(self, entry: Command, calls: list[HandlerCall]) -> None:
        """Who lost its lease stops delivering: others have gone on, in an order that it knows nothing of."""
        run = self._run
        for before, after in pairwise(self._records):
            assert before.record is not None
            assert after.record is not None
            if entry not in before.record.outbox or entry in after.record.outbox:
                continue
            lease = run.settings.lease.total_seconds() + 2 * run.skew + _SLACK
            at = (after.record.updated_at - EPOCH).total_seconds()
            for one in calls:
                assert one.seconds <= at + run.skew + lease, (
                    f"{one.id} was delivered again {one.seconds - at:.1f} s after it was recorded as accepted"
                )

    def _refusals_are_told(self) -> None:
        records = [landed.record for landed in self._records if landed.record is not None]
        known = {one.id for record in records for one in record.handled}
        known.update(one.id for record in records for one in record.held)
        failures = {known_id.partition("/reply/")[0] + "/reply" for known_id in known if "/reply/" in known_id}
        ended = {stage.entry for record in records for stage in record.activities.values() if stage.status != "running"}
        for calls in self._seen.values():
            for one in calls:
                told = one.ended is None or not one.refused or refusal_id(one.id) in known
                told = told or self._decided[one.id][0].id in ended or f"{one.id}/reply" in failures
                assert told or one.id in self._gone, f"{one.id} was refused, and its saga was not told"

    def _replies_are_stored(self) -> None:
        """An accepted command's reply events are stored: surely where they start a saga."""
        for command_id, calls in self._seen.items():
            if not any(one.ended is not None and not one.refused for one in calls):
                continue
            counts: Counter[str] = Counter()
            origin = next(landed.record.first_start for landed in self._records if landed.record is not None)
            for event in calls[0].replies:
                name = type(event).__name__
                reply = reply_id(command_id, name, counts[name], origin)
                counts[name] += 1
                for saga in self._run.sagas:
                    if saga.handles_event(event) and saga.may_start(event):
                        self._stored(persistence_id(saga.name, str(saga.correlation_id(event))), reply)

    def _stored(self, persistence_id: str, message_id: str) -> None:
        known = any(
            message_id in (*each(record.inbox), *each(record.inherited), *(held.id for held in record.held))
            for life in self._run.ledger.lives.get(persistence_id, ())
            for record in (one.record for one in life)
            if record is not None
        )
        assert known, f"{message_id} answers an accepted command, and {persistence_id} does not know it"

    def _in_order(self) -> None:
        """Each command leaves only after the one before it was accepted or refused."""
        before: str | None = None
        beside: list[str] = []  # activities, which wait for no other
        for command_id in self._order:
            calls = self._seen.get(command_id)
            if calls is None:
                entry = self._decided[command_id][0]
                newest = self._records[-1].record
                assert newest is not None
                waits = entry in newest.outbox
                assert waits or command_id in self._gone, f"{command_id} was never delivered"
                continue
            if before is not None and before not in self._gone:
                began = min(one.began for one in calls)
                assert self._ended(self._decided[before][0], began), f"{command_id} left before {before} was accepted"
            entry = self._decided[command_id][0]
            if self._is_activity(entry):
                beside.append(command_id)
                continue
            for earlier in beside if entry.undo else ():
                over = earlier in self._gone or self._ended(self._decided[earlier][0], min(one.began for one in calls))
                assert over, f"{command_id} undoes, and left before {earlier} was over"
            before = command_id

    def _compensated(self) -> None:
        """Compensation runs backwards, and says that it is done only when it is."""
        for landed in self._records:
            record = landed.record
            assert record is not None
            for life in {entry.life for entry in record.outbox}:  # an earlier one may be taken back while this one runs
                of = [entry.of for entry in record.outbox if entry.undo and entry.of and entry.life == life]
                ended = [stage.entry for stage in record.activities.values()]
                order = [_place(one) for one in of if one not in ended]
                assert order == sorted(order, reverse=True), f"{self._persistence_id} is not undone backwards: {order}"
                places = [ended.index(one) for one in of if one in ended]
                assert places == sorted(places, reverse=True), f"{self._persistence_id} is not undone backwards: {of}"
            # An operator who skips or cancels drops a stuck undo command, and answers for it.
            if record.status is Status.COMPENSATED and all(
                audit.by_engine or audit.action == "retry" for audit in record.audit
            ):
                self._check_all_undone(record, landed)

    def _check_all_undone(self, record: SagaRecord, landed: Landed) -> None:
        mine = [entry for entry, _ in self._decided.values() if entry.undo and entry.life == record.incarnation]
        of = {entry.of for entry in mine if entry.of}
        for one in of:
            tries = [entry for entry in mine if entry.of == one]
            done = any(self._ended(entry, landed.tick, refused=False) for entry in tries)
            assert done or self._needless(tries[0]), (
                f"{self._persistence_id}#{landed.message.sequence_nr} says that it is compensated, and {one} is not"
            )

    def _is_activity(self, entry: Command) -> bool:
        return not entry.undo and any(
            saga.activities is not None and entry.command.type in saga.activities.by_command for saga in self._run.sagas
        )

    def commands(self, incarnation: int) -> list[Any]:
        """Return what was carried out for one incarnation, in the order of first deliveries."""
        found = []
        for command_id, calls in sorted(self._seen.items(), key=lambda item: min(one.began for one in item[1])):
            if self._decided[command_id][0].life == incarnation and not calls[0].refused:
                found.append(calls[0].command)
        return found


def _place(entry: str) -> tuple[int, int]:
    """Return when a command was sent: the step's number, and its place there."""
    number, _, index = entry.partition("/")
    return int(number), int(index)


def _given_up(entry: Command, before: SagaRecord, after: SagaRecord) -> bool:
    """Say whether an activity need not be called any more: it has failed, is not wanted, or its event has come."""
    name = entry.command.type.rpartition(".")[2]
    was, now = before.activities.get(name), after.activities.get(name)
    if entry.undo or was is None or now is None:
        return False
    told = any(f"/{entry.id}/reply/" in held.id for held in after.held)  # its failure, while the instance is parked
    if was.status == "waiting":
        return told or now.status != "waiting"
    return now.entry == entry.id and (told or now.status not in ("running", "done"))


def _dropped(entry: Command, before: SagaRecord, after: SagaRecord) -> bool:
    """Say whether an operator took a command out of the outbox, with the repairs that do so."""
    made = [audit.action for audit in after.audit[len(before.audit) :]]
    return bool(made) and (entry.id == before.stuck or ("cancel with compensation" in made and not entry.undo))
