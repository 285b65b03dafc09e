"""Hooks surround command handlers of every shape, and one that raises harms nothing."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import pytest

from sagalog import DefinitionError, Delivery, Hook, InMemoryJournal, SagaRunner, Status
from sagalog.testing.simulation import simulate
from sagalog.testing.simulation import worker as simulation_worker

from ..orders import Asked, Charge, Failing, Note, Noted, OrderSaga, Paid, Placed, Reserve, Reserved, Survey
from ..testing.shop_world import Shop
from .conftest import Bench
from .ear import Ear, listening
from .test_workers import until


@pytest.fixture
def bench() -> Bench:
    OrderSaga.fail_times, OrderSaga.calls = 0, []
    return Bench(InMemoryJournal())


@contextmanager
def _broken(*_: Any) -> Iterator[None]:
    yield
    raise RuntimeError("on the way out")


def _raises(*_: Any) -> Any:
    raise RuntimeError("a hook that is broken everywhere, and quotes a secret")


class Broken(Hook):
    started = stopped = caller = handling = handled = answered = _raises  # type: ignore[assignment]
    saved = parked = delivering = delivered = scanned = _raises  # type: ignore[assignment]
    within = _broken  # type: ignore[assignment]


async def test_a_hook_that_raises_harms_nothing_and_is_complained_about_once_for_each_method(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    OrderSaga.fail_times = 3
    bench.world.refuse, bench.world.fail = {Charge}, {Reserve: 1}
    caplog.set_level(logging.ERROR)
    async with listening(bench, Broken()) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await runner.handle(Placed("p"))
        await runner.handle(Failing("p"))
        await until(lambda: "Release" in bench.world.names)
        await runner.settle()
    assert (await bench.record("a")).status is Status.COMPENSATED
    assert sorted(bench.world.names) == ["Charge", "Release", "Reserve", "Reserve", "Reserve"]
    complaints = Counter(r.getMessage().split()[1] for r in caplog.records if r.getMessage().startswith("hook "))
    methods = [name for name in vars(Broken) if not name.startswith("_")]
    assert complaints == {f"Broken.{method}": 1 for method in methods}
    assert "secret" not in caplog.text


def test_the_guarantees_hold_under_simulation_with_a_hook_that_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = functools.partial(SagaRunner, hooks=[Broken()])
    monkeypatch.setattr(simulation_worker, "SagaRunner", broken)
    simulate([OrderSaga], Shop, seeds=range(25))


@pytest.mark.parametrize("answer", [True, "span", object()])
async def test_a_hook_that_returns_no_context_manager_holds_up_no_command(
    bench: Bench, caplog: pytest.LogCaptureFixture, answer: Any
) -> None:
    class Odd(Hook):
        def within(self, delivery: Delivery) -> Any:
            return answer

    async with listening(bench, Odd()) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
    assert bench.world.names == ["Reserve"]
    assert [r.getMessage() for r in caplog.records if "no context manager" in r.getMessage()] == [
        "hook Odd.within returned what is no context manager; further failures of it are not logged"
    ]


async def test_command_handlers_of_every_shape_run_in_the_context_of_the_hook(bench: Bench) -> None:
    here: ContextVar[str] = ContextVar("here", default="nowhere")
    seen: list[tuple[str, str]] = []

    class Contextual(Ear):
        @contextmanager
        def within(self, delivery: Delivery) -> Iterator[None]:  # type: ignore[override]
            token = here.set(delivery.command_id)
            yield
            here.reset(token)

    def plain(command: Reserve) -> Reserved:
        seen.append(("plain", here.get()))
        return Reserved(command.order_id)

    async def asynchronous(command: Charge) -> None:
        await asyncio.sleep(0)
        seen.append(("async", here.get()))

    async def asynchronous_generator(command: Note) -> AsyncIterator[Any]:
        for _ in range(2):
            await asyncio.sleep(0)
            seen.append(("async generator", here.get()))
            yield Reserved(command.order_id)

    def generator(command: Survey) -> Iterator[Any]:
        for _ in range(2):
            seen.append(("generator", here.get()))
            yield Reserved(command.order_id)

    ear = Contextual()
    dispatch = {Reserve: plain, Charge: asynchronous, Note: asynchronous_generator, Survey: generator}
    async with listening(bench, ear, dispatch=dispatch) as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Paid("a"))
        await runner.handle(Noted("a"))
        await runner.handle(Asked("a", "schedule"))
        await runner.settle()
        bench.advance(hours=2)
        await runner.settle()
        assert here.get() == "nowhere"
    commands = {d.command: d.command_id for d in ear.of("delivered")}
    assert seen == [
        ("plain", commands["Reserve"]),
        ("async", commands["Charge"]),
        ("async generator", commands["Note"]),
        ("async generator", commands["Note"]),
        ("generator", commands["Survey"]),
        ("generator", commands["Survey"]),
    ]


@pytest.mark.parametrize("hook", [Hook, object(), print, "hook"])
def test_what_is_no_hook_is_refused(hook: Any) -> None:
    with pytest.raises(DefinitionError, match="hooks= takes objects whose class is a subclass of sagalog.Hook"):
        SagaRunner("memory://", sagas=[OrderSaga], hooks=[hook])


class Deaf(Hook):
    """Overrides nothing."""


async def test_a_method_that_is_set_on_the_hook_itself_is_called(bench: Bench) -> None:
    heard: list[str] = []
    hook = Deaf()
    hook.answered = lambda event, seconds, error: heard.append(event)  # type: ignore[method-assign]
    async with listening(bench, hook) as runner:
        await runner.handle(Placed("1"))
    assert heard == ["Placed"]
