"""Work that is given to a background event loop while it stops is over at once, whenever it came."""

from __future__ import annotations

import asyncio
import threading

import pytest

from sagalog import RunnerStoppedError
from sagalog.background import BackgroundLoop


async def nothing() -> str:
    return "done"


async def never() -> None:
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


def test_what_is_given_after_the_order_to_stop_is_told_that_it_was_stopped() -> None:
    loop = BackgroundLoop("stopping")
    held, go_on = threading.Event(), threading.Event()

    async def hold() -> None:
        held.set()
        go_on.wait(30)

    loop.submit(hold())
    assert held.wait(30)
    loop._loop.call_soon_threadsafe(loop._loop.stop)
    late = loop.submit(asyncio.sleep(3600))
    go_on.set()
    with pytest.raises(RunnerStoppedError):
        late.result(30)
    loop.stop()
    with pytest.raises(RunnerStoppedError, match="nothing was stored"):
        loop.submit(nothing())


def test_what_does_not_end_when_it_is_cancelled_holds_nobody_up() -> None:
    loop = BackgroundLoop("stopping")
    result = loop.submit(never())
    loop.stop()
    with pytest.raises(RunnerStoppedError, match="it may be stored"):
        result.result(30)


def test_many_threads_that_call_while_it_stops_all_come_back() -> None:
    for _ in range(20):
        loop = BackgroundLoop("stopping")
        begin = threading.Barrier(9)
        ends: list[str] = []

        def call(loop: BackgroundLoop = loop, begin: threading.Barrier = begin, ends: list[str] = ends) -> None:
            begin.wait(30)
            for _ in range(50):
                try:
                    ends.append(loop.submit(nothing()).result(30))
                except RunnerStoppedError:
                    ends.append("stopped")
                    return

        threads = [threading.Thread(target=call) for _ in range(8)]
        for thread in threads:
            thread.start()
        begin.wait(30)
        loop.stop()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        assert set(ends) <= {"done", "stopped"}
