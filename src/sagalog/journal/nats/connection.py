"""The connection to NATS: publishing with acknowledgements of our own, requests to JetStream, and what errors mean."""

from __future__ import annotations

import asyncio
import base64
import re
import ssl
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import msgspec
import nats
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from ...errors import (
    DefinitionError,
    JournalFormatError,
    JournalUnavailableError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    SagalogError,
)
from ...waiting import Attempts, Waiting
from ..owner import Owner
from .login import Login
from .messages import EXPECTED_STREAM, HEADER, Stored, head_of
from .subjects import Subjects

# 2.9 lets several writers win one compare-and-set on a replicated stream, and ignores what it does not know.
OLDEST_SERVER = (2, 10, 0)
WRONG_LAST = (10071, 10164)  # compare-and-set failed
IN_PROCESS = 10158  # the same message id is just being stored for somebody else
_NO_MESSAGE = 10037
_NO_RESPONDERS = 503
_BUSY = (_NO_RESPONDERS, 429)  # "too many requests": nothing was done
_TOO_MANY = 10167
_PASSING = (_NO_RESPONDERS, _TOO_MANY)  # certainly not stored, and another time it is
_NO_JETSTREAM = (10039, 10076)
_NO_STREAM = 10059
_DENIED = -1
FULL = (10047, 10077, 10122, 10023)
_FETCH = 500
_PAGE, _PAGE_BYTES = 256, 2**22  # of what is published before the first answers are waited for
# Of answers under way: the server cuts off whoever has 64 MB waiting, and the client drops what is over 128 MB.
_ANSWERS_BYTES = 2**25
MAX_AT_ONCE = 64
MAX_LISTED = 100_000  # subjects in one answer of the server


_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')
Message = tuple[str, bytes, dict[str, str]]  # subject, body, headers


class Raw(msgspec.Struct):
    """A message as the stream's leader has it, its header not decoded."""

    subject: str
    id: str
    sequence: int
    time: datetime
    header: str
    data: bytes


