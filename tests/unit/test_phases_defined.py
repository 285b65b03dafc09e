"""A saga whose phases do not fit together is refused when its class is made, and the error names the thing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest

from sagalog import DefinitionError, Enter, Saga, StepContext, on, on_enter, on_leave, starts
from sagalog.decision.phases import phase_of
from sagalog.decision.record import decode_record
from sagalog.decision.state import UnreadableStateError
from sagalog.testing import Scenario


class Phase(Enum):
    NEW = 1
    OLD = 2


class Other(Enum):
    NEW = 1


@dataclass
class Begun:
    id: str


@dataclass
class Gone:
    id: str
    other: str = ""


@dataclass
class State:
    n: int = 0


class Plain(Saga[State]):
    """What the sagas below are made from."""


def saga(phases: Any = Phase, initial: Any = None, **members: Any) -> type[Saga[State]]:
    def begun(self: Any, state: State, event: Begun) -> None: ...

    handlers = {"begun": starts(Begun, key="id")(begun), "name": "x", "phases": phases, "initial_phase": initial}
    return type("Made", (Plain,), {**handlers, **members})


def handler(event: type = Gone, **options: Any) -> Any:
    def handle(self: Any, state: State, event: Any) -> None: ...

    return on(event, **{"key": "id", **options})(handle)


def acting(decorator: Callable[[Any], Any]) -> Any:
    def act(self: Any, state: State) -> None: ...

    return decorator(act)


def test_definitions_that_do_not_fit_together_are_refused() -> None:
    def first(event: Any) -> str:
        return str(event.id)

    def refused(told: str, make: Callable[[], Any]) -> None:
        with pytest.raises(DefinitionError, match=told):
            make()

    refused("Made.phases must be an Enum with a member for each phase, not tuple", lambda: saga(("NEW", "OLD")))
    refused("Made.phases must be an Enum", lambda: saga(Enum("Empty", [])))
    refused("Made.initial_phase: Other.NEW is not a phase of Made", lambda: saga(initial=Other.NEW))
    refused(
        "Other.NEW is not a phase of Made; its phases are Phase: NEW, OLD", lambda: saga(a=handler(during=Other.NEW))
    )
    refused("during= of Gone takes one or more phases", lambda: saga(a=handler(during="NEW")))
    refused("during= of Gone takes phases, members of the saga's Enum, not str", lambda: handler(during=("NEW",)))
    refused("during= of Gone names no phase", lambda: handler(during=()))
    refused("Made has no phases, so during= or unexpected= of a", lambda: saga(None, a=handler(during=Phase.NEW)))
    refused("Made has no phases, so a", lambda: saga(None, a=acting(on_enter(Phase.NEW))))
    refused("Made has no phases, so initial_phase", lambda: saga(None, initial=Phase.NEW))
    both = {"a": handler(during=Phase.NEW), "b": handler(during=(Phase.OLD, Phase.NEW))}
    refused(r"Made handles Gone twice during NEW: in a\(\) and in b\(\)", lambda: saga(**both))
    refused("Made handles Gone twice", lambda: saga(a=handler(during=Phase.NEW), b=handler()))
    refused("Made handles Gone twice", lambda: saga(a=handler(), b=handler(during=Phase.NEW)))
    refused("Made handles Gone twice", lambda: saga(a=handler(), b=handler()))
    refused('unexpected= of Gone must be "raise", "ignore" or "keep"', lambda: handler(unexpected="drop"))
    refused("unexpected= needs during=: without it, the event", lambda: saga(a=handler(unexpected="keep")))
    refused(
        r"unexpected= of Gone names NEW, where a\(\) expects it",
        lambda: saga(a=handler(during=Phase.NEW, unexpected={Phase.NEW: "keep"})),
    )
    keys = {"a": handler(during=Phase.NEW), "b": handler(during=Phase.OLD, key="other")}
    refused("finds the correlation id of Gone in two ways", lambda: saga(**keys))
    keys = {"a": handler(during=Phase.NEW, key=first), "b": handler(during=Phase.OLD, key=lambda event: first(event))}
    refused("finds the correlation id of Gone in two ways", lambda: saga(**keys))
    policies = {
        "a": handler(during=Phase.NEW, unexpected="keep"),
        "b": handler(during=Phase.OLD, unexpected="ignore"),
    }
    refused("differs from that of the handler before", lambda: saga(**policies))
    refused('Made.unexpected must be "raise", "ignore" or "keep"', lambda: saga(unexpected="no"))
    refused("Made.most_kept must be a whole number, 1 or more", lambda: saga(most_kept=0))
    refused("names no phase", lambda: on_enter())
    refused(
        "Made has two @on_enter for NEW", lambda: saga(a=acting(on_enter(Phase.NEW)), b=acting(on_enter(Phase.NEW)))
    )
    refused(r"@on_leave of Made.a\(\): Other.NEW is not a phase", lambda: saga(a=acting(on_leave(Other.NEW))))

    async def later(self: Any, state: State) -> None: ...

    def wide(self: Any, state: State, context: StepContext, more: int) -> None: ...

    refused("may not be async", lambda: on_enter(Phase.NEW)(later))
    refused(r"must take \(self, state\) or \(self, state, context\)", lambda: saga(a=on_enter(Phase.NEW)(wide)))

    def again(self: Any, state: State, event: Begun) -> None: ...

    elsewhere = starts(Begun, key="id", during=Phase.OLD)(again)
    refused("starts the saga, which is then in NEW", lambda: saga(begun=elsewhere))


def test_what_fits_together_is_made() -> None:
    made = saga(initial=Phase.OLD, a=handler(during=Phase.NEW), b=handler(during=[Phase.OLD], unexpected="keep"))
    assert made.phase_table is not None
    assert made.phase_table.initial is Phase.OLD
    assert made.event_types() == (Gone, Begun)
    assert [route.method for route in made.routes()] == ["a", "b", "begun"]


class Ways(Saga[State]):
    name = "ways"
    phases = Phase

    @starts(Begun, key="id")
    def begun(self, state: State, event: Begun) -> None: ...

    @on(Gone, key="id")
    def gone(self, state: State, event: Gone) -> Enter:
        return Enter(Phase.OLD)

    @on_leave(Phase.NEW)
    def leaves(self, state: State) -> Enter:
        return Enter(Phase.OLD)


class Round(Ways):
    name = "round"

    @on_enter(Phase.OLD)
    def on(self, state: State) -> Enter:
        return Enter(Phase.NEW)

    @on_enter(Phase.NEW)
    def back(self, state: State) -> Enter | None:
        state.n += 1
        return Enter(Phase.OLD) if state.n > 1 else None

    leaves = None  # type: ignore[assignment]


def test_leaving_a_phase_cannot_enter_one_and_a_circle_of_phases_is_told() -> None:
    with pytest.raises(DefinitionError, match="leaving NEW enters another phase"):
        Scenario(Ways).given(Begun("i")).when(Gone("i"))
    with pytest.raises(DefinitionError, match="one step enters more than 100 phases; do they form a cycle"):
        Scenario(Round).given(Begun("i")).when(Gone("i"))


class Renamed(Enum):
    FRESH = 1
    NEW = 1  # noqa: PIE796  (its old name)
    OLD = 2


def record_in(phase: str) -> Any:
    stored = {
        "format": 1, "status": "running", "state": {"n": 7}, "started_by": "Begun", "phase": phase,
        "started_at": "2030-01-01T00:00:00Z", "updated_at": "2030-01-01T00:00:00Z",
    }  # fmt: skip
    return decode_record(json.dumps(stored).encode())


def test_a_renamed_phase_is_found_by_the_old_name_as_an_alias_and_an_unknown_one_is_unreadable() -> None:
    class Late(Saga[State]):
        name = "late"
        phases = Renamed

        @starts(Begun, key="id")
        def begun(self, state: State, event: Begun) -> None: ...

    assert phase_of(Late(), record_in("NEW")) is Renamed.FRESH
    with pytest.raises(UnreadableStateError, match=r"its phase LOST is unknown to this code: if it was renamed"):
        phase_of(Late(), record_in("LOST"))


def test_an_instance_from_before_the_saga_had_phases_is_in_the_first_or_in_the_one_that_its_code_says() -> None:
    class Says(Ways):
        name = "says"

        def phase_of(self, state: State) -> Enum:
            return Phase.OLD if state.n == 7 else Phase.NEW

    assert phase_of(Ways(), record_in("")) is Phase.NEW
    assert phase_of(Says(), record_in("")) is Phase.OLD
