"""Commands out as signed webhooks, to a real server: the same id at each attempt, answers, refusals, failures."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from sagalog import (
    Complete,
    DefinitionError,
    RetryPolicy,
    RunnerSettings,
    Saga,
    SagaRunner,
    Send,
    on,
    on_refused,
    starts,
)
from sagalog.web import SignatureError, SignedWebhook, StandardWebhooks

from .served import served

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


@dataclass
class Wanted:
    id: str


@dataclass
class Pack:
    id: str


@dataclass
class Packed:
    id: str
    box: int


@dataclass
class Packing:
    box: int = 0


class PackSaga(Saga[Packing]):
    name = "pack"

    @starts(Wanted, key="id")
    def wanted(self, state: Packing, event: Wanted) -> Any:
        yield Send(Pack(event.id))

    @on(Packed, key="id")
    def packed(self, state: Packing, event: Packed) -> Any:
        state.box = event.box
        yield Complete("packed")

    @on_refused(Pack)
    def refused(self, state: Packing, event: Any) -> Any:
        yield Complete(event.reason)


class Receiver:
    """A service of somebody else: fails, refuses or answers, as the id of the order says."""

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.bodies: list[Any] = []
        self.over = asyncio.Event()

    async def take(self, request: Request) -> Response:
        body = await request.body()
        try:
            StandardWebhooks(SECRET).check(request.headers, body)
        except SignatureError:
            return Response(status_code=401)
        assert request.headers["idempotency-key"] == request.headers["webhook-id"]
        self.ids.append(request.headers["webhook-id"])
        event = json.loads(body)
        self.bodies.append(event)
        if event["data"]["id"] == "no":
            return Response(status_code=422)
        if event["data"]["id"] == "moved":
            return Response(status_code=307, headers={"location": "/"})
        if event["data"]["id"] == "long":
            return Response("x" * 2_000_000, media_type="text/html")
        if event["data"]["id"] == "long no":
            return Response("x" * 2_000_000, status_code=422, media_type="text/html")
        if event["data"]["id"] == "long event":
            return Response("x" * 2_000_000, media_type="application/cloudevents+json")
        if event["data"]["id"] == "gzip":
            body = gzip.compress(b"x" * 2_000_000)
            return Response(body, media_type="application/cloudevents+json", headers={"content-encoding": "gzip"})
        if event["data"]["id"] == "odd":
            return Response('{"type": "else"}', media_type="application/cloudevents+json")
        if (written := written_otherwise(event["data"]["id"])) is not None:
            return written
        if event["data"]["id"] == "drips":
            return StreamingResponse(drip(self.over), media_type="application/cloudevents+json")
        if len(self.ids) < 3:
            return Response(status_code=503)
        answer = {
            "specversion": "1.0", "id": "r1", "source": "/packer", "type": "packed",
            "data": {"id": event["data"]["id"], "box": 7},
        }  # fmt: skip
        return Response(json.dumps(answer), media_type="application/cloudevents+json")


def written_otherwise(order: str) -> Response | None:
    """The same event, as receivers write it who are not told otherwise by their framework."""
    data = {"id": order, "box": 7}
    event = {"specversion": "1.0", "id": "r1", "source": "/packer", "type": "packed", "data": data}
    binary = {"ce-specversion": "1.0", "ce-id": "r%201", "ce-source": "/packer", "ce-type": "packed"}
    if order == "plain json":
        return Response(json.dumps(event), media_type="application/json; charset=utf-8")
    if order == "upper case":
        return Response(json.dumps(event), media_type="Application/CloudEvents+JSON")
    if order == "binary":
        return Response(json.dumps(data), media_type="application/json", headers=binary)
    if order == "batch":
        return Response(json.dumps([event]), media_type="application/cloudevents-batch+json")
    if order == "binary of an unknown type":
        return Response("{}", media_type="application/json", headers=binary | {"ce-type": "else"})
    if order == "no event":
        return Response('{"ok": true}', media_type="application/json")
    return Response("[1", media_type="application/json") if order == "no json" else None


async def drip(over: asyncio.Event) -> AsyncIterator[bytes]:
    while not over.is_set():
        yield b" "
        await asyncio.sleep(0.01)


@asynccontextmanager
async def packing(timeout: float = 10.0, **settings: Any) -> AsyncIterator[tuple[SagaRunner, Receiver]]:
    receiver = Receiver()

    @asynccontextmanager
    async def pool(_: SagaRunner) -> AsyncIterator[httpx.AsyncClient]:
        async with httpx.AsyncClient() as client:
            yield client

    async with served(Starlette(routes=[Route("/", receiver.take, methods=["POST"])])) as client:
        hook = SignedWebhook(
            f"{client.base_url}/?key=hidden",
            SECRET,
            replies={"packed": Packed},
            timeout=timedelta(seconds=timeout),
            client=lambda context: context.resources,
        )
        async with SagaRunner(
            "memory://",
            sagas=[PackSaga],
            dispatch={Pack: hook},
            lifespan=pool,
            settings=RunnerSettings(
                dispatch_retry=RetryPolicy(base=timedelta(milliseconds=10), cap=timedelta(milliseconds=20), **settings)
            ),
        ) as runner:
            yield runner, receiver
        receiver.over.set()


async def parked(runner: SagaRunner, correlation_id: str) -> str:
    async with asyncio.timeout(40):
        while not (why := (await runner.instance(PackSaga, correlation_id)).parked):
            await asyncio.sleep(0.01)
    return why


async def test_a_command_is_posted_until_it_is_taken_under_one_id_and_answered_with_an_event() -> None:
    async with packing() as (runner, receiver):
        await runner.handle(Wanted("a"))
        outcome = await runner.outcome(PackSaga, "a", timeout=timedelta(seconds=20))
        assert (outcome.result, outcome.state.box) == ("packed", 7)
    assert receiver.ids == ["saga::pack::a/1/0"] * 3
    event = receiver.bodies[0]
    assert (event["type"], event["id"], event["subject"]) == ("Pack", "saga::pack::a/1/0", "a")
    assert event["data"] == {"id": "a"}


async def test_a_command_of_an_instance_with_any_id_is_posted() -> None:
    async with packing() as (runner, receiver):
        await runner.handle(Wanted("Müller 7\n"))
        outcome = await runner.outcome(PackSaga, "Müller 7\n", timeout=timedelta(seconds=20))
        assert outcome.result == "packed"
    assert receiver.ids == ["saga::pack::M%C3%BCller%207%0A/1/0"] * 3
    assert receiver.bodies[0]["id"] == "saga::pack::Müller 7\n/1/0"


async def test_what_a_receiver_will_never_do_is_refused() -> None:
    async with packing() as (runner, receiver):
        await runner.handle(Wanted("no"))
        outcome = await runner.outcome(PackSaga, "no", timeout=timedelta(seconds=20))
        assert outcome.result == "the webhook answered 422"
    assert len(receiver.ids) == 1


async def test_the_status_says_all_however_long_the_page_is_that_comes_with_it() -> None:
    async with packing() as (runner, receiver):
        await runner.handle(Wanted("long no"))
        outcome = await runner.outcome(PackSaga, "long no", timeout=timedelta(seconds=20))
        assert outcome.result == "the webhook answered 422"
        await runner.handle(Wanted("long"))
        await runner.settle()
        assert runner.counters.commands == 1
    assert len(receiver.ids) == 2


@pytest.mark.parametrize("what", ["long event", "gzip", "odd"])
async def test_an_answer_that_cannot_be_read_parks_at_once_and_is_not_asked_for_again(what: str) -> None:
    async with packing() as (runner, receiver):
        await runner.handle(Wanted(what))
        assert "took the command, and answered with an event that cannot be read" in await parked(runner, what)
    assert len(receiver.ids) == 1


@pytest.mark.parametrize("written", ["plain json", "upper case", "binary"])
async def test_an_event_is_taken_however_the_answer_writes_it(written: str) -> None:
    async with packing() as (runner, receiver):
        await runner.handle(Wanted(written))
        outcome = await runner.outcome(PackSaga, written, timeout=timedelta(seconds=20))
        assert (outcome.result, outcome.state.box) == ("packed", 7)
    assert len(receiver.ids) == 1


@pytest.mark.parametrize("what", ["batch", "binary of an unknown type"])
async def test_what_says_that_it_is_an_event_and_cannot_be_read_is_never_passed_over(what: str) -> None:
    async with packing() as (runner, receiver):
        await runner.handle(Wanted(what))
        assert "took the command, and answered with an event that cannot be read" in await parked(runner, what)
    assert len(receiver.ids) == 1


@pytest.mark.parametrize("what", ["no event", "no json"])
async def test_an_answer_that_is_no_event_is_an_acceptance(what: str) -> None:
    async with packing() as (runner, _):
        await runner.handle(Wanted(what))
        await runner.settle()
        assert runner.counters.commands == 1
        assert not (await runner.instance(PackSaga, what)).parked


async def test_an_answer_that_comes_byte_by_byte_is_cut_off_at_the_time_limit() -> None:
    async with packing(timeout=0.3, attempts=2) as (runner, receiver):
        await runner.handle(Wanted("drips"))
        assert "did not answer within 0.3 s" in await parked(runner, "drips")
    assert len(set(receiver.ids)) <= 1  # on a slow machine, the time is over before the request arrives


async def test_a_redirect_is_not_followed_and_what_is_stored_and_logged_shows_no_secret(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with packing(attempts=2) as (runner, _):
        await runner.handle(Wanted("moved"))
        assert "hidden" not in await parked(runner, "moved")
    # httpx logs each address at INFO, where another test of this process has set its level.
    logged = "\n".join(record.getMessage() for record in caplog.records if record.name.startswith("sagalog"))
    assert "307" in logged
    assert "hidden" not in logged
    assert SECRET not in logged


async def test_nobody_there_is_a_failure_that_goes_away() -> None:
    hook = SignedWebhook("http://127.0.0.1:9/", SECRET, timeout=timedelta(seconds=0.5))
    settings = RunnerSettings(dispatch_retry=RetryPolicy(attempts=2, base=timedelta(milliseconds=10)))
    async with SagaRunner("memory://", sagas=[PackSaga], dispatch={Pack: hook}, settings=settings) as runner:
        await runner.handle(Wanted("a"))
        assert "did not answer (ConnectError)" in await parked(runner, "a")


async def test_what_could_never_be_sent_is_refused_when_it_is_made() -> None:
    for arguments in (
        ("ftp://x", SECRET),
        ("https://", SECRET),
        ("https://x:99999", SECRET),
        ("https://x\r\ny: z", SECRET),
        ("https://x", None),
        ("https://x", "short"),
    ):
        with pytest.raises(DefinitionError):
            SignedWebhook(*arguments)
