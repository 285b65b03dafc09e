"""Newer code that numbers events in another way, while some wait under the numbers of older code."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import pytest

from sagalog import InMemoryJournal, JournalSagaStateStore, Outcome, Saga, SagaRecord, SagaRunner, Sequence, on, starts
from sagalog.decision.record import decode_record
from sagalog.operating.inspect import find
from sagalog.operating.readable import Code

from .conftest import Bench


class Phase(Enum):
    OPEN = "open"
    SHUT = "shut"


@dataclass
class Opened:
    meter: str


@dataclass
class Measured:
    meter: str
    n: int
    m: int = 0


@dataclass
class Noted:
    meter: str


@dataclass
class Failing:
    meter: str


@dataclass
class Readings:
    seen: list[int] = field(default_factory=list)


class Base:
    @starts(Opened, key="meter")
    def opened(self, state: Readings, event: Opened) -> None: ...

    @on(Noted, key="meter")
    def noted(self, state: Readings, event: Noted) -> None: ...

    @on(Failing, key="meter")
    def failing(self, state: Readings, event: Failing) -> None:
        raise RuntimeError("failing")


def saga(
    sequence: Any = None, *, begins: bool = True, phased: bool = False, during: Any = None
) -> type[Saga[Readings]]:
    decorate: Any = starts if begins else on
    options = {"during": during, "unexpected": "keep"} if during is not None else {}

    class Meters(Base, Saga[Readings]):
        name = "meters"
        if phased:
            phases = Phase

        @decorate(Measured, key="meter", sequence=sequence, **options)
        def measured(self, state: Readings, event: Measured) -> None:
            state.seen.append(event.n)

    return Meters


@pytest.fixture
def bench() -> Bench:
    return Bench(InMemoryJournal())


async def send_old(one: SagaRunner, *numbers: int) -> list[Outcome]:
    """Send events that have no number yet where newer code looks for it."""
    given = [Measured("x", n, n + 100) for n in numbers]
    return [(await one.handle(event, message_id=f"m{event.n}")).outcomes["meters"] for event in given]


async def send(one: SagaRunner, *numbers: int) -> list[Outcome]:
    given = [Measured("x", n, n) for n in numbers]
    return [(await one.handle(event, message_id=f"m{event.n}")).outcomes["meters"] for event in given]


async def stored(bench: Bench) -> SagaRecord:
    saved = await JournalSagaStateStore(bench.journal, "meters").load_with_tombstone("x")
    assert saved is not None
    return decode_record(saved.payload)


NEWER = {
    "the same": saga("n"),
    "by another field": saga("m"),
    "in phases": saga("n", phased=True),
    "by another field, in phases": saga("m", phased=True),
    "no more": saga(),
    "no more, in phases": saga(phased=True),
    "by another field, and it begins none": saga("m", begins=False),
    "no more, and it begins none": saga(begins=False, phased=True),
}


async def told(bench: Bench, newer: type[Saga[Readings]]) -> tuple[list[str], list[str]]:
    """Return what `sagalog check` warns of, and why that code could not go on."""
    assert bench.journal is not None
    (view,) = await find(bench.journal, "x", "meters")
    assert view.record is not None
    code = Code([newer()], lambda command: True)
    return code.numbered_otherwise(newer(), view.record), [reason.text for reason in code.reasons(view)]


async def test_the_types_of_a_saga_are_gathered_once_however_many_instances_are_checked(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench.runner(sagas=(saga("n"),)) as one:
        await send_old(one, 3)
    assert bench.journal is not None
    (view,) = await find(bench.journal, "x", "meters")
    assert view.record is not None
    newer = saga("m")()
    code = Code([newer], lambda command: True)
    monkeypatch.setattr(type(newer), "registry", None)  # it walks all types of the saga's modules
    assert code.numbered_otherwise(newer, view.record)
    assert not list(code.reasons(view))


async def test_check_tells_of_a_sequence_that_is_counted_in_another_way(bench: Bench) -> None:
    async with bench.runner(sagas=(saga("n"),)) as one:
        await send_old(one, 1)
    assert await told(bench, saga("n")) == ([], [])
    assert await told(bench, saga("m")) == ([], [])  # the record does not say by which field it was counted
    ((warned,), reasons) = await told(bench, saga(Sequence("n", name="readings")))
    assert "Sequence(..., name='Measured') keeps them" in warned
    assert not reasons
    ((gone,), reasons) = await told(bench, saga())
    assert (gone, reasons) == (warned, [])
    async with bench.runner(sagas=(saga("n"),)) as one:
        await send_old(one, 3)
    assert await told(bench, saga("n")) == ([], [])
    ((field,), reasons) = await told(bench, saga("m"))
    assert field.startswith("events that wait in the sequence Measured under another number")
    assert not reasons
    ((renamed,), (reason,)) = await told(bench, saga(Sequence("n", name="readings")))
    assert renamed == warned
    assert reason.startswith(
        "kept event: Measured waits for those before it in the sequence Measured, which this code does"
    )
    assert await told(bench, saga()) == ([warned], [])


@pytest.mark.parametrize("newer", NEWER)
async def test_what_waits_is_handled_by_the_number_under_which_it_was_accepted(bench: Bench, newer: str) -> None:
    async with bench.runner(sagas=(saga("n"),)) as one:
        assert await send_old(one, 1, 3) == [Outcome.HANDLED, Outcome.KEPT]
    async with bench.runner(sagas=(NEWER[newer],)) as one:
        await one.handle(Noted("x"), message_id="noted")
        assert (await send(one, 2, 3))[1] is Outcome.DUPLICATE
        await one.settle()
        assert sorted((await one.state(NEWER[newer], "x")).seen) == [1, 2, 3]
    assert (await stored(bench)).kept == ()


async def test_what_waits_under_the_name_of_a_sequence_that_is_gone_goes_on_waiting(bench: Bench) -> None:
    async with bench.runner(sagas=(saga("n"),)) as one:
        await send_old(one, 1, 3)
    newer = saga(Sequence("n", name="readings"))
    async with bench.runner(sagas=(newer,)) as one:
        assert await send(one, 2) == [Outcome.KEPT]
        await one.settle()
        assert (await one.state(newer, "x")).seen == [1]
    assert [(held.sequence, held.number) for held in (await stored(bench)).kept] == [("Measured", 3), ("readings", 2)]


async def test_what_waits_for_a_phase_is_not_numbered_afterwards(bench: Bench) -> None:
    """It was accepted without a number; those that come now begin with the first."""
    async with bench.runner(sagas=(saga(phased=True, begins=False, during=Phase.SHUT),)) as one:
        await one.handle(Opened("x"), message_id="opened")
        assert await send_old(one, 5) == [Outcome.KEPT]
    newer = saga("n", phased=True)
    async with bench.runner(sagas=(newer,)) as one:
        assert await send(one, 1) == [Outcome.HANDLED]
        await one.settle()
        assert sorted((await one.state(newer, "x")).seen) == [1, 5]


async def test_what_a_parked_instance_held_keeps_its_number(bench: Bench) -> None:
    async with bench.runner(sagas=(saga(Sequence("n", first=1)),)) as one:
        await send_old(one, 1)
        await one.handle(Failing("x"), message_id="failing")
        assert await send_old(one, 2) == [Outcome.HELD]
    newer = saga("m")
    async with bench.runner(sagas=(newer,)) as one:
        await one.skip("meters", "x")
        assert (await one.state(newer, "x")).seen == [1, 2]


async def test_one_that_began_its_instance_is_handled_by_code_in_which_it_may_begin_none(bench: Bench) -> None:
    async with bench.runner(sagas=(saga("n"),)) as one:
        assert await send_old(one, 2, 3) == [Outcome.KEPT, Outcome.KEPT]
    newer = saga(begins=False, phased=True)
    async with bench.runner(sagas=(newer,)) as one:
        await one.drop(newer, "x", "m2")
        await one.settle()
        assert (await one.state(newer, "x")).seen == [3]
