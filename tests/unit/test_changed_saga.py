"""A saga whose state, events and commands have changed: what the old code stored, the new code reads.

`Was...` is how a type was.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from sagalog import Outcome, Saga, Send, SetTimer, on, schema, starts, upcast
from sagalog.decision.advance import advance
from sagalog.decision.draft import Draft
from sagalog.decision.entries import Held
from sagalog.decision.message import Message, unhold
from sagalog.decision.parking import park
from sagalog.decision.state import UnreadableStateError, decode_state

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass
class State:
    notes: str = ""


WasState = State


@dataclass
class Opened:
    key: str


@dataclass
class Noted:
    key: str
    text: str


WasNoted = Noted


@dataclass
class Tell:
    text: str


WasTell = Tell


class Before(Saga[State]):
    name = "notes"

    @starts(Opened, key="key")
    def opened(self, state: State, event: Opened) -> Any:
        state.notes = "opened"
        yield Send(WasTell("hello"), undo=WasTell("sorry"))
        yield SetTimer("t", WasNoted("a", "later"), after=timedelta(hours=1))

    @on(Noted, key="key")
    def noted(self, state: State, event: Noted) -> Any:
        raise RuntimeError


@schema(name="State", version=2)
@dataclass
class NewState:
    notes: list[str] = field(default_factory=list)


@upcast(NewState, from_version=1)
def _(document: Any) -> Any:
    return {"notes": [document["notes"]]}


@schema(name="Noted", version=2)
@dataclass
class NewNoted:
    key: str
    texts: list[str]


@upcast(NewNoted, from_version=1)
def _(document: Any) -> Any:
    return {"key": document["key"], "texts": [document["text"]]}


@schema(name="Tell", version=2)
@dataclass
class NewTell:
    text: str
    loud: bool


@upcast(NewTell, from_version=1)
def _(document: Any) -> Any:
    return {"text": document["text"], "loud": False}


class After(Saga[NewState]):
    name = "notes"
    messages = (NewTell,)

    @starts(Opened, key="key")
    def opened(self, state: NewState, event: Opened) -> None: ...

    @on(NewNoted, key="key")
    def noted(self, state: NewState, event: NewNoted) -> None:
        state.notes += event.texts


def draft(saga: Saga[Any], record: Any = None, version: int = 0) -> Draft:
    return Draft(saga, type(saga).registry(), "saga::notes::a", record, version, NOW, timedelta(days=7))


def opened_before() -> Draft:
    first = draft(Before())
    assert advance(first, Message("m1", Opened("a"))) is Outcome.HANDLED
    return first


def test_state_timers_outbox_undo_stack_and_held_events_are_upcast_where_they_are_read() -> None:
    before = opened_before()
    park(before, "because", Message("bad", Noted("a", "held")))
    record, registry = before.record, After.registry()
    assert record is not None
    assert decode_state(After(), record) == NewState(["opened"])
    assert registry.unpack(record.timers["t"].event) == NewNoted("a", ["later"])
    assert registry.unpack(record.outbox[0].command) == NewTell("hello", loud=False)
    assert registry.unpack(record.undo[0].command) == NewTell("sorry", loud=False)
    assert unhold(record.held[0], registry).event == NewNoted("a", ["held"])
    refused = Held("saga::notes::a/1/0/refused", record.outbox[0].command, "refused", "no")
    assert unhold(refused, registry).event.command == NewTell("hello", loud=False)


def test_the_next_step_stores_the_state_of_todays_version() -> None:
    second = draft(After(), opened_before().record, 1)
    assert advance(second, Message("m2", NewNoted("a", ["x"]))) is Outcome.HANDLED
    assert second.record is not None
    assert second.record.state_version == 2
    assert json.loads(second.record.state_bytes()) == {"notes": ["opened", "x"]}


def test_what_changes_no_state_leaves_it_in_its_version() -> None:
    second = draft(After(), opened_before().record, 1)
    second.accept(["1/0"])
    assert second.record is not None
    assert (second.record.state_version, bytes(second.record.state)) == (1, b'{"notes":"opened"}')


def test_a_state_that_cannot_be_upcast_leaves_the_draft_as_it_was() -> None:
    second = draft(After(), opened_before().record, 1)
    assert second.record is not None
    second.record.state = msgspec.Raw(b'{"secret":1}')
    with pytest.raises(
        UnreadableStateError, match="version 1: the upcaster from version 1 to 2 raised KeyError"
    ) as caught:
        advance(second, Message("m2", NewNoted("a", ["x"])))
    assert "secret" not in str(caught.value)
    assert not second.changed


class Reversed(After):
    """Encodes its state itself: as JSON, so upcasters come before its own `decode_state`."""

    def encode_state(self, state: NewState) -> bytes:
        return json.dumps({"notes": state.notes[::-1]}).encode()

    def decode_state(self, payload: bytes) -> NewState:
        return NewState(json.loads(payload)["notes"][::-1])


def test_a_saga_that_encodes_its_state_itself_as_json_gets_it_upcast() -> None:
    record = opened_before().record
    assert record is not None
    record.state = msgspec.Raw(b'{"notes":"x"}')
    assert decode_state(Reversed(), record) == NewState(["x"])


def test_a_state_that_is_not_json_cannot_be_upcast_and_says_so() -> None:
    record = opened_before().record
    assert record is not None
    record.state, record.state_is_base64 = msgspec.Raw(b'"/w=="'), True
    with pytest.raises(UnreadableStateError, match="is not JSON, so it cannot be upcast"):
        decode_state(Reversed(), record)
    record.state = msgspec.Raw(b'"not base64"')
    with pytest.raises(UnreadableStateError, match="the stored state is damaged: it is not base64"):
        decode_state(Reversed(), record)


def test_two_event_types_may_share_one_handler() -> None:
    class Both(Saga[State]):
        name = "both"

        @starts(Opened, key="key")
        @on(Noted, key="key")
        def either(self, state: State, event: Opened | Noted) -> None:
            state.notes += type(event).__name__

    assert set(Both.event_types()) == {Opened, Noted}
    assert (Both().may_start(Opened("a")), Both().may_start(Noted("a", "x"))) == (True, False)
