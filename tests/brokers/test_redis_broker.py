"""Redis Streams keep what every broker promises, and lose nothing of what a dead consumer held."""

from __future__ import annotations

import asyncio
import logging
import os
from datetime import timedelta
from itertools import count
from pathlib import Path

import pytest
from redis.asyncio import Redis

from sagalog import BrokerUnavailableError, SagaRunner
from sagalog.brokers import SinkMessage
from sagalog.brokers.redis import RedisSink, RedisSource
from sagalog.conformance import BrokerConformance, Capability

from ..servers.processes import eventually
from ..servers.proxy import Proxy
from ..servers.redis import RedisServer
from .behaviour import BrokerBehaviour
from .placed import logged
from .shop import Counted, Ship, event

_names = count(1)


class TestRedisBroker(BrokerConformance):
    capabilities = {Capability.DELIVERIES, Capability.GIVES_BACK, Capability.STAYING_IDS}
    takeover = timedelta(seconds=4)
    quiet = timedelta(milliseconds=700)

    @pytest.fixture
    def place(self, one_redis: RedisServer) -> str:
        return f"{one_redis.url} s{os.getpid()}-{next(_names)}"

    def source(self, place: str) -> RedisSource:
        url, stream = place.split()
        return RedisSource(url, stream=stream, group="workers", claim_after=timedelta(milliseconds=600))

    def sink(self, place: str) -> RedisSink:
        url, stream = place.split()
        return RedisSink(url, stream=stream)

    async def test_an_entry_that_was_trimmed_before_it_was_handled_is_told_and_blocks_nothing(
        self, place: str, sent: RedisSink, caplog: pytest.LogCaptureFixture
    ) -> None:
        url, stream = place.split()
        for n in range(3):
            await sent.send(SinkMessage(b"%d" % n, str(n)))
        dead = self.source(place)
        await dead.open()
        assert len(await self.received(dead, 3)) == 3
        await self.leave(dead)
        async with Redis.from_url(url) as client:
            await client.xtrim(stream, maxlen=1, approximate=False)
            async with self.opened(place) as source:
                with caplog.at_level(logging.ERROR, "sagalog"):
                    (left,) = await self.received(source, 1, self.takeover)
                    await source.accept([left])
            assert left.body == b"2"
            told = [record.getMessage() for record in caplog.records]
            assert len([one for one in told if "was trimmed from its stream before it was handled" in one]) == 2
            assert (await client.xpending(stream, "workers"))["pending"] == 0

    async def test_a_closed_source_leaves_no_consumer_behind_unless_it_holds_anything(
        self, place: str, sent: RedisSink
    ) -> None:
        url, stream = place.split()
        await sent.send(SinkMessage(b"x", "x"))
        holding = self.source(place)
        await holding.open()
        assert await self.received(holding, 1)
        await holding.close()
        async with self.opened(place) as source:
            await source.receive(1, timedelta(milliseconds=10))
        async with Redis.from_url(url) as client:
            assert [one["pending"] for one in await client.xinfo_consumers(stream, "workers")] == [1]


class TestRedisBehaviour(BrokerBehaviour):
    kind = "redis"

    @pytest.fixture
    def inside(self, one_redis: RedisServer) -> str:
        return f"{one_redis.url} s{os.getpid()}-{next(_names)}"

    @pytest.fixture
    def outside(self, one_redis: RedisServer) -> str:
        return f"{one_redis.url} s{os.getpid()}-{next(_names)}"

    async def test_a_broker_that_is_killed_and_started_again_loses_and_doubles_nothing(self, tmp_path: Path) -> None:
        server = RedisServer(tmp_path / "redis")
        server.start()
        await self.restarted(tmp_path, f"{server.url} in", f"{server.url} out", server.kill, server.start)
        server.stop()


async def test_an_entry_whose_id_is_no_time_is_read_and_holds_up_nothing(one_redis: RedisServer) -> None:
    stream = f"s{os.getpid()}-{next(_names)}"
    microseconds = 1_700_000_000_000_000
    async with Redis.from_url(one_redis.url) as client:
        for number, entry_id in enumerate((f"{microseconds}-1", f"{microseconds}-2", f"{2**64 - 2}-5")):
            message = event("a", number)
            await client.xadd(stream, {**message.headers, "data": message.body}, id=entry_id)
    source = RedisSource(one_redis.url, stream=stream, group="workers")
    async with SagaRunner("memory://", sagas=[Counted], dispatch={Ship: lambda _: None}, sources=[source]) as runner:
        await logged(runner, "a", [0, 1, 2])
        await eventually(lambda: runner.gauges().sources[0].lag == 0)
        assert not runner.gauges().sources[0].trouble


async def test_what_was_delivered_over_a_connection_that_was_lost_comes_before_what_is_behind_it(
    one_redis: RedisServer,
) -> None:
    stream = f"s{os.getpid()}-{next(_names)}"
    proxy = Proxy(one_redis.port)
    source = RedisSource(f"redis://127.0.0.1:{proxy.port}", stream=stream, group="workers")
    sink = RedisSink(one_redis.url, stream=stream)
    await sink.send(SinkMessage(b"0", "0"))
    (first,) = await source.receive(10, timedelta(seconds=30))  # it is held all the time
    reading = asyncio.create_task(source.receive(1, timedelta(seconds=30)))
    async with Redis.from_url(one_redis.url) as client:
        await eventually(lambda: reading_blocks(client))
        proxy.lose("answer")
        await sink.send(SinkMessage(b"1", "1"))
        with pytest.raises(BrokerUnavailableError):
            await reading
    for number in (2, 3):
        await sink.send(SinkMessage(b"%d" % number, str(number)))
    found = [first]
    async with asyncio.timeout(40):
        while len(found) < 4:
            found += await source.receive(2, timedelta(seconds=1))
    assert [(one.body, one.deliveries) for one in found] == [(b"0", 1), (b"1", 2), (b"2", 1), (b"3", 1)]
    await source.accept(found)
    async with Redis.from_url(one_redis.url) as client:
        assert (await client.xpending(stream, "workers"))["pending"] == 0
    await source.close()
    await sink.close()
    proxy.close()


async def test_what_did_not_arrive_before_a_source_is_closed_is_given_back(one_redis: RedisServer) -> None:
    stream = f"s{os.getpid()}-{next(_names)}"
    proxy = Proxy(one_redis.port)
    through, url = f"redis://127.0.0.1:{proxy.port}", one_redis.url
    source, other = (RedisSource(where, stream=stream, group="workers") for where in (through, url))
    sink = RedisSink(url, stream=stream)
    reading = asyncio.create_task(source.receive(1, timedelta(seconds=30)))
    async with Redis.from_url(url) as client:
        await eventually(lambda: reading_blocks(client))
        proxy.lose("answer")
        await sink.send(SinkMessage(b"x", "x"))
        with pytest.raises(BrokerUnavailableError):
            await reading
    await source.close()
    async with asyncio.timeout(20):  # not after claim_after
        (found,) = await other.receive(10, timedelta(seconds=1))
    await other.accept([found])
    for one in (other, sink):
        await one.close()
    proxy.close()


async def reading_blocks(client: Redis) -> bool:
    """Say whether a request for new entries waits at the server."""
    return (await client.info("clients"))["blocked_clients"] == 1
