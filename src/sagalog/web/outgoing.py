"""Commands out as signed webhooks: each posted as a CloudEvent under the command's id, until the receiver has it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from ..brokers.headers import encoded
from ..brokers.publication import Publication
from ..durations import seconds_of
from ..errors import CodecError, CommandRefused, DefinitionError, MissingExtraError, SagalogError
from ..runner import CommandContext
from ..text import given
from .answered import AnsweredOddlyError, AnswerReader
from .signatures import HmacSignature, Secrets, StandardWebhooks

_REFUSED = (409, 410, 422)  # "no, and do not ask again"


class WebhookFailedError(SagalogError):
    """A receiver did not accept a command. It is sent again, under the same id. `status`: what it answered; 0: nothing."""

    def __init__(self, url: str, status: int, why: str) -> None:
        super().__init__(url, status, why)
        self.url = url
        self.status = status
        self.why = why

    def __str__(self) -> str:
        return f"the webhook at {self.url} {self.why}; the command is sent again under the same id"


class SignedWebhook:
    """A command handler that posts commands to a URL: `dispatch={ShipOrder: SignedWebhook("https://...", secret)}`.

    The body is a CloudEvent in structured mode: `id` is the command id, `type` the stored name of the command's class. It
    is signed as standardwebhooks.com says (`webhook-id`, `webhook-timestamp`, `webhook-signature`), or by `signature`. In
    headers the id is percent-encoded where it holds other than printable ASCII.

    2xx: the command is accepted; a CloudEvent in the answer, in structured or binary mode, is the event that it leads
    to, of a class in `replies`, of at most 1 MiB; one that cannot be read parks the instance. 409, 410 and 422: it is
    refused for ever. All else, and no whole answer within `timeout`: it is sent again, as the runner's `dispatch_retry`
    says. Redirects are not followed.
    `client`: gives an httpx.AsyncClient of yours, e.g. `lambda context: context.resources`; without it each command has a
    connection of its own.
    """

    def __init__(
        self,
        url: str,
        secrets: Secrets | None = None,
        *,
        signature: HmacSignature | None = None,
        replies: Mapping[str, type] | None = None,
        timeout: timedelta = timedelta(seconds=10),
        client: Callable[[CommandContext], Any] | None = None,
    ) -> None:
        try:
            import httpx
        except ModuleNotFoundError as error:
            raise MissingExtraError("a SignedWebhook needs the package httpx: pip install 'sagalog[serve]'") from error
        try:
            found = httpx.URL(url)
            known = found.scheme in ("http", "https") and found.host and (found.port is None or 0 < found.port < 65536)
        except (TypeError, UnicodeError, httpx.InvalidURL):
            known = False
        if not known:
            raise DefinitionError("a SignedWebhook needs an address that begins with https://")
        if (secrets is None) == (signature is None):
            raise DefinitionError("a SignedWebhook needs a secret, or signature=")
        self._signature = signature if signature is not None else StandardWebhooks(secrets or "")
        self._url = url
        self._shown = str(found.copy_with(username=None, password=None, query=None))
        if replies is not None and not isinstance(replies, Mapping):
            raise DefinitionError(f"replies= takes a mapping from types to classes, not {given(replies)}")
        if client is not None and not callable(client):
            raise DefinitionError(f"client= takes a function that returns an httpx.AsyncClient, not {given(client)}")
        self._answers = AnswerReader(replies or {})
        self._seconds = seconds_of("timeout=", timeout)
        self._client = client
        self._publication = Publication(_NoSink(), mode="structured")
        self._httpx = httpx

    def __repr__(self) -> str:
        return f"<SignedWebhook to {self._shown}>"

    async def __call__(self, command: Any, context: CommandContext) -> Any:
        """Send one command; return the event that it was answered with, if any.

        Raises CommandRefused, WebhookFailedError; CodecError for an answered event that cannot be read.
        """
        message = self._publication.message(command, context, "")
        command_id = encoded(context.id)  # a correlation id may be any text
        headers = {**message.headers, **self._signature.headers(command_id, message.body)}
        headers["idempotency-key"] = command_id
        headers["accept-encoding"] = "identity"
        try:
            if self._client is not None:
                return await self._post(self._client(context), message.body, headers)
            async with self._httpx.AsyncClient() as client:
                return await self._post(client, message.body, headers)
        except self._httpx.HTTPError as error:
            raise WebhookFailedError(self._shown, 0, f"did not answer ({type(error).__name__})") from None

    async def _post(self, client: Any, body: bytes, headers: dict[str, str]) -> Any:
        try:
            async with (
                asyncio.timeout(self._seconds),  # httpx's own is for each read: an answer may come byte by byte
                client.stream(
                    "POST", self._url, content=body, headers=headers, timeout=self._seconds, follow_redirects=False
                ) as answer,
            ):
                status = answer.status_code
                if status in _REFUSED:
                    raise CommandRefused(f"the webhook answered {status}")
                if not 200 <= status < 300:
                    raise WebhookFailedError(self._shown, status, f"answered {status}")
                return await self._answers.read(answer)
        except AnsweredOddlyError as error:  # parks: the same answer would come again
            raise CodecError(
                f"the webhook at {self._shown} took the command, and answered with an event that cannot be read: {error}"
            ) from None
        except TimeoutError:
            raise WebhookFailedError(self._shown, 0, f"did not answer within {self._seconds:g} s") from None


class _NoSink:
    """Stands for the sink of a publication of which only the messages are used."""

    name = "webhook"

    async def send(self, message: Any) -> None: ...

    async def close(self) -> None: ...
