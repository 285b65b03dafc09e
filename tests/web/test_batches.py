"""Several CloudEvents in one request, each stored and told of by itself; and the trace that they bring along."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from sagalog import JournalUnavailableError, SagaRunner
from sagalog.telemetry.otel import OpenTelemetryHook
from sagalog.web import BearerToken, ServedRunner
from sagalog.web.tokens import digest_of, token_of

from .served import served
from .shop import Charge, ShopSaga, charge

ALL, PAYER, SLOW = (f"a token for {name}, long enough" for name in ("all", "payer", "slow"))
BATCH = "application/cloudevents-batch+json"
CAUSE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def runner(spans: InMemorySpanExporter) -> SagaRunner:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    return SagaRunner("memory://", sagas=[ShopSaga], dispatch={Charge: charge}, hooks=[OpenTelemetryHook(provider)])


@pytest_asyncio.fixture
async def client(runner: SagaRunner) -> AsyncIterator[httpx.AsyncClient]:
    tokens = [
        token_of(ALL, name="all"),
        BearerToken("payer", digest_of(PAYER), types=("PaymentReceived",)),
        BearerToken("slow", digest_of(SLOW), per_second=2),
    ]
    app = ServedRunner(runner, tokens, most_in_flight=5)
    async with served(app) as client:
        yield client
        app.stopping()


def event(order_id: str, number: str, kind: str = "OrderPlaced", **more: Any) -> dict[str, Any]:
    data = {"order_id": order_id}
    return {"specversion": "1.0", "id": number, "source": "/shop", "type": kind, "data": data, **more}


def put(client: httpx.AsyncClient, events: Any, token: str = ALL, **headers: str) -> Any:
    told = {"content-type": BATCH, "authorization": f"Bearer {token}", **headers}
    return client.post("/events", content=json.dumps(events), headers=told)


async def test_a_batch_is_stored_in_order_and_each_event_is_told_of(
    client: httpx.AsyncClient, runner: SagaRunner
) -> None:
    events = [event("A", "1"), event("B", "2"), event("A", "3", "PaymentReceived")]
    first = await put(client, events)
    assert first.status_code == 200
    told = first.json()["events"]
    assert [(one["message_id"], one["duplicate"]) for one in told] == [
        ("/shop 1", False),
        ("/shop 2", False),
        ("/shop 3", False),
    ]
    assert told[1]["instances"] == ["/instances/shop/B"]
    assert (await runner.outcome(ShopSaga, "A")).result.order_id == "A"
    again = (await put(client, events)).json()["events"]
    assert [one["duplicate"] for one in again] == [True, True, True]
    assert (await put(client, [])).json() == {"events": []}


@pytest.mark.parametrize(
    ("events", "token", "status", "says"),
    [
        ("no list", ALL, 400, "a list of CloudEvents"),
        ([event("A", "1"), 5], ALL, 400, "event 2 of 2: its body is not a CloudEvent"),
        ([event("A", "1"), event("B", "2", data={"amount": 5})], ALL, 422, "event 2 of 2: its data is not a valid"),
        ([event("A", "1", "PaymentReceived"), event("A", "2")], PAYER, 403, "event 2 of 2: this token does not allow"),
        ([event("A", str(number)) for number in range(6)], ALL, 413, "up to 5 events"),
    ],
)
async def test_a_batch_with_an_event_that_is_none_is_refused_as_a_whole(
    client: httpx.AsyncClient, runner: SagaRunner, events: Any, token: str, status: int, says: str
) -> None:
    answer = await put(client, events, token)
    assert (answer.status_code, says in answer.json()["detail"]) == (status, True), answer.text
    assert runner.counters.saves == 0


async def test_where_one_is_refused_the_others_are_stored_and_the_answer_says_which(
    client: httpx.AsyncClient, runner: SagaRunner
) -> None:
    await put(client, [event("A", "1")])
    answer = await put(client, [event("B", "2"), event("A", "another"), event("C", "3")])
    assert (answer.status_code, answer.headers["content-type"]) == (409, "application/problem+json")
    shown = answer.json()
    assert shown["detail"].startswith("1 of 3 events was not stored")
    assert [one.get("status", 200) for one in shown["events"]] == [200, 409, 200]
    assert shown["events"][1]["error"] == "AlreadyStartedError"
    assert (await runner.state(ShopSaga, "C")).amount == 1


async def test_where_another_attempt_helps_the_sender_is_told_to_send_all_of_it_again(
    client: httpx.AsyncClient, runner: SagaRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    await put(client, [event("A", "1")])
    assert runner.journal is not None

    async def away(records: Any) -> Any:
        return [JournalUnavailableError("away") for _ in records]

    with monkeypatch.context() as patch:
        patch.setattr(runner.journal, "write_batch", away)
        answer = await put(client, [event("A", "another"), event("B", "2")])
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    again = await put(client, [event("B", "2")])
    assert (again.status_code, again.json()["events"][0]["duplicate"]) == (200, False)


async def test_what_follows_an_event_that_the_journal_has_not_taken_is_not_stored_before_it(
    client: httpx.AsyncClient, runner: SagaRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert runner.journal is not None
    write, failed = runner.journal.write_batch, [False]

    async def once(records: Any) -> Any:
        if failed[0]:
            return await write(records)
        failed[0] = True
        return [JournalUnavailableError("once") for _ in records]

    monkeypatch.setattr(runner.journal, "write_batch", once)
    events = [event("A", "1"), event("A", "2", "PaymentReceived"), event("A", "3", "PaymentReceived")]
    answer = await put(client, events)
    assert [one.get("status", 200) for one in answer.json()["events"]] == [503, 503, 503]
    assert (await put(client, events)).status_code == 200
    assert (await runner.outcome(ShopSaga, "A")).result.order_id == "A"


async def test_each_event_of_a_batch_counts_for_the_rate_of_its_token(client: httpx.AsyncClient) -> None:
    assert (await put(client, [event(str(number), str(number)) for number in range(5)], SLOW)).status_code == 200
    turned_away = await put(client, [event("9", "9")], SLOW)
    assert turned_away.status_code == 429
    assert int(turned_away.headers["retry-after"]) >= 2


@pytest.mark.parametrize("place", ["header", "extension", "batch", "header of a batch"])
async def test_the_trace_that_an_event_brings_along_goes_on(
    client: httpx.AsyncClient, spans: InMemorySpanExporter, place: str
) -> None:
    headers = {"traceparent": CAUSE} if "header" in place else {}
    one = event("A", "1", **({} if "header" in place else {"traceparent": CAUSE}))
    if "batch" in place:
        answer = await put(client, [one], **headers)
    else:
        kind = {"content-type": "application/cloudevents+json", "authorization": f"Bearer {ALL}", **headers}
        answer = await client.post("/events", content=json.dumps(one), headers=kind)
    assert answer.status_code == 200
    (handled,) = (span for span in spans.get_finished_spans() if span.name == "handle OrderPlaced")
    assert f"{handled.context.trace_id:032x}" == CAUSE.split("-")[1]
    assert handled.parent is not None
    assert f"{handled.parent.span_id:016x}" == CAUSE.split("-")[2]


async def test_what_is_no_trace_is_passed_over(client: httpx.AsyncClient, spans: InMemorySpanExporter) -> None:
    assert (await put(client, [event("A", "1")], traceparent="nonsense")).status_code == 200
    (handled,) = (span for span in spans.get_finished_spans() if span.name == "handle OrderPlaced")
    assert handled.parent is None
