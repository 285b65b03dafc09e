"""A runner over HTTP, for programs in any language: put an event, ask how an instance stands, hear of ends.

request ─► token, scope, rate ─► bounds ─► CloudEvent ─► runner.handle ─► answer
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable, Iterable
from datetime import timedelta
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from ..brokers.cloudevents import STRUCTURED
from ..brokers.message import SourceMessage
from ..brokers.reading import Decoded, MessageReader, UnreadableError, UntakenError, types_of
from ..definition.schema import schema_of
from ..durations import seconds_of
from ..runner import Receipt, SagaRunner
from ..runner.arguments import check_type, check_whole
from ..runner.envelope import Burst
from ..runner.inside import handle_in_burst
from .batches import BATCH, answered, is_batch, parts_of
from .bodies import attributes_of, read_body
from .ends import EndStreams
from .lifespans import lifespan
from .openapi import RECEIPT_SCHEMA, STATUS_SCHEMA, responses
from .openapi import schema_of as shown_schema
from .problems import Problem, ProblemError, problem_of, refuse
from .status import StatusEndpoint, json_response, quoted, wants_stream
from .stopping import stopping_of
from .tokens import READ_ENDS, READ_INSTANCES, WRITE_EVENTS, BearerToken, KnownTokens
from .webhook import wait_seconds

Endpoint = Callable[[Request], Awaitable[Response]]


class ServedRunner:
    """An ASGI app over a runner, which starts and stops with its server.

    `POST /events` takes a CloudEvent in JSON, in structured or binary mode; its `type` is the stored name of an event
    class. In batch mode it takes several, each of which is stored by itself. `GET /instances/{saga}/{id}` tells how an
    instance stands, as JSON or as a stream, and waits for its end where `Prefer: wait=10` asks for it. `GET /ends` is a
    stream of all ends. `/openapi.json`, `/live` and `/ready` need no token.

    `most_in_flight`: events at work at once; beyond that the answer is 429.
    """

    def __init__(
        self,
        runner: SagaRunner,
        tokens: Iterable[BearerToken],
        *,
        max_body_bytes: int = 256 * 1024,
        body_timeout: timedelta = timedelta(seconds=10),
        handle_timeout: timedelta = timedelta(seconds=30),
        most_in_flight: int = 256,
        max_wait: timedelta = timedelta(minutes=1),
    ) -> None:
        check_type("the runner of a ServedRunner", runner, SagaRunner, "a SagaRunner")
        check_whole("max_body_bytes=", max_body_bytes, least=1)
        check_whole("most_in_flight=", most_in_flight, least=1)
        self._runner = runner
        self._tokens = KnownTokens(tokens)
        self._types = types_of(runner.sagas, {})
        self._reader = MessageReader(self._types)
        self._statuses = {
            saga.name: StatusEndpoint[Any](runner, type(saga), result=True, state=lambda state: state)
            for saga in runner.sagas
        }
        self._ends = EndStreams(runner)
        self._max_body_bytes = max_body_bytes
        self._body_seconds = seconds_of("body_timeout", body_timeout)
        self._handle_seconds = seconds_of("handle_timeout", handle_timeout)
        self._most_in_flight = most_in_flight
        self._most_wait_seconds = seconds_of("max_wait", max_wait, zero=True)
        self._in_flight = 0
        app = Starlette(
            routes=[
                Route("/events", self._endpoint(self._take, WRITE_EVENTS), methods=["POST"]),
                Route("/instances/{saga}/{id:path}", self._endpoint(self._status, READ_INSTANCES), methods=["GET"]),
                Route("/ends", self._endpoint(self._ends.respond, READ_ENDS), methods=["GET"]),
                Route("/openapi.json", self._openapi, methods=["GET"]),
                Route("/live", self._live, methods=["GET"]),
                Route("/ready", self._ready, methods=["GET"]),
            ],
            lifespan=lifespan(runner),
        )
        app.add_exception_handler(HTTPException, _refused)
        # Starlette leads /events/ to /events, at the host and by the scheme that the request names: with the token.
        app.router.redirect_slashes = False
        self._app = app

    def __repr__(self) -> str:
        return f"<ServedRunner of {self._runner!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run the lifespan."""
        await self._app(scope, receive, send)

    def stopping(self) -> None:
        """End all streams, and answer who waits, so that a server that waits for open connections can stop."""
        stopping_of(self._runner).set()

    def _endpoint(self, answer: Endpoint, scope: str) -> Endpoint:
        async def endpoint(request: Request) -> Response:
            try:
                request.state.token = self._allowed(request, scope)
                return await answer(request)
            except Exception as error:
                return problem_of(error, asked=request.method == "GET").response()

        return endpoint

    def _allowed(self, request: Request, scope: str) -> BearerToken:
        given = request.headers.getlist("authorization")
        if len(given) > 1:
            raise refuse(400, "the header authorization comes twice")
        token = self._tokens.of("".join(given))
        if token is None:
            raise refuse(401, "a token is needed: Authorization: Bearer ...", headers={"www-authenticate": "Bearer"})
        if scope not in token.scopes:
            told = f'Bearer error="insufficient_scope", scope="{scope}"'
            raise refuse(403, f"this token does not allow {scope}", headers={"www-authenticate": told})
        wait = self._tokens.wait_seconds(token)
        if wait:
            raise refuse(429, "too many requests with this token", retry_seconds=max(1, math.ceil(wait)))
        return token

    async def _take(self, request: Request) -> Response:
        if self._in_flight >= self._most_in_flight:
            raise refuse(
                429, "this server is handling as many events as it takes at once; nothing was stored", retry_seconds=1
            )
        self._in_flight += 1
        try:
            body = await read_body(request, most_bytes=self._max_body_bytes, seconds=self._body_seconds)
            headers = attributes_of(request)
            if is_batch(request.headers):
                return await self._take_all(request, parts_of(body, self._most_in_flight), headers)
            found = self._read(request, body, headers)
            return self._received(await self._handle(found), found.event)
        finally:
            self._in_flight -= 1

    async def _take_all(self, request: Request, parts: list[bytes], headers: dict[str, str]) -> Response:
        """Take a batch: all of it is read before any of it is handled. One place is taken already."""
        more = max(0, len(parts) - 1)
        if self._in_flight + more > self._most_in_flight:
            raise refuse(
                429, "this server is handling as many events as it takes at once; nothing was stored", retry_seconds=1
            )
        self._tokens.count(request.state.token, more)
        headers = {"content-type": STRUCTURED, "traceparent": headers.get("traceparent", "")}
        found = []
        for number, part in enumerate(parts, 1):
            try:
                found.append(self._read(request, part, headers))
            except ProblemError as error:
                raise refuse(error.problem.status, f"event {number} of {len(parts)}: {error.problem.detail}") from None
        self._in_flight += more
        try:
            burst = Burst()
            return answered(await asyncio.gather(*(self._told(one, burst) for one in found)))
        finally:
            self._in_flight -= more

    async def _told(self, found: Decoded, burst: Burst) -> dict[str, Any] | Problem:
        try:
            return self._shown(await self._handle(found, burst), found.event)
        except Exception as error:
            return problem_of(error)

    def _read(self, request: Request, body: bytes, headers: dict[str, str]) -> Decoded:
        try:
            found = self._reader.read(SourceMessage(body, "", "", headers))
        except UntakenError as error:
            raise refuse(422, f"{error}; nothing was stored") from None
        except UnreadableError as error:
            told = str(error).replace("stored JSON is not a valid", "its data is not a valid")
            status = 422 if told.startswith("its data is not") else 400
            raise refuse(status, f"{told}; nothing was stored") from None
        token: BearerToken = request.state.token
        if token.types and schema_of(type(found.event)).name not in token.types:
            raise refuse(403, "this token does not allow events of this type")
        return found

    async def _handle(self, found: Decoded, burst: Burst | None = None) -> Receipt:
        try:
            async with asyncio.timeout(self._handle_seconds):
                if burst is not None:
                    return await handle_in_burst(self._runner, found.event, found.id, found.trace, burst)
                return await self._runner.handle(found.event, message_id=found.id, trace=found.trace)
        except TimeoutError:
            told = (
                "it is not known whether it is stored, because that is taking too long: send it again under the same id"
            )
            raise refuse(503, told, retry_seconds=5) from None

    def _received(self, receipt: Receipt, event: Any) -> Response:
        shown = self._shown(receipt, event)
        headers = {"location": shown["instances"][0]} if shown["instances"] else {}
        return json_response(shown, 202 if receipt.held or receipt.kept else 200, headers)

    def _shown(self, receipt: Receipt, event: Any) -> dict[str, Any]:
        instances = []
        for saga in self._runner.sagas:
            if saga.name in receipt.outcomes and (correlation_id := saga.correlation_id(event)) is not None:
                instances.append(f"/instances/{quoted(saga.name)}/{quoted(correlation_id)}")
        return {
            "message_id": receipt.message_id,
            "duplicate": receipt.duplicate,
            "outcomes": {saga: outcome.value for saga, outcome in receipt.outcomes.items()},
            "instances": instances,
        }

    async def _status(self, request: Request) -> Response:
        status = self._statuses.get(request.path_params["saga"])
        if status is None:
            raise refuse(404, f"there is no such saga; there is {', '.join(sorted(self._statuses))}")
        seconds = wait_seconds(", ".join(request.headers.getlist("prefer")), self._most_wait_seconds, unsaid=0.0)
        if seconds and not wants_stream(request):
            await status.wait(request.path_params["id"], timedelta(seconds=seconds))
        return await status.respond(request)

    async def _openapi(self, _: Request) -> Response:
        return json_response(described(self._types))

    async def _live(self, _: Request) -> Response:
        health = await self._runner.health()  # why not is for the log: anybody may ask this
        return json_response({"live": health.live}, 200 if health.live else 503)

    async def _ready(self, _: Request) -> Response:
        health = await self._runner.health()
        return json_response({"ready": health.ready}, 200 if health.ready else 503)


