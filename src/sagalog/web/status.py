"""How an instance stands and how it ended, over HTTP: as JSON, or as a stream of server-sent events until it has ended."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from typing import Any, Generic, TypeVar
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from ..definition import codec
from ..definition.saga import Saga
from ..durations import seconds_of
from ..errors import DefinitionError, NoInstanceError, OutcomeGoneError, OutcomeTimeoutError, SagalogError
from ..runner import SagaInstance, SagaOutcome, SagaRunner
from ..runner.arguments import check_whole
from ..text import given
from .functions import call
from .problems import problem_of, refuse
from .stopping import stopping_of

S = TypeVar("S")
Allow = Callable[[Request, str], bool | Awaitable[bool]]

_HEARTBEAT_SECONDS = 15.0
_STREAM = "text/event-stream"
_JSON = ("application/json", "application/*", "*/*")
_WEIGHT = re.compile(r"[01](\.[0-9]{0,3})?", re.ASCII)


def wants_stream(request: Request) -> bool:
    """Say whether a request accepts a stream of events, and does not like JSON better (RFC 9110, 12.5.1)."""
    accepted = dict.fromkeys((_STREAM, *_JSON), -1.0)
    for one in ",".join(request.headers.getlist("accept")).lower().split(","):
        kind, *parameters = (part.strip() for part in one.split(";"))
        if kind in accepted:
            weight = next((part[2:] for part in parameters if part.startswith("q=")), "1")
            accepted[kind] = float(weight) if _WEIGHT.fullmatch(weight) else 0.0
    json = next((accepted[kind] for kind in _JSON if accepted[kind] >= 0), 0.0)  # the closest name counts
    return accepted[_STREAM] > 0 and accepted[_STREAM] >= json


class StatusEndpoint(Generic[S]):
    """Answers with the state of the instance in the path; an ASGI app: `Route("/orders/{id:path}", StatusEndpoint(...))`.

    Mounted, or alone, it takes what follows its own path as the id. A request that accepts `text/event-stream` gets an
    event `status` now and whenever the instance has changed, and an event `end` when it has ended. A stream looks every
    `look_every`; `max_streams` may be open at once, each for `stream_timeout`, after which a browser asks anew.

    `allow(request, id)` says who may ask; who may not is told that there is no such instance. Without it everybody may
    who knows the id. Told are status, incarnation, version and times; with `result=True` what it completed with, and what
    `state` makes of its state, if that is given.
    """

    def __init__(
        self,
        runner: SagaRunner,
        saga: type[Saga[S]],
        *,
        allow: Allow | None = None,
        result: bool = False,
        state: Callable[[S], Any] | None = None,
        look_every: timedelta = timedelta(seconds=1),
        max_streams: int = 1000,
        stream_timeout: timedelta = timedelta(minutes=10),
    ) -> None:
        if (
            not isinstance(runner, SagaRunner)
            or not isinstance(saga, type)
            or not any(isinstance(one, saga) for one in runner.sagas)
        ):
            raise DefinitionError("a StatusEndpoint takes a saga of its runner: StatusEndpoint(runner, OrderSaga)")
        for what, function in (("allow", allow), ("state", state)):
            if function is not None and not callable(function):
                raise DefinitionError(f"{what}= of a StatusEndpoint takes a function, not {given(function)}")
        if not isinstance(result, bool):
            raise DefinitionError(f"result= of a StatusEndpoint must be True or False, not {given(result)}")
        check_whole("max_streams=", max_streams, least=0)
        self._runner = runner
        self._saga = saga
        self._allow = allow
        self._result = result
        self._state = state
        self._look_seconds = seconds_of("look_every", look_every)
        self._max_streams = max_streams
        self._stream_seconds = seconds_of("stream_timeout", stream_timeout)
        self._streams = 0

    def __repr__(self) -> str:
        return f"<StatusEndpoint of saga {self._saga.name!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self.respond(request)
        except Exception as error:
            response = problem_of(error, asked=True).response()
        await response(scope, receive, send)

    async def respond(self, request: Request) -> Response:
        """Return the answer to a request. Raises ProblemError, and what `SagaRunner.instance` raises."""
        if request.method not in ("GET", "HEAD"):
            raise refuse(405, "only GET", headers={"allow": "GET, HEAD"})
        correlation_id = id_in(request)
        if self._allow is not None and not await call(self._allow, request, correlation_id):
            raise NoInstanceError(self._saga.name, correlation_id, "", NO_SUCH)
        instance = await self._instance(correlation_id)
        if request.method == "HEAD" or not wants_stream(request):
            return json_response(self.shown(instance))
        told = request.headers.get("last-event-id", "")
        if instance.outcome is not None and told == f"{instance.incarnation}/end":
            return Response(status_code=204)  # a browser asks again after the last event, unless it is told this
        if self._streams >= self._max_streams:
            raise refuse(503, "too many streams are open", retry_seconds=60)
        return StreamingResponse(
            self._events(correlation_id, instance),
            media_type="text/event-stream",
            headers={"cache-control": "no-store", "x-accel-buffering": "no"},
        )

    def shown(self, instance: SagaInstance[S]) -> dict[str, Any]:
        """Return what is told of an instance, as JSON values."""
        outcome = instance.outcome
        shown: dict[str, Any] = {
            "saga": instance.saga,
            "id": instance.correlation_id,
            "status": None if instance.status is None else instance.status.value,
            "ended": outcome is not None,
            "parked": bool(instance.parked),
            "incarnation": instance.incarnation,
            "version": instance.version,
            "started_at": instance.started_at,
            "updated_at": instance.updated_at,
        }
        if outcome is not None:
            shown |= self._told_of(outcome)
        if self._state is not None:
            shown["state"] = as_json(self._state(instance.state))
        return shown

    async def _instance(self, correlation_id: str) -> SagaInstance[S]:
        try:
            return await self._runner.instance(self._saga, correlation_id)
        except NoInstanceError as error:
            raise NoInstanceError(error.saga, error.correlation_id, "", NO_SUCH) from None

    async def _events(self, correlation_id: str, instance: SagaInstance[S]) -> AsyncIterator[bytes]:
        stopping = stopping_of(self._runner)
        loop = asyncio.get_running_loop()
        until = loop.time() + self._stream_seconds
        spoken = loop.time()
        self._streams += 1
        try:
            yield b"retry: 2000\n\n"
            version = (0, 0)
            while not stopping.is_set() and loop.time() < until:
                if (instance.incarnation, instance.version) != version:
                    version, spoken = (instance.incarnation, instance.version), loop.time()
                    ended = instance.outcome is not None
                    number = "end" if ended else str(instance.version)
                    yield event_text("status", self.shown(instance), f"{instance.incarnation}/{number}")
                    if ended:
                        yield event_text("end", self.shown(instance), f"{instance.incarnation}/end")
                        return
                elif loop.time() - spoken > _HEARTBEAT_SECONDS:
                    spoken = loop.time()
                    yield b": still here\n\n"
                life = instance.incarnation
                await self._ended(correlation_id, life, stopping)
                try:
                    instance = await self._instance(correlation_id)
                    if (
                        instance.incarnation > life > 0
                        and (end := await self._end_of(correlation_id, life)) is not None
                    ):
                        yield event_text("end", self._shown_end(end), f"{life}/end")
                        return  # a caller that asks again is told of the next life
                except SagalogError as error:
                    problem = problem_of(error, asked=True)
                    yield event_text("problem", {"status": problem.status, "detail": problem.detail})
                    return  # it is asked again
        finally:
            self._streams -= 1

    async def _end_of(self, correlation_id: str, life: int) -> SagaOutcome[S] | None:
        """Return how a life ended that another one has followed; None where that is not kept."""
        try:
            patience = timedelta(seconds=self._look_seconds)
            return await self._runner.outcome(self._saga, correlation_id, incarnation=life, timeout=patience)
        except (OutcomeGoneError, NoInstanceError, OutcomeTimeoutError):
            return None

    def _shown_end(self, outcome: SagaOutcome[S]) -> dict[str, Any]:
        shown = {
            "saga": outcome.saga,
            "id": outcome.correlation_id,
            "status": outcome.status.value,
            "ended": True,
            "parked": False,
            "incarnation": outcome.incarnation,
        }
        return shown | self._told_of(outcome)

    def _told_of(self, outcome: SagaOutcome[S]) -> dict[str, Any]:
        told: dict[str, Any] = {"ended_at": outcome.ended_at, "finished": outcome.finished}
        if self._result:
            told["result"] = as_json(outcome.result)
        return told

    async def wait(self, correlation_id: str, patience: timedelta) -> None:
        """Return when an instance has ended, after `patience`, or when the server stops. Raises nothing of ours."""
        stopping = asyncio.ensure_future(stopping_of(self._runner).wait())
        ended = asyncio.ensure_future(self._runner.outcome(self._saga, correlation_id, timeout=patience))
        try:
            await asyncio.wait({stopping, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            ended.cancel()
            await asyncio.gather(stopping, ended, return_exceptions=True)

    async def _ended(self, correlation_id: str, incarnation: int, stopping: asyncio.Event) -> None:
        """Return when it has ended, when it is to be looked at again, or when the server stops."""
        waits = {
            asyncio.ensure_future(stopping.wait()),
            asyncio.ensure_future(
                self._runner.outcome(
                    self._saga,
                    correlation_id,
                    incarnation=max(1, incarnation),
                    timeout=timedelta(seconds=self._look_seconds),
                )
            ),
        }
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            for result in await asyncio.gather(*waits, return_exceptions=True):
                if isinstance(result, SagalogError) and not isinstance(result, OutcomeTimeoutError):
                    await asyncio.sleep(min(1.0, self._look_seconds))  # the next look tells what it is


NO_SUCH = "there is no such instance"


def id_in(request: Request) -> str:
    """Return the correlation id that a request names: by its path parameter `id`, or by the rest of its path."""
    given = request.scope.get("path_params") or {}
    if "id" in given:
        found = str(given["id"])
    else:
        root = request.scope.get("root_path", "")
        found = str(request.scope["path"].removeprefix(root).removeprefix("/"))
        if not request.scope.get("raw_path", b"/").endswith(b"/"):
            found = found.removesuffix("/")  # Litestar adds one
    if not found:
        raise refuse(404, "the address names no instance")
    return found


def json_response(shown: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return JSON that nobody keeps."""
    more = {"cache-control": "no-store", **(headers or {})}
    return Response(msgspec.json.encode(shown), status, more, "application/json")


def as_json(value: Any) -> Any:
    """Return a value of a message type, or a plain one, as JSON."""
    return msgspec.Raw(codec.encode(value))


def event_text(name: str, data: Any, event_id: str = "") -> bytes:
    """Return a server-sent event."""
    number = f"id: {event_id}\n" if event_id else ""
    return f"event: {name}\n{number}data: ".encode() + msgspec.json.encode(data) + b"\n\n"


def quoted(correlation_id: str) -> str:
    """Return an id as a part of an address."""
    return quote(correlation_id, safe="")
