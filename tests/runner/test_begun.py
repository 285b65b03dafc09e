"""A method that is begun without a time limit: it runs in one task, and is limited, cancelled and heard as any other."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from contextvars import ContextVar

import pytest

from sagalog.runner.begun import Waits, begun


async def test_what_never_waits_has_ended_at_once() -> None:
    async def five() -> int:
        return 5

    assert begun(five()) == 5


async def test_what_it_raises_before_it_waits_is_raised() -> None:
    async def fail() -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        begun(fail())


async def test_what_waits_goes_on_with_each_result_and_each_error_in_the_same_task() -> None:
    async def fails() -> None:
        await asyncio.sleep(0)
        raise KeyError("seen")

    async def several() -> list[object]:
        seen: list[object] = [asyncio.current_task()]
        seen.append(await asyncio.gather(asyncio.sleep(0, "one"), asyncio.sleep(0, "two")))
        with suppress(KeyError):
            await fails()
        async with asyncio.timeout(40):
            await asyncio.sleep(0)
        return [*seen, asyncio.current_task()]

    waits = begun(several())
    assert isinstance(waits, Waits)
    here = asyncio.current_task()
    assert await waits == [here, ["one", "two"], here]


async def test_what_it_sets_in_its_context_stays_there() -> None:
    traveller: ContextVar[str] = ContextVar("traveller", default="nobody")

    async def tell() -> str:
        assert traveller.get() == "nobody"
        traveller.set("Ann")
        await asyncio.sleep(0)
        return traveller.get()

    waits = begun(tell())
    assert traveller.get() == "nobody"
    assert await waits == "Ann"
    assert traveller.get() == "nobody"


async def test_a_limit_that_passes_interrupts_it_where_it_waits() -> None:
    interrupted = False

    async def hang() -> None:
        nonlocal interrupted
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            interrupted = True
            raise

    waits = begun(hang())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await waits
    assert interrupted


async def test_a_cancellation_that_it_outlives_does_not_end_it() -> None:
    async def stubborn() -> str:
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        return "done"

    async def run() -> str:
        waits = begun(stubborn())
        running.set()
        return await waits  # type: ignore[no-any-return]

    running = asyncio.Event()
    task = asyncio.create_task(run())
    await running.wait()
    task.cancel()
    assert await task == "done"
