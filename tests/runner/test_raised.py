"""Whatever a user's code raises is its own failure, also what is no Exception; only a real cancellation is not."""

from __future__ import annotations

import asyncio
import linecache
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from sagalog import Compensate, Hook, InvalidEventError, Saga, Send, SetTimer, on, on_refused, starts
from sagalog.decision.record import decode_record
from sagalog.runner.failures import described

from .conftest import Bench


class Panic(BaseException):
    """As an extension in another language raises it."""


ODD = [asyncio.CancelledError, GeneratorExit, Panic]


@dataclass
class Begun:
    key: str


@dataclass
class Plain:
    key: str


@dataclass
class Async:
    key: str


@dataclass
class Generator:
    key: str


@dataclass
class AsyncGenerator:
    key: str


@dataclass
class SelfCancelled:
    key: str


@dataclass
class Rang:
    key: str


@dataclass
class RangAsync:
    key: str


@dataclass
class Timed:
    key: str
    asynchronous: bool


@dataclass
class Asked:
    key: str


@dataclass
class Try:
    key: str


@dataclass
class Fine:
    key: str


@dataclass
class Count:
    fine: int = 0


class OddSaga(Saga[Count]):
    name = "odd"
    messages = (Rang, RangAsync)
    error: type[BaseException] = RuntimeError
    in_key: type[BaseException] | None = None
    in_decode: type[BaseException] | None = None
    times = 10**6

    def correlation_id(self, event: Any) -> str | None:
        if self.in_key is not None and type(event) is Fine:
            raise self.in_key
        return super().correlation_id(event)

    def decode_state(self, payload: bytes) -> Count:
        if self.in_decode is not None:
            raise self.in_decode
        return super().decode_state(payload)

    def fail(self) -> None:
        if type(self).times > 0:
            type(self).times -= 1
            raise self.error

    @starts(Begun, key="key")
    def begun(self, state: Count, event: Begun) -> None: ...

    @on(Plain, key="key")
    def plain(self, state: Count, event: Plain) -> None:
        self.fail()

    @on(Async, key="key")
    async def asynchronous(self, state: Count, event: Async) -> None:
        await asyncio.sleep(0)
        self.fail()

    @on(Generator, key="key")
    def generator(self, state: Count, event: Generator) -> Iterator[Send]:
        self.fail()
        yield Send(Try(event.key))

    @on(AsyncGenerator, key="key")
    async def async_generator(self, state: Count, event: AsyncGenerator) -> AsyncIterator[Send]:
        await asyncio.sleep(0)
        self.fail()
        yield Send(Try(event.key))

    @on(SelfCancelled, key="key")
    async def self_cancelled(self, state: Count, event: SelfCancelled) -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    @on(Timed, key="key")
    def timed(self, state: Count, event: Timed) -> SetTimer:
        rang = RangAsync(event.key) if event.asynchronous else Rang(event.key)
        return SetTimer("t", rang, after=timedelta(minutes=1))

    @on(Rang, key="key")
    def rang(self, state: Count, event: Rang) -> None:
        self.fail()

    @on(RangAsync, key="key")
    async def rang_async(self, state: Count, event: RangAsync) -> None:
        await asyncio.sleep(0)
        self.fail()

    @on(Asked, key="key")
    def asked(self, state: Count, event: Asked) -> Send:
        return Send(Try(event.key))

    @on_refused(Try)
    def refused(self, state: Count, refused: Any) -> Compensate:
        self.fail()
        return Compensate()

    @on(Fine, key="key")
    def fine(self, state: Count, event: Fine) -> None:
        state.fine += 1


@pytest.fixture(autouse=True)
def _afresh() -> None:
    OddSaga.error, OddSaga.in_key, OddSaga.in_decode, OddSaga.times = RuntimeError, None, None, 10**6


async def record_of(bench: Bench, runner: Any, key: str) -> Any:
    return decode_record((await runner._started.caches["odd"].runtime.store.load(key)).payload)


@pytest.mark.parametrize("error", ODD)
@pytest.mark.parametrize("event", [Plain, Async, Generator, AsyncGenerator])
async def test_it_is_retried_and_parked_like_any_error(
    bench: Bench, error: type[BaseException], event: type[Any]
) -> None:
    OddSaga.error = error
    async with bench.runner(sagas=[OddSaga]) as runner:
        tasks = [
            asyncio.create_task(runner.handle(one))
            for one in (Begun("a"), Fine("a"), event("a"), Fine("a"), Begun("b"))
        ]
        receipts = await asyncio.wait_for(asyncio.gather(*tasks), 40)
        assert [receipt.handled for receipt in receipts] == [True, True, False, False, True]
        assert receipts[2].held
        assert receipts[3].held
        assert runner.counters.handler_errors == 3
        record = await record_of(bench, runner, "a")
        assert record.parked == f"handling {event.__name__} raised {error.__name__}, 3 times"


