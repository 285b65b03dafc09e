"""Which fields a saga may be found by, and what stands for their values."""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from enum import Enum, IntEnum
from typing import Any, ClassVar, Literal, NewType, Optional
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from sagalog import Action, CodecError, Complete, DefinitionError, Enter, Saga, Send, on, starts
from sagalog.decision.ids import term_of
from sagalog.definition.indexing import as_term
from sagalog.testing import Scenario


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1


Customer = NewType("Customer", str)


@dataclass
class Started:
    id: str
    customer: str = ""
    amount: int = 0


@dataclass
class Ended:
    id: str


@dataclass
class Do:
    id: str


@dataclass
class State:
    customer: str = ""
    number: int = 0
    open: bool = True
    colour: Colour | None = None
    level: Level = Level.LOW
    day: date | None = None
    at: datetime | None = None
    uid: Optional[UUID] = None  # noqa: UP045
    kind: Literal["a", "b"] = "a"
    own: Customer = Customer("")
    ratio: float = 0.0
    lines: list[str] = field(default_factory=list)
    either: int | str = 0
    shared: ClassVar[str] = ""

    @property
    def double(self) -> int:
        return 2 * self.number


def saga_of(state: Any, index: Any, **more: Any) -> type[Saga[Any]]:
    def started(self: Any, state: Any, event: Started) -> None: ...

    handler = starts(Started, key="id")(started)
    body = {"name": "made", "index": index, "started": handler, **more}
    return types.new_class("Made", (Saga[state],), exec_body=lambda space: space.update(body))


FIELDS = ("customer", "number", "open", "colour", "level", "day", "at", "uid", "kind", "own")
BERLIN = timezone(timedelta(hours=1))
FULL = State(
    "c-7",
    -3,
    False,
    Colour.BLUE,
    Level.LOW,
    date(2030, 1, 31),
    datetime(2030, 1, 1, 1, tzinfo=BERLIN),
    UUID(int=1),
    "b",
    Customer("x"),
)


def test_each_type_has_a_text_that_tells_its_values_apart() -> None:
    table = saga_of(State, FIELDS).index_table()
    assert table.texts(FULL, "") == {
        "customer": "c-7",
        "number": "-3",
        "open": "false",
        "colour": "blue",
        "level": "1",
        "day": "2030-01-31",
        "at": "2030-01-01T00:00:00+00:00",
        "uid": "00000000-0000-0000-0000-000000000001",
        "kind": "b",
        "own": "x",
    }
    assert table.texts(State(), "")["colour"] is None
    for name in FIELDS:
        assert table.text("made", name, getattr(FULL, name)) == table.texts(FULL, "")[name]
    assert table.text("made", "at", datetime(2030, 1, 1, tzinfo=UTC)) == table.texts(FULL, "")["at"]
    assert table.text("made", "day", None) is None
    east = timezone(timedelta(hours=14))
    assert (
        table.text("made", "at", datetime(1, 1, 1, tzinfo=east)) == "0001-01-01T00:00:00+14:00"
    )  # UTC has no such day


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ("customer", "must be a tuple of field names,"),
        (["customer"], "must be a tuple of field names,"),
        ((1,), "must be a tuple of field names,"),
        (("customer", "customer"), "names each field once"),
        (tuple(f"f{n}" for n in range(17)), "at most 16"),
        (("custmer",), "names 'custmer', which is not a field of its state State: it has customer, number"),
        (("shared",), "not a field of its state"),
        (("double",), "not a field of its state"),
        (("phase",), "not a field of its state"),
        (("ratio",), "ratio has to be a str, int, bool, Enum .* it is float"),
        (("lines",), r"it is list\[str\]"),
        (("either",), r"it is int \| str"),
    ],
)
def test_an_index_that_cannot_be_is_refused_when_the_class_is_made(index: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=f"Made.index.*{said}"):
        saga_of(State, index)


