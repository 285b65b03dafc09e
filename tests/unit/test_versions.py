"""What was stored by an older version of the code is read as if it were of today's; what cannot be, says why."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import attrs
import msgspec
import pydantic
import pytest

from sagalog import CodecError, DefinitionError, Saga, schema, starts, upcast
from sagalog.definition.codec import Typed, TypeRegistry

NOW = datetime(2030, 1, 1, tzinfo=UTC)


@schema(version=3)
@dataclass
class Order:
    """Version 1: `sum` as text. Version 2: `total`. Version 3: `lines`."""

    total: int
    lines: list[str] = field(default_factory=list)


@upcast(Order, from_version=1)
def _(document: dict[str, Any]) -> dict[str, Any]:
    return {"total": int(document.pop("sum")), **document}


@upcast(Order, from_version=2)
def _(document: dict[str, Any]) -> dict[str, Any]:
    document["lines"] = ["from version 2"]
    return document


def stored(version: int, **data: Any) -> Typed:
    return Typed("Order", msgspec.Raw(json.dumps(data).encode()), version)


@pytest.fixture
def registry() -> TypeRegistry:
    registry = TypeRegistry()
    registry.add(Order)
    return registry


def test_upcasters_lead_from_version_to_version_up_to_the_one_of_today(registry: TypeRegistry) -> None:
    assert registry.unpack(stored(1, sum="5")) == Order(5, ["from version 2"])
    assert registry.unpack(stored(2, total=5)) == Order(5, ["from version 2"])
    assert registry.unpack(stored(3, total=5)) == Order(5, [])
    assert registry.pack(Order(5)).version == 3


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (stored(4, hunter2=1), "Order is stored with schema version 4; this code knows version 3"),
        (stored(0, sum=1), r"schema version 0; this code knows version 3 and has no @upcast\(Order, from_version=0\)"),
        (stored(1, sum="hunter2"), "version 1: the upcaster from version 1 to 2 raised ValueError"),
        (stored(1, hunter2=1), "version 1: the upcaster from version 1 to 2 raised KeyError"),
        (stored(2, total="hunter2"), "Order, upcast from version 2 to 3: stored JSON is not a valid Order"),
        (Typed("Order", msgspec.Raw(b"{hunter2"), 1), "is not JSON, so it cannot be upcast"),
        (Typed("Order", msgspec.Raw(b"[" * 100_000), 1), "is not JSON, so it cannot be upcast"),
    ],
)
def test_what_cannot_be_upcast_names_type_and_versions_and_no_values(
    registry: TypeRegistry, bad: Typed, message: str
) -> None:
    with pytest.raises(CodecError, match=message) as caught:
        registry.unpack(bad)
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("upcaster", "message"),
    [
        (lambda document: None, "the upcaster from version 1 to 2 returned no document"),
        (lambda document: {"n": object()}, "its upcasters return something that is not JSON"),
        (lambda document: {"n": "\ud800"}, "its upcasters return something that is not JSON"),
        (lambda document: [document], "upcast from version 1 to 2: stored JSON is not a valid Short"),
    ],
)
def test_an_upcaster_that_returns_something_else_is_told(upcaster: Callable[[Any], Any], message: str) -> None:
    @schema(version=2)
    @dataclass
    class Short:
        n: int

    upcast(Short, from_version=1)(upcaster)
    registry = TypeRegistry()
    registry.add(Short)
    with pytest.raises(CodecError, match=message):
        registry.unpack(Typed("Short", msgspec.Raw(b'{"n": 1}')))


def test_every_kind_of_type_may_have_versions() -> None:
    class Struct(msgspec.Struct, frozen=True):
        n: int

    @attrs.frozen
    class Attrs:
        n: int

    class Model(pydantic.BaseModel):
        n: int

    @dataclass(frozen=True, slots=True)
    class Slotted:
        n: int

    registry = TypeRegistry()
    for cls in (Struct, Attrs, Model, Slotted):
        marked: Any = schema(version=2)(cls)
        upcast(marked, from_version=1)(lambda document: {"n": document["m"]})
        registry.add(marked)
        assert registry.unpack(Typed(cls.__name__, msgspec.Raw(b'{"m": 7}'))) == marked(n=7)


def test_versions_and_upcasters_are_not_inherited() -> None:
    @dataclass
    class Special(Order):
        pass

    with pytest.raises(DefinitionError, match=r"schema version 1, and nothing is older; put @schema\(version=2\)"):
        upcast(Special, from_version=1)


@pytest.mark.parametrize("version", [0, -1, 3, 4])
def test_an_upcaster_out_of_range_is_refused(version: int) -> None:
    with pytest.raises(DefinitionError, match="Order has schema version 3, so upcasters start from 1 to 2"):
        upcast(Order, from_version=version)


def test_a_second_upcaster_from_one_version_is_refused() -> None:
    with pytest.raises(DefinitionError, match="Order has two upcasters from version 2; keep one"):
        upcast(Order, from_version=2)


async def _later(document: Any) -> Any:
    return document


def _bit_by_bit(document: Any) -> Any:
    yield document


@pytest.mark.parametrize("function", [_later, _bit_by_bit, 7])
def test_an_upcaster_is_a_plain_function(function: Any) -> None:
    @schema(version=2)
    class Any2: ...

    with pytest.raises(DefinitionError, match="decorates a plain function"):
        upcast(Any2, from_version=1)(function)


def gapped() -> type:
    @schema(version=4)
    @dataclass
    class Gapped:
        order_id: str = ""

    upcast(Gapped, from_version=1)(lambda document: document)
    upcast(Gapped, from_version=3)(lambda document: document)
    return Gapped


def test_a_gap_among_the_upcasters_is_told_when_the_class_is_made() -> None:
    message = r"Gapped has upcasters from version 1, but none from version 2: write @upcast\(Gapped, from_version=2\)"
    bad: Any = gapped()
    with pytest.raises(DefinitionError, match=message):

        class OfState(Saga[bad]):
            name = "of_state"

            @starts(Order, key=lambda event: "a")
            def begin(self, state: Any, event: Order) -> None: ...

    with pytest.raises(DefinitionError, match=message):

        class OfEvent(Saga[Order]):
            name = "of_event"

            @starts(bad, key="order_id")
            def begin(self, state: Any, event: Any) -> None: ...

    with pytest.raises(DefinitionError, match=message):
        TypeRegistry().add(bad)


def test_upcasters_of_versions_that_nobody_has_stored_any_more_may_go() -> None:
    @schema(version=4)
    @dataclass
    class Old:
        n: int = 0

    upcast(Old, from_version=3)(lambda document: document)
    registry = TypeRegistry()
    registry.add(Old)
    assert registry.unpack(Typed("Old", msgspec.Raw(b'{"n":1}'), 3)) == Old(1)
    with pytest.raises(CodecError, match="has no @upcast"):
        registry.unpack(Typed("Old", msgspec.Raw(b'{"n":1}'), 2))
