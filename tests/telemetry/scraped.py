"""One scrape of a runner that has done a bit of everything: every metric there is, as Prometheus would see it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from sagalog import InMemoryJournal, InvalidEventError, SagaRunner
from sagalog.brokers.nats import NatsSource
from sagalog.telemetry.prometheus import PrometheusHook

from ..orders import Failing, OrderSaga, Placed, Reserve
from ..runner.conftest import Bench


async def scraped() -> dict[str, Metric]:
    """Return the families by name."""
    hook, bench = PrometheusHook(CollectorRegistry()), Bench(InMemoryJournal())
    OrderSaga.fail_times, OrderSaga.calls = 9, []
    nowhere = NatsSource(
        "nats://127.0.0.1:1", stream="events", durable="workers", connect_timeout=timedelta(milliseconds=100)
    )
    with_source = SagaRunner(InMemoryJournal(), sagas=[OrderSaga], dispatch=print, sources=[nowhere], hooks=[hook])
    async with bench.runner().using(hooks=[hook]) as runner, with_source:
        await runner.handle(Placed("a"))
        with pytest.raises(InvalidEventError):
            await runner.handle(object())
        await runner.handle(Failing("a"))
        await runner.handle(Placed("b"))
        await runner.settle()
        await runner.pause(Reserve)
        await runner.handle(Placed("c"))
        await runner.settle()
        bench.advance(hours=1)
        await runner.settle()
        text = generate_latest(hook.registry).decode()
    OrderSaga.fail_times = 0
    return {family.name: family for family in text_string_to_metric_families(text)}