@pytest.mark.parametrize(
    "state",
    [
        msgspec.defstruct("Struct", [("customer", str, "")]),
        attrs.make_class("Attrs", {"customer": attrs.field(default="", type=str)}),
        pydantic.create_model("Model", customer=(str, "")),
    ],
    ids=lambda one: one.__name__,
)
def test_a_state_of_any_kind_may_have_an_index(state: Any) -> None:
    assert saga_of(state, ("customer",)).index_table().texts(state(customer="c"), "") == {"customer": "c"}


@pytest.mark.parametrize("state", [dict[str, int], dict])
def test_a_state_without_fields_can_have_none(state: Any) -> None:
    with pytest.raises(DefinitionError, match="which is not a class with fields"):
        saga_of(state, ("customer",))


def test_a_type_that_is_not_known_yet_is_looked_at_when_the_saga_is_run() -> None:
    @dataclass
    class Forward:
        customer: Unknown = ""  # type: ignore[name-defined]  # noqa: F821

    made = saga_of(Forward, ("customer",))
    with pytest.raises(DefinitionError, match=r"Made.index: an annotation of its state cannot be resolved"):
        made.registry()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("customer", 7, "is found by customer as str, not as int"),
        ("number", True, "as int, not as bool"),
        ("number", "7", "as int, not as str"),
        ("colour", "red", "as Colour, not as str"),
        ("day", datetime(2030, 1, 1, tzinfo=UTC), "as date, not as datetime"),
    ],
)
def test_what_is_looked_for_has_to_be_of_the_declared_type(name: str, value: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        saga_of(State, FIELDS).index_table().text("made", name, value)


def test_a_long_text_is_stood_for_by_its_hash_and_none_can_be_taken_for_another() -> None:
    long = "x" * 201
    assert as_term("x" * 200) == "x" * 200
    assert as_term(long).startswith("sha256:")
    assert len({as_term(text) for text in (long, long + "x", as_term(long), "a\0b", "a")}) == 5
    assert "\0" not in as_term("a\0b")
    assert term_of("s", "f", "") != term_of("s", "f", None)


def test_a_value_of_another_type_than_declared_is_refused_and_nothing_changes() -> None:
    """Only a saga with its own encoding can have such a state."""

    class Own(Saga[State]):
        name = "own"
        index = ("customer",)

        def encode_state(self, state: State) -> bytes:
            return b"{}"

        def decode_state(self, payload: bytes) -> State:
            return State()

        @starts(Started, key="id")
        def started(self, state: State, event: Started) -> None:
            state.customer = 7  # type: ignore[assignment]

    scenario = Scenario(Own)
    with pytest.raises(CodecError, match="declared as str, but holds a int"):
        scenario.when(Started("1"))
    assert scenario.status is None


class Phase(Enum):
    PLACED = 1
    PAID = 2


class OrderSaga(Saga[State]):
    name = "order"
    phases = Phase
    index = ("customer", "phase")

    @starts(Started, key="id")
    def started(self, state: State, event: Started) -> Iterator[Action]:
        state.customer = event.customer
        yield Send(Do(event.id))

    @on(Ended, key="id")
    def ended(self, state: State, event: Ended) -> Iterator[Action]:
        state.customer = "nobody"
        yield Enter(Phase.PAID)
        yield Complete()


def test_each_step_notes_what_the_instance_is_found_by_and_its_phase() -> None:
    scenario = Scenario(OrderSaga).when(Started("1", "c-7"))
    assert scenario._instance.record is not None
    assert scenario._instance.record.index == {"customer": "c-7", "phase": "PLACED"}
    scenario.when(Ended("1"))
    assert scenario._instance.record.index == {"customer": "nobody", "phase": "PAID"}
    assert OrderSaga.index_table().text("order", "phase", Phase.PAID) == "PAID"
    with pytest.raises(DefinitionError, match="by phase as Phase, not as str"):
        OrderSaga.index_table().text("order", "phase", "PAID")


def test_a_saga_without_an_index_stores_nothing_of_it() -> None:
    class Plain(OrderSaga):
        name = "plain"
        index = ()

    scenario = Scenario(Plain).when(Started("1", "c-7"))
    assert scenario._instance.record is not None
    assert scenario._instance.record.index == {}
