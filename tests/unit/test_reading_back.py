"""What a step stores can be read back: types that cannot are refused when declared, values when they are packed."""

from __future__ import annotations

import collections
import math
from dataclasses import InitVar, dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from functools import cached_property
from typing import Any, Generic, NamedTuple, TypedDict, TypeVar
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import msgspec
import pydantic
import pytest

from sagalog import CodecError, DefinitionError, InvalidEventError, PayloadTooLargeError, Saga, starts
from sagalog.definition.codec import TypeRegistry, check_event, decode_given, encode_readable, round_trip
from sagalog.definition.storable import check_storable
from sagalog.testing import Scenario


@dataclass
class Item:
    id: str
    n: int = 1


@dataclass
class Special(Item):
    more: int = 0


@dataclass
class State:
    total: int = 0
    ratio: float = 0.0
    maybe: float | None = None
    items: list[Item] = field(default_factory=list)
    anything: Any = None
    text: str = ""
    at: datetime | None = None
    numbers: dict[int, int] = field(default_factory=dict)

    @cached_property
    def double(self) -> int:
        return self.total * 2


class Model(pydantic.BaseModel):
    n: int = 0


def with_more() -> State:
    state = State()
    state.more = 7  # type: ignore[attr-defined]
    return state


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (State(total=None), r"total"),  # type: ignore[arg-type]
        (State(total="12"), r"total"),  # type: ignore[arg-type]
        (State(total=True, ratio=True), r"total"),
        (State(ratio=math.nan), r"ratio"),
        (State(maybe=math.nan), r"State\.maybe holds a float and comes back as a NoneType"),
        (State(maybe=math.inf), r"State\.maybe"),
        (State(items=[Special("hunter2")]), r"State\.items\[\] holds a Special and comes back as a Item"),
        (State(anything=Decimal("1.1")), r"State\.anything holds a Decimal"),
        (State(anything=(1,)), r"State\.anything holds a tuple"),
        (State(anything={1: 2}), r"State\.anything has a key"),
        (State(anything=[{"a": {1}}]), r"State\.anything\[\]\[\] holds a set"),
        (State(text=Decimal("1")), r"State\.text"),  # type: ignore[arg-type]
        (State(at="2030-01-01T00:00:00Z"), r"State\.at"),  # type: ignore[arg-type]
        (State(numbers=collections.Counter({1: 2})), r"State\.numbers"),
        (with_more(), r"State\.more is not a field, so it would be lost"),
        (Model.model_construct(n="hunter2"), r"Model"),
    ],
)
def test_a_value_that_would_not_come_back_as_it_is_is_refused_without_being_shown(value: Any, told: str) -> None:
    with pytest.raises(CodecError, match=told) as caught:
        round_trip(value)
    assert "hunter2" not in str(caught.value)


def test_values_of_the_declared_types_come_back() -> None:
    state = State(1, 2.0, 3.5, (Item("a"),), [None, {"a": [1, "b"]}], "t", None, {1: 2})  # type: ignore[arg-type]
    assert state.double == 2
    autumn = datetime(2030, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1)
    for value in (state, State(at=autumn), Model(n=3), State(total=2**70), {"a": 1}, [1, 2]):
        data, back = round_trip(value)
        assert round_trip(back)[0] == data
        assert back is not value


def test_an_event_from_outside_is_checked_and_measured() -> None:
    assert check_event(Item("a"), 100) == b'{"id":"a","n":1}'
    with pytest.raises(InvalidEventError, match=r"\$\.n.*nothing was stored"):
        check_event(Item("a", "1"), 100)  # type: ignore[arg-type]
    with pytest.raises(PayloadTooLargeError):
        check_event(Item("a" * 100), 100)


@dataclass
class TwoClasses:
    which: Item | State | None = None


@dataclass
class Deep:
    many: dict[str, list[str | date]] = field(default_factory=dict)


@attrs.define
class Queue:
    waiting: collections.deque[int] = attrs.field(factory=collections.deque)


T = TypeVar("T")


@attrs.define
class Private(Generic[T]):
    _secret: T | None = None
    shown: int = 0


@attrs.define
class Derived:
    shown: int = 0
    _twice: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._twice = 2 * self.shown


