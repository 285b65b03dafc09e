"""Publishing into the stream: in pages, each message acknowledged, what nobody has sent again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import nats.errors
from nats.aio.msg import Msg

from ...errors import JournalUnavailableError, OutcomeUnknownError, PayloadTooLargeError, SagalogError
from ...waiting import Attempts, Waiting
from .connection import Connection
from .refusals import NOBODY_ANSWERS, PASSING, Rejected
from .requests import Requests, nobody_answered

_PAGE, _PAGE_BYTES = 256, 2**22  # of what is published before the first answers are waited for
Message = tuple[str, bytes, dict[str, str]]  # subject, body, headers
Acknowledgements = list[dict[str, Any] | Rejected] | SagalogError
_MISSING = Rejected(0, "no answer")


class Publisher:
    """Publishes messages, and tells of each whether it is stored, refused, or nobody knows."""

    def __init__(self, connection: Connection, requests: Requests) -> None:
        self._connection = connection
        self._requests = requests

    async def publish(self, *messages: Message) -> list[dict[str, Any] | Rejected]:
        """Publish messages as one piece; return JetStream's acknowledgement, or refusal, of each.

        Raises OutcomeUnknownError where an answer is missing, JournalUnavailableError where nothing was stored.
        """
        (answers,) = await self._publish_page([messages])
        if isinstance(answers, SagalogError):
            raise answers
        return answers

    async def publish_each(self, pieces: Sequence[Sequence[Message]]) -> list[Acknowledgements]:
        """Publish many pieces, each stored in its order; return the answers of each, or the error that is its own.

        They are sent in pages. Where one of a page is not answered or refused for the connection's sake, the pages
        behind it are not sent.
        """
        found: list[Acknowledgements] = []
        page: list[Sequence[Message]] = []
        size = 0
        broken: JournalUnavailableError | None = None
        for place, piece in enumerate(pieces, 1):
            page.append(piece)
            size += sum(len(body) for _, body, _ in piece)
            if len(page) < _PAGE and size < _PAGE_BYTES and place < len(pieces):
                continue
            some: list[Acknowledgements] = [broken] * len(page) if broken else await self._publish_page(page)
            found += some
            if broken is None and any(isinstance(one, (OutcomeUnknownError, JournalUnavailableError)) for one in some):
                broken = self._connection.away("the part of the batch before this record has no answer")
            page, size = [], 0
        return found

    async def _publish_page(self, pieces: Sequence[Sequence[Message]]) -> list[Acknowledgements]:
        """Publish pieces, and those again that nobody has: while the stream has no leader, or too much to do."""
        attempts = Attempts(Waiting(first=0.02, seconds=self._connection.patience))
        found: list[Acknowledgements] = [[] for _ in pieces]
        todo = list(range(len(pieces)))
        while True:
            again: list[int] = []
            why = ""
            for place, one in zip(todo, await self._publish_once([pieces[n] for n in todo]), strict=True):
                found[place] = one
                last = None if isinstance(one, SagalogError) else one[-1]
                if isinstance(last, Rejected) and last.code in PASSING:
                    again.append(place)
                    why = last.description
            if not again:
                return found
            error: SagalogError | None = None
            if attempts.failures:
                try:
                    await self._requests.info()  # a stream that was deleted has nobody who answers, either
                except SagalogError as told:
                    error = told
            if error is None and not await attempts.wait():
                error = self._connection.away(why)
            if error is not None:
                for place in again:
                    found[place] = error
                return found
            todo = again

    async def _publish_once(self, pieces: Sequence[Sequence[Message]]) -> list[Acknowledgements]:
        try:
            client = await self._connection.client()
        except SagalogError as error:
            return [error] * len(pieces)
        found: list[Acknowledgements] = [_too_large(piece, client.max_payload) or [] for piece in pieces]
        places = [place for place, one in enumerate(found) if not isinstance(one, SagalogError)]
        if not places:
            return found
        inbox = self._connection.inbox
        answers = inbox.expect([subject for place in places for subject, _, _ in pieces[place]])
        keys = iter(answers.keys)
        begun = 0
        why = f"no answer in {self._connection.timeout:g} s"
        try:
            try:
                for place in places:
                    begun += 1
                    for subject, body, headers in pieces[place]:
                        await client.publish(subject, body, reply=inbox.reply_to(next(keys)), headers=headers)
            except nats.errors.Error as error:
                why = f"publishing broke off ({type(error).__name__})"
                answers.leave_out(sum(len(pieces[place]) for place in places[begun - 1 :]))
            await answers.future
        except TimeoutError:
            pass
        finally:
            answers.future.cancel()  # one that is answered stays so
        position = 0
        for number, place in enumerate(places):
            some = answers.messages[position : position + len(pieces[place])]
            position += len(some)
            if some[-1] is not None:
                found[place] = [_acknowledgement(one) if one is not None else _MISSING for one in some]
            elif number < begun:
                found[place] = OutcomeUnknownError(f"{self._connection.where}: {why}; what was published may be stored")
            else:
                found[place] = self._connection.away(why)
        return found


def _too_large(piece: Sequence[Message], limit: int) -> PayloadTooLargeError | None:
    for _, body, headers in piece:
        size = len(body) + sum(len(name) + len(value) + 4 for name, value in headers.items()) + 12
        if size > limit:
            return PayloadTooLargeError("a record, for this NATS server (max_payload),", size, limit)
    return None


def _acknowledgement(message: Msg | Rejected) -> dict[str, Any] | Rejected:
    if isinstance(message, Rejected):
        return message
    if nobody_answered(message):
        return NOBODY_ANSWERS
    answer: dict[str, Any] = msgspec.json.decode(message.data)
    error = answer.get("error")
    if error is not None:
        return Rejected(error.get("err_code", 0), error.get("description", ""))
    return answer
