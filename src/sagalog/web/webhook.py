"""An endpoint that takes events: a webhook of a provider, or the API of your own service.

request ─► bounds ─► signature ─► event ─► runner.handle ─► answer: 200, or 202 and where to ask, or a problem
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from ..definition.saga import Saga, check_taken
from ..durations import seconds_of
from ..errors import DefinitionError
from ..runner import Receipt, SagaRunner
from ..runner.arguments import check_text, check_type, check_whole
from .bodies import Posted, check_content_type, headers_of, read_body
from .decoding import UNKNOWN, EventDecoder, Events
from .functions import call
from .problems import problem_of, refuse
from .signatures import Signature
from .status import as_json, json_response, quoted
from .stopping import stopping_of

MessageId = str | Callable[[Posted], str | None]
_AUTOMATIC: Any = object()
_PREFERENCES = re.compile(r'(?:[^,"]|"(?:\\.|[^"\\])*"?)+')  # parted by commas, but not those in quotes


class AwaitOutcome:
    """Lets a webhook answer with how the saga that its event starts has ended.

    It is waited for up to `wait`; a sender may ask for less by `Prefer: wait=5` (seconds), or `Prefer: respond-async`. If
    it has not ended by then, the answer is 202, with the address `status` (`/orders/{id}`) in the header Location.
    """

    def __init__(self, saga: type[Saga[Any]], *, wait: timedelta = timedelta(seconds=10), status: str) -> None:
        if not isinstance(saga, type) or not issubclass(saga, Saga):
            raise DefinitionError("an AwaitOutcome takes the class of a saga: AwaitOutcome(OrderSaga, status=...)")
        seconds_of("wait=", wait, zero=True, most=timedelta(minutes=10))
        if not isinstance(status, str) or status.count("{id}") != 1:
            raise DefinitionError(
                "status= must be the address of the status, with {id} in place of the id: /orders/{id}"
            )
        self.saga = saga
        self.wait = wait
        self._status = status

    def __repr__(self) -> str:
        return f"<AwaitOutcome of saga {self.saga.name!r}, status at {self._status}>"

    def address(self, correlation_id: str) -> str:
        """Return where it can be asked how that instance stands."""
        return self._status.replace("{id}", quoted(correlation_id))


class Webhook:
    """Takes an event by POST; an ASGI app, for `Route("/hooks/payments", Webhook(...), methods=["POST"])`.

    `events`: the class of the event that the body is; or a mapping from names to classes, where the body names its type at
    `type_at`; or a function that makes an event, or None to ignore it. `data_at`: where in the body the event is, as in
    `data.object`; default: it is the body. `unknown`: whether a type that is not in the mapping is refused, or ignored.

    `signature`: what checks who has sent it; None: everybody may, so something in front of it checks that.
    `message_id`: the name of a header, or a function of the request, that gives the sender's id of the message; None:
    each request is a new event. Default: the id that the signature signs, otherwise the header Idempotency-Key.
    `source`: put before the ids, where several senders number their messages alike.

    Answers 200 when the event is stored, also when it was before; see docs/web.md for the others. `max_body_bytes` and
    `body_timeout` bound what is read, `handle_timeout` how long it may take to be stored.
    """

    def __init__(
        self,
        runner: SagaRunner,
        events: Events,
        *,
        signature: Signature | None,
        message_id: MessageId | None = _AUTOMATIC,
        source: str = "",
        type_at: str = "type",
        data_at: str = "",
        unknown: Literal["refuse", "ignore"] = "refuse",
        outcome: AwaitOutcome | None = None,
        max_body_bytes: int = 256 * 1024,
        body_timeout: timedelta = timedelta(seconds=10),
        handle_timeout: timedelta = timedelta(seconds=30),
    ) -> None:
        if not isinstance(runner, SagaRunner):
            raise DefinitionError(f"a Webhook takes a SagaRunner, not {type(runner).__name__}")
        if signature is not None and not isinstance(signature, Signature):
            raise DefinitionError(
                f"signature= takes e.g. StandardWebhooks(secret), or None, not {type(signature).__name__}"
            )
        signed = signature.id_header if signature is not None else ""
        if message_id is _AUTOMATIC:
            message_id = signed or "idempotency-key"
        if isinstance(message_id, str):
            message_id = message_id.lower()
            if signature is not None and message_id != signed:
                raise DefinitionError(
                    f"the header {message_id} is not signed, so anybody who has seen one request could send it again "
                    "as a new event: take the id from the "
                    "body, message_id=lambda posted: posted.json['id'], or let the sender sign "
                    "it, HmacSignature(..., id_header='idempotency-key')"
                )
        elif message_id is not None and not callable(message_id):
            raise DefinitionError(
                "message_id= must be the name of a header, a function of the request, or None, not "
                f"{type(message_id).__name__}"
            )
        for name, text in (("source=", source), ("type_at=", type_at), ("data_at=", data_at)):
            check_text(name, text, empty=name != "type_at=")
        check_whole("max_body_bytes=", max_body_bytes, least=1)
        if outcome is not None:
            check_type("outcome=", outcome, AwaitOutcome, "an AwaitOutcome(OrderSaga, status='/orders/{id}')")
        self._runner = runner
        self.decoder: EventDecoder = EventDecoder(events, type_at=type_at, data_at=data_at, unknown=unknown)
        check_taken(runner.sagas, self.decoder.types, "a Webhook")
        self._signature = signature
        self.message_id = message_id
        self._source = source
        self.outcome = outcome
        self._saga = None if outcome is None else _saga_of(runner, outcome.saga)
        self._max_body_bytes = max_body_bytes
        self._body_seconds = seconds_of("body_timeout", body_timeout)
        self._handle_seconds = seconds_of("handle_timeout", handle_timeout)

    def __repr__(self) -> str:
        return f"<Webhook, {self._signature!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self.respond(request)
        except Exception as error:
            response = problem_of(error).response()
        await response(scope, receive, send)

    async def respond(self, request: Request) -> Response:
        """Return the answer to a request. Raises ProblemError, and what `SagaRunner.handle` raises."""
        if request.method != "POST":
            raise refuse(405, "only POST", headers={"allow": "POST"})
        headers = headers_of(request, once=self.message_id if isinstance(self.message_id, str) else "")
        check_content_type(headers)
        body = await read_body(request, most_bytes=self._max_body_bytes, seconds=self._body_seconds)
        if self._signature is not None:
            self._signature.check(headers, body)
        posted = Posted(headers, body)
        event = await self.decoder.event(posted)
        if event is UNKNOWN:
            return json_response({"ignored": True, "outcomes": {}})
        receipt = await self._handle(event, await self._id_of(posted))
        if self.outcome is None or self._saga is None:
            return _received(receipt)
        correlation_id = self._saga.correlation_id(event)
        if correlation_id is None:
            return _received(receipt)
        most = self.outcome.wait.total_seconds()
        seconds = wait_seconds(headers.get("prefer", ""), most, unsaid=most)
        return await self._ended(receipt, correlation_id, seconds)

    async def _id_of(self, posted: Posted) -> str | None:
        if self.message_id is None:
            return None
        if isinstance(self.message_id, str):
            name = f"the header {self.message_id}"
            given: Any = posted.headers.get(self.message_id, "").strip()
            if len(given) > 1 and given[0] == given[-1] == '"':  # a structured field, as the draft of the header has it
                given = given[1:-1]
        else:
            name = "the id of the message"
            try:
                given = await call(self.message_id, posted)
            except (KeyError, TypeError, IndexError, AttributeError):
                given = None
        if not isinstance(given, str) or not given:
            raise refuse(
                400, f"{name} is missing: without it, a second delivery could not be recognised; nothing was stored"
            )
        return f"{self._source}:{given}" if self._source else given

    async def _handle(self, event: Any, message_id: str | None) -> Receipt:
        try:
            async with asyncio.timeout(self._handle_seconds):
                return await self._runner.handle(event, message_id=message_id)
        except TimeoutError:
            told = (
                "it is not known whether it is stored, because that is taking too long: send it again under the "
                "same message id"
            )
            raise refuse(503, told, retry_seconds=5) from None

    async def _ended(self, receipt: Receipt, correlation_id: str, seconds: float) -> Response:
        assert self.outcome is not None
        address = self.outcome.address(correlation_id)
        outcome = await self._wait(correlation_id, seconds) if seconds and not receipt.held else None
        if outcome is None:
            return json_response({**_told(receipt), "status_url": address}, 202, {"location": address})
        shown = {"status": outcome.status.value, "result": as_json(outcome.result), "ended_at": outcome.ended_at}
        return json_response({**_told(receipt), "status_url": address, "ended": shown})

    async def _wait(self, correlation_id: str, seconds: float) -> Any:
        """Return how it has ended; None if it has not within `seconds`, or the server stops meanwhile."""
        assert self.outcome is not None
        ending = asyncio.ensure_future(
            self._runner.outcome(self.outcome.saga, correlation_id, timeout=timedelta(seconds=seconds))
        )
        stopping = asyncio.ensure_future(stopping_of(self._runner).wait())
        try:
            await asyncio.wait({ending, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = ending.done()
            ending.cancel()
            stopping.cancel()
            results = await asyncio.gather(ending, stopping, return_exceptions=True)
        # The event is stored, whatever hinders the answer: who asks at the address is told.
        return results[0] if ended and not isinstance(results[0], BaseException) else None


def _saga_of(runner: SagaRunner, saga: type[Saga[Any]]) -> Saga[Any]:
    for one in runner.sagas:
        if isinstance(saga, type) and isinstance(one, saga):
            return one
    raise DefinitionError(
        "AwaitOutcome takes one of the runner's sagas: AwaitOutcome(OrderSaga, status='/orders/{id}')"
    )


def _told(receipt: Receipt) -> dict[str, Any]:
    return {
        "message_id": receipt.message_id,
        "duplicate": receipt.duplicate,
        "outcomes": {saga: outcome.value for saga, outcome in receipt.outcomes.items()},
    }


def _received(receipt: Receipt) -> Response:
    return json_response(_told(receipt), 202 if receipt.held or receipt.kept else 200)


def wait_seconds(prefer: str, most: float, *, unsaid: float) -> float:
    """Return how many seconds a sender waits, as it says by `Prefer`, and `most` at most; `unsaid` if it does not say.

    As RFC 7240 has it: of several the first one counts, and what is not understood is passed over.
    """
    seconds = unsaid
    for part in reversed(_PREFERENCES.findall(prefer)):
        name, _, value = (text.strip() for text in part.partition(";")[0].lower().partition("="))
        if name == "respond-async":
            return 0.0
        if len(value) > 1 and value[0] == value[-1] == '"':
            value = value[1:-1]
        if name == "wait" and value.isascii() and value.isdigit():
            seconds = float(value[:20])
    return min(seconds, most)
