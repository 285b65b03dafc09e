"""A runner that takes its events from one NATS stream and sends its commands to another."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

from sagalog import InMemoryJournal, SagalogError, SagaRunner
from sagalog.brokers import SourceMessage, Subscription
from sagalog.brokers.nats import NatsSink, NatsSource

from ..servers.nats import Nats
from ..servers.processes import eventually
from .shop import Counted, Ship
from .test_nats_broker import made


class Place:
    """Two streams of one server: what comes in, what goes out."""

    def __init__(self, server: Nats) -> None:
        self.url = server.url
        self.inside, self.outside = made(server), made(server)
        self.into = NatsSink(self.url, subject=f"{self.inside}.sent")

    def source(self, durable: str = "workers", **settings: Any) -> NatsSource:
        settings = {"ack_wait": timedelta(seconds=1), **settings}
        return NatsSource(self.url, stream=self.inside, durable=durable, **settings)

    def sink(self) -> NatsSink:
        return NatsSink(self.url, subject=f"{self.outside}.ship")

    async def commands(self, count: int) -> list[SourceMessage]:
        found: list[SourceMessage] = []
        source = NatsSource(self.url, stream=self.outside, durable="reader")
        await source.open()

        async def all_there() -> bool:
            found.extend(await source.receive(100, timedelta(milliseconds=100)))
            return len(found) >= count

        await eventually(all_there)
        await source.close()
        return found

    async def letters(self) -> list[tuple[bytes, str]]:
        source = self.source()
        found = [(one.body, one.reason) async for one in source.dead_letters()]
        await source.close()
        return found


@asynccontextmanager
async def running(
    place: Place, subscription: Subscription | None = None, journal: Any = None, **more: Any
) -> AsyncIterator[SagaRunner]:
    runner = SagaRunner(
        journal or InMemoryJournal(),
        sagas=[Counted],
        sources=[subscription or Subscription(place.source())],
        sinks={Ship: more.pop("publication", place.sink())},
        **more,
    )
    async with runner:
        yield runner


def counts(runner: SagaRunner) -> Any:
    return runner.gauges().sources[0].counts


async def logged(runner: SagaRunner, order: str, log: Sequence[int]) -> None:
    async def is_so() -> bool:
        try:
            return (await runner.state(Counted, order)).log == list(log)
        except SagalogError:
            return False

    await eventually(is_so)
