"""A saga's definition is checked when its class is made."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, NamedTuple
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest

from sagalog import Complete, DefinitionError, InvalidEventError, Saga, Send, on, on_refused, schema, starts

from .. import orders
from ..orders import OrderSaga, Paid, Placed, Ship


@dataclass
class State:
    n: int = 0


@dataclass
class NeedsMore:
    n: int


def test_a_saga_knows_its_events_and_which_may_start_it() -> None:
    saga = OrderSaga()
    assert saga.correlation_id(Placed("7")) == "7"
    assert saga.correlation_id(object()) is None
    assert saga.may_start(Placed("7"))
    assert not saga.may_start(Paid("7"))
    assert set(saga.event_types()) >= {Placed, Paid}


@pytest.mark.parametrize("name", ["a::b", "", "a b", "é", 7, None])
def test_a_bad_name_is_refused(name: object) -> None:
    with pytest.raises(DefinitionError, match="part of every persistence id"):
        type("Bad", (Saga,), {"name": name, "placed": starts(Placed, key="order_id")(lambda self, state, event: None)})


def test_a_saga_without_a_starting_event_is_refused() -> None:
    with pytest.raises(DefinitionError, match="no starting event"):

        class Bad(Saga[State]):
            name = "bad"

            @on(Placed, key="order_id")
            def placed(self, state: State, event: Placed) -> None: ...


def test_a_base_with_handlers_and_without_a_name_is_refused_and_a_plain_class_may_hold_them() -> None:
    placed = starts(Placed, key="order_id")(lambda self, state, event: None)
    with pytest.raises(DefinitionError, match=r"Shared has handlers but no name.*class OrderSaga\(Shared, Saga"):
        type("Shared", (Saga,), {"placed": placed})
    shared = type("Shared", (), {"placed": placed})
    assert type("Named", (shared, Saga), {"name": "named"}).event_types() == (Placed,)  # type: ignore[attr-defined]


def test_two_handlers_for_one_event_are_refused_and_named() -> None:
    with pytest.raises(DefinitionError, match=r"handles Placed twice: in (one|two)\(\) and in (one|two)\(\)"):

        class Bad(Saga[State]):
            name = "bad"

            @starts(Placed, key="order_id")
            def one(self, state: State, event: Placed) -> None: ...

            @on(Placed, key="order_id")
            def two(self, state: State, event: Placed) -> None: ...

    with pytest.raises(DefinitionError, match="handles the refusal of Ship twice"):

        class Worse(Saga[State]):
            name = "worse"

            @starts(Placed, key="order_id")
            def one(self, state: State, event: Placed) -> None: ...

            @on_refused(Ship)
            def two(self, state: State, event: Any) -> None: ...

            @on_refused(Ship)
            def three(self, state: State, event: Any) -> None: ...


class Struct(msgspec.Struct):
    id: str


@attrs.define
class Attrs:
    id: str


class Model(pydantic.BaseModel):
    id: str


class Tuple(NamedTuple):
    id: str


class Computed:
    @property
    def id(self) -> str:
        return "x"


@pytest.mark.parametrize("event", [Struct, Attrs, Model, Tuple, Computed, Paid])
def test_a_key_that_the_event_type_does_not_have_is_refused_and_the_known_ones_are_named(event: type) -> None:
    with pytest.raises(DefinitionError, match=rf"{event.__name__} has no attribute 'nope'.*it has: .*id"):
        starts(event, key="nope")
    starts(event, key="order_id" if event is Paid else "id")


@pytest.mark.parametrize(
    "bad", [lambda: starts("Placed", key="a"), lambda: on(Placed, key=7), lambda: on_refused("Ship")]
)
def test_decorators_refuse_what_is_no_type_or_no_key(bad: Any) -> None:
    with pytest.raises(DefinitionError):
        bad()


def test_wrong_annotations_are_refused_when_the_class_is_made() -> None:
    with pytest.raises(DefinitionError, match=r"placed\(\) is annotated to take a Paid as event, but gets a Placed"):

        class WrongEvent(Saga[State]):
            name = "bad"

            @starts(Placed, key="order_id")
            def placed(self, state: State, event: Paid) -> None: ...  # type: ignore[arg-type]

    with pytest.raises(DefinitionError, match=r"annotated to take a NeedsMore as state, but gets a State"):

        class WrongState(Saga[State]):
            name = "bad"

            @starts(Placed, key="order_id")
            def placed(self, state: NeedsMore, event: Placed) -> None: ...

    with pytest.raises(DefinitionError, match=r"must take \(self, state, event\)"):

        class WrongShape(Saga[State]):
            name = "bad"

            @starts(Placed, key="order_id")
            def placed(self, event: Placed) -> None: ...  # type: ignore[arg-type]


def keyed(key: Any) -> Any:
    class Keyed(Saga[State]):
        name = "keyed"

        @starts(Placed, key=key)
        def placed(self, state: State, event: Placed) -> None: ...

    return Keyed()


class Colour(StrEnum):
    RED = "red"


@pytest.mark.parametrize(
    ("value", "text"),
    [("a", "a"), (7, "7"), (UUID(int=1), "00000000-0000-0000-0000-000000000001"), (Colour.RED, "red")],
)
def test_text_numbers_and_uuids_are_keys(value: Any, text: str) -> None:
    found = keyed("order_id").correlation_id(Placed(value))
    assert found == text
    assert type(found) is str


@pytest.mark.parametrize("value", ["", None, 1.5, True, b"a", ("a",), Colour])
def test_other_keys_are_refused_without_showing_them(value: Any) -> None:
    with pytest.raises(InvalidEventError, match="Placed for saga 'keyed'.*nothing was stored"):
        keyed("order_id").correlation_id(Placed(value))


def test_a_key_function_may_say_that_an_event_is_not_for_this_saga() -> None:
    saga = keyed(lambda event: event.order_id if event.total > 5 else None)
    assert saga.correlation_id(Placed("a", 9)) == "a"
    assert saga.correlation_id(Placed("a", 1)) is None


def test_a_key_function_that_raises_is_told_without_the_event() -> None:
    with pytest.raises(InvalidEventError, match="finding its key raised ZeroDivisionError") as caught:
        keyed(lambda event: 1 / 0).correlation_id(Placed("secret"))
    assert "secret" not in str(caught.value)


def test_a_state_that_needs_arguments_is_refused_with_the_remedy() -> None:
    class Bad(Saga[NeedsMore]):
        name = "bad"

        @starts(Placed, key="order_id")
        def placed(self, state: NeedsMore, event: Placed) -> None: ...

    with pytest.raises(DefinitionError, match="give its fields defaults, or override initial_state"):
        Bad().initial_state()


def test_a_subclass_may_redefine_a_handler() -> None:
    class Other(OrderSaga):
        name = "other"

        @starts(Placed, key="order_id")
        def placed(self, state: Any, event: Placed) -> Any:
            return Complete()

    assert isinstance(Other().handle(orders.OrderState(), Placed("a")), Complete)
    assert Other().may_start(Placed("a"))


def test_message_types_that_handlers_name_are_declared() -> None:
    def outside() -> type:
        @dataclass
        class Local:
            id: str

        return Local

    local = outside()

    class Naming(Saga[State]):
        name = "naming"

        @starts(Placed, key="order_id")
        def placed(self, state: State, event: Placed) -> Any:
            yield from [Send(command) for command in (local("a"), orders.Ship("b"))]

    names = Naming.registry().names()
    assert {"Local", "Ship", "Placed"} <= set(names)
    assert "State" not in names


def test_two_types_under_one_stored_name_are_refused() -> None:
    @schema(name="Placed")
    @dataclass
    class Elsewhere:
        id: str

    class Clash(Saga[State]):
        name = "clash"
        messages = (Elsewhere,)

        @starts(Placed, key="order_id")
        def placed(self, state: State, event: Placed) -> None: ...

    with pytest.raises(DefinitionError, match="two message types are stored as 'Placed'"):
        Clash.registry()
