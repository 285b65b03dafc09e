"""What senders choose: message ids that look like ours, none at all, and a second start."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from sagalog import AlreadyStartedError, InMemoryJournal, Saga, SagaRunner, Send, on, starts
from sagalog.decision.record import decode_record


@dataclass
class Placed:
    id: str


@dataclass
class Imported:
    id: str


@dataclass
class Reserve:
    id: str


@dataclass
class Reserved:
    id: str


@dataclass
class State:
    placed: int = 0
    reserved: int = 0


class Orders(Saga[State]):
    name = "orders"
    messages = (Reserve,)

    @starts(Placed, key="id", again="ignore")
    def placed(self, state: State, event: Placed) -> Any:
        state.placed += 1
        return Send(Reserve(event.id))

    @starts(Imported, key="id", again="raise")
    def imported(self, state: State, event: Imported) -> None: ...

    @on(Reserved, key="id")
    def reserved(self, state: State, event: Reserved) -> None:
        state.reserved += 1


async def record_of(journal: InMemoryJournal) -> Any:
    stored = await journal.latest_message("saga::orders::a")
    assert stored is not None
    return decode_record(stored.payload)


async def test_a_senders_id_that_looks_like_a_replys_does_not_swallow_the_reply() -> None:
    async with InMemoryJournal() as journal, SagaRunner(journal, sagas=[Orders]) as runner:

        @runner.command(Reserve)
        def reserve(command: Reserve) -> Reserved:
            return Reserved(command.id)

        await runner.handle(Placed("a"), message_id="m1")
        await runner.settle()
        reply = next(one for one in (await record_of(journal)).inbox if "/reply/" in one)
        receipt = await runner.handle(Reserved("a"), message_id=reply)
        assert receipt.handled, "it is another message"
        assert receipt.message_id == reply
        assert (await runner.handle(Reserved("a"), message_id=reply)).duplicate
        state = Orders().decode_state((await record_of(journal)).state_bytes())
        assert state.reserved == 2


async def test_events_without_an_id_are_not_kept_in_the_inbox() -> None:
    async with (
        InMemoryJournal() as journal,
        SagaRunner(journal, sagas=[Orders], dispatch=lambda command: None) as runner,
    ):
        await runner.handle(Placed("a"), message_id="m1")
        for _ in range(300):
            await runner.handle(Reserved("a"))
        record = await record_of(journal)
        assert record.inbox == ("m1",)
        assert len(record.recent) == 100


async def test_a_second_start_is_ignored_or_raised_as_its_handler_says() -> None:
    async with (
        InMemoryJournal() as journal,
        SagaRunner(journal, sagas=[Orders], dispatch=lambda command: None) as runner,
    ):
        await runner.handle(Placed("a"), message_id="m1")
        receipt = await runner.handle(Placed("a"), message_id="m2")
        assert receipt.already_started
        assert not receipt.handled
        await runner.handle(Imported("b"), message_id="m3")
        with pytest.raises(AlreadyStartedError, match="Imported for saga 'orders', id 'b'"):
            await runner.handle(Imported("b"), message_id="m4")
        assert (await runner.handle(Imported("b"), message_id="m3")).duplicate
