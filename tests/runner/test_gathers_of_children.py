"""Gathers whose legs are children, in a saga with phases: a real runner against a plain reference, whatever the order."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from sagalog import (
    ChildEnded,
    Compensate,
    Complete,
    Enter,
    Gather,
    InMemoryJournal,
    Saga,
    SagaRunner,
    Send,
    SqliteJournal,
    StartChild,
    StepContext,
    leg,
    on,
    on_child,
    starts,
)
from sagalog.decision.record import decode_record
from sagalog.journal import Journal

from .conftest import Bench

AT_ONCE = 2


class Phase(Enum):
    OPEN = "open"
    SEALED = "sealed"


@dataclass
class Packed:
    id: str
    crates: int
    end: str
    wait: bool


@dataclass
class Sealed:
    id: str


@dataclass
class KeptEnd:
    id: str


@dataclass
class IgnoredEnd:
    id: str


@dataclass
class RaisedEnd:
    id: str


@dataclass
class SomeLost:
    id: str


@dataclass
class CrateOut:
    crate: str


@dataclass
class Arrived:
    crate: str


@dataclass
class Lost:
    crate: str


@dataclass
class Lift:
    crate: str


@dataclass
class PutBack:
    crate: str


@dataclass
class Crate:
    pass


@dataclass
class Manifest:
    id: str = ""
    log: list[str] = field(default_factory=list)


ENDS: dict[str, type] = {"kept": KeptEnd, "ignored": IgnoredEnd, "raised": RaisedEnd}


class CrateSaga(Saga[Crate]):
    name = "crate"

    @starts(CrateOut, key="crate")
    def out(self, state: Crate, event: CrateOut) -> Any:
        return Send(Lift(event.crate), undo=PutBack(event.crate))

    @on(Arrived, key="crate")
    def arrived(self, state: Crate, event: Arrived) -> Any:
        return Complete()

    @on(Lost, key="crate")
    def lost(self, state: Crate, event: Lost) -> Any:
        return Compensate()


class ManifestSaga(Saga[Manifest]):
    name = "manifest"
    phases = Phase

    @starts(Packed, key="id")
    def packed(self, state: Manifest, event: Packed) -> Any:
        state.id = event.id
        then, failed = ENDS[event.end](event.id), SomeLost(event.id)
        return Gather("crates", event.crates, then=then, failed=failed, wait=event.wait)

    @leg("crates", at_once=AT_ONCE)
    def crate(self, state: Manifest, number: int) -> StartChild:
        return StartChild(CrateSaga, CrateOut(f"c{number}"))

    @on_child(CrateSaga)
    def ended(self, state: Manifest, ended: ChildEnded) -> None:
        state.log.append(f"{ended.id} {ended.outcome}")

    @on(Sealed, key="id")
    def sealed(self, state: Manifest, event: Sealed) -> Any:
        state.log.append("sealed")
        return Enter(Phase.SEALED)

    @on(KeptEnd, key="id", during=Phase.SEALED, unexpected="keep")
    def kept_end(self, state: Manifest, event: KeptEnd, context: StepContext) -> None:
        _note(state, event, context)

    @on(IgnoredEnd, key="id", during=Phase.SEALED, unexpected="ignore")
    def ignored_end(self, state: Manifest, event: IgnoredEnd, context: StepContext) -> None:
        _note(state, event, context)

    @on(RaisedEnd, key="id", during=Phase.SEALED)
    def raised_end(self, state: Manifest, event: RaisedEnd, context: StepContext) -> None:
        _note(state, event, context)

    @on(SomeLost, key="id", during=Phase.SEALED, unexpected="keep")
    def some_lost(self, state: Manifest, event: SomeLost, context: StepContext) -> None:
        _note(state, event, context)


def _note(state: Manifest, event: Any, context: StepContext) -> None:
    gathered = context.gathered
    assert gathered is not None
    state.log.append(f"{type(event).__name__} {gathered.answered} of {gathered.total}, not {list(gathered.refused)}")


class Reference:
    """What a manifest has seen, without records, ids and outboxes."""

    def __init__(self, crates: int, end: str, *, wait: bool) -> None:
        self.crates, self.end, self.wait = crates, end, wait
        self.log: list[str] = []
        self.runs = set(range(min(crates, AT_ONCE)))
        self.started = len(self.runs)
        self.answered = 0
        self.refused: list[int] = []
        self.over = self.sealed = self.parked = False
        self.waiting = ""  # an end that is kept
        self.held: list[str] = []

    def happen(self, what: str, number: int) -> None:
        if what in ("arrive", "lose"):
            if number in self.runs:
                self.runs.discard(number)
                self._told(f"c{number} {'completed' if what == 'arrive' else 'compensated'}")
        elif what == "seal":
            self._told("sealed")
        elif what in ("retry", "skip") and self.parked:
            self.parked = False
            if what == "skip":
                self.waiting = ""
            held, self.held = self.held, []
            for one in held:
                self._told(one)

    def _told(self, what: str) -> None:
        if self.parked:
            self.held.append(what)
            return
        self.log.append(what)
        if what == "sealed":
            self.sealed = True
            if self.waiting:
                self.log.append(self.waiting)
                self.waiting = ""
        elif not self.over:
            self._leg(what)

    def _leg(self, what: str) -> None:
        name, outcome = what.split()
        if outcome == "completed":
            self.answered += 1
        else:
            self.refused.append(int(name[1:]))
        if (self.refused and not self.wait) or self.answered + len(self.refused) == self.crates:
            self.over = True
            self._end("SomeLost" if self.refused else ENDS[self.end].__name__)
        elif self.started < self.crates:
            self.runs.add(self.started)
            self.started += 1

    def _end(self, name: str) -> None:
        told = f"{name} {self.answered} of {self.crates}, not {self.refused}"
        if self.sealed:
            self.log.append(told)
        elif name != "IgnoredEnd":
            self.waiting, self.parked = told, name == "RaisedEnd"


Steps = list[tuple[str, int]]
EVENTS: dict[str, Any] = {
    "arrive": lambda number: Arrived(f"c{number}"),
    "lose": lambda number: Lost(f"c{number}"),
    "seal": lambda number: Sealed("m"),
}


async def follow(journal: Journal, crates: int, end: str, steps: Steps, *, wait: bool) -> None:
    bench, reference = Bench(journal), Reference(crates, end, wait=wait)

    async def started() -> SagaRunner:
        one = bench.runner(sagas=[ManifestSaga, CrateSaga], dispatch=lambda command: None)
        await one.start()
        return one

    async def stands() -> tuple[list[str], bool, int]:
        newest = await journal.latest_message("saga::manifest::m")
        assert newest is not None
        record = decode_record(newest.payload)
        state = ManifestSaga().decode_state(record.state_bytes())
        return state.log, bool(record.parked), len(record.gathers)

    running = await started()
    try:
        await running.handle(Packed("m", crates, end, wait))
        await running.settle()
        for what, number in steps:
            if what in EVENTS:
                await running.handle(EVENTS[what](number))
            elif what == "restart":
                await running.stop()
                running = await started()
            elif reference.parked:
                await (running.retry if what == "retry" else running.skip)("manifest", "m")
            reference.happen(what, number)
            await running.settle()
            under_way = bool(reference.runs) or not reference.over  # one that has failed waits for what runs
            expected = (reference.log, reference.parked, int(under_way))
            assert await stands() == expected, (what, number)
    finally:
        await running.stop()


WHAT = ["arrive", "arrive", "arrive", "lose", "seal", "retry", "skip", "restart"]
EACH = [("arrive", number) for number in range(5)]
STEPS = st.lists(st.tuples(st.sampled_from(WHAT), st.integers(0, 4)), max_size=14)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.integers(1, 5), st.sampled_from(sorted(ENDS)), STEPS, st.booleans())
@example(5, "kept", [*EACH, ("restart", 0), ("seal", 0)], False)
@example(5, "raised", [*EACH, ("seal", 0), ("restart", 0), ("retry", 0)], False)
@example(5, "raised", [*EACH, ("seal", 0), ("skip", 0)], True)
@example(5, "ignored", [*EACH, ("seal", 0)], False)
@example(3, "kept", [("lose", 0), ("arrive", 1), ("seal", 0)], False)
@example(3, "kept", [("lose", 0), ("arrive", 1), ("lose", 2), ("seal", 0)], True)
def test_the_end_of_a_gather_of_children_meets_its_phase(crates: int, end: str, steps: Steps, wait: bool) -> None:
    asyncio.run(follow(InMemoryJournal(), crates, end, steps, wait=wait))


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("end", sorted(ENDS))
def test_it_does_so_in_a_file_and_over_restarts(tmp_path: Path, end: str, wait: bool) -> None:
    async def both() -> None:
        again: Steps = [("restart", 0)]
        for name, steps in (
            ("all", [*EACH, *again, ("seal", 0), *again, ("retry", 0)]),
            ("sealed", [EACH[0], ("seal", 0), *again, *EACH[1:]]),
            ("lost", [EACH[1], *again, ("lose", 0), *again, *EACH[2:], ("seal", 0), *again]),
        ):
            async with SqliteJournal(tmp_path / f"{name}.db") as journal:
                await follow(journal, 5, end, steps, wait=wait)

    asyncio.run(both())