async def _refused(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = {404: "there is nothing here; see /openapi.json", 405: "this address does not take that method"}
    detail = told.get(error.status_code, error.detail)
    return Problem(error.status_code, detail, headers=dict(error.headers or {})).response()


def described(types: dict[str, type]) -> dict[str, Any]:
    """Return the OpenAPI document of a served runner."""
    envelopes = [_envelope(name, kind) for name, kind in types.items()]
    structured = envelopes[0] if len(envelopes) == 1 else {"oneOf": envelopes}
    token: list[dict[str, list[str]]] = [{"bearer": []}]
    name = {"in": "path", "required": True, "schema": {"type": "string"}}
    return {
        "openapi": "3.1.0",
        "info": {"title": "Sagas", "version": "1"},
        "components": {"securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}}},
        "paths": {
            "/events": {
                "post": {
                    "summary": "Send an event. It is stored when the answer comes; sent again, it is a duplicate.",
                    "security": token,
                    "requestBody": {
                        "required": True,
                        "content": {
                            STRUCTURED: {"schema": structured},
                            BATCH: {"schema": {"type": "array", "items": structured}},
                        },
                    },
                    "responses": _by_text(
                        {200: _told("It is stored, by this request or an earlier one.", RECEIPT_SCHEMA)}
                        | responses(202, 400, 401, 403, 409, 413, 422, 429, 503)
                    ),
                }
            },
            "/instances/{saga}/{id}": {
                "get": {
                    "summary": "Its state. `Prefer: wait=10` waits for its end; text/event-stream follows it.",
                    "security": token,
                    "parameters": [{"name": "saga", **name}, {"name": "id", **name}],
                    "responses": _by_text(
                        {200: _told("How it stands.", STATUS_SCHEMA)} | responses(401, 403, 404, 429, 503)
                    ),
                }
            },
            "/ends": {
                "get": {
                    "summary": "All instances that end, as server-sent events; continues after Last-Event-ID.",
                    "security": token,
                    "parameters": [
                        {"name": "saga", "in": "query", "schema": {"type": "array", "items": {"type": "string"}}}
                    ],
                    "responses": _by_text(
                        {200: {"description": "Events `end`.", "content": {"text/event-stream": {}}}}
                        | responses(401, 403, 404, 429, 503)
                    ),
                }
            },
        },
    }


def _envelope(name: str, kind: type) -> dict[str, Any]:
    text = {"type": "string", "minLength": 1}
    return {
        "title": name,
        "type": "object",
        "properties": {
            "specversion": {"const": "1.0"},
            "id": text,
            "source": text,
            "type": {"const": name},
            "data": shown_schema(kind),
        },
        "required": ["specversion", "id", "source", "type", "data"],
    }


def _told(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": schema}}}


def _by_text(given: dict[Any, Any]) -> dict[str, Any]:
    return {str(status): answer for status, answer in given.items()}