@pytest.mark.parametrize("error", ODD)
async def test_a_lone_caller_is_answered_after_a_retry(bench: Bench, error: type[BaseException]) -> None:
    OddSaga.error, OddSaga.times = error, 1
    async with bench.runner(sagas=[OddSaga]) as runner:
        await runner.handle(Begun("a"))
        assert (await asyncio.wait_for(runner.handle(Async("a")), 40)).handled


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("error", ODD)
async def test_out_of_a_timers_handler_it_does_not_end_the_look_for_due_work(
    bench: Bench, error: type[BaseException], asynchronous: bool
) -> None:
    OddSaga.error = error
    async with bench.runner(sagas=[OddSaga]) as runner:
        await runner.handle(Begun("a"))
        await runner.handle(Timed("a", asynchronous))
        bench.advance(minutes=2)
        await asyncio.wait_for(runner.settle(), 40)
        assert "3 times" in (await record_of(bench, runner, "a")).parked
        assert (await runner.health()).live


@pytest.mark.parametrize("error", ODD)
async def test_out_of_the_handler_of_a_refusal_it_parks(bench: Bench, error: type[BaseException]) -> None:
    OddSaga.error = error
    bench.world.refuse = {Try}
    async with bench.runner(sagas=[OddSaga]) as runner:
        await runner.handle(Begun("a"))
        await runner.handle(Asked("a"))
        await asyncio.wait_for(runner.settle(), 40)
        assert "3 times" in (await record_of(bench, runner, "a")).parked


@pytest.mark.parametrize("error", ODD)
async def test_out_of_a_replay_it_parks_again(bench: Bench, error: type[BaseException]) -> None:
    OddSaga.error = error
    async with bench.runner(sagas=[OddSaga]) as runner:
        await runner.handle(Begun("a"))
        assert (await runner.handle(Async("a"))).held
        repaired = await asyncio.wait_for(runner.retry("odd", "a"), 40)
        assert repaired.parked.startswith(f"replaying Async failed: {error.__name__}")
        OddSaga.times = 0
        assert (await runner.retry("odd", "a")).replayed == 1


@pytest.mark.parametrize("error", ODD)
async def test_out_of_a_key_function_it_refuses_the_event(bench: Bench, error: type[BaseException]) -> None:
    async with bench.runner(sagas=[OddSaga]) as runner:
        await runner.handle(Begun("a"))
        OddSaga.in_key = error
        with pytest.raises(InvalidEventError, match=f"correlation_id raised {error.__name__}.*nothing was stored"):
            await runner.handle(Fine("a"))
        with pytest.raises(ExceptionGroup):
            await runner.handle_many([Fine("a"), Plain("a")])


@pytest.mark.parametrize("error", ODD)
async def test_out_of_decode_state_it_leaves_the_record_as_it_is(bench: Bench, error: type[BaseException]) -> None:
    async with bench.runner(sagas=[OddSaga]) as runner:
        await runner.handle(Begun("a"))
        OddSaga.in_decode = error
        with pytest.raises(Exception, match=f"decode_state raised {error.__name__}"):
            await asyncio.wait_for(runner.handle(Fine("a")), 40)
        OddSaga.in_decode = None
        assert (await runner.handle(Fine("a"))).handled


@pytest.mark.parametrize("error", ODD)
async def test_out_of_a_hook_it_changes_nothing(bench: Bench, error: type[BaseException]) -> None:
    class Odd(Hook):
        def handling(self, handling: Any) -> str:
            raise error

        def handled(self, handling: Any) -> None:
            raise error

    async with bench.runner(sagas=[OddSaga]).using(hooks=[Odd()]) as runner:
        assert (await asyncio.wait_for(runner.handle(Begun("a")), 40)).handled


async def test_a_caller_that_is_cancelled_takes_its_event_back_and_the_others_go_on(bench: Bench) -> None:
    OddSaga.times = 0
    async with bench.runner(sagas=[OddSaga]) as runner:
        await runner.handle(Begun("a"))
        first = asyncio.create_task(runner.handle(Async("a"), message_id="m1"))
        behind = asyncio.create_task(runner.handle(Fine("a")))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        assert (await behind).handled
        assert runner.counters.handler_errors == 0


async def test_a_handler_that_cancels_its_own_task_is_not_run_without_end(bench: Bench) -> None:
    async with bench.runner(sagas=[OddSaga]) as runner:
        await runner.handle(Begun("a"))
        slow = asyncio.create_task(runner.handle(Async("a")))
        odd = asyncio.create_task(runner.handle(SelfCancelled("a")))
        behind = asyncio.create_task(runner.handle(Fine("a")))
        OddSaga.times = 0
        assert (await asyncio.wait_for(slow, 40)).handled
        assert (await asyncio.wait_for(odd, 40)).held
        assert (await asyncio.wait_for(behind, 40)).held


def test_where_an_error_was_raised_is_told_without_reading_the_source(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("this takes a fifth of a millisecond, for each of the many that may fail in one round")

    for name in ("checkcache", "getline", "getlines", "lazycache", "updatecache"):
        monkeypatch.setattr(linecache, name, read)
    try:
        raise ConnectionError("secret")
    except ConnectionError as error:
        told = described(error)
    assert re.fullmatch(r"ConnectionError at test_raised\.py:\d+ in test_where_an_error_was_raised\w+", told)
