"""Guarantee 14, for arguments: a value of the wrong type is refused with our own error, which names it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import fields

from sagalog import (
    CommandContext,
    DefinitionError,
    EventClock,
    InvalidEventError,
    ManualClock,
    RetryPolicy,
    RunnerSettings,
    SagaRunner,
)
from sagalog.testing.simulation import World

from ..orders import Closed, OrderSaga, OrderState, Paid, Placed, Release, Reserve, Ship
from .conftest import Bench

NAN, INF = float("nan"), float("inf")
ODD: list[Any] = [None, "5", b"5", True, NAN, INF, -1, [], {}, object(), timedelta.max, datetime.now(UTC), 1e12]
WHOLE = {"max_payload_bytes", "max_in_flight", "max_batch", "max_dispatch", "cache_size", "cache_bytes"}


@pytest.mark.parametrize("name", [one.name for one in fields(RunnerSettings)])
@pytest.mark.parametrize("value", ODD, ids=lambda value: type(value).__name__)
def test_a_setting_of_a_wrong_type_is_refused_by_name(name: str, value: Any) -> None:
    if (name, value) == ("command_timeout", None):
        RunnerSettings(command_timeout=value)
        return
    with pytest.raises(DefinitionError, match=name):
        RunnerSettings(**{name: value})


@pytest.mark.parametrize("name", sorted(WHOLE))
def test_a_whole_number_is_no_float(name: str) -> None:
    with pytest.raises(DefinitionError, match=f"{name} must be a whole number"):
        RunnerSettings(**{name: 256.0})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["attempts", "base", "cap"])
@pytest.mark.parametrize("value", ["5", True, NAN, INF, -1, [], timedelta(-1)], ids=repr)
def test_a_retry_policy_of_wrong_types_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(DefinitionError, match=name):
        RetryPolicy(**{name: value})


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("clock", lambda: SagaRunner("memory://", sagas=[OrderSaga]).using(clock=0)),  # type: ignore[arg-type]
        ("sources= must", lambda: SagaRunner("memory://", sagas=[OrderSaga]).using(sources="no")),  # type: ignore[arg-type]
        ("sagas=", lambda: SagaRunner("memory://", sagas=None)),  # type: ignore[arg-type]
        ("sagas=", lambda: SagaRunner("memory://", sagas=OrderSaga)),  # type: ignore[arg-type]
        ("sagas=", lambda: SagaRunner("memory://", sagas="OrderSaga")),  # type: ignore[arg-type]
        ("sagas=", lambda: SagaRunner("memory://", sagas=[int])),  # type: ignore[list-item]
        ("settings=", lambda: SagaRunner("memory://", sagas=[OrderSaga], settings={"max_batch": 1})),  # type: ignore[arg-type]
        ("clock=", lambda: SagaRunner("memory://", sagas=[OrderSaga], clock=5)),  # type: ignore[arg-type]
        ("hooks=", lambda: SagaRunner("memory://", sagas=[OrderSaga], hooks=5)),  # type: ignore[arg-type]
        ("journal", lambda: SagaRunner(None, sagas=[OrderSaga])),  # type: ignore[arg-type]
        ("store of saga 'order'", lambda: SagaRunner({"order": 5}, sagas=[OrderSaga])),  # type: ignore[dict-item]
        ("start of a clock", lambda: ManualClock("now")),  # type: ignore[arg-type]
        ("start of a clock", lambda: EventClock(datetime(2030, 1, 1))),  # noqa: DTZ001
        ("advanced by", lambda: ManualClock().advance(5)),  # type: ignore[arg-type]
        ("moved to", lambda: ManualClock().advance_to(None)),  # type: ignore[arg-type]
        ("moved to", lambda: ManualClock().advance_to(datetime.max.replace(tzinfo=UTC))),
    ],
)
def test_what_a_runner_is_made_of_is_checked(name: str, make: Callable[[], Any]) -> None:
    with pytest.raises(DefinitionError, match=name):
        make()


@pytest.mark.parametrize("horizon", [5, None, "1 day", timedelta.max, timedelta(days=-1)])
def test_a_simulated_world_has_a_horizon(horizon: Any) -> None:
    with pytest.raises(DefinitionError, match="Odd.horizon"):
        type("Odd", (World,), {"horizon": horizon})


async def test_what_the_calls_of_a_runner_take_is_checked_before_anything_is_stored(bench: Bench) -> None:
    async with bench.runner() as runner:
        event: Any
        for event in (None, 5, "Placed", Placed, OrderState(), [Placed("a")], Placed(None), Placed("a", object())):  # type: ignore[arg-type]
            with pytest.raises(InvalidEventError):
                await runner.handle(event)
        odd: Any
        for odd in (5, b"m", "", True, ["m"], "\ud800"):
            with pytest.raises(InvalidEventError, match="message id"):
                await runner.handle(Placed("a"), message_id=odd)
        for odd in (5, "now", datetime(2030, 1, 1), datetime.max.replace(tzinfo=UTC), timedelta(1)):  # noqa: DTZ001
            with pytest.raises(InvalidEventError, match="at="):
                await runner.handle(Placed("a"), at=odd)
        with pytest.raises(DefinitionError, match="connection="):
            await runner.handle(Placed("a"), connection=5)
        for odd in (None, 5, "events", b"x", {"a": 1}):
            with pytest.raises(InvalidEventError, match="handle_many"):
                await runner.handle_many(odd)
        with pytest.raises(ExceptionGroup):
            await runner.handle_many([None, 5])
        assert await bench.stored("a") is None
        await runner.handle(Placed("a"))
        repair: Any
        for repair in (runner.retry, runner.skip, runner.cancel):
            for saga in (None, 5, [], "", "other"):
                with pytest.raises(InvalidEventError, match="saga"):
                    await repair(saga, "a")
            for key in (None, 5, [], "", "\ud800"):
                with pytest.raises(InvalidEventError, match="correlation_id"):
                    await repair("order", key)
            for name in ("note", "by"):
                with pytest.raises(InvalidEventError, match=f"{name}="):
                    await repair("order", "a", **{name: 5})
        with pytest.raises(DefinitionError, match="compensate="):
            await runner.cancel("order", "a", compensate="no")  # type: ignore[arg-type]
        for odd in (None, "2", NAN, 0, -1, True):
            with pytest.raises(DefinitionError, match="timeout"):
                await runner.health(timeout=odd)
        for odd in ("2", NAN, -1, True):
            with pytest.raises(DefinitionError, match="behind"):
                await runner.health(behind=odd)
        for register in (runner.reads, runner.reports):
            with pytest.raises(DefinitionError, match="takes a function"):
                register(5)  # type: ignore[arg-type]
        assert (await runner.handle(Paid("a"))).handled


async def _keyword_only(command: Any, *, context: Any) -> None: ...


async def _keyword_of_its_own(command: Any, context: Any, *, rate: float) -> None: ...


@pytest.mark.parametrize("handler", [_keyword_only, _keyword_of_its_own])
def test_a_command_handler_that_needs_a_keyword_is_refused_when_it_is_given(handler: Any) -> None:
    with pytest.raises(DefinitionError, match=r"must take \(command\) or \(command, context\)"):
        SagaRunner("memory://", sagas=[OrderSaga], dispatch=handler)


async def test_a_command_handler_is_given_its_context_also_where_that_has_a_default() -> None:
    given: list[Any] = []

    async def reserve(command: Reserve, context: Any = None) -> None:
        given.append(context)

    async def ship(command: Ship, about: CommandContext | None = None) -> None:
        given.append(about)

    async def others(command: Any, attempts: int = 3) -> None:
        given.append(attempts)

    async with SagaRunner(
        "memory://", sagas=[OrderSaga], dispatch={Reserve: reserve, Ship: ship, Release: others}
    ) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Closed("a"))
        await runner.handle(Placed("b"))
        await runner.cancel(OrderSaga, "b")
        await runner.settle()
    assert [getattr(one, "id", one) for one in given] == [
        "saga::order::a/1/0",
        "saga::order::a/2/0",
        "saga::order::b/1/0",
        3,
    ]
