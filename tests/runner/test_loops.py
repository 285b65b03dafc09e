"""A runner belongs to the event loop that it was started in; it needs no main thread."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from sagalog import DefinitionError, InMemoryJournal, SagaRunner, Send, starts

from ..orders import OrderSaga, Placed, Reserve
from .conftest import Bench

CALLS: dict[str, Callable[[SagaRunner], Any]] = {
    "handle": lambda runner: runner.handle(Placed("b")),
    "handle_many": lambda runner: runner.handle_many([Placed("b")]),
    "settle": lambda runner: runner.settle(),
    "retry": lambda runner: runner.retry("order", "a"),
    "health": lambda runner: runner.health(),
    "serve": lambda runner: runner.serve(),
    "stop": lambda runner: runner.stop(),
    "start": lambda runner: runner.start(),
}


async def caught(call: Callable[[SagaRunner], Any], runner: SagaRunner) -> str:
    try:
        await call(runner)
    except DefinitionError as error:
        return str(error)
    return "nothing was raised"


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_from_another_threads_loop_is_refused_and_stores_nothing(bench: Bench, name: str) -> None:
    async with bench.runner() as runner:
        await runner.handle(Placed("a"))
        told = await asyncio.to_thread(lambda: asyncio.run(caught(CALLS[name], runner)))
        assert "another event loop" in told
        assert await bench.stored("b") is None
        assert (await runner.handle(Placed("b"))).handled
        threadsafe = asyncio.run_coroutine_threadsafe
        loop = asyncio.get_running_loop()
        assert (await asyncio.to_thread(lambda: threadsafe(runner.handle(Placed("c")), loop).result())).handled


@pytest.mark.filterwarnings("ignore:This process")
async def test_a_call_after_a_fork_is_refused() -> None:
    async with SagaRunner(InMemoryJournal(), sagas=[OrderSaga], dispatch=lambda command: None) as runner:
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                told = asyncio.run(caught(CALLS["handle"], runner))
                try:
                    runner.handle(Placed("d")).send(None)  # as if it went on in the loop it was forked off from
                except DefinitionError as error:
                    told += str(error)
                os.write(writer, told.encode())
            finally:
                os._exit(0)
        os.close(writer)
        with os.fdopen(reader) as told:
            assert told.read().count("before this process was forked") == 2
        os.waitpid(child, 0)
        assert (await runner.handle(Placed("b"))).handled


@pytest.mark.filterwarnings("ignore:This process")
@pytest.mark.parametrize("forks", ["a command handler", "an event handler"])
async def test_a_process_that_a_handler_forks_may_run_a_runner_of_its_own(forks: str) -> None:
    ended: list[int] = []

    async def of_the_child() -> None:
        async with SagaRunner(InMemoryJournal(), sagas=[OrderSaga], dispatch=lambda command: None) as runner:
            await runner.handle(Placed("a"))
            await runner.settle()  # which a handler may not call

    async def fork() -> None:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                asyncio.run(of_the_child())
                status = 0
            finally:
                os._exit(status)
        ended.append(os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1]))

    class Forking(OrderSaga):
        @starts(Placed, key="order_id")
        async def placed(self, state: Any, event: Any) -> Any:
            if forks == "an event handler":
                await fork()
            return Send(Reserve(event.order_id))

    async def dispatch(command: Any) -> None:
        if forks == "a command handler":
            await fork()

    async with SagaRunner(InMemoryJournal(), sagas=[Forking], dispatch=dispatch) as runner:
        await runner.handle(Placed("a"))
        await runner.settle()
    assert ended == [0]


async def test_serve_goes_on_in_a_thread_until_stop(bench: Bench) -> None:
    began = threading.Event()
    found: dict[str, Any] = {}

    async def work() -> None:
        async with SagaRunner("memory://", sagas=[OrderSaga], dispatch=lambda command: None) as runner:
            found["runner"], found["loop"] = runner, asyncio.get_running_loop()
            await runner.handle(Placed("a"))
            began.set()
            await runner.serve()
            found["served"] = True

    thread = threading.Thread(target=lambda: asyncio.run(work()))
    thread.start()
    await asyncio.to_thread(began.wait)
    asyncio.run_coroutine_threadsafe(found["runner"].stop(), found["loop"])
    await asyncio.to_thread(thread.join)
    assert found["served"]


async def test_serve_goes_on_where_the_loop_knows_no_signals(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: object) -> None:
        raise NotImplementedError

    monkeypatch.setattr(asyncio.get_running_loop(), "add_signal_handler", unknown)  # as on Windows
    async with SagaRunner("memory://", sagas=[OrderSaga], dispatch=lambda command: None) as runner:
        serving = asyncio.create_task(runner.serve())
        await asyncio.sleep(0)
        assert (await runner.handle(Placed("a"))).handled
        await runner.stop()
        await serving
