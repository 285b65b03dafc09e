"""How an instance stands, over HTTP: as JSON and as a stream, in each framework by the same pieces."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Mount, Route

from sagalog import DefinitionError, SagaRunner
from sagalog.web import StatusEndpoint, Webhook, WithLifespan, lifespan
from sagalog.web.status import wants_stream

from .served import served
from .shop import Charge, OrderPlaced, PaymentReceived, ShopSaga, charge


def new_runner() -> SagaRunner:
    return SagaRunner("memory://", sagas=[ShopSaga], dispatch={Charge: charge})


async def events(client: httpx.AsyncClient, path: str, **headers: str) -> AsyncIterator[tuple[str, str, Any]]:
    """The events of a stream: name, id, data."""
    async with client.stream("GET", path, headers={"accept": "text/event-stream", **headers}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream"), await answer.aread()
        name = number = ""
        async for line in answer.aiter_lines():
            field, _, value = line.partition(": ")
            if field == "event":
                name = value
            elif field == "id":
                number = value
            elif field == "data":
                yield name, number, json.loads(value)


@pytest.mark.parametrize(
    ("accept", "streams"),
    [
        ("text/event-stream", True),
        ("Text/Event-Stream", True),
        ("application/json, text/event-stream", True),
        ("text/event-stream;q=0.2", True),
        ("text/event-stream;q=0", False),
        ("text/event-stream; q=0.5, application/json", False),
        ("text/event-stream;q=nan", False),
        ("*/*, text/event-stream", True),
        ("*/*, text/event-stream;q=0.5", False),
        ("application/*;q=0.6, */*;q=0.1, text/event-stream;q=0.5", False),
        ("application/json;q=0.1, application/*, */*, text/event-stream;q=0.5", True),
        ("text/event-streams", False),
        ("application/json", False),
        ("*/*", False),
        ("", False),
    ],
)
async def test_a_stream_is_for_who_asks_for_one_and_does_not_like_json_better(accept: str, streams: bool) -> None:
    request = Request({"type": "http", "headers": [(b"accept", accept.encode())]})
    assert wants_stream(request) is streams


async def test_a_stream_tells_each_step_and_the_end_and_is_not_asked_for_again() -> None:
    runner = new_runner()
    status = StatusEndpoint(runner, ShopSaga, result=True, state=lambda state: state, look_every=timedelta(seconds=30))
    app = Starlette(routes=[Mount("/orders", status)], lifespan=lifespan(runner))
    async with served(app) as client:
        await runner.handle(OrderPlaced("A/1", 7))
        await runner.settle()
        seen: list[Any] = []
        async for name, number, data in events(client, "/orders/A/1"):
            seen.append((name, number, data["status"], data["state"]["paid"]))
            if len(seen) == 1:
                await runner.handle(PaymentReceived("A/1"))  # it is told at once, not at the next look
        (first, *_, last) = seen
        assert first[0] == "status"
        assert (last[0], last[2]) == ("end", "completed")
        assert data["result"] == {"order_id": "A/1", "amount": 7}
        again = await client.get("/orders/A/1", headers={"accept": "text/event-stream", "last-event-id": last[1]})
        assert again.status_code == 204
        assert (await client.get("/orders/A/1")).json()["result"] == {"order_id": "A/1", "amount": 7}


async def test_a_stream_tells_the_end_of_a_life_that_another_one_has_followed_at_once() -> None:
    runner = new_runner()
    status = StatusEndpoint(runner, ShopSaga, result=True, look_every=timedelta(milliseconds=50))
    app = Starlette(routes=[Mount("/orders", status)], lifespan=lifespan(runner))
    async with served(app) as client:
        await runner.handle(OrderPlaced("A/1", 7))
        await runner.settle()
        asked = status._instance
        second = False

        async def late(correlation_id: str) -> Any:
            """Look only when the next life has begun."""
            nonlocal second
            if second:
                second = False
                await runner.outcome(ShopSaga, "A/1", incarnation=1)
                await runner.handle(OrderPlaced("A/1", 8))
            return await asked(correlation_id)

        status._instance = late  # type: ignore[method-assign]
        seen: list[Any] = []
        async with asyncio.timeout(30):
            async for name, number, data in events(client, "/orders/A/1"):
                seen.append((name, number, data["status"], data["incarnation"], data.get("result")))
                if len(seen) == 1:
                    second = True
                    await runner.handle(PaymentReceived("A/1"))
        assert seen[-1] == ("end", "1/end", "completed", 1, {"order_id": "A/1", "amount": 7})


async def test_who_may_not_ask_is_told_the_same_as_who_asks_for_nothing() -> None:
    runner = new_runner()

    async def allow(request: Request, correlation_id: str) -> bool:
        return request.headers.get("x-user") == "ann" and correlation_id == "A"

    status = StatusEndpoint(runner, ShopSaga, allow=allow, max_streams=0)
    async with served(Starlette(routes=[Route("/{id}", status)], lifespan=lifespan(runner))) as client:
        await runner.handle(OrderPlaced("A"))
        assert (await client.get("/A", headers={"x-user": "ann"})).json()["status"] == "running"
        refused = await client.get("/A")
        missing = await client.get("/A", headers={"x-user": "bob"})
        assert (refused.status_code, refused.text) == (404, missing.text)
        assert (await client.post("/A")).status_code == 405
        crowd = await client.get("/A", headers={"x-user": "ann", "accept": "text/event-stream"})
        assert (crowd.status_code, crowd.headers["retry-after"]) == (503, "60")


async def test_fastapi_shows_the_types_of_events_and_answers_the_same() -> None:
    from .fastapi_app import app

    async with served(app) as client:
        shown = (await client.get("/openapi.json")).json()
        order = shown["paths"]["/orders"]["post"]
        body = order["requestBody"]["content"]["application/json"]["schema"]
        assert body["properties"]["order_id"] == {"type": "string"}
        assert body["required"] == ["order_id"]
        assert order["parameters"][-1]["name"] == "idempotency-key"
        assert set(order["responses"]) >= {"200", "202", "409", "422", "503"}
        assert "application/problem+json" in order["responses"]["409"]["content"]
        paid, rich = shown["paths"]["/hooks/payments"]["post"]["requestBody"]["content"]["application/json"]["schema"][
            "oneOf"
        ]
        assert (paid["title"], rich["title"]) == ("paid", "rich")
        fields = rich["allOf"][0]["properties"]["data"]["properties"]
        assert fields["address"]["properties"]["street"]["type"] == "string"
        assert "$ref" not in json.dumps(shown["paths"]["/hooks/payments"]["post"]["requestBody"])
        placed = {"order_id": "F-1", "amount": 2}
        headers = {"idempotency-key": "k", "x-user": "ann"}
        assert (await client.post("/orders", json=placed, headers={"idempotency-key": "k"})).status_code == 401
        assert (await client.post("/orders", json=placed, headers=headers)).json()["outcomes"] == {"shop": "handled"}
        assert (await client.post("/orders", content=b"{", headers=headers)).status_code == 415
        assert (await client.get("/orders/F-1")).json()["status"] == "running"
        assert (await client.get("/orders/F-2")).status_code == 404
        declined = await client.post("/own", json=placed, headers={"idempotency-key": "other"})
        assert (declined.status_code, declined.json()["error"]) == (409, "AlreadyStartedError")


async def test_litestar_mounts_the_same_pieces() -> None:
    from litestar import Litestar
    from litestar.handlers import asgi

    runner = new_runner()
    app = Litestar(
        [
            asgi("/orders", is_mount=True, copy_scope=True)(StatusEndpoint(runner, ShopSaga)),
            asgi("/hook", copy_scope=True)(Webhook(runner, OrderPlaced, signature=None)),
        ],
        lifespan=[lifespan(runner)],
    )
    async with served(app) as client:
        headers = {"idempotency-key": "k"}
        assert (await client.post("/hook", json={"order_id": "L-1"}, headers=headers)).status_code == 200
        assert (await client.post("/hook", json={"order_id": "L-1"}, headers=headers)).json()["duplicate"]
        assert (await client.get("/orders/L-1")).json()["status"] == "running"


async def test_plain_asgi_gets_a_lifespan_around_it() -> None:
    runner = new_runner()
    async with served(WithLifespan(Webhook(runner, OrderPlaced, signature=None, message_id=None), runner)) as client:
        assert (await client.post("/", json={"order_id": "P-1"})).status_code == 200
    assert runner.journal is None  # stopped with the server


async def test_a_lifespan_runs_within_ones_own_and_passes_on_its_state() -> None:
    from contextlib import asynccontextmanager

    told: list[str] = []
    runner = new_runner()

    @asynccontextmanager
    async def own(app: Any) -> AsyncIterator[dict[str, str]]:
        told.append(f"opened, runner {runner.journal}")
        yield {"pool": "open"}
        told.append(f"closed, runner {runner.journal}")

    async def show(request: Request) -> Any:
        from starlette.responses import PlainTextResponse

        return PlainTextResponse(request.state.pool)

    async with served(Starlette(routes=[Route("/", show)], lifespan=lifespan(runner, within=own))) as client:
        assert (await client.get("/")).text == "open"
    assert told == ["opened, runner None", "closed, runner None"]


def test_what_is_no_runner_and_no_saga_of_it_is_refused_when_it_is_made() -> None:
    with pytest.raises(DefinitionError):
        lifespan()
    with pytest.raises(DefinitionError):
        lifespan("memory://")  # type: ignore[arg-type]
    with pytest.raises(DefinitionError):
        StatusEndpoint(new_runner(), OrderPlaced)  # type: ignore[type-var,arg-type]


APP = """
from starlette.applications import Starlette
from starlette.routing import Route
from sagalog import SagaRunner
from sagalog.web import AwaitOutcome, StatusEndpoint, Webhook, lifespan
from tests.web.shop import Charge, OrderPlaced, ShopSaga, charge
from datetime import timedelta