class Rejected(Exception):  # noqa: N818
    """JetStream's answer is an error: certainly not done."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(description)
        self.code = code
        self.description = description


Answers = list[dict[str, Any] | Rejected] | SagalogError
_MISSING = Rejected(0, "no answer")


class _Answers:
    """The answers that one call waits for; `future` has them when the last is there."""

    __slots__ = ("future", "keys", "messages", "missing", "subjects")

    def __init__(self, keys: range, subjects: Sequence[str], future: asyncio.Future[list[Any]]) -> None:
        self.keys = keys
        self.subjects = subjects
        self.messages: list[Any] = [None] * len(keys)
        self.missing = len(keys)
        self.future = future

    def add(self, key: int, message: Msg | Rejected) -> None:
        self.messages[key - self.keys.start] = message
        self.leave_out(1)

    def leave_out(self, count: int) -> None:
        """Wait for so many less."""
        self.missing -= count
        if self.missing <= 0 and not self.future.done():
            self.future.set_result(self.messages)


class Connection:
    """One connection, made at first use and made again by the client when it is lost."""

    def __init__(self, login: Login, stream: str, *, connect_seconds: float, timeout_seconds: float) -> None:
        self._login = login
        self.where = f"NATS {login.place}"
        self.stream = stream
        self.subjects = Subjects(stream)
        self._patience = connect_seconds
        self._timeout = timeout_seconds
        self._client: Client | None = None
        self._opening = asyncio.Lock()
        self._connected = asyncio.Event()
        self._closed = False
        self._owner: Owner | None = None
        self._answers: dict[int, _Answers] = {}
        self._deadlines: deque[tuple[float, _Answers]] = deque()  # all wait equally long: the first comes first
        self._alarm: asyncio.TimerHandle | None = None
        self._inbox = ""
        self._number = 0
        self._asking = asyncio.Semaphore(1)
        self._at_once = 1
        self._ahead = timedelta()  # the server's clock

    async def client(self) -> Client:
        """Return the client, connected. Raises JournalUnavailableError when that takes too long."""
        if self._closed:
            raise JournalUnavailableError("the journal is closed; nothing was stored")
        if self._owner is None:
            self._owner = Owner()
        self._owner.check()
        if self._client is None:
            async with self._opening:
                if self._client is None:
                    self._client = await self._connect()
        if not self._client.is_connected:
            try:
                await asyncio.wait_for(self._connected.wait(), self._patience)
            except TimeoutError:
                raise self._away("the connection is lost") from None
        return self._client

    def _away(self, why: str) -> JournalUnavailableError:
        return JournalUnavailableError(
            f"{self.where} cannot be reached ({why}): check that it runs, and the host and port. Nothing was stored."
        )

    async def _connect(self) -> Client:
        client = Client()
        options = self._login.options(client)
        refused = asyncio.Event()
        untrusted: list[str] = []

        async def failed(error: Exception) -> None:
            said = str(error).lower()
            if "permissions violation" in said:
                self._denied(said)
                return
            if isinstance(error, ssl.SSLError) or "tls" in said or "certificate" in said:
                untrusted.append(getattr(error, "verify_message", "") or getattr(error, "reason", "") or "TLS")
                refused.set()
            if "authorization" in said or "authentication" in said:
                refused.set()  # the client would go on trying

        async def lost() -> None:
            self._connected.clear()

        async def back() -> None:
            self._connected.set()

        connecting = asyncio.ensure_future(
            client.connect(
                self._login.servers,
                **options,
                connect_timeout=2,
                reconnect_time_wait=0.05,  # type: ignore[arg-type]
                max_reconnect_attempts=-1,
                allow_reconnect=True,
                ping_interval=10,
                max_outstanding_pings=2,
                error_cb=failed,
                disconnected_cb=lost,
                reconnected_cb=back,
            )
        )
        waiting = asyncio.ensure_future(refused.wait())
        await asyncio.wait([connecting, waiting], timeout=self._patience, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        try:
            if not connecting.done():
                connecting.cancel()
                raise TimeoutError
            connecting.result()
        except (nats.errors.Error, OSError, TimeoutError, ValueError) as error:
            await client.close()
            if untrusted or isinstance(error, ssl.SSLError):
                why = untrusted[0] if untrusted else type(error).__name__
                raise JournalUnavailableError(
                    f"{self.where}: the server and this client do not agree on TLS ({why}): check tls_ca, tls_cert and "
                    "tls_key, and that the server wants TLS. Nothing was stored."
                ) from None
            if refused.is_set():
                raise JournalUnavailableError(
                    f"{self.where}: user, password or token are wrong, or the credentials or nkey file: check the URL. "
                    "Nothing was stored."
                ) from None
            if isinstance(error, ValueError):
                raise DefinitionError(
                    f"the client takes no such URL, credentials or nkey file: {type(error).__name__}"
                ) from None
            raise self._away(type(error).__name__) from None
        try:
            check_version(client.connected_server_version, self.where)
        except JournalFormatError:
            await client.close()
            raise
        largest = client.max_payload * 3 // 2  # in base64, with its header
        self._at_once = max(1, min(MAX_AT_ONCE, _ANSWERS_BYTES // largest))
        self._asking = asyncio.Semaphore(self._at_once)
        self._inbox = client.new_inbox()
        await client.subscribe(f"{self._inbox}.*", cb=self._answered)
        self._connected.set()
        return client

    async def _answered(self, message: Msg) -> None:
        key = int(message.subject.rpartition(".")[2])
        answers = self._answers.pop(key, None)
        if answers is not None:
            answers.add(key, message)

    def _expect(self, subjects: Sequence[str]) -> _Answers:
        """Wait for an answer from each subject, at `_reply_to` of its key; a TimeoutError if one is missing in time."""
        loop = asyncio.get_running_loop()
        count = len(subjects)
        first = self._number + 1
        self._number += count
        answers = _Answers(range(first, first + count), subjects, loop.create_future())
        for key in answers.keys:
            self._answers[key] = answers
        self._deadlines.append((loop.time() + self._timeout, answers))
        if self._alarm is None:
            self._alarm = loop.call_later(self._timeout, self._late)
        return answers

    def _reply_to(self, key: int) -> str:
        return f"{self._inbox}.{key}"

    def _late(self) -> None:
        """End the waits whose time is up. One timer for all: most are answered long before."""
        loop = asyncio.get_running_loop()
        while self._deadlines and (self._deadlines[0][1].future.done() or self._deadlines[0][0] <= loop.time()):
            answers = self._deadlines.popleft()[1]
            self._give_up(answers)
        self._alarm = loop.call_at(self._deadlines[0][0], self._late) if self._deadlines else None

    def _denied(self, said: str) -> None:
        """Answer what waits for a subject that this user may not publish to: nobody else will."""
        found = _VIOLATION.search(said)
        if found is None:
            return
        kind, subject = found.groups()
        for key, answers in list(self._answers.items()):
            # Without the inbox no answer at all arrives.
            if kind == "subscription" or answers.subjects[key - answers.keys.start].lower() == subject:
                del self._answers[key]
                answers.add(key, Rejected(_DENIED, f"this user has no permission for {kind} to {found[2]!r}"))

    def _give_up(self, answers: _Answers) -> None:
        if answers.missing:
            for key in answers.keys:
                self._answers.pop(key, None)
            if not answers.future.done():
                answers.future.set_exception(TimeoutError())

    # Publishing.

    async def publish(self, *messages: Message) -> list[dict[str, Any] | Rejected]:
        """Publish messages as one piece; return JetStream's acknowledgement, or refusal, of each.

        Raises OutcomeUnknownError where an answer is missing, JournalUnavailableError where nothing was stored.
        """
        (answers,) = await self._publish_page([messages])
        if isinstance(answers, SagalogError):
            raise answers
        return answers

    async def publish_each(self, pieces: Sequence[Sequence[Message]]) -> list[Answers]:
        """Publish many pieces, each stored in its order; return the answers of each, or the error that is its own.

        They are sent in pages. Where one of a page is not answered or refused for the connection's sake, the pages
        behind it are not sent.
        """
        found: list[Answers] = []
        page: list[Sequence[Message]] = []
        size = 0
        broken: JournalUnavailableError | None = None
        for place, piece in enumerate(pieces, 1):
            page.append(piece)
            size += sum(len(body) for _, body, _ in piece)
            if len(page) < _PAGE and size < _PAGE_BYTES and place < len(pieces):
                continue
            some: list[Answers] = [broken] * len(page) if broken else await self._publish_page(page)
            found += some
            if broken is None and any(isinstance(one, (OutcomeUnknownError, JournalUnavailableError)) for one in some):
                broken = self._away("the part of the batch before this record has no answer")
            page, size = [], 0
        return found

    async def _publish_page(self, pieces: Sequence[Sequence[Message]]) -> list[Answers]:
        """Publish pieces, and those again that nobody has: while the stream has no leader, or too much to do."""
        attempts = Attempts(Waiting(first=0.02, seconds=self._patience))
        found: list[Answers] = [[] for _ in pieces]
        todo = list(range(len(pieces)))
        while True:
            again: list[int] = []
            why = ""
            for place, one in zip(todo, await self._publish_once([pieces[n] for n in todo]), strict=True):
                found[place] = one
                last = None if isinstance(one, SagalogError) else one[-1]
                if isinstance(last, Rejected) and last.code in _PASSING:
                    again.append(place)
                    why = last.description
            if not again:
                return found
            error: SagalogError | None = None
            if attempts.failures:
                try:
                    await self.info()  # a stream that was deleted has nobody who answers, either
                except SagalogError as told:
                    error = told
            if error is None and not await attempts.wait():
                error = self._away(why)
            if error is not None:
                for place in again:
                    found[place] = error
                return found
            todo = again

    async def _publish_once(self, pieces: Sequence[Sequence[Message]]) -> list[Answers]:
        try:
            client = await self.client()
        except SagalogError as error:
            return [error] * len(pieces)
        found: list[Answers] = [_too_large(piece, client.max_payload) or [] for piece in pieces]
        places = [place for place, one in enumerate(found) if not isinstance(one, SagalogError)]
        if not places:
            return found
        answers = self._expect([subject for place in places for subject, _, _ in pieces[place]])
        keys = iter(answers.keys)
        begun = 0
        why = f"no answer in {self._timeout:g} s"
        try:
            try:
                for place in places:
                    begun += 1
                    for subject, body, headers in pieces[place]:
                        await client.publish(subject, body, reply=self._reply_to(next(keys)), headers=headers)
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
                found[place] = OutcomeUnknownError(f"{self.where}: {why}; what was published may be stored")
            else:
                found[place] = self._away(why)
        return found

    # Requests to JetStream.

    async def ask(self, action: str, **request: Any) -> dict[str, Any]:
        """Send a request that may be repeated to the API; return its answer. Raises Rejected, JournalUnavailableError."""
        attempts = Attempts(Waiting(seconds=self._patience))
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
                if not _nobody(message):
                    answer: dict[str, Any] = msgspec.json.decode(message.data)
                    error = answer.get("error")
                    if error is None:
                        return answer
                    if error.get("code") not in _BUSY or error.get("err_code") in _NO_JETSTREAM:
                        raise Rejected(error.get("err_code", 0), error.get("description", ""))
                    why = error.get("description", "unavailable")  # no leader yet
                else:
                    why = "JetStream does not answer: is it on, and has the cluster a leader?"
            if not await attempts.wait():
                raise self._away(why)

    async def _ask_once(self, subject: str, request: bytes) -> Msg | Rejected:
        client = await self.client()
        async with self._asking:
            answers = self._expect([subject])
            try:
                await client.publish(subject, request, reply=self._reply_to(answers.keys.start))
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
            if error.code == _NO_MESSAGE:
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

    async def read(self, subjects: Sequence[str], *, after: int | None = None) -> AsyncIterator[Msg]:
        """Yield what was acknowledged before the call, and perhaps later ones: the heads of the newest message of each
        subject that matches; or with `after` every whole message behind that stream sequence. In stored order.

        What is read from may be a replica that is behind, so a mark is stored first: with the mark, all before it is there.
        """
        mark = self.subjects.mark(uuid4().hex)
        (answer,) = await self.publish((mark, b"", {EXPECTED_STREAM: self.stream}))
        if isinstance(answer, Rejected):
            raise self.refused(answer)
        try:
            async for message in self._consume([*subjects, mark], after, until=mark):
                if message.subject != mark:
                    yield message
        finally:
            await self.purge(mark, answer["seq"])

    def stored_after(self, subjects: Sequence[str], after: int) -> AsyncGenerator[Msg]:
        """Yield the messages behind that stream sequence that the replica which answers has now, in stored order."""
        return self._consume(subjects, after, until=None)

    async def _consume(self, subjects: Sequence[str], after: int | None, *, until: str | None) -> AsyncGenerator[Msg]:
        """Yield messages until none is pending and one of the subject `until` was among them."""
        client = await self.client()
        start = {"deliver_policy": "last_per_subject", "headers_only": True}
        if after is not None:
            start = {"deliver_policy": "by_start_sequence", "opt_start_seq": after + 1}
        config = {
            **start,
            **({"filter_subjects": list(subjects)} if len(subjects) > 1 else {"filter_subject": subjects[0]}),
            "ack_policy": "none",
            "replay_policy": "instant",
            "mem_storage": True,
            "num_replicas": 1,
            "inactive_threshold": 30_000_000_000,
        }
        try:
            made = await self.ask(f"CONSUMER.CREATE.{self.stream}", stream_name=self.stream, config=config)
        except Rejected as error:
            raise self.refused(error) from None
        name, pending = made["name"], made["num_pending"]
        inbox = client.new_inbox()
        subscription = await client.subscribe(inbox)
        batch = _FETCH if after is None else self._at_once  # heads alone are small
        request = msgspec.json.encode({"batch": batch, "no_wait": True})
        asked = 0
        attempts = Attempts(Waiting(most=0.1, seconds=self._patience))
        try:
            while pending or until is not None:
                if not asked:
                    await client.publish(f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.{name}", request, reply=inbox)
                    asked = batch
                message = await subscription.next_msg(timeout=self._timeout)
                if message.headers and "Status" in message.headers:
                    status = message.headers["Status"]
                    if status in ("404", "408") and until is None:  # what was pending has been removed meanwhile
                        return
                    # The mark has not reached this replica; or the consumer is not known everywhere yet (503).
                    if not await attempts.wait():
                        raise self._away(f"reading broke off: {status}")
                    asked = 0
                    continue
                asked -= 1
                pending = message.metadata.num_pending
                if message.subject == until:
                    until = None
                yield message
        except (nats.errors.Error, TimeoutError) as error:
            raise self._away(f"reading broke off: {type(error).__name__}") from None
        finally:
            if not self._closed:
                await subscription.unsubscribe()
                await client.publish(f"$JS.API.CONSUMER.DELETE.{self.stream}.{name}")

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
            self._ahead = msgspec.convert(info["ts"], datetime) - datetime.now(UTC)
        return info

    def now(self) -> datetime:
        """Return the server's time, as far as its last answer tells."""
        return datetime.now(UTC) + self._ahead

    def refused(self, error: Rejected) -> JournalUnavailableError | JournalFormatError:
        """Return our error for an answer that says no; nothing was stored."""
        if error.code == _DENIED:
            return JournalUnavailableError(
                f"{self.where}: {error.description}: give the user that permission. Nothing was stored."
            )
        if error.code == _NO_STREAM:
            return JournalFormatError(
                f"{self.where} has no stream {self.stream!r}: make it with `sagalog migrate --journal URL`, or open the "
                "journal with ?migrate=true"
            )
        if error.code in FULL:
            return JournalUnavailableError(
                f"{self.where}: the stream {self.stream!r} is full ({error.description}): give JetStream more room. "
                "Nothing was stored."
            )
        return JournalUnavailableError(f"{self.where}: {error.description} ({error.code}). Nothing was stored.")

    async def close(self) -> None:
        """Close the connection; what is not answered stays unknown."""
        self._closed = True
        if self._owner is not None:
            self._owner.check()
        if self._client is not None:
            await self._client.close()
        if self._alarm is not None:
            self._alarm.cancel()
        for _, answers in self._deadlines:
            self._give_up(answers)
        self._deadlines.clear()


