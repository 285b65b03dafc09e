"""What a user writes in a hurry is refused where it is written, with the name of the thing and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Any

import pytest

from sagalog import (
    AddKey,
    DefinitionError,
    Enter,
    Gather,
    ItinerarySaga,
    Key,
    Run,
    Saga,
    Send,
    Sequence,
    SetTimer,
    StartChild,
    StepContext,
    activity,
    on,
    on_child,
    on_enter,
    starts,
    when_all,
)
from sagalog.testing import Scenario


@dataclass
class Begun:
    id: str


@dataclass
class Happened:
    id: str
    number: int = 1


@dataclass
class Called:
    id: str


@dataclass
class State:
    begun: Begun | None = None


class Phase(Enum):
    OPEN = "open"
    SHUT = "shut"


class Nothing(Enum):
    pass


async def is_needed(state: State) -> bool:
    return False


async def gap_event(gap: Any) -> Any:
    return None


def activities_that(function: Any, **options: Any) -> None:
    class Trip(ItinerarySaga[State]):
        name = "trip"
        starts_with, key = Begun, "id"
        flight = activity(**options)(function) if options else activity(function)


async def fly(self: Any, state: State, call: Any) -> None: ...


@on(Happened, key="id")
async def happened(self: Any, state: State, event: Any) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (fly, {"when": is_needed}, r"Trip.flight: when= is a plain function of the state, and may not be async"),
        (
            fly,
            {"when": lambda self, state: True},
            r"Trip.flight: when= takes only the state, but is written to take \(self, state\)",
        ),
        (fly, {"when": lambda: True}, r"Trip.flight: when= takes only the state, but is written to take \(\)"),
        (happened, {}, r"happened\(\) is an activity, which handles no event: remove @activity or @on"),
        (happened, {"timeout": timedelta(1)}, r"happened\(\) is an activity, which handles no event"),
    ],
)
def test_of_activities(function: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        activities_that(function, **options)


def test_what_may_be_asked_of_the_state_stays_allowed() -> None:
    activities_that(fly, when=lambda state, least=2: True)
    activities_that(fly, when=bool)


def test_of_what_handles_an_activity_by_its_method() -> None:
    class Trip(Saga[State]):
        name = "trip"

        @activity
        async def flight(self, state: State, call: Any) -> None: ...

        @starts(Begun, key="id")
        def begun(self, state: State, event: Begun) -> Any:
            return Run(self.flight)  # type: ignore[arg-type]

    with pytest.raises(
        DefinitionError, match=r"Run takes an activity of the class, or its name: Run\('flight'\), not method"
    ):
        Scenario(Trip).when(Begun("1"))


def joined(method: Any) -> None:
    class Joined(Saga[State]):
        name = "joined"

        @starts(Begun, key="id")
        def begun(self, state: State, event: Begun) -> None: ...

        @on(Happened, key="id")
        def happened(self, state: State, event: Happened) -> None: ...

        both = when_all(Begun, Happened)(method)


def test_of_joins_that_want_an_event() -> None:
    def both(self: Any, state: State, event: Any) -> None: ...

    def typed(self: Any, state: State, came: Happened) -> None: ...

    for method in (both, typed):
        with pytest.raises(
            DefinitionError, match=r"must take \(self, state\) or \(self, state, context\).*no event of its"
        ):
            joined(method)

    def allowed(self: Any, state: State, ctx: StepContext) -> None: ...

    def bare(self, state, ctx): ...  # type: ignore[no-untyped-def]

    joined(allowed)
    joined(bare)


def entered(method: Any) -> None:
    class Entered(Saga[State]):
        name = "entered"
        phases = Phase

        @starts(Begun, key="id")
        def begun(self, state: State, event: Begun) -> None: ...

        shut = on_enter(Phase.SHUT)(method)


def test_of_entering_that_wants_an_event() -> None:
    def shut(self: Any, state: State, event: Any) -> None: ...

    def typed(self: Any, state: State, came: Happened) -> None: ...

    for method in (shut, typed):
        with pytest.raises(DefinitionError, match=r"must take \(self, state\) or \(self, state, context\)"):
            entered(method)

    def allowed(self: Any, state: State, ctx: StepContext) -> None: ...

    def bare(self, state, ctx): ...  # type: ignore[no-untyped-def]

    entered(allowed)
    entered(bare)


def test_of_phases_without_members() -> None:
    with pytest.raises(
        DefinitionError, match=r"Empty.phases must be an Enum with a member for each phase, but Nothing has none"
    ):

        class Empty(Saga[State]):
            name = "empty"
            phases = Nothing

            @starts(Begun, key="id")
            def begun(self, state: State, event: Begun) -> None: ...


def test_of_children_without_their_saga() -> None:
    with pytest.raises(DefinitionError, match=r"@on_child\(ParcelSaga\) names the saga whose children"):

        class Parent(Saga[State]):
            name = "parent"

            @starts(Begun, key="id")
            def begun(self, state: State, event: Begun) -> None: ...

            @on_child  # type: ignore[arg-type]
            def ended(self, state: State, ended: Any) -> None: ...


class Child(Saga[State]):
    name = "child"

    @starts(Begun, key="id")
    def begun(self, state: State, event: Begun) -> None: ...


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda: StartChild(Child, Begun),
            r"StartChild\(Child, Begun\) takes the event, Begun\(...\), not its class",
        ),
        (
            lambda: StartChild(State, Begun("1")),
            r"StartChild takes a saga class and its starting event, not State first",
        ),
        (lambda: StartChild(Child, Begun("1"), undo=Called), r"Called is a class: pass an instance, Called\(...\)"),
        (lambda: Send(Called), r"Called is a class: pass an instance, Called\(...\)"),
        (
            lambda: SetTimer("t", Happened, after=timedelta(1)),
            r"Happened is a class: pass an instance, Happened\(...\)",
        ),
        (
            lambda: Gather("g", [Send(Called("1"))], then=Happened),
            r"Gather\('g'\): Happened is a class: pass an instance, then=Happened\(...\)",
        ),
        (lambda: AddKey(Key("customer"), "c"), r"AddKey takes the name of a key, AddKey\('customer', ...\), not Key"),
    ],
)
def test_of_classes_in_the_place_of_their_values(make: Callable[[], Any], said: str) -> None:
    class Hurried(Saga[State]):
        name = "hurried"
        keys = (Key("customer"),)
        messages = (Called,)

        @starts(Begun, key="id")
        def begun(self, state: State, event: Begun) -> Any:
            return make()

        @on(Happened, key="id")
        def happened(self, state: State, event: Happened) -> None: ...

        @on_child(Child)
        def ended(self, state: State, ended: Any) -> None: ...

    with pytest.raises(DefinitionError, match=said):
        Scenario(Hurried).when(Begun("1"))


@pytest.mark.parametrize(
    ("sequence", "said"),
    [
        ("id", r"sequence= of Happened: Happened.id is a str, but sequence numbers are whole: declare it as int"),
        (
            Sequence("number", gap_within=timedelta(1), gap=gap_event),
            r"sequence= of Happened: gap= is a plain function of the Gap, and may not be async",
        ),
        (
            Sequence("number", gap_within=timedelta(1), gap=lambda: None),  # type: ignore[arg-type, misc]
            r"sequence= of Happened: gap= takes only the Gap, but is written to take \(\)",
        ),
    ],
)
def test_of_sequences(sequence: Any, said: str) -> None:
    with pytest.raises(DefinitionError, match=said):

        class Numbered(Saga[State]):
            name = "numbered"

            @starts(Begun, key="id")
            def begun(self, state: State, event: Begun) -> None: ...

            @on(Happened, key="id", sequence=sequence)
            def happened(self, state: State, event: Happened) -> None: ...


def test_of_entering_a_name() -> None:
    class Named(Saga[State]):
        name = "named"
        phases = Phase

        @starts(Begun, key="id")
        def begun(self, state: State, event: Begun) -> Any:
            return Enter("SHUT")  # type: ignore[arg-type]

    with pytest.raises(DefinitionError, match=r"str is not a phase of Named; its phases are Phase: OPEN, SHUT"):
        Scenario(Named).when(Begun("1"))
