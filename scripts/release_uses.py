"""One real use of each extra, in an environment that has nothing else: python scripts/release_uses.py EXTRA."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from sagalog import (
    BrokerUnavailableError,
    Complete,
    InMemoryJournal,
    JournalUnavailableError,
    ManualClock,
    Saga,
    SagaRunner,
    Send,
    SetTimer,
    on,
    open_journal,
    starts,
)

SOON = timedelta(milliseconds=200)


@dataclass
class Placed:
    order: str


@dataclass
class Due:
    order: str


@dataclass
class Ship:
    order: str


@dataclass
class Order:
    bills: int = 0


class OrderSaga(Saga[Order]):
    name = "order"

    @starts(Placed, key="order")
    def placed(self, order: Order, event: Placed) -> Any:
        yield Send(Ship(event.order))

    @on(Due, key="order")
    def due(self, order: Order, event: Due) -> Complete:
        return Complete()


class BillingSaga(Saga[Order]):
    name = "billing"

    @starts(Placed, key="order")
    def placed(self, order: Order, event: Placed) -> Any:
        yield SetTimer("bill", Due(event.order), cron="0 9 1 * *", zone="Europe/Berlin", missed="each")

    @on(Due, key="order")
    def due(self, order: Order, event: Due) -> None:
        order.bills += 1


def runner(journal: Any = "memory://", **settings: Any) -> SagaRunner:
    return SagaRunner(journal, sagas=[OrderSaga], dispatch=lambda command: None, **settings)


async def cron() -> None:
    clock = ManualClock()
    async with SagaRunner("memory://", sagas=[BillingSaga], clock=clock) as billing:
        await billing.handle(Placed("a"))
        clock.advance(timedelta(days=100))
        await billing.settle()
        assert (await billing.state(BillingSaga, "a")).bills == 4


async def cli() -> None:
    with tempfile.TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/orders.db"
        async with runner(url) as shop:
            await shop.handle(Placed("a"))
            await shop.settle()
        command = [str(Path(sys.executable).parent / "sagalog"), "list", "--journal", url]
        assert "order" in subprocess.run(command, check=True, capture_output=True, text=True).stdout


async def postgres() -> None:
    async with open_journal("postgresql://127.0.0.1:1/shop", connect_timeout=SOON) as journal:
        await journal.highest_sequence_nr("a")


async def nats() -> None:
    from sagalog.brokers.nats import NatsSource

    await unavailable(NatsSource("nats://127.0.0.1:1", stream="s", durable="d", connect_timeout=SOON))
    async with open_journal("nats://127.0.0.1:1", connect_timeout=SOON) as journal:
        await journal.highest_sequence_nr("a")


async def redis() -> None:
    from sagalog.brokers.redis import RedisSource

    await unavailable(RedisSource("redis://127.0.0.1:1/0", stream="s", group="g"))


async def kafka() -> None:
    from sagalog.brokers.kafka import KafkaSource

    await unavailable(KafkaSource("127.0.0.1:1", topic="t", group="g"))


async def rabbitmq() -> None:
    from sagalog.brokers.rabbitmq import RabbitSource

    await unavailable(RabbitSource("amqp://127.0.0.1:1", queue="q"))


async def unavailable(source: Any) -> None:
    try:
        await source.open()
    except BrokerUnavailableError:
        return
    finally:
        await source.close()
    raise AssertionError(f"{source} is opened, and there is none")


async def conformance() -> None:
    from sagalog.conformance import JournalConformance

    code = """
from sagalog import InMemoryJournal
from sagalog.conformance import Capability, JournalConformance

class TestMemory(JournalConformance):
    capabilities = {Capability.ATOMIC}

    @classmethod
    def make(cls, place):
        return InMemoryJournal()
"""
    assert JournalConformance.__name__ in code
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "test_memory.py").write_text(code)
        command = [sys.executable, "-m", "pytest", "-q", "-k", "conflict or sequence or replay", folder]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert " passed" in done.stdout, done.stdout
        assert " failed" not in done.stdout, done.stdout


async def http() -> None:
    from sagalog.telemetry.probes import probes

    with tempfile.TemporaryDirectory() as folder:
        address = f"{folder}/socket"
        async with runner() as shop, probes(shop, f"unix:{address}") as server:
            assert server


async def dashboard() -> None:
    from sagalog.dashboard import dashboard_app

    app = dashboard_app(InMemoryJournal(), token="at least sixteen characters")
    assert await status_of(app, "GET", "/") in (200, 302, 303, 307, 401, 403)
    await app.stop()


async def web() -> None:
    from sagalog.web import StandardWebhooks, StatusEndpoint, Webhook

    async with runner() as shop:
        hook = Webhook(shop, {"placed": Placed}, signature=StandardWebhooks("whsec_c2VjcmV0c2VjcmV0c2VjcmV0"))
        assert await status_of(hook, "POST", "/") == 401  # it is not signed
        await shop.handle(Placed("a"))
        assert await status_of(StatusEndpoint(shop, OrderSaga), "GET", "/a") == 200


async def serve() -> None:
    import httpx

    from sagalog.web import BearerToken, ServedRunner

    app = ServedRunner(runner(), [BearerToken("billing", "a" * 64)])
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client:
        assert (await client.get("/openapi.json")).status_code == 200


async def django() -> None:
    from django.conf import settings

    settings.configure(INSTALLED_APPS=["sagalog.django"], SAGALOG={"RUNNER": "nowhere.at:all"})
    import django as framework

    framework.setup()
    from django.core.checks import run_checks

    assert any("cannot be imported" in str(one) for one in run_checks())


async def otel() -> None:
    from sagalog.telemetry.otel import OpenTelemetryHook

    async with runner(hooks=[OpenTelemetryHook()]) as shop:
        assert (await shop.handle(Placed("a"))).handled


async def prometheus() -> None:
    from prometheus_client import generate_latest

    from sagalog.telemetry.prometheus import PrometheusHook

    async with runner(hooks=[PrometheusHook()]) as shop:
        await shop.handle(Placed("a"))
        await shop.settle()
    assert b"sagalog_save_seconds" in generate_latest()


async def status_of(app: Any, method: str, path: str) -> int:
    """Ask an ASGI app, without a client."""
    told: list[Any] = []
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "root_path": "",
        "scheme": "http",
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")],
        "client": ("127.0.0.1", 1),
        "server": ("localhost", 80),
    }

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        told.append(message)

    await app(scope, receive, send)
    status: int = told[0]["status"]
    return status


def main() -> None:
    """Use one extra; a server that is not there has to be told as our own error, which needs the client."""
    extra = sys.argv[1]
    try:
        asyncio.run(globals()[extra]())
    except JournalUnavailableError as error:
        if extra not in ("postgres", "nats"):
            raise
        assert "cannot be reached" in str(error) or "not answer" in str(error), error
    print(f"sagalog[{extra}] works by itself")


if __name__ == "__main__":
    main()
