"""Requests to JetStream about one stream: single messages as its leader has them, lists of subjects, its time."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import Any

import msgspec
import nats.errors
from nats.aio.msg import Msg

from ...errors import JournalFormatError, JournalUnavailableError
from ...waiting import Attempts, CountedTime, Waiting
from .connection import Connection
from .messages import Stored, head_of, header_in
from .refusals import BUSY, NO_JETSTREAM, NO_MESSAGE, NOBODY_ANSWERS, Rejected, refused
from .subjects import Subjects

MAX_LISTED = 100_000  # subjects in one answer of the server


class Raw(msgspec.Struct):
    """A message as the stream's leader has it, its header not decoded."""

    subject: str
    id: str
    sequence: int
    time: datetime
    header: str
    data: bytes


class Requests:
    """What can be asked about a stream. All of it may be repeated, and is, as long as nobody answers."""

    def __init__(self, connection: Connection, stream: str) -> None:
        self._connection = connection
        self.stream = stream
        self.subjects: Subjects = Subjects(stream)
        self._time = CountedTime(datetime.now(UTC))  # until the server has answered

    async def ask(self, action: str, **request: Any) -> dict[str, Any]:
        """Send a request that may be repeated to the API; return its answer. Raises Rejected, JournalUnavailableError."""
        attempts = Attempts(Waiting(seconds=self._connection.patience))
        while True:
            try:
                message = await self._ask_once(f"$JS.API.{action}", msgspec.json.encode(request) if request else b"")
            except TimeoutError:
                why = "no answer"  # also where the server's queue of requests was full: it drops what is in it
            except nats.errors.Error as broken:
                why = type(broken).__name__
            else:
                if isinstance(message, Rejected):
                    raise message
                if not nobody_answered(message):
                    answer: dict[str, Any] = msgspec.json.decode(message.data)
                    error = answer.get("error")
                    if error is None:
                        return answer
                    if error.get("code") not in BUSY or error.get("err_code") in NO_JETSTREAM:
                        raise Rejected(error.get("err_code", 0), error.get("description", ""))
                    why = error.get("description", "unavailable")  # no leader yet
                else:
                    why = NOBODY_ANSWERS.description
            if not await attempts.wait():
                raise self._connection.away(why)

    async def _ask_once(self, subject: str, request: bytes) -> Msg | Rejected:
        client = await self._connection.client()
        async with self._connection.asking:
            answers = self._connection.inbox.expect([subject])
            try:
                await client.publish(subject, request, reply=self._connection.inbox.reply_to(answers.keys.start))
                (message,) = await answers.future
            finally:
                answers.future.cancel()
        answered: Msg | Rejected = message
        return answered

    async def last(self, persistence_id: str) -> Stored | None:
        """Return the newest message of an id, as the stream's leader has it."""
        return _stored(await self.last_of(self.subjects.record(persistence_id)))

    async def following(self, persistence_id: str, sequence: int) -> Stored | None:
        """Return the first message of an id at that stream sequence or behind it."""
        return _stored(await self._get(seq=sequence, next_by_subj=self.subjects.record(persistence_id)))

    async def last_of(self, subject: str) -> Raw | None:
        """Return the newest message of a subject."""
        return await self._get(last_by_subj=subject)

    async def _get(self, **request: Any) -> Raw | None:
        try:
            found = (await self.ask(f"STREAM.MSG.GET.{self.stream}", **request))["message"]
        except Rejected as error:
            if error.code == NO_MESSAGE:
                return None
            raise self.refused(error) from None
        header = header_in(base64.b64decode(found["hdrs"])) if "hdrs" in found else ""
        data = base64.b64decode(found["data"]) if "data" in found else b""
        time = msgspec.convert(found["time"], datetime)
        return Raw(found["subject"], Subjects.id_of(found["subject"]), found["seq"], time, header, data)

    async def subjects_of(self, wildcard: str) -> list[str]:
        """Return the subjects that match and have messages, as the stream's leader knows them; at most MAX_LISTED."""
        state = (await self.info(subjects_filter=wildcard))["state"]
        return list(state.get("subjects") or ())

    async def purge(self, subject: str, up_to: int) -> None:
        """Remove the messages of a subject (or wildcard) up to and including a stream sequence."""
        try:
            await self.ask(f"STREAM.PURGE.{self.stream}", filter=subject, seq=up_to + 1)
        except Rejected as error:
            raise self.refused(error) from None

    async def server_time(self) -> datetime:
        """Return the time of the stream's leader."""
        return msgspec.convert((await self.info())["ts"], datetime)

    async def info(self, **request: Any) -> dict[str, Any]:
        """Return what the stream's leader says of it: config and state."""
        try:
            info = await self.ask(f"STREAM.INFO.{self.stream}", **request)
        except Rejected as error:
            raise self.refused(error) from None
        if "ts" in info:
            self._time = CountedTime(msgspec.convert(info["ts"], datetime))
        return info

    def now(self) -> datetime:
        """Return the server's time, counted on from its last answer: this machine's clock may be set."""
        return self._time.now()

    def refused(self, error: Rejected) -> JournalUnavailableError | JournalFormatError:
        """Return our error for an answer that says no; nothing was stored."""
        return refused(error, self._connection.where, self.stream)


def nobody_answered(message: Msg) -> bool:
    """Say whether a message only tells that JetStream is not there."""
    return bool(message.headers) and (message.headers or {}).get("Status") == "503"


def _stored(raw: Raw | None) -> Stored | None:
    return None if raw is None else Stored(raw.sequence, raw.id, head_of(raw.header, raw.subject), raw.data)
