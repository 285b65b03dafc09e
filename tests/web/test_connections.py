"""Connections of `sagalog serve`: slow bodies and crowds get the answers that the page about it promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest

from sagalog import SagaRunner
from sagalog.telemetry.connections import connections_for_bodies
from sagalog.web import ServedRunner
from sagalog.web.tokens import token_of

from ..servers.processes import eventually
from .served import served
from .shop import Charge, ShopSaga, charge

TOKEN = "a token that is long enough"
BODY = b'{"specversion":"1.0","id":"1","source":"/shop","type":"OrderPlaced","data":{"order_id":"A","amount":7}}'
HEAD = (
    f"POST /events HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: {len(BODY)}\r\n"
    "Content-Type: application/cloudevents+json\r\n\r\n"
).encode()
Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Served:
    def __init__(self, app: ServedRunner, port: int) -> None:
        self.app = app
        self.port = port
        self.opened: list[asyncio.StreamWriter] = []

    async def connect(self) -> Ends:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.opened.append(writer)
        return reader, writer


@asynccontextmanager
async def serving(request_seconds: float, body_timeout: timedelta = timedelta(seconds=60)) -> AsyncIterator[Served]:
    runner = SagaRunner("memory://", sagas=[ShopSaga], dispatch={Charge: charge})
    app = ServedRunner(runner, [token_of(TOKEN, name="all")], body_timeout=body_timeout)
    http = connections_for_bodies(request_seconds=request_seconds)
    async with served(app, http=http) as client:
        assert client.base_url.port is not None
        there = Served(app, client.base_url.port)
        try:
            yield there
        finally:
            for writer in there.opened:
                writer.close()
            app.stopping()


async def test_a_body_may_take_longer_than_the_head_of_a_request() -> None:
    async with serving(request_seconds=0.2) as there:
        reader, writer = await there.connect()
        writer.write(HEAD + BODY[:9])
        await eventually(lambda: there.app._in_flight == 1)
        silent, _ = await there.connect()
        assert await silent.read() == b""  # for longer than the other one has to send its head
        writer.write(BODY[9:])
        assert (await reader.readline()).split()[1] == b"200"


async def test_a_body_that_does_not_come_is_answered() -> None:
    async with serving(request_seconds=60, body_timeout=timedelta(seconds=0.05)) as there:
        reader, writer = await there.connect()
        writer.write(HEAD + BODY[:9])
        assert (await reader.readline()).split()[1] == b"408"


async def test_who_is_refused_already_is_hung_up_on_though_a_body_trickles_in() -> None:
    async with serving(request_seconds=0.05) as there:
        reader, writer = await there.connect()
        writer.write(HEAD.replace(TOKEN.encode(), b"another one") + BODY[:9])
        assert (await reader.read()).split()[1] == b"401"  # and the connection has ended


async def test_a_crowd_that_connects_before_it_sends_is_answered_to_the_last() -> None:
    resource = pytest.importorskip("resource")
    if 0 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] < 1024:
        pytest.skip("this process may not open enough files")
    async with serving(request_seconds=60) as there:
        crowd = [await there.connect() for _ in range(200)]
        for _, writer in crowd:
            writer.write(HEAD + BODY)
        lines = await asyncio.gather(*(reader.readline() for reader, _ in crowd))
        assert {line.split()[1] for line in lines} <= {b"200", b"429"}
