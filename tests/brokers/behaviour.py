"""What must hold with every broker, whatever breaks: nothing is lost, no transition happens twice, one id for each command.

The ledger is the broker itself, on the other side: what arrives there was sent, and what is missing was lost.
"""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from sagalog import SagaRunner, SqliteJournal
from sagalog.brokers import SinkMessage

from ..servers.processes import end, eventually
from ..servers.proxy import Proxy
from . import kinds
from .shop import Counted, send, shipped
from .worker import POINTS, Trap, lay, runner

ROOT = Path(__file__).parents[2]
ORDERS = 6


@pytest.mark.timeout(300)  # processes and servers are started several times
class BrokerBehaviour:
    """Subclass it with the kind, and two places: `inside`, where events come in, and `outside`, where commands go."""

    kind: str
    keeps_order = False  # among several workers

    @pytest.fixture
    def inside(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def outside(self) -> str:
        raise NotImplementedError

    def through(self, place: str) -> tuple[str, Proxy]:
        """Return the place, reached through a proxy."""
        url, name = place.split()
        head, _, port = url.rpartition(":")
        proxy = Proxy(int(port))
        return f"{head}:{proxy.port} {name}", proxy

    def release(self, proxy: Proxy) -> None:
        proxy.close()

    @asynccontextmanager
    async def work(self, folder: Path, inside: str, outside: str) -> AsyncIterator[SagaRunner]:
        """Run a worker in this process."""
        async with runner(self.kind, inside, outside, folder) as made:
            yield made

    async def load(self, inside: str, numbers: int, first: int = 0) -> None:
        sink = kinds.sink(self.kind, inside)
        await send(sink, ORDERS, numbers, first)
        await sink.close()

    async def judge(self, folder: Path, outside: str, numbers: int, *, ordered: bool) -> None:
        """Wait until everything has arrived outside, then look at what is stored."""
        wanted = {(f"o-{order}", number) for order in range(ORDERS) for number in range(numbers)}
        ids: dict[tuple[str, int], set[str]] = defaultdict(set)
        whose: dict[str, set[tuple[str, int]]] = defaultdict(set)
        reader = kinds.source(self.kind, outside, "ledger")
        await reader.open()

        async def all_there() -> bool:
            found = await reader.receive(500, timedelta(milliseconds=100))
            await reader.accept(found)
            for one in found:
                command_id, order, number = shipped(one.body, dict(one.headers))
                ids[order, number].add(command_id)
                whose[command_id].add((order, number))
            return set(ids) >= wanted

        try:
            await eventually(all_there, 90)
        except AssertionError:
            raise AssertionError(f"lost: {sorted(wanted - set(ids))}") from None
        finally:
            await reader.close()
        assert set(ids) == wanted
        assert all(len(of) == 1 for of in ids.values()), "a command has two ids"
        assert all(len(of) == 1 for of in whose.values()), "an id is of two commands"
        async with SagaRunner(SqliteJournal(folder / "shop.db"), sagas=[Counted], dispatch=print) as looking:
            for order in range(ORDERS):
                log = (await looking.state(Counted, f"o-{order}")).log
                assert sorted(log) == list(range(numbers)), f"a transition is missing, or happened twice: {log}"
                if ordered:
                    assert log == sorted(log), f"not in order: {log}"

    def spawn(self, folder: Path, inside: str, outside: str, point: str = "", left: int = 0) -> subprocess.Popen[bytes]:
        arguments = (self.kind, inside, outside, str(folder), point, str(left))
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.brokers.worker", *arguments],
            cwd=ROOT,
            stdout=subprocess.DEVNULL,
        )
        self._crew.append(process)
        return process

    @pytest.fixture(autouse=True)
    def _ended(self) -> Iterator[None]:
        self._crew: list[subprocess.Popen[bytes]] = []
        yield
        for process in self._crew:
            end(process, signal.SIGKILL)

    @staticmethod
    async def ready(folder: Path, *processes: subprocess.Popen[bytes]) -> None:
        for process in processes:
            await eventually((folder / f"ready-{process.pid}").exists)

    async def test_a_worker_killed_at_each_point_loses_and_doubles_nothing(
        self, tmp_path: Path, inside: str, outside: str
    ) -> None:
        for n, point in enumerate(POINTS):
            await self.load(inside, 3, 3 * n)
            process = self.spawn(tmp_path, inside, outside, point, 1 if "acknow" in point else 7)
            assert await asyncio.to_thread(process.wait, 30) == -signal.SIGKILL, point
        last = self.spawn(tmp_path, inside, outside)
        await self.judge(tmp_path, outside, 3 * len(POINTS), ordered=self.keeps_order)
        last.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(last.wait, 30) == 0
        await self.nothing_is_left(tmp_path, inside, outside)

    async def nothing_is_left(self, folder: Path, inside: str, outside: str) -> None:
        """See that what comes again because its acknowledgement was lost is known, and is not left for ever."""
        async with self.work(folder, inside, outside) as working:
            (subscription,) = working._attached.subscriptions

            async def empty() -> bool:
                source = working.gauges().sources[0]
                waiting = (await subscription.source.backlog()).messages
                return waiting == 0 and source.lag is not None and not source.under_way

            await eventually(empty)
            assert working.counters.handled == 0

    async def test_workers_that_come_and_go_under_load_lose_and_double_nothing(
        self, tmp_path: Path, inside: str, outside: str
    ) -> None:
        crew = [self.spawn(tmp_path, inside, outside) for _ in range(2)]
        await self.ready(tmp_path, *crew)
        for first in range(0, 20, 5):
            await self.load(inside, 5, first)
            if first == 5:
                crew.append(self.spawn(tmp_path, inside, outside))
                await self.ready(tmp_path, crew[-1])
            elif first == 10:
                end(crew.pop(0), signal.SIGKILL)
            elif first == 15:
                crew[0].send_signal(signal.SIGTERM)
        await self.judge(tmp_path, outside, 20, ordered=self.keeps_order)
        for process in crew[1:]:
            process.send_signal(signal.SIGTERM)
        assert [await asyncio.to_thread(process.wait, 30) for process in crew] == [0] * len(crew)
        await self.nothing_is_left(tmp_path, inside, outside)

    async def test_connections_that_are_cut_at_any_moment_lose_and_double_nothing(
        self, tmp_path: Path, inside: str, outside: str
    ) -> None:
        near, proxy = self.through(inside)
        far, far_proxy = self.through(outside)
        chance = random.Random(7)
        async with self.work(tmp_path, near, far) as working:
            done: list[Callable[[], Any]] = []
            for _ in range(2):
                for one in (proxy, far_proxy):
                    done += [one.cut, lambda one=one: one.lose("request"), lambda one=one: one.lose("answer")]
            chance.shuffle(done)
            for first, cut in enumerate(done):
                await self.load(inside, 1, first)
                await asyncio.to_thread(cut)
                await eventually(lambda first=first: working.counters.saves > 2 * first)
            await self.judge(tmp_path, outside, len(done), ordered=False)
        for one in {id(proxy): proxy, id(far_proxy): far_proxy}.values():
            self.release(one)
        await self.nothing_is_left(tmp_path, inside, outside)

    async def test_a_connection_that_is_cut_at_each_point_loses_and_doubles_nothing(
        self, tmp_path: Path, inside: str, outside: str
    ) -> None:
        near, proxy = self.through(inside)
        far, far_proxy = self.through(outside)
        cuts: list[tuple[str, Callable[[], None]]] = [
            ("before the step", proxy.cut),
            ("after the step", proxy.cut),  # and before its acknowledgement
            ("in the acknowledgement", proxy.cut),
            ("in the acknowledgement", lambda: proxy.lose("request")),
            ("in the acknowledgement", lambda: proxy.lose("answer")),
            ("before the send", lambda: far_proxy.lose("request")),
            ("before the send", lambda: far_proxy.lose("answer")),  # the broker has it, and cannot say so
            ("after the send", far_proxy.cut),
        ]
        async with self.work(tmp_path, near, far) as working:
            trap = Trap("", 0, lambda: None)
            lay(trap, working)
            for first, (point, cut) in enumerate(cuts):
                trap.set(point, 1 if "acknow" in point else 3, cut)
                await self.load(inside, 1, first)
                await eventually(lambda: trap.left <= 0)
            await self.judge(tmp_path, outside, len(cuts), ordered=False)
        for one in {id(proxy): proxy, id(far_proxy): far_proxy}.values():
            self.release(one)
        await self.nothing_is_left(tmp_path, inside, outside)

    async def test_a_message_that_nobody_can_read_in_front_of_all_holds_up_nothing(
        self, tmp_path: Path, inside: str, outside: str
    ) -> None:
        sink = kinds.sink(self.kind, inside)
        await sink.send(SinkMessage(b"\xff", "poison", {}, "o-0"))
        await sink.close()
        await self.load(inside, 3)
        async with self.work(tmp_path, inside, outside) as working:
            await self.judge(tmp_path, outside, 3, ordered=True)
            await eventually(lambda: working.gauges().sources[0].counts.dead_letters == 1)
        source: Any = kinds.source(self.kind, inside)
        assert [one.body async for one in source.dead_letters()] == [b"\xff"]
        await source.close()

    async def restarted(
        self, folder: Path, inside: str, outside: str, kill: Callable[[], None], start: Callable[[], None]
    ) -> None:
        """Kill the broker under a worker, and start it again; for subclasses with a server of the test's own."""
        async with self.work(folder, inside, outside) as working:
            await self.load(inside, 3)
            await eventually(lambda: working.counters.handled > 3)
            await asyncio.to_thread(kill)
            await asyncio.to_thread(start)
            await self.load(inside, 3, 3)
            await self.judge(folder, outside, 6, ordered=False)
            await eventually(lambda: not working.gauges().sources[0].trouble)
        await self.nothing_is_left(folder, inside, outside)
