"""What is drawn of phases: only what the source names, and a phase that nothing enters is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from sagalog import Enter, Saga, on, on_enter, starts
from sagalog.diagram import mermaid, outline, state_diagram, svg, unreached

from ..phased import Orders


class Phase(Enum):
    NEW = 1
    NEVER = 2
    OLD = 3


@dataclass
class Begun:
    id: str


@dataclass
class Gone:
    id: str


@dataclass
class State:
    next: str = "OLD"


class Plain(Saga[State]):
    name = "plain"
    phases = Phase

    @starts(Begun, key="id")
    def begun(self, state: State, event: Begun) -> None: ...

    @on(Gone, key="id", during=Phase.NEW)
    def gone(self, state: State, event: Gone) -> Enter:
        return Enter(Phase.OLD)


class Computed(Plain):
    name = "computed"

    @on_enter(Phase.OLD)
    def goes_on(self, state: State) -> Enter:
        return Enter(Phase[state.next])


def test_a_phase_that_nothing_enters_is_told_unless_one_is_computed() -> None:
    assert unreached(outline(Plain)) == ["NEVER"]
    assert unreached(outline(Computed)) == []
    assert unreached(outline(Orders)) == []


def test_an_entered_phase_that_enters_another_is_an_arrow() -> None:
    drawn = state_diagram(outline(Computed))
    assert "    NEW --> OLD: Gone" in drawn
    assert "    OLD --> ?: entering OLD" in drawn


def test_the_other_pictures_hold_each_handler_of_one_event() -> None:
    drawn = svg(outline(Orders))
    assert "Paid (PLACED)" in drawn
    assert "Paid (PAID, SHIPPED)" in drawn
    assert 'event0["Placed"]' in mermaid(outline(Orders)).replace("event1", "event0")
