"""The quick check of what is packed: where it says that a value comes back, reading it back says so too."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import msgspec
import pytest

from sagalog import CodecError
from sagalog.definition import codec
from sagalog.definition.codec import encode_readable, round_trip
from sagalog.definition.exact import exact_check


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


@dataclass
class Line:
    sku: str
    count: int = 1


@dataclass(frozen=True, slots=True)
class Slotted:
    sku: str
    price: float | None = None


class Struct(msgspec.Struct, omit_defaults=True):
    at: datetime
    paid: bool = True


@dataclass
class One:
    only: str


@dataclass
class Order:
    id: str
    total: int | float = 0
    price: Decimal = Decimal(1)
    colour: Colour = Colour.RED
    line: Line | None = None
    lines: list[Line] = field(default_factory=list)
    texts: tuple[str, ...] = ()
    by_name: dict[str, float] = field(default_factory=dict)
    at: datetime | None = None
    day: date | None = None
    key: UUID | None = None
    slotted: Slotted | None = None
    struct: Struct | None = None
    one: One | None = None
    flag: bool | str = False


class Text(str):
    __slots__ = ()


class Mine(Line):
    pass


def extended() -> Line:
    line = Line("a")
    line.more = 1  # type: ignore[attr-defined]
    return line


def swapped() -> Line:
    line = extended()
    del line.count  # as many attributes as fields, and a default of the class in the place of the one that is gone
    return line


def unset() -> Slotted:
    return object.__new__(Slotted)


ODD: list[Any] = [
    None, "", "a", "\x00", "null", Text("a"), 0, -1, 2**70, True, 1.0, -0.0, math.nan, math.inf, 1e300, b"a",
    Decimal("1.10"), Decimal("NaN"), Decimal("-Infinity"), Decimal("1E+99"), Colour.RED, Rights.READ | Rights.WRITE,
    UUID(int=1), date(2030, 1, 1), datetime(2030, 1, 1), datetime(2030, 1, 1, tzinfo=UTC),  # noqa: DTZ001
    datetime(2030, 10, 27, 2, 30, tzinfo=ZoneInfo("Europe/Berlin"), fold=1),
    datetime(2030, 1, 1, tzinfo=timezone(timedelta(seconds=1))),
    Line("a"), Line(1), Line("a", True), Line("a", 1.0), Mine("a"), extended(), swapped(),  # type: ignore[arg-type]
    Slotted("a"), Slotted("a", 1.5), Slotted("a", 2), Slotted("a", math.nan), unset(), One("a"), One(1),  # type: ignore[arg-type]
    Struct(datetime(2030, 1, 1, tzinfo=UTC)), Struct(date(2030, 1, 1)), Struct(datetime(2030, 1, 1), 1),  # type: ignore[arg-type]  # noqa: DTZ001
    [], [Line("a")], [Line("a"), Mine("b")], (Line("a"),), ["a"], ("a", "b"), ("a", Text("b")), ("a", None), {}, {"a": 1.5},
    {"a": 1}, {"a": math.nan}, {Text("a"): 1.5}, {1: 1.5}, {"a"},
]  # fmt: skip
FIELDS = [name for name in Order.__dataclass_fields__ if name != "id"]


@pytest.mark.parametrize("name", FIELDS)
def test_a_value_that_the_quick_check_lets_pass_comes_back(name: str) -> None:
    check = exact_check(Order)
    assert check is not None
    for value in ODD:
        order = Order("a", **{name: value})
        if check(order):
            assert round_trip(order)[0] == encode_readable(order)


@pytest.mark.parametrize(
    "kind",
    [
        str, int, float, bool, Decimal, datetime, Colour, Rights, Line, Slotted, Struct, One, list[Line], list[str],
        list[float], tuple[str, ...], dict[str, float], dict[str, Line], str | None, int | str | None, float | int,
        str | date, Colour | str, list[Line | None], Any, dict[int, float], list[Any],
    ],
)  # fmt: skip
def test_a_value_that_passes_as_one_of_a_kind_comes_back_as_that_kind(kind: Any) -> None:
    check = exact_check(kind)
    for value in ODD if check is not None else ():
        if check is not None and check(value):
            assert round_trip(value, kind)[0] == encode_readable(value, kind)


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (Order, Order("a", 1, Decimal("1.5"), Colour.BLUE, Line("a"), [Line("a"), Line("b")], ("a",), {"a": 1.5})),
        (Order, Order("a", 1.5, at=datetime(2030, 1, 1, tzinfo=UTC), key=UUID(int=1), slotted=Slotted("a", 1.5))),
        (Order, Order("a", struct=Struct(datetime(2030, 1, 1, tzinfo=UTC)), one=One("a"), flag="yes")),
        (One, One("a")),
        (dict[str, Line], {"a": Line("a")}),
        (list[str | None], ["a", None]),
    ],
)
def test_plain_values_are_known_to_come_back_without_being_read(
    kind: Any, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "round_trip", None)
    assert encode_readable(value, kind) == msgspec.json.encode(value)


@dataclass
class Checked:
    id: str

    def __post_init__(self) -> None:
        self.id = self.id.upper()


@dataclass
class Guarded:
    id: str

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value.upper())


@dataclass
class Derived:
    id: str
    size: int = field(init=False, default=0)


class Own(msgspec.Struct):
    id: str

    def __post_init__(self) -> None:
        self.id = self.id.upper()


@dataclass
class Nested:
    id: str
    more: list[Nested] = field(default_factory=list)


class WithDict(msgspec.Struct, dict=True):
    id: str


@pytest.mark.parametrize(
    "kind",
    [Checked, Guarded, Derived, Own, Nested, WithDict, Mine, str | date, str | UUID, Colour | str, Rights, Any, dict],
)
def test_types_with_code_or_choices_of_their_own_are_read_back(kind: Any) -> None:
    check = exact_check(kind)
    assert check is None or kind is Mine  # a subclass without fields of its own is no dataclass itself
    assert exact_check(Mine) is None


@pytest.mark.parametrize("value", [Line("\ud800"), Order("a", texts=("\udfff",)), One("\ud800")])
def test_a_text_that_is_no_unicode_is_refused_for_plain_types_too(value: Any) -> None:
    check = exact_check(type(value))
    assert check is not None
    assert check(value)  # its JSON cannot be written
    with pytest.raises(CodecError):
        encode_readable(value)