runner = SagaRunner("sqlite:///shop.db", sagas=[ShopSaga], dispatch={Charge: charge})
wait = AwaitOutcome(ShopSaga, wait=timedelta(seconds=60), status="/orders/{id}")
app = Starlette(routes=[
    Route("/orders", Webhook(runner, OrderPlaced, signature=None, outcome=wait), methods=["POST"]),
    Route("/orders/{id}", StatusEndpoint(runner, ShopSaga)),
], lifespan=lifespan(runner))
"""


async def test_a_stop_ends_streams_and_waits_and_loses_no_event(tmp_path: Path) -> None:
    (tmp_path / "web_app.py").write_text(APP)
    root = Path(__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{root}"}
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "uvicorn", "web_app:app", "--port", "0"),
        cwd=tmp_path,
        env=environment,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stderr is not None
        while b"running on" not in (line := await process.stderr.readline()):
            assert line
        address = line.decode().split("running on ")[1].split(" ")[0]
        async with httpx.AsyncClient(base_url=address, timeout=20) as client:
            placed = await client.post(
                "/orders", json={"order_id": "A"}, headers={"idempotency-key": "1", "prefer": "wait=0"}
            )
            assert placed.status_code == 202
            stream = events(client, "/orders/A")
            assert (await anext(stream))[0] == "status"
            waiting = asyncio.ensure_future(
                client.post("/orders", json={"order_id": "B"}, headers={"idempotency-key": "2"})
            )
            while (await client.get("/orders/B")).status_code == 404:
                await asyncio.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            async with asyncio.timeout(40):  # neither of them holds it up
                assert (await waiting).status_code == 202
                async for _ in stream:
                    pass
                await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.communicate()
    async with SagaRunner(f"sqlite:///{tmp_path}/shop.db", sagas=[ShopSaga], dispatch=lambda command: None) as runner:
        assert (await runner.handle(OrderPlaced("B"), message_id="2")).duplicate
