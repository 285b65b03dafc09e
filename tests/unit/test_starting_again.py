"""What a starting event means for an instance that one of its type has started already: `again=` of its handler."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from sagalog import AlreadyStartedError, Complete, Outcome, Saga, on, starts
from sagalog.decision.advance import advance
from sagalog.decision.answer import answer_to
from sagalog.decision.draft import Draft
from sagalog.decision.ids import persistence_id
from sagalog.decision.message import Message, unhold
from sagalog.decision.parking import park
from sagalog.decision.record import SagaRecord
from sagalog.testing import Scenario

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@dataclass
class Placed:
    id: str


@dataclass
class Imported:
    id: str


@dataclass
class Reopened:
    id: str


@dataclass
class Paid:
    id: str


@dataclass
class Broken:
    id: str


@dataclass
class State:
    seen: list[str] = field(default_factory=list)


class Orders(Saga[State]):
    name = "orders"

    @starts(Placed, key="id", again="ignore")
    def placed(self, state: State, event: Placed) -> None:
        state.seen.append("placed")

    @starts(Imported, key="id", again="raise")
    def imported(self, state: State, event: Imported) -> None:
        state.seen.append("imported")

    @starts(Reopened, key="id")
    def reopened(self, state: State, event: Reopened) -> None:
        state.seen.append("reopened")

    @on(Paid, key="id")
    def paid(self, state: State, event: Paid) -> Complete:
        state.seen.append("paid")
        return Complete()


SAGA = Orders()
REGISTRY = Orders.registry()


class Instance:
    """An instance that takes events one after the other, each in a step of its own."""

    def __init__(self) -> None:
        self.record: SagaRecord | None = None
        self.version = 0
        self.told: AlreadyStartedError | None = None

    def draft(self) -> Draft:
        return Draft(
            SAGA, REGISTRY, persistence_id("orders", "a::1"), self.record, self.version, NOW, timedelta(days=1)
        )

    def save(self, draft: Draft) -> None:
        self.record, self.version = draft.frozen(), self.version + 1

    def take(self, event: Any, message_id: str) -> Outcome:
        draft = self.draft()
        outcome = advance(draft, Message(message_id, event))
        assert isinstance(outcome, Outcome)
        if draft.changed:
            self.save(draft)
        told = answer_to(draft, Message(message_id, event), outcome)
        self.told = told if isinstance(told, Exception) else None
        return outcome

    @property
    def seen(self) -> list[str]:
        assert self.record is not None
        return SAGA.decode_state(self.record.state_bytes()).seen


def test_another_event_of_the_type_that_started_it_is_ignored_and_stores_nothing() -> None:
    instance = Instance()
    assert instance.take(Placed("a::1"), "m1") is Outcome.HANDLED
    assert instance.take(Placed("a::1"), "m2") is Outcome.ALREADY_STARTED
    assert instance.told is None
    assert (instance.seen, instance.version) == (["placed"], 1)
    assert instance.take(Placed("a::1"), "m1") is Outcome.DUPLICATE, "the same message is no second start"


def test_where_its_handler_says_raise_the_sender_is_told_by_an_error() -> None:
    instance = Instance()
    assert instance.take(Imported("a::1"), "m1") is Outcome.HANDLED
    assert instance.take(Imported("a::1"), "m2") is Outcome.ALREADY_STARTED
    assert isinstance(instance.told, AlreadyStartedError)
    assert (instance.told.saga, instance.told.correlation_id, instance.told.event_type) == (
        "orders",
        "a::1",
        "Imported",
    )
    assert instance.version == 1


def test_a_starting_event_is_handled_again_unless_its_handler_says_otherwise() -> None:
    instance = Instance()
    for number in range(2):
        assert instance.take(Reopened("a::1"), f"m{number}") is Outcome.HANDLED
    assert instance.seen == ["reopened", "reopened"]


@pytest.mark.parametrize("first", [Reopened, Placed, Imported])
def test_a_starting_event_of_another_type_is_a_continuation(first: Any) -> None:
    instance = Instance()
    assert instance.take(first("a::1"), "m1") is Outcome.HANDLED
    for other in {Placed, Imported, Reopened} - {first}:
        assert instance.take(other("a::1"), f"m-{other.__name__}") is Outcome.HANDLED


def test_the_next_life_is_started_by_an_event_of_the_same_type() -> None:
    instance = Instance()
    assert instance.take(Placed("a::1"), "m1") is Outcome.HANDLED
    assert instance.take(Paid("a::1"), "m2") is Outcome.HANDLED
    assert instance.take(Placed("a::1"), "m3") is Outcome.HANDLED
    assert instance.take(Placed("a::1"), "m4") is Outcome.ALREADY_STARTED
    assert instance.record is not None
    assert (instance.record.incarnation, instance.seen) == (2, ["placed"])


def test_a_starting_event_that_a_parked_instance_holds_is_handled_as_its_sender_was_told() -> None:
    instance = Instance()
    assert instance.take(Placed("a::1"), "m1") is Outcome.HANDLED
    draft = instance.draft()
    park(draft, "because", Message("m2", Paid("a::1")))
    instance.save(draft)
    assert instance.take(Placed("a::1"), "m3") is Outcome.HELD
    assert instance.take(Placed("a::1"), "m3") is Outcome.DUPLICATE
    assert instance.record is not None
    held = [unhold(one, REGISTRY) for one in instance.record.held]
    draft = instance.draft()
    record = draft.touch()
    record.parked, record.held = "", ()
    for message in held:
        assert advance(draft, message) is Outcome.HANDLED
    instance.save(draft)
    assert (instance.record.incarnation, instance.seen) == (2, ["placed"])  # the payment ended the first one


def test_the_type_that_started_a_life_is_known_after_its_first_event_was_held() -> None:
    instance = Instance()
    draft = instance.draft()
    park(draft, "because", Message("m1", Placed("a::1")))
    instance.save(draft)
    assert instance.record is not None
    (first,) = [unhold(one, REGISTRY) for one in instance.record.held]
    draft = instance.draft()
    record = draft.touch()
    record.parked, record.held = "", ()
    assert advance(draft, first) is Outcome.HANDLED
    instance.save(draft)
    assert instance.take(Placed("a::1"), "m2") is Outcome.ALREADY_STARTED
    assert instance.seen == ["placed"]


def test_a_scenario_raises_what_the_sender_would_be_told() -> None:
    told = Scenario(Orders).when(Imported("a"))
    with pytest.raises(AlreadyStartedError, match="Imported for saga 'orders', id 'a': the saga is already started"):
        told.when(Imported("a"))
    assert Scenario(Orders).when(Placed("a")).when(Placed("a")).state.seen == ["placed"]


def test_a_start_that_was_held_is_handled_by_the_life_that_it_would_have_been_declined_by() -> None:
    instance = Instance()
    assert instance.take(Placed("a::1"), "m1") is Outcome.HANDLED
    draft = instance.draft()
    park(draft, "because", Message("m2", Placed("a::1")))  # accepted: its sender does not send it again
    instance.save(draft)
    assert instance.record is not None
    (held,) = [unhold(one, REGISTRY) for one in instance.record.held]
    draft = instance.draft()
    record = draft.touch()
    record.parked, record.held = "", ()
    assert advance(draft, held) is Outcome.HANDLED
    instance.save(draft)
    assert instance.seen == ["placed", "placed"]