def check_version(version: Any, where: str) -> None:
    """Raise JournalFormatError for a server on which compare-and-set does not hold."""
    found = (version.major, version.minor, version.patch)
    if found < OLDEST_SERVER:
        raise JournalFormatError(
            f"{where} runs nats-server {'.'.join(map(str, found))}, which lets several writers win one compare-and-set: "
            f"{'.'.join(map(str, OLDEST_SERVER))} or newer is needed"
        )


def _too_large(piece: Sequence[Message], limit: int) -> PayloadTooLargeError | None:
    for _, body, headers in piece:
        size = len(body) + sum(len(name) + len(value) + 4 for name, value in headers.items()) + 12
        if size > limit:
            return PayloadTooLargeError("a record, for this NATS server (max_payload),", size, limit)
    return None


def _nobody(message: Msg) -> bool:
    return bool(message.headers) and (message.headers or {}).get("Status") == "503"


def _acknowledgement(message: Msg | Rejected) -> dict[str, Any] | Rejected:
    if isinstance(message, Rejected):
        return message
    if _nobody(message):
        return Rejected(_NO_RESPONDERS, "JetStream does not answer: is it on, and has the cluster a leader?")
    answer: dict[str, Any] = msgspec.json.decode(message.data)
    error = answer.get("error")
    if error is not None:
        return Rejected(error.get("err_code", 0), error.get("description", ""))
    return answer


def _stored(raw: Raw | None) -> Stored | None:
    return None if raw is None else Stored(raw.sequence, raw.id, head_of(raw.header, raw.subject), raw.data)


def header_in(raw: bytes) -> str:
    """Return our header in the headers of a message as the server gives them; empty if there is none."""
    for line in raw.decode(errors="replace").split("\r\n"):
        name, _, value = line.partition(":")
        if name == HEADER:
            return value.strip()
    return ""


def header(message: Msg) -> str:
    """Return our header of a message."""
    return (message.headers or {}).get(HEADER, "")
