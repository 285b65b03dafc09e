"""Activities that do not fit together are refused when the class is made, and the error names the thing and the remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from sagalog import Call, Compensate, DefinitionError, ItinerarySaga, RetryPolicy, Saga, activity, starts
from sagalog.definition.saga import Saga as Base


@dataclass
class Begun:
    id: str


@dataclass
class Said:
    other: str


@dataclass
class Plan:
    begun: Begun | None = None
    number: int = 0


def made(bases: tuple[type, ...] = (), **parts: Any) -> type[Saga[Any]]:
    parts = {"name": "s", "starts_with": Begun, "key": "id", **parts}
    for function in parts.values():
        inner = getattr(function, "function", None)
        if inner is not None and inner.__name__ == "step":
            inner.__name__ = function.name
    made: type[Saga[Any]]
    if bases:
        made = type("Bad", bases, parts)
    else:

        class Bad(ItinerarySaga[Plan]):
            locals().update(parts)

        made = Bad
    return made


def step(**options: Any) -> Any:
    async def step(self: Any, state: Plan, call: Call) -> None: ...

    return activity(**options)(step) if options else activity(step)


def returning(result: Any) -> Any:
    async def step(self: Any, state: Plan, call: Call) -> Any: ...

    step.__annotations__["return"] = result
    return activity(step)


async def takes_two(self: Any, state: Plan) -> None: ...


async def takes_event(self: Any, state: Begun, call: Call) -> None: ...


async def yields(self: Any, state: Plan, call: Call) -> Any:
    yield 1


def undo_of(one: Any, name: str = "back") -> Any:
    async def back(self: Any, state: Plan, call: Call) -> None: ...

    back.__name__ = name
    return one.undo(back)


def with_undo(**options: Any) -> dict[str, Any]:
    first, pivot = step(), step(pivot=True)
    last = step(**options)
    last.__set_name__(Plan, "last")
    return {"first": first, "pivot": pivot, "last": last, "back": undo_of(last)}


def named(name: str) -> Any:
    one = step()
    one.name = name
    return one


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "a cycle?": (lambda: made(a=step(after="b"), b=step(after="a")), "in a cycle: a -> b -> a; remove one after="),
    "itself": (lambda: made(a=step(after="a")), "in a cycle: a -> a"),
    "an unknown name": (
        lambda: made(a=step(after="b")),
        "after= names 'b', which is not an activity of this saga; it has a",
    ),
    "an odd after": (lambda: made(a=step(after=5)), "after= takes activities of this saga, or their names, not int"),
    "a result without a field": (
        lambda: made(a=returning(str)),
        "returns a str, and Plan has no field 'a' for it: add `a: str | None = None`, or return None (-> None)",
    ),
    "a result of another type": (
        lambda: made(number=returning(str)),
        "returns str, and Plan.number is declared as int: declare the same type in both",
    ),
    "an undo without an activity": (
        lambda: made(a=step(), back=undo_of(named("gone"))),
        "back() is @gone.undo, and Bad has no activity gone: define it, or remove this",
    ),
    "an undo and no activities": (
        lambda: made((Base,), back=undo_of(named("gone")), begun=starts(Begun, key="id")(lambda s, a, b: None)),
        "Bad has no activity gone",
    ),
    "two undos": (
        lambda: made(a=(one := named("a")), back=undo_of(one), more=undo_of(one, "more")),
        "back(); keep one" if False else "keep one",
    ),
    "an undo behind a pivot": (
        lambda: made(**with_undo()),
        "back() is @last.undo, but last comes after a pivot, so it is never undone: remove it, or move the pivot",
    ),
    "two pivots beside each other": (
        lambda: made(a=step(after=(), pivot=True), b=step(after=(), pivot=True)),
        "has two pivots on parallel branches, a and b",
    ),
    "beside a pivot": (
        lambda: made(a=step(after=(), pivot=True), b=step(after=())),
        "Bad.b runs beside the pivot a, so it may fail when nothing can be undone any more: let it come before or after",
    ),
    "an optional pivot": (lambda: made(a=step(pivot=True, optional=True)), "cannot be optional"),
    "optional and parks": (lambda: made(a=step(parks=True, optional=True)), "keep one"),
    "a deadline behind a pivot": (
        lambda: made(a=step(pivot=True), b=step(within=timedelta(1))),
        "within= lets it fail, but it comes after a pivot",
    ),
    "a deadline that parks": (
        lambda: made(a=step(parks=True, within=timedelta(1))),
        "within= lets it fail, but it parks",
    ),
    "until of an event without a key": (
        lambda: made(a=step(until=Said)),
        "Bad.a waits for Said: Said has no attribute 'id' to use as key (it has: other); pass @activity(key=...)",
    ),
    "until something that is no event": (lambda: made(a=step(until=5)), "until= must be an event class, not int"),
    "until twice": (
        lambda: made(a=step(until=Said, key="other"), b=step(until=Said, key="other")),
        "a and b both wait for Said: give each an event of its own",
    ),
    "unless without until": (
        lambda: made(a=step(unless=Said)),
        "unless= is for an activity that waits for an event",
    ),
    "a reminder without until": (lambda: made(a=step(remind=timedelta(1))), "remind= is for"),
    "no activities": (lambda: made(), "Bad has no activities: decorate its methods with @activity"),
    "no starting event": (lambda: made(starts_with=None, a=step()), "starts_with must be the class of the event"),
    "no key": (
        lambda: made(key=None, a=step()),
        "Bad.key must be the name of Begun's attribute that holds the correlation id",
    ),
    "no field for the starting event": (
        lambda: made(starts_with=Said, key="other", a=step()),
        "Plan has no field for the Said that starts it: add one (`request: Said | None = None`), or override begin",
    ),
    "two parameters": (lambda: made(a=activity(takes_two)), "Bad.a() must take (self, state, call), but takes (self"),
    "another state": (lambda: made(a=activity(takes_event)), "annotated to take a Begun as state, but gets a Plan"),
    "a generator": (lambda: activity(yields), "yields() yields; an activity returns its result and sends nothing"),
    "no function": (lambda: activity(5), "@activity decorates a method that takes (self, state, call), not int"),
    "an odd when": (lambda: made(a=step(when=5)), "when= must be a function of the state, not int"),
    "an odd retry": (lambda: made(a=step(retry=5)), "retry= must be a RetryPolicy, not int"),
    "an odd timeout": (lambda: made(a=step(timeout=5)), "timeout= must be a timedelta above zero, not 5"),
    "odd places": (lambda: made(a=step(places=0)), "places= must be a whole number of at least 1, not 0"),
    "an odd flag": (lambda: made(a=step(optional=1)), "optional= must be True or False, not 1"),
    "one activity twice": (
        lambda: made(a=(one := step(optional=True)), b=one),
        "is the activity b again: define each once",
    ),
    "handle overridden": (
        lambda: made(a=step(), handle=lambda self, state, event: None),
        "overrides handle(), which its activities need",
    ),
    "a result that cannot be stored": (lambda: made(number=returning(object)), "object"),
}


@pytest.mark.parametrize("what", WRONG)
def test_it_is_refused_with_its_name_and_the_remedy(what: str) -> None:
    make, told = WRONG[what]
    with pytest.raises(DefinitionError) as raised:
        make()
    assert told in str(raised.value)


def test_what_fits_is_taken() -> None:
    saga = made(
        a=step(),
        number=returning(int),
        b=step(pivot=True, retry=RetryPolicy(attempts=1), places=1, timeout=timedelta(1)),
        c=step(after=("b",), optional=True, within=timedelta(1)),
        d=step(after=(), optional=True),
    )
    table = saga.activities
    assert table is not None
    assert {name: one.after for name, one in table.steps.items()} == {
        "a": (),
        "number": ("a",),
        "b": ("number",),
        "c": ("b",),
        "d": (),
    }
    assert [name for name, one in table.steps.items() if one.final] == ["c"]


def test_the_types_are_named_after_saga_and_activity_whatever_their_order() -> None:
    one, other = made(a=step(), b=step()), made(b=step(), a=step())
    names = {name for name in one.registry().names() if name.startswith("s.")}
    assert names == {name for name in other.registry().names() if name.startswith("s.")}
    assert {"s.a", "s.a.done", "s.a.failed", "s.proceed"} <= names
    assert Compensate.__name__ not in names
