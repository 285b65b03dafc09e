"""A decorated method is called, whatever its name and wherever it is written; else its class is refused."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Any

import pytest

from sagalog import (
    Call,
    CommandRefused,
    DefinitionError,
    ItinerarySaga,
    Saga,
    SagaRunner,
    Send,
    Sequence,
    Status,
    activity,
    leg,
    on,
    on_child,
    on_enter,
    on_leave,
    on_refused,
    starts,
    when_all,
)
from sagalog.testing import Scenario


class Phase(Enum):
    NEW = 1
    OLD = 2


@dataclass
class Begun:
    id: str
    n: int = 0


@dataclass
class Noted:
    id: str


@dataclass
class Book:
    id: str


@dataclass
class Pay:
    id: str


@dataclass
class State:
    begun: Begun | None = None
    n: int = 0


class Base(Saga[State]):
    name = "base"
    phases = Phase

    @starts(Begun, key="id")
    def begun(self, state: State, event: Begun) -> Any:
        yield Send(Book(event.id))
        yield Send(Pay(event.id))

    @on(Noted, key="id")
    def noted(self, state: State, event: Noted) -> None: ...

    @on_refused(Book)
    def unbooked(self, state: State, event: Any) -> None: ...

    @on_child("base")
    def ended(self, state: State, ended: Any) -> None: ...

    @on_enter(Phase.OLD)
    def entered(self, state: State) -> None: ...

    @on_leave(Phase.NEW)
    def left(self, state: State) -> None: ...

    @when_all(Begun, Noted)
    def both(self, state: State) -> None: ...

    @leg("all")
    def made(self, state: State, number: int) -> Send:
        return Send(Book(str(number)))


class Trip(ItinerarySaga[State]):
    name = "trip"
    starts_with, key = Begun, "id"

    @activity
    async def flight(self, state: State, call: Call) -> None: ...

    @flight.undo
    async def cancel(self, state: State, call: Call) -> None: ...

    @flight.then
    def booked(self, state: State) -> None: ...

    @flight.failed
    def sold_out(self, state: State, reason: str) -> None: ...


ROLES = [(Base, name) for name in ("begun", "noted", "unbooked", "ended", "entered", "left", "both", "made")]
ROLES += [(Trip, name) for name in ("flight", "cancel", "booked", "sold_out")]


@pytest.mark.parametrize(("base", "name"), ROLES, ids=[name for _, name in ROLES])
def test_overriding_one_without_a_decorator_is_refused(base: type, name: str) -> None:
    def plain(self: Any, state: State, other: Any) -> None: ...

    with pytest.raises(DefinitionError, match=rf"Made.{name}\(\) overrides a decorated method of {base.__name__} and"):
        type("Made", (base,), {name: plain})
    mixin = type("Mixin", (), {name: plain})
    with pytest.raises(DefinitionError, match="decorate it too,"):
        type("Made", (mixin, base), {})


def test_overriding_one_decorated_or_leaving_it_out_is_what_the_class_says() -> None:
    class Other(Trip):
        @Trip.flight.undo
        async def cancel(self, state: State, call: Call) -> None: ...

        booked = None  # type: ignore[assignment]

    assert Other.activities is not None
    assert Other.activities.steps["flight"].methods == {"undo": "cancel", "failed": "sold_out"}


@pytest.mark.parametrize("wrapper", [staticmethod, classmethod, property])
@pytest.mark.parametrize(("base", "name"), [(Base, "noted"), (Trip, "flight"), (Trip, "cancel")])
def test_one_within_a_wrapper_is_refused(base: Any, name: str, wrapper: Any) -> None:
    with pytest.raises(DefinitionError, match=f"within a {wrapper.__name__}, so it would not be called: remove"):
        type("Made", (base,), {"extra": wrapper(vars(base)[name])})


def _named(name: str, mark: Callable[[Any], Any], base: Any = Base) -> Callable[[], Any]:
    def method(self: Any, state: State, event: Any) -> None: ...

    method.__name__ = name
    return lambda: type("Made", (base,), {name: mark(method)})


@dataclass
class Other:
    id: str


@pytest.mark.parametrize("name", ["again", "waits", "legs", "routes", "activities", "handle", "acts", "key_of"])
def test_one_that_hides_what_every_saga_has_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match=rf"Made.{name}\(\) hides an attribute that every saga has.*another name"):
        _named(name, on(Other, key="id"))()


@pytest.mark.parametrize("name", ["begin", "result", "awaited", "waits"])
def test_an_activity_that_hides_what_every_itinerary_has_is_refused(name: str) -> None:
    with pytest.raises(DefinitionError, match="hides an attribute that every saga has:"):
        _named(name, activity, Trip)()


def test_a_helper_that_hides_what_the_engine_calls_is_refused() -> None:
    with pytest.raises(DefinitionError, match=r"Made.legs\(\) hides"):
        type("Made", (Base,), {"legs": lambda self, state: 0})


class RefusingSaga(Saga[State]):
    name = "refusing"

    @starts(Begun, key="id")
    def begun(self, state: State, event: Begun) -> Iterator[Send]:
        yield Send(Book(event.id))
        yield Send(Pay(event.id))

    @on_refused(Book)
    def refused(self, state: State, event: Any) -> None:
        state.n += 1


@pytest.mark.parametrize(("command", "status"), [(Book, "running"), (Pay, "compensated")])
async def test_a_handler_of_refusals_of_that_name_takes_those_of_its_command_alone(command: type, status: str) -> None:
    assert Scenario(RefusingSaga).refuses(command).when(Begun("A")).status == status

    def carry_out(one: Any) -> None:
        if isinstance(one, command):
            raise CommandRefused("no")

    async with SagaRunner("memory://", sagas=[RefusingSaga], dispatch=carry_out) as runner:
        await runner.handle(Begun("A"))
        await runner.settle()
        assert (await runner.instance(RefusingSaga, "A")).status == Status(status)


def yields(self: Any, state: State, call: Any) -> Iterator[int]:
    yield 1


async def yields_later(self: Any, state: State, call: Any) -> AsyncIterator[int]:
    yield 1


async def later(self: Any, state: State) -> None: ...


def one_more(self: Any, state: State, event: Any, more: Any) -> None: ...


def _trip(**attributes: Any) -> Callable[[], Any]:
    return lambda: type("Made", (Trip,), attributes)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: _trip(cancel=Trip.flight.undo(yields))(), "yields, so it would never run:"),
        (lambda: _trip(cancel=Trip.flight.undo(yields_later))(), "yields, so it would never run:"),
        (lambda: _trip(more=activity(when=lambda state: (yield))(one_call))(), "may not yield"),
        (
            lambda: _trip(more=on(Noted, key="id")(Trip.flight.undo(handles)))(),
            "so it cannot also handle an event or a refusal: write",
        ),
        (_trip(begin=one_more), r"Made.begin\(\) must take \(self, state, event\)"),
        (_trip(result=one_more), r"Made.result\(\) must take \(self, state\)"),
        (_trip(result=later), r"Made.result\(\) must be a plain method: it may neither be async nor yield"),
        (lambda: type("Made", (Base,), {"phase_of": later}), r"Made.phase_of\(\) is a plain function of the state"),
        (lambda: on(Begun, key="id", sequence=Sequence([])), r"its field must be the name of an attribute, not list"),  # type: ignore[arg-type]
        (lambda: on(Begun, key="id", sequence=Sequence("n", sender=7)), r"its sender must be the name .* not int"),  # type: ignore[arg-type]
        (lambda: SagaRunner("memory://", sagas=[Saga]), "Saga has no name"),
        (lambda: SagaRunner("memory://", sagas=[Stateless]), r"does not name its state type: class Stateless\(Saga\["),
    ],
)
def test_what_could_not_be_called_as_it_is_meant_is_refused(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        make()


def one_call(self: Any, state: State, call: Call) -> None: ...


def handles(self: Any, state: State, event: Any) -> None: ...


class Stateless(Saga):  # type: ignore[type-arg]
    name = "stateless"

    @starts(Begun, key="id")
    def begun(self, state: Any, event: Begun) -> None: ...


async def test_an_undo_that_hands_back_a_generator_is_not_taken_for_done() -> None:
    class Lazy(Trip):
        name = "lazy"

        @Trip.flight.undo
        def cancel(self, state: State, call: Call) -> Any:  # type: ignore[override]
            return yields(self, state, call)

        @activity
        async def payment(self, state: State, call: Call) -> None:
            raise CommandRefused("no")

    async with SagaRunner("memory://", sagas=[Lazy]) as runner:
        await runner.handle(Begun("A"))
        await runner.settle()
        found = await runner.instance(Lazy, "A")
        assert found.status is Status.COMPENSATING
        assert "lazy.flight.undo was not accepted, and another attempt would not help" in found.parked
