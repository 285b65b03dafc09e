"""A command handler that yields may return events as well, as a saga's handler may return actions: none is dropped."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from sagalog import Hook, InMemoryJournal, JournalSagaStateStore, Saga, SagaRunner, Send, on, starts
from sagalog.decision.record import decode_record


@dataclass
class Begun:
    key: str


@dataclass
class Told:
    key: str
    what: str


@dataclass
class Ask:
    key: str


@dataclass
class Heard:
    what: list[str] = field(default_factory=list)


class Listening(Hook):
    """It is told of everything, and does nothing."""


class AskingSaga(Saga[Heard]):
    name = "asking"

    @starts(Begun, key="key")
    def begun(self, state: Heard, event: Begun):
        return Send(Ask(event.key))

    @on(Told, key="key")
    def told(self, state: Heard, event: Told) -> None:
        state.what.append(event.what)


def yields_and_returns(command: Ask):
    yield Told(command.key, "first")
    return Told(command.key, "last")


def yields_and_returns_several(command: Ask):
    yield Told(command.key, "first")
    return [Told(command.key, "second"), Told(command.key, "last")]


def returns_nonsense(command: Ask):
    yield Told(command.key, "first")
    return 3


async def heard(handler: Any, hooks: list[Hook]) -> tuple[list[str], str]:
    journal = InMemoryJournal()
    async with SagaRunner(journal, sagas=[AskingSaga], dispatch=handler, hooks=hooks) as runner:
        await runner.handle(Begun("a"))
        await runner.settle()
    saved = await JournalSagaStateStore(journal, "asking").load("a")
    assert saved is not None
    record = decode_record(saved.payload)
    return AskingSaga().decode_state(record.state_bytes()).what, record.parked


@pytest.mark.parametrize("hooks", [[], [Listening()]])
async def test_what_a_command_handler_returns_behind_its_yields_is_handled(hooks: list[Hook]) -> None:
    assert await heard(yields_and_returns, hooks) == (["first", "last"], "")
    assert await heard(yields_and_returns_several, hooks) == (["first", "second", "last"], "")


async def test_nonsense_that_a_command_handler_returns_behind_its_yields_parks_its_instance() -> None:
    told, parked = await heard(returns_nonsense, [])
    assert told == ["first"]
    assert "a int, cannot be handled" in parked
