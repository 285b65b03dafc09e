"""Each row of the page on what can be stored is true."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal
from uuid import UUID
from zoneinfo import ZoneInfo

import pytest

from sagalog import CodecError, DefinitionError, InMemoryJournal, Saga, SagaRunner, starts

from .test_readme import ROOT

PAGE = (ROOT / "docs" / "stored-types.md").read_text()
ROWS = [[cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in PAGE.splitlines()]


class Color(Enum):
    RED = "red"


@dataclass
class Line:
    title: str


@dataclass
class Gift(Line):
    wrapped: bool = True


@dataclass
class Begun:
    id: str


WORDS = {
    **{kind.__name__: kind for kind in (Color, Line, Gift, Counter, OrderedDict, defaultdict, deque, Sequence)},
    **{kind.__name__: kind for kind in (date, datetime, timedelta, timezone, Decimal, Fraction, Path, UUID, ZoneInfo)},
    "Any": Any,
    "Literal": Literal,
}


def meant(cell: str) -> Any:
    """Return what the code of a cell says."""
    return eval(re.search("`(.*?)`", cell)[1], WORDS)  # type: ignore[index]


def saga_with(kind: Any, value: Any = None) -> type[Saga[Any]]:
    state = dataclasses.make_dataclass("Stored", [("field", kind | None if kind is not Any else kind, None)])

    class Storing(Saga[state]):  # type: ignore[valid-type]
        name = "storing"

        @starts(Begun, key="id")
        def begun(self, stored: Any, event: Begun) -> None:
            stored.field = value

    return Storing


@pytest.mark.parametrize("row", [row for row in ROWS if len(row) == 3 and "`" in row[0]], ids=" ".join)
async def test_what_is_given_comes_back_as_the_page_says(row: list[str]) -> None:
    declared, given, back = row
    async with SagaRunner(InMemoryJournal(), sagas=[saga_with(meant(declared), meant(given))]) as runner:
        if back == "refused":
            with pytest.raises(CodecError):
                await runner.handle(Begun("a"))
            return
        await runner.handle(Begun("a"))
        found = (await runner.state(runner.sagas[0], "a")).field
    assert (type(found), found) == (type(meant(back)), meant(back))


REFUSED = [(kind, row[1]) for row in ROWS if len(row) == 2 and "`" in row[0] for kind in re.findall("`.*?`", row[0])]


@pytest.mark.parametrize(("declared", "remedy"), REFUSED)
def test_what_can_never_come_back_is_refused_with_its_class(declared: str, remedy: str) -> None:
    with pytest.raises(DefinitionError):
        saga_with(meant(declared))


def test_the_page_has_these_rows() -> None:
    assert len(REFUSED) == 11
    assert sum(len(row) == 3 and "`" in row[0] for row in ROWS) == 27
