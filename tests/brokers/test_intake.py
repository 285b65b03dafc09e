"""What a runner does with the messages of a source: on NATS, because a real broker has to say what it knows."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import nats
import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry

from sagalog import (
    BrokerUnavailableError,
    DefinitionError,
    InMemoryJournal,
    PersistentRepr,
    RunnerSettings,
    Saga,
    SagalogError,
    SagaRunner,
    starts,
)
from sagalog.brokers import Decoded, Publication, SinkMessage, SourceMessage, Subscription
from sagalog.brokers.nats import NatsSink, NatsSource
from sagalog.brokers.reading import MessageReader
from sagalog.runner.inside import has_handler
from sagalog.telemetry.otel import OpenTelemetryHook
from sagalog.telemetry.prometheus import PrometheusHook

from ..servers.processes import eventually
from .placed import Place, counts, logged, running
from .shop import Added, Counted, Ship, State, event, shipped


@pytest.mark.parametrize("mode", ["binary", "structured"])
async def test_an_event_becomes_a_step_and_its_command_leaves_as_a_cloud_event(place: Place, mode: str) -> None:
    await place.into.send(event("a::b/é 1", 7, mode=mode))
    publication = Publication(place.sink(), mode=mode)
    async with running(place, publication=publication) as runner:
        (command,) = await place.commands(1)
        await eventually(lambda: counts(runner).accepted == 1)
    assert shipped(command.body, dict(command.headers)) == ("saga::counted::a::b/é 1/1/0", "a::b/é 1", 7)
    if mode == "binary":
        assert command.headers["ce-type"] == "Ship"
        assert command.headers["ce-source"] == "/sagalog/counted"
        assert command.headers["ce-subject"] == "a::b/é 1"
        assert command.headers["ce-dataschema"] == "urn:sagalog:Ship:1"
    assert command.key == "a::b/é 1"


async def test_a_message_is_accepted_only_after_its_step_is_durable(place: Place) -> None:
    journal, gate, writing = InMemoryJournal(), asyncio.Event(), asyncio.Event()
    write = journal.write_batch

    async def held(records: Sequence[PersistentRepr]) -> Sequence[SagalogError | None]:
        writing.set()
        await gate.wait()
        return await write(records)

    journal.write_batch = held  # type: ignore[method-assign]
    await place.into.send(event("a", 1))
    async with running(place, journal=journal) as runner:
        await writing.wait()
        other = place.source()
        await other.open()
        assert (await other.backlog()).messages == 1
        assert counts(runner).accepted == 0
        gate.set()
        await eventually(lambda: counts(runner).accepted == 1)
        assert (await other.backlog()).messages == 0
        await other.close()


async def test_a_message_that_cannot_be_read_goes_to_the_dead_letters_and_the_next_is_handled(place: Place) -> None:
    await place.into.send(event("a", 10, data=b'{"order": 5}'))
    await place.into.send(event("a", 11, data=b"not json at all"))
    await place.into.send(SinkMessage(b"no CloudEvent", "x"))
    await place.into.send(event("a", 12, type="Unheard"))
    await place.into.send(event("a", 13, dataschema="urn:added:3"))
    await place.into.send(event("a", 1))
    async with running(place) as runner:
        await logged(runner, "a", [1])
        await eventually(lambda: counts(runner).dead_letters == 5)
        assert (await runner.health()).ready
    reasons = [reason for _, reason in await place.letters()]
    assert len(reasons) == 5
    for part in (
        "stored JSON is not a valid Added",
        "it is not a CloudEvent:",
        "no saga of this runner handles events of type 'Unheard'",
        "schema version 3",
    ):
        assert any(part in reason for reason in reasons), reasons
    assert not any("5" in reason for reason in reasons)  # no values


@pytest.mark.parametrize("policy", ["ignore", "stop"])
async def test_a_policy_says_what_becomes_of_a_message_that_cannot_be_read(place: Place, policy: str) -> None:
    await place.into.send(event("a", 1))
    await place.into.send(SinkMessage(b"no CloudEvent", "x"))
    await place.into.send(event("a", 2))
    async with running(place, Subscription(place.source(), unreadable=policy)) as runner:
        if policy == "ignore":
            await logged(runner, "a", [1, 2])
            assert counts(runner).ignored == 1
        else:
            await logged(runner, "a", [1])
            health = await runner.health()
            assert not health.ready
            assert "has stopped at message stream" in health.reasons[0]
            await eventually(lambda: counts(runner).accepted == 1)
    assert await place.letters() == []
    if policy == "stop":  # mended code goes on where it stopped
        async with running(place, Subscription(place.source(), unreadable="ignore")) as runner:
            await logged_anywhere(runner)
            assert counts(runner).ignored == 1


async def logged_anywhere(runner: SagaRunner) -> None:
    await eventually(lambda: counts(runner).accepted == 2)


@pytest.mark.parametrize(
    ("decoded", "reason"),
    [
        (asyncio.CancelledError(), "the decoder raised CancelledError"),
        (StopIteration(), "the decoder raised StopIteration"),
        (Decoded(Added("a", 2), id=17), "the decoder returned a Decoded whose id or trace is not a string"),  # type: ignore[arg-type]
        (Decoded(Added("a", 2), trace=17), "the decoder returned a Decoded whose id or trace is not a string"),  # type: ignore[arg-type]
        (
            Decoded(Added("a", 2), at=datetime(2026, 1, 1)),  # noqa: DTZ001
            "the decoder returned a Decoded whose at is not a datetime with a time zone",
        ),
        (
            Decoded(Added("key raises", 2)),
            "saga 'keyed': correlation_id raised ZeroDivisionError for Added; nothing was stored",
        ),
    ],
)
async def test_whatever_a_decoder_does_the_next_message_is_read(place: Place, decoded: Any, reason: str) -> None:
    class Keyed(Saga[State]):
        name = "keyed"

        @starts(Added, key="order")
        def added(self, state: State, event: Added) -> None:
            state.log.append(event.number)

        def correlation_id(self, event: Any) -> str:
            return str(1 / 0) if event.order == "key raises" else str(event.order)

    def decode(message: SourceMessage) -> Decoded:
        if message.body == b"good":
            return Decoded(Added("a", 1))
        if isinstance(decoded, BaseException):
            raise decoded
        assert isinstance(decoded, Decoded)
        return decoded

    await place.into.send(SinkMessage(b"bad", ""))
    await place.into.send(SinkMessage(b"good", ""))
    source = Subscription(place.source(), decode=decode)
    async with SagaRunner("memory://", sagas=[Keyed], sources=[source]) as runner:
        await eventually(lambda: counts(runner).dead_letters == counts(runner).accepted == 1)
        assert (await runner.state(Keyed, "a")).log == [1]
    assert [told for _, told in await place.letters()] == [reason]


async def test_a_source_whose_reading_ends_by_itself_says_so(place: Place) -> None:
    class Fatal(BaseException):
        pass

    def decode(message: SourceMessage) -> Decoded:
        raise Fatal

    await place.into.send(SinkMessage(b"x", ""))
    async with running(place, Subscription(place.source(), decode=decode)) as runner:
        await eventually(lambda: runner.gauges().sources[0].stopped)
        (reason,) = (await runner.health()).reasons
    assert reason.endswith("has stopped at a fault that ended its reading: Fatal")


async def test_a_source_that_opens_and_cannot_be_read_is_in_trouble_all_the_time(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    class Unreadable(NatsSource):
        async def receive(self, most: int, wait: timedelta) -> Sequence[SourceMessage]:
            raise BrokerUnavailableError("it ends the reading")

    source = Unreadable(place.url, stream=place.inside, durable="workers")
    async with running(place, Subscription(source)) as runner:
        await eventually(lambda: counts(runner).broker_errors >= 4)
        assert runner.gauges().sources[0].trouble == "it ends the reading"
    assert "goes on with reading" not in caplog.text


async def test_whatever_stands_in_a_header_of_the_sender_a_message_is_read_and_holds_up_nothing(place: Place) -> None:
    odd = (
        {"Status": "shipped", "Description": "by hand"},  # the client takes a header Status for an answer of the server
        {"Status": "503"},
        {"status": "x"},
        {"ce-subject": "%ff%00%zz%"},
        {"ce-time": "", "x": "é"},
    )
    client = await nats.connect(place.url)
    for number, headers in enumerate(odd):
        message = event("a", number)
        subject = f"{place.inside}.sent"
        await client.jetstream().publish(subject, message.body, headers={**message.headers, **headers})
    await client.close()
    seen: list[str | None] = []
    reader = MessageReader({"Added": Added})

    def decode(message: SourceMessage) -> Decoded:
        seen.append(message.headers.get("Status"))
        return reader.read(message)

    async with running(place, Subscription(place.source(), decode=decode)) as runner:
        await logged(runner, "a", [0, 1, 2, 3, 4])
    assert sorted(filter(None, seen)) == ["503", "shipped"]


async def test_an_event_that_is_for_no_instance_meets_the_policy_for_it(place: Place) -> None:
    class Choosy(Saga[State]):
        name = "choosy"

        @starts(Added, key=lambda event: event.order if event.number else None)
        def added(self, state: State, event: Added) -> None: ...

    await place.into.send(event("a", 0))
    async with SagaRunner(
        InMemoryJournal(), sagas=[Choosy], sources=[Subscription(place.source(), untaken="ignore")]
    ) as runner:
        await eventually(lambda: counts(runner).ignored == 1)


async def test_a_message_that_comes_twice_is_one_step(place: Place) -> None:
    await place.into.send(event("a", 1))
    await place.into.send(SinkMessage(*_again(event("a", 1))))
    await place.into.send(event("a", 2))
    async with running(place) as runner:
        await logged(runner, "a", [1, 2])
        await eventually(lambda: counts(runner).accepted == 3)
        assert counts(runner).duplicates == 1


def _again(message: SinkMessage) -> tuple[bytes, str, Any, str]:
    return message.body, message.id + " again", message.headers, message.key  # the broker is not to know it


async def test_an_older_event_is_upcast_by_the_version_in_its_dataschema(place: Place) -> None:
    await place.into.send(event("a", 1, data=b'{"order": "a", "n": 5}', dataschema="https://example.com/added/v1"))
    async with running(place) as runner:
        await logged(runner, "a", [5])


async def test_without_an_id_of_the_sender_the_position_is_the_id_and_redelivered_it_is_a_duplicate(
    place: Place,
) -> None:
    def decode(message: SourceMessage) -> Decoded | None:
        order, _, number = message.body.decode().partition(" ")
        return Decoded(Added(order, int(number))) if order != "skip" else None

    for n in range(5):
        await place.into.send(SinkMessage(f"a {n}".encode(), str(n)))
    await place.into.send(SinkMessage(b"skip 1", "skip"))
    await place.into.send(SinkMessage(b"a nonsense", "nonsense"))
    journal = InMemoryJournal()
    first, deaf = place.source(), asyncio.Event()

    async def lost(messages: Any) -> None:
        deaf.set()
        await asyncio.Event().wait()

    first.accept = lost  # type: ignore[method-assign]
    runner = SagaRunner(
        journal,
        sagas=[Counted],
        sources=[Subscription(first, decode=decode, untaken="ignore")],
        sinks={Ship: place.sink()},
        settings=RunnerSettings(stop_timeout=timedelta(milliseconds=100)),
    )
    async with runner:
        await deaf.wait()
        await logged(runner, "a", range(5))
    async with running(place, Subscription(place.source(), decode=decode, untaken="ignore"), journal) as runner:
        await eventually(lambda: counts(runner).accepted == 6)
        assert (counts(runner).duplicates, counts(runner).ignored, counts(runner).redelivered >= 5) == (5, 1, True)
        await logged(runner, "a", range(5))
        await eventually(lambda: counts(runner).dead_letters == 1)
    assert await place.letters() == [(b"a nonsense", "the decoder raised ValueError")]


async def test_health_and_gauges_tell_of_the_source(place: Place) -> None:
    async with running(place) as runner:
        await eventually(lambda: runner.gauges().sources[0].lag == 0)
        (source,) = runner.gauges().sources
        assert source.name == f"nats:{place.inside}/workers"
        assert (source.trouble, source.stopped, source.oldest_seconds) == ("", "", None)
        assert (await runner.health()).ready
    assert runner.gauges().sources == ()


async def test_a_runner_like_it_reads_its_sources_only_if_told_so(place: Place) -> None:
    runner = SagaRunner("memory://", sagas=[Counted], sources=[place.source()], sinks={Ship: place.sink()})
    assert has_handler(runner, Ship)
    async with runner.using() as other:
        assert has_handler(other, Ship)
        assert other.gauges().sources == ()
    async with runner.using(sources=True) as other:
        assert len(other.gauges().sources) == 1


def test_what_is_no_source_or_sink_is_refused_when_the_runner_is_made() -> None:
    def make(**given: Any) -> None:
        SagaRunner("memory://", sagas=[Counted], **given)

    source = NatsSource("nats://localhost", stream="s", durable="d")
    for given, said in (
        ({"sources": [object()]}, "needs the methods of sagalog.brokers.Source"),
        ({"sources": [NatsSource]}, "which NatsSource lacks"),
        ({"sources": source}, "takes a list of sources"),
        ({"sources": [source, source]}, "two sources are named 'nats:s/d'"),
        ({"sinks": [object()]}, "takes a mapping"),
        ({"sinks": {Ship: object()}}, "needs the methods of sagalog.brokers.Sink"),
        (
            {"sinks": {Ship: NatsSink("nats://localhost", subject="s")}, "dispatch": {Ship: print}},
            "two command handlers",
        ),
    ):
        with pytest.raises(DefinitionError, match=said):
            make(**given)
    for wrong in (
        {"unreadable": "perhaps"},
        {"prefetch": 0},
        {"most_deliveries": 0},
        {"decode": 5},
        {"types": {"a": 1}},
    ):
        with pytest.raises(DefinitionError):
            Subscription(source, **wrong)  # type: ignore[arg-type]


def test_two_event_classes_of_one_name_have_to_be_told_apart() -> None:
    def other() -> type:
        @dataclass
        class Added:
            order: str

        return Added

    cls = other()

    class Another(Saga[State]):
        name = "another"

        @starts(cls, key="order")
        def added(self, state: State, event: Any) -> None: ...

    source = NatsSource("nats://localhost", stream="s", durable="d")
    with pytest.raises(DefinitionError, match="two event classes are called 'Added'"):
        SagaRunner("memory://", sagas=[Counted, Another], sources=[source])
    SagaRunner("memory://", sagas=[Counted, Another], sources=[Subscription(source, types={"Added": cls})])


def test_a_class_that_no_saga_takes_is_no_type_of_a_message() -> None:
    source = NatsSource("nats://localhost", stream="s", durable="d")
    for cls in (int, dict, State):
        with pytest.raises(DefinitionError, match=f"reads 'x' as {cls.__name__}, and no saga of its runner takes"):
            SagaRunner("memory://", sagas=[Counted], sources=[Subscription(source, types={"x": cls})])


async def test_metrics_tell_of_sources(place: Place) -> None:
    hook = PrometheusHook(CollectorRegistry())

    def value(name: str) -> float | None:
        return hook.registry.get_sample_value(name, {"source": f"nats:{place.inside}/workers"})

    await place.into.send(event("a", 1))
    await place.into.send(SinkMessage(b"broken", "x"))
    async with running(place, hooks=[hook]) as runner:
        await eventually(lambda: counts(runner).accepted == 1 and counts(runner).dead_letters == 1)
        await eventually(lambda: runner.gauges().sources[0].lag == 0)
        assert (value("sagalog_source_lag"), value("sagalog_source_under_way")) == (0, 0)
        assert (value("sagalog_source_stopped"), value("sagalog_source_oldest_seconds")) == (0, 0)
    assert value("sagalog_source_lag") is None
    assert value("sagalog_source_received_total") == 2
    assert (value("sagalog_source_accepted_total"), value("sagalog_source_dead_letters_total")) == (1, 1)


async def test_the_trace_of_an_event_goes_on_into_the_command_that_it_leads_to(place: Place) -> None:
    spans = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(spans))
    cause = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    await place.into.send(event("a", 1, traceparent=cause))
    await place.into.send(event("b", 1, traceparent="not a trace"))
    async with running(place, hooks=[OpenTelemetryHook(provider)]):
        commands = await place.commands(2)
    traces = {shipped(one.body, dict(one.headers))[1]: one.headers["traceparent"].split("-") for one in commands}
    assert traces["a"][1] == cause.split("-")[1]
    assert traces["b"][1] != cause.split("-")[1]
    handled = {
        span.name: span for span in spans.get_finished_spans() if span.context.trace_id == int(traces["a"][1], 16)
    }
    assert set(handled) == {"handle Added", "deliver Ship"}
    assert f"{handled['handle Added'].parent.span_id:016x}" == cause.split("-")[2]
    assert f"{handled['deliver Ship'].context.span_id:016x}" == traces["a"][2]
