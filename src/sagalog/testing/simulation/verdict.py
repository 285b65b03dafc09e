"""What must hold whatever the saga does: the engine's own guarantees, checked on every simulated run."""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any

import msgspec

from ...journal.memory import InMemoryJournal
from ...record import FINAL, SagaRecord, decode_record
from ...runner import Receipt
from ...saga import Saga
from ...step import Outcome
from .world import Finished, World


class Delivered(msgspec.Struct):
    """A command that reached its handler."""

    id: str
    command: Any
    undo: bool
    refused: bool

    @property
    def persistence_id(self) -> str:
        """The instance that sent it."""
        return self.id.rsplit("/", 2)[0]


class Verdict:
    """Collects what the outside saw, and compares it with the journal's records at the end."""

    def __init__(self, sagas: list[Saga[Any]], journal: InMemoryJournal) -> None:
        self._sagas = {saga.name: saga for saga in sagas}
        self._journal = journal
        self._accepted: list[tuple[str, str, Any]] = []  # persistence id, message id, event
        self._deliveries: list[Delivered] = []
        self.answers: dict[str, tuple[Any, Any]] = {}

    def accepted(self, message_id: str, event: Any, receipt: Receipt) -> None:
        """An event was accepted, and answered so."""
        for name, outcome in receipt.outcomes.items():
            if outcome in (Outcome.HANDLED, Outcome.DUPLICATE, Outcome.HELD):
                correlation_id = self._sagas[name].correlation_id(event)
                self._accepted.append((f"saga::{name}::{correlation_id}", message_id, event))

    async def delivered(self, one: Delivered) -> None:
        """A command reached its handler: its step must be stored by now."""
        persistence_id, sequence_nr, _ = one.id.rsplit("/", 2)
        self._deliveries.append(one)
        stored = [m.sequence_nr async for m in self._journal.replay_messages(persistence_id, int(sequence_nr), max=1)]
        assert stored == [int(sequence_nr)], f"{one.id} left before its step was stored"

    async def unfinished(self) -> dict[str, datetime]:
        """Return the instances that still have commands or timers, and are not parked, with their last moment."""
        found: dict[str, datetime] = {}
        for persistence_id in await self._ids():
            record = await self._newest(persistence_id)
            if not record.parked and (record.outbox or record.timers) and not record.stuck:
                found[persistence_id] = max([record.updated_at, *(timer.due_at for timer in record.timers.values())])
        return found

    async def _ids(self) -> list[str]:
        live = await self._journal.ids_by_prefix("", limit=10**6)
        return [*live, *await self._journal.ids_by_prefix("", limit=10**6, deleted=True)]

    async def _newest(self, persistence_id: str) -> SagaRecord:
        latest = await self._journal.latest_message(persistence_id)
        assert latest is not None
        return decode_record(latest.payload)

    async def judge(self, world: World) -> None:
        """Raise AssertionError for the first thing that is wrong."""
        for persistence_id in sorted(await self._ids()):
            await self._judge(persistence_id, world)
        for persistence_id, message_id, _ in self._accepted:
            latest = await self._journal.latest_message(persistence_id)
            assert latest is not None, f"{message_id} was accepted, and {persistence_id} is not there"

    async def _judge(self, persistence_id: str, world: World) -> None:
        messages = [m async for m in self._journal.replay_messages(persistence_id)]
        records = [decode_record(m.payload) for m in messages]
        numbers = [m.sequence_nr for m in messages]
        assert numbers == list(range(1, len(numbers) + 1)), f"{persistence_id} has gaps in its numbers: {numbers}"
        handled = [one.id for record in records for one in record.handled]
        twice = {one for one in handled if handled.count(one) > 1}
        assert not twice, f"{persistence_id} was changed twice by {', '.join(sorted(twice))}"
        newest = records[-1]
        known = {*handled, *newest.inbox, *newest.inherited, *(held.id for held in newest.held)}
        for owner, message_id, event in self._accepted:
            assert owner != persistence_id or message_id in known, (
                f"{message_id} {type(event).__name__} was accepted, and {persistence_id} does not know it"
            )
        deliveries = [one for one in self._deliveries if one.persistence_id == persistence_id]
        for one in deliveries:
            assert not one.refused or f"{one.id}/refused" in known, f"{one.id} was refused, and its saga was not told"
        self._commands(persistence_id, messages, records, deliveries)
        saga = self._sagas[persistence_id.split("::", 2)[1]]
        world.check(
            Finished(
                saga.name,
                persistence_id.split("::", 2)[2],
                "parked" if newest.parked else newest.status.value,
                saga.decode_state(newest.state_bytes()),
                list({one.id: one.command for one in deliveries if not one.refused}.values()),
            )
        )

    def _commands(
        self, persistence_id: str, messages: list[Any], records: list[SagaRecord], deliveries: list[Delivered]
    ) -> None:
        decided: dict[str, str] = {}
        undo: list[str] = []
        needless: set[str] = set()  # undo commands of what was refused after all: there is nothing to take back
        refused = {one.id for one in deliveries if one.refused}
        for record in records:
            undone = [_place(entry.of) for entry in record.outbox if entry.undo and entry.of]
            assert undone == sorted(undone, reverse=True), f"{persistence_id} is not undone backwards: {undone}"
            for entry in record.outbox:
                command_id = f"{persistence_id}/{entry.id}"
                kind = decided.setdefault(command_id, entry.command.type)
                assert kind == entry.command.type, f"{command_id} names two commands: {kind} and {entry.command.type}"
                if entry.undo and command_id not in undo:
                    undo.append(command_id)
                    if f"{persistence_id}/{entry.of}" in refused:
                        needless.add(command_id)
        seen = {one.id for one in deliveries}
        lost = set(decided) - seen - needless - {f"{persistence_id}/{entry.id}" for entry in records[-1].outbox}
        assert not lost, f"never delivered: {', '.join(sorted(lost))}"
        assert seen <= set(decided), f"of no stored step: {', '.join(sorted(seen - set(decided)))}"
        first = list(dict.fromkeys(one.id for one in deliveries if one.undo))
        assert first == [one for one in undo if one in seen], f"{persistence_id} was not undone in order: {first}"
        final = {status.value for status in FINAL}
        timers_left = records[-1].status.value in final and any(not t.send for t in records[-1].timers.values())
        assert not timers_left, f"{persistence_id} has ended, with a timer pending"
        for before, after in itertools.pairwise(records):
            for one in after.handled:
                for name, timer in before.timers.items():
                    if f"{persistence_id}/{timer.id}" == one.id:
                        assert after.updated_at >= timer.due_at, f"timer {name} of {persistence_id} fired early"


def _place(entry: str) -> tuple[int, int]:
    """Return when a command was sent: the step's number, and its place there."""
    number, _, index = entry.partition("/")
    return int(number), int(index)