class Typed(TypedDict):
    a: object


class Pair(NamedTuple):
    a: dict[tuple[int, int], int]


class SetOrList(msgspec.Struct):
    a: set[int] | list[int] = []


class Aliased(pydantic.BaseModel):
    n: int = pydantic.Field(0, alias="N")


class TextOrDate(pydantic.BaseModel):
    day: str | date = ""


@dataclass
class Outer:
    inner: list[Queue] = field(default_factory=list)
    again: list[Outer] = field(default_factory=list)


@pytest.mark.parametrize(
    ("cls", "path"),
    [
        (TwoClasses, "TwoClasses.which"),
        (Deep, "Deep.many"),
        (Queue, "Queue.waiting"),
        (Private, "Private._secret"),
        (list[Private[int]], "._secret"),
        (Typed, "Typed.a"),
        (Pair, "Pair.a"),
        (SetOrList, "SetOrList.a"),
        (Aliased, "Aliased.n"),
        (TextOrDate, "TextOrDate.day"),
        (Outer, "Outer.inner[].waiting"),
        (collections.Counter, "Counter"),
        (collections.defaultdict[str, int], "defaultdict"),
        (object, "object"),
    ],
)
def test_a_type_that_json_cannot_give_back_is_refused_with_the_path_of_the_field(cls: Any, path: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        check_storable(cls, "the state")
    assert path in str(caught.value)


@pytest.mark.parametrize("cls", [State, Item, Model, Derived, dict, dict[str, Any], dict[int, Item], list[Model], str])
def test_plain_types_are_taken(cls: Any) -> None:
    check_storable(cls, "the state")


def test_a_saga_with_such_a_state_or_message_is_refused_when_its_class_is_made() -> None:
    with pytest.raises(DefinitionError, match=r"BadState: the state Queue: Queue\.waiting"):

        class BadState(Saga[Queue]):
            name = "bad"

            @starts(Item, key="id")
            def item(self, state: Queue, event: Item) -> None: ...

    with pytest.raises(DefinitionError, match=r"BadMessage: the message type Queue: Queue\.waiting"):

        class BadMessage(Saga[State]):
            name = "bad"
            messages = (Queue,)

            @starts(Item, key="id")
            def item(self, state: State, event: Item) -> None: ...


def test_a_registry_packs_only_what_it_can_unpack() -> None:
    registry = TypeRegistry()
    registry.add(Item)
    with pytest.raises(CodecError, match=r"Item cannot be stored.*\$\.n"):
        registry.pack(Item("a", None))  # type: ignore[arg-type]


class Kept(Saga[State]):
    name = "kept"

    @starts(Item, key="id")
    def item(self, state: State, event: Item) -> None: ...


SHARED = State()


class Sharing(Kept):
    name = "sharing"

    def initial_state(self) -> State:
        return SHARED


class Own(Kept):
    name = "own"

    def encode_state(self, state: State) -> bytes:
        return str(state.total).encode()

    def decode_state(self, payload: bytes) -> State:
        return State(int(payload))


def test_a_state_is_packed_only_if_it_can_be_decoded() -> None:
    assert Kept().decode_state(Kept().pack_state(State(3))) == State(3)
    with pytest.raises(CodecError, match="total"):
        Kept().pack_state(State(total="x"))  # type: ignore[arg-type]
    with pytest.raises(CodecError):
        Kept().pack_state(None)  # type: ignore[arg-type]
    assert Own().pack_state(State(3)) == b"3"
    with pytest.raises(CodecError, match="decode_state raised ValueError"):
        Own().pack_state(State(total="x"))  # type: ignore[arg-type]


def test_a_shared_initial_state_is_copied() -> None:
    fresh = Sharing().fresh_state()
    fresh.items.append(Item("a"))
    assert SHARED.items == []


@dataclass
class AtHour:
    value: time


@dataclass
class AtMoment:
    value: datetime


EAST, WEST = timezone(timedelta(hours=14)), timezone(-timedelta(hours=12))


@dataclass
class Amount:
    value: Decimal


@pytest.mark.parametrize("made", [round_trip, encode_readable], ids=["read back", "checked"])
@pytest.mark.parametrize(
    "value",
    [
        AtMoment(datetime(2026, 10, 25, 2, 30, fold=1)),  # noqa: DTZ001
        AtHour(time(2, 30, fold=1)),
        AtHour(time(2, 30, tzinfo=ZoneInfo("Europe/Berlin"))),
        Amount(Decimal("sNaN")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_equality_passes_over_is_not_stored(value: Any, made: Any) -> None:
    """`fold` has no place in JSON, and a naive moment without it is another hour; a signalling NaN cannot be compared.

    And a time has no offset in a zone where that depends on the day.
    """
    with pytest.raises(CodecError):
        made(value)


@pytest.mark.parametrize("moment", [datetime(1, 1, 1, tzinfo=EAST), datetime.max.replace(tzinfo=WEST)], ids=str)
def test_a_moment_that_utc_has_no_date_for_is_stored(moment: datetime) -> None:
    _, back = round_trip(AtMoment(moment))
    assert back.value.isoformat() == moment.isoformat()


def test_what_is_folded_and_knows_its_zone_is_stored() -> None:
    moment = datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))
    _, back = round_trip(AtMoment(moment))
    assert back.value.timestamp() == moment.timestamp()


@dataclass
class Box(Generic[T]):
    content: T | None = None


@dataclass
class Shelf:
    boxes: list[Box[int]] = field(default_factory=list)


@dataclass
class Filled:
    key: str
    box: Box[int]


class BoxSaga(Saga[Box[int]]):
    name = "box"

    @starts(Filled, key="key")
    def filled(self, state: Box[int], event: Filled) -> None:
        state.content = event.box.content


def test_a_generic_value_that_was_made_with_its_parameters_is_the_same_as_one_made_without() -> None:
    assert round_trip(Shelf([Box[int](3)]))[1] == Shelf([Box(3)])
    assert Scenario(BoxSaga).when(Filled("a", Box[int](3))).state == Box(3)
    with pytest.raises(CodecError, match=r"Shelf\.boxes\[\]\.more is not a field"):
        odd = Box[int](3)
        odd.more = 7  # type: ignore[attr-defined]
        round_trip(Shelf([odd]))


class Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")
    n: int = 0

    @pydantic.computed_field  # type: ignore[prop-decorator]
    @property
    def double(self) -> int:
        return self.n * 2


class Open(Strict):
    model_config = pydantic.ConfigDict(extra="allow")
    inner: list[Strict] = []


@pytest.mark.parametrize("model", [Strict(n=3), Open(n=3, inner=[Strict(n=4)], more=5)])  # type: ignore[call-arg]
def test_what_a_pydantic_model_computes_of_its_fields_is_not_stored_as_one_of_them(model: Strict) -> None:
    data, back = round_trip(model)
    assert b"double" not in data
    assert back == model
    assert (back.double, back.model_extra) == (6, model.model_extra)


def test_what_a_pydantic_model_holds_beside_its_fields_is_compared_as_plain_json() -> None:
    assert round_trip(Open(more={"a": [1, None]}))[1].model_extra == {"more": {"a": [1, None]}}  # type: ignore[call-arg]
    for odd in (Decimal(2), (1, 2), Strict(n=1)):
        with pytest.raises(CodecError, match="comes back as a"):
            round_trip(Open(more=[odd]))  # type: ignore[call-arg]


class NothingElse(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(strict=True)
    n: int
    day: date
    pair: tuple[int, int]
    id: UUID


def test_a_strict_pydantic_model_is_read_from_json_as_pydantic_reads_it() -> None:
    value = NothingElse(n=3, day=date(2026, 1, 31), pair=(1, 2), id=UUID(int=7))
    data, back = round_trip(value)
    assert back == value
    assert decode_given(data, NothingElse) == value
    with pytest.raises(CodecError, match="not a valid NothingElse"):
        decode_given(data.replace(b"3", b'"3"', 1), NothingElse)


def test_a_field_for_the_constructor_only_is_refused_with_a_remedy_that_mends_it() -> None:
    @dataclass
    class Made:
        n: int
        seed: InitVar[int] = 0

    with pytest.raises(DefinitionError, match="InitVar.*make it a field, or remove it from the constructor"):
        check_storable(Made, "the state")
