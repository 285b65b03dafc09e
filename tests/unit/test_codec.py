"""Values become bytes and come back; what does not fit is told without showing it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagalog import CodecError, DefinitionError, schema
from sagalog.definition.codec import Typed, TypeRegistry, decode, encode


class Colour(Enum):
    RED = "red"


@dataclass
class Inner:
    n: int = 0


@dataclass
class Wide:
    amount: Decimal
    at: datetime
    day: date
    key: UUID
    wait: timedelta
    colour: Colour
    raw: bytes
    inner: Inner
    many: dict[str, list[Inner]]
    maybe: int | None = None


class Struct(msgspec.Struct):
    n: int


@attrs.define
class Attrs:
    n: int


class Model(pydantic.BaseModel):
    n: int
    amount: Decimal


WIDE = Wide(
    Decimal("0.10"),
    datetime(2030, 1, 2, 3, 4, 5, 678901, UTC),
    date(2030, 1, 2),
    UUID(int=5),
    timedelta(days=1.5),
    Colour.RED,
    b"\x00\xff",
    Inner(3),
    {"a": [Inner(1), Inner(2)]},
)


@pytest.mark.parametrize("value", [WIDE, Struct(1), Attrs(2), Model(n=3, amount=Decimal("1.10")), Inner(2**62)])
def test_values_come_back_equal(value: Any) -> None:
    assert decode(encode(value), type(value)) == value


@given(st.integers(-(2**63), 2**64 - 1), st.text(st.characters(exclude_categories=("Cs",))))
def test_any_integer_and_text_comes_back(number: int, text: str) -> None:
    assert decode(encode({"n": number, "t": text}), dict) == {"n": number, "t": text}


class Opaque:
    secret = "hunter2"


@pytest.mark.parametrize("value", [Opaque(), Inner(Opaque()), {"a": {1j}}, float])  # type: ignore[arg-type]
def test_a_value_without_a_json_form_is_refused_with_the_remedy(value: Any) -> None:
    with pytest.raises(CodecError, match="cannot be stored as JSON"):
        encode(value)


def test_an_int_that_python_writes_as_no_text_is_refused_for_what_it_is() -> None:
    with pytest.raises(CodecError, match=r"^a dict cannot be stored .* more than 4,300 digits"):
        encode({"n": 10**5000})


@given(st.binary(max_size=200))
def test_bytes_that_are_no_value_raise_codec_error_and_nothing_else(data: bytes) -> None:
    try:
        decode(data, Wide)
    except CodecError:
        pass


@pytest.mark.parametrize(
    "data", [b'{"n": "hunter2"}', b'{"n": {"hunter2": 1}}', b'"hunter2"', b'{"n": hunter2}', b"[" * 100_000]
)
def test_errors_do_not_show_what_is_stored(data: bytes) -> None:
    for cls in (Inner, Model, Attrs, Struct):
        with pytest.raises(CodecError) as caught:
            decode(data, cls)
        assert "hunter2" not in str(caught.value)


def test_an_enum_error_does_not_show_the_value() -> None:
    with pytest.raises(CodecError) as caught:
        decode(b'"hunter2"', Colour)
    assert "hunter2" not in str(caught.value)


@dataclass
class Strict:
    n: int

    def __post_init__(self) -> None:
        raise ValueError(f"no such number: {self.n}")


def test_an_error_of_the_types_own_checks_does_not_show_the_value() -> None:
    with pytest.raises(CodecError, match="not a valid Strict: ValueError") as caught:
        decode(b'{"n": 4111}', Strict)
    assert "4111" not in str(caught.value)


def test_a_registry_packs_what_it_knows_and_unpacks_it() -> None:
    registry = TypeRegistry()
    registry.add(Inner)
    packed = registry.pack(Inner(5))
    assert (packed.type, bytes(packed.data), packed.version) == ("Inner", b'{"n":5}', 1)
    assert registry.unpack(packed) == Inner(5)
    with pytest.raises(DefinitionError, match=r"Attrs is not declared.*messages = \(\.\.\.\)"):
        registry.pack(Attrs(1))


def test_an_unknown_type_and_another_version_are_told_apart() -> None:
    @schema(name="inner", version=2)
    @dataclass
    class Newer:
        n: int = 0

    registry = TypeRegistry()
    registry.add(Newer)
    assert registry.pack(Newer()) == Typed("inner", msgspec.Raw(b'{"n":0}'), 2)
    with pytest.raises(CodecError, match="message type 'gone' is unknown"):
        registry.unpack(Typed("gone", msgspec.Raw(b"{}")))
    with pytest.raises(CodecError, match="schema version 1; this code knows version 2"):
        registry.unpack(Typed("inner", msgspec.Raw(b"{}")))
    with pytest.raises(DefinitionError, match="is counted from 1,"):
        schema(version=0)
