"""Events from a Redis stream, through a consumer group that any number of workers share.

An entry that was delivered stays pending with its consumer until it is acknowledged. Nobody is given it by itself, so
each source also claims what others have held for too long: what a dead worker left, and what its own connection lost.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

from redis.exceptions import ResponseError

from ...durations import seconds_of
from ...errors import BrokerError, DefinitionError
from ...logs import about, log
from ..arguments import LONGEST, letters_of, text_or
from ..message import KEY, Backlog, SourceMessage
from .connection import ANSWER_SECONDS, RedisConnection, parts
from .dead_letters import RedisDeadLetters, appended_at

_COUNT = 1000  # entries that are counted or claimed in one go
_RETURNED = "sagalog:given-back"  # a consumer that nobody is: what it holds is waiting to be claimed
_SILENT_CLAIMS = 10  # a consumer that holds nothing and has not been heard of for so many times claim_after is gone

# Atomic: a consumer that is deleted with entries pending takes them along, and nobody is ever given them again.
_SWEEP = """
local gone = 0
for _, consumer in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
    local about = {}
    for i = 1, #consumer, 2 do about[consumer[i]] = consumer[i + 1] end
    if about['pending'] == 0 and (about['name'] == ARGV[3] or about['idle'] > tonumber(ARGV[2])) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], about['name'])
        gone = gone + 1
    end
end
return gone
"""


class RedisSource(RedisDeadLetters):
    """A stream, read through the consumer group `group`; both are created if they do not exist, and read from the start.

    `claim_after`: how long a worker may be silent before what it holds goes to another. `dead_letters`: the stream
    for dead letters. `options`: further arguments of `redis.asyncio.Redis.from_url`. Needs Redis 6.2 or newer.

    Workers that share a group get entries in turn, so those of one key keep their order only while one worker reads the
    stream: give each partition a stream of its own where order matters. What is trimmed from a stream before it was handled
    is lost; that is logged as an error.
    """

    def __init__(
        self,
        url: str,
        *,
        stream: str,
        group: str,
        claim_after: timedelta = timedelta(seconds=30),
        dead_letters: str | None = None,
        options: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        for what, text in (("stream", stream), ("group", group)):
            if not isinstance(text, str) or not text:
                raise DefinitionError(f"{what}= must be a name, not {text!r}")
        self._claim_seconds = seconds_of("claim_after", claim_after, most=LONGEST)
        letters = letters_of(dead_letters, f"{stream}:dead:{group}", stream)
        super().__init__(RedisConnection(url, options), stream, group, letters)
        self._consumer = ""
        self._name = text_or("name", name, f"redis:{stream}/{group}")
        self._claim_at = 0.0
        self._held: set[str] = set()  # what was received here and is not done with
        self._unheard = False  # an answer is missing, and what it brought would only come up after claim_after
        self._trimmed_to = b""

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    @property
    def name(self) -> str:
        return self._name

    @property
    def keep_every(self) -> timedelta | None:
        return timedelta(seconds=self._claim_seconds / 3)

    async def open(self) -> None:
        with self._connection.answers(f"opening group {self._group} of stream {self._stream}"):
            try:
                await self._connection.client.xgroup_create(self._stream, self._group, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):  # it is there
                    raise
            if not self._consumer:
                self._consumer = f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
                self._claim_at = 0.0

    async def close(self) -> None:
        consumer, self._consumer = self._consumer, ""
        if consumer:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    if self._unheard:
                        await self._claim_by(_RETURNED, list(await self._not_heard(consumer)), self._claim_seconds)
                    await self._sweep(consumer)
            except (BrokerError, TimeoutError):
                pass  # another one does it
        self._held.clear()
        self._unheard = False
        await self._connection.close()

    async def _sweep(self, own: str = "") -> None:
        """Delete consumers that are gone and hold nothing."""
        longest = int(self._claim_seconds * _SILENT_CLAIMS * 1000)
        with self._connection.answers("removing old consumers"):
            await self._connection.client.eval(_SWEEP, 1, self._stream, self._group, longest, own)

    async def receive(self, most: int, wait: timedelta) -> Sequence[SourceMessage]:
        if not self._consumer:
            await self.open()
        unheard, self._unheard = self._unheard, True
        missed = await self._not_heard(self._consumer, most) if unheard else {}
        found = await self._claimed(missed, 0) or await self._received(most, wait)
        self._held.update(message.token for message in found)
        self._unheard = bool(missed)  # there may be more
        return found

    async def _received(self, most: int, wait: timedelta) -> list[SourceMessage]:
        loop = asyncio.get_running_loop()
        if loop.time() >= self._claim_at:
            claimed = await self._claim(most)
            if claimed:
                return claimed
            self._claim_at = loop.time() + min(1.0, self._claim_seconds / 4)
        with self._connection.answers("asking for messages"):
            found = await self._connection.client.xreadgroup(
                self._group,
                self._consumer,
                {self._stream: ">"},
                count=most,
                block=max(1, int(wait.total_seconds() * 1000)),
            )
        return [self._message(entry_id, entry, 1) for _, entries in found for entry_id, entry in entries]

    async def _not_heard(self, consumer: str, most: int = _COUNT) -> dict[bytes, int]:
        """Return what was delivered to us and never arrived, by how often it was; at most so many, the earliest first."""
        found: dict[bytes, int] = {}
        start = "-"
        with self._connection.answers("asking for what did not arrive"):
            while len(found) < most:
                page = await self._connection.client.xpending_range(
                    self._stream, self._group, start, "+", _COUNT, consumername=consumer
                )
                for one in page:
                    if one["message_id"].decode() not in self._held and len(found) < most:
                        found[one["message_id"]] = one["times_delivered"]
                if len(page) < _COUNT:
                    break
                start = f"({page[-1]['message_id'].decode()}"
        return found

    async def _claim(self, most: int) -> list[SourceMessage]:
        idle = int(self._claim_seconds * 1000)
        with self._connection.answers("claiming what others have left"):
            waiting = await self._connection.client.xpending_range(
                self._stream, self._group, "-", "+", min(most, _COUNT), idle=idle
            )
        if not waiting:
            return []
        found = await self._claimed({one["message_id"]: one["times_delivered"] for one in waiting}, idle)
        await self._sweep()
        return found

    async def _claimed(self, counts: Mapping[bytes, int], idle: int) -> list[SourceMessage]:
        """Claim those that have been idle for so many milliseconds; they have been delivered so often."""
        if not counts:
            return []
        client = self._connection.client
        with self._connection.answers("claiming what was delivered"):
            claimed = await client.xclaim(self._stream, self._group, self._consumer, idle, list(counts))
            found = [
                self._message(entry_id, entry, counts[entry_id] + 1) for entry_id, entry in claimed if entry is not None
            ]
            for entry_id in counts.keys() - {entry_id for entry_id, _ in claimed}:
                if not await client.xrange(self._stream, entry_id, entry_id):  # else another worker was faster
                    await self._lost(entry_id)
        return found

    async def _lost(self, entry_id: bytes) -> None:
        await self._connection.client.xack(self._stream, self._group, entry_id)
        log.error(
            "source %s: entry %s was trimmed from its stream before it was handled, and is lost: let the stream keep "
            "more entries",
            self._name,
            entry_id.decode(),
            extra=about(),
        )

    def _message(self, entry_id: bytes, entry: Mapping[bytes, bytes], deliveries: int) -> SourceMessage:
        body, headers = parts(entry)
        name = entry_id.decode()
        return SourceMessage(
            body,
            f"redis:{self._stream}/{name}",
            f"stream {self._stream}, entry {name}",
            headers,
            headers.get(KEY, ""),
            deliveries,
            appended_at(name),
            name,
        )

    async def accept(self, messages: Sequence[SourceMessage]) -> None:
        if messages:
            with self._connection.answers("an acknowledgement"):
                await self._connection.client.xack(self._stream, self._group, *(one.token for one in messages))
            self._held.difference_update(one.token for one in messages)

    async def keep(self, messages: Sequence[SourceMessage]) -> None:
        await self._claim_by(self._consumer, [one.token for one in messages], 0)

    async def give_back(self, messages: Sequence[SourceMessage], delay: timedelta) -> None:
        ids = [one.token for one in messages]
        await self._claim_by(_RETURNED, ids, max(0.0, self._claim_seconds - delay.total_seconds()))
        self._held.difference_update(ids)
        self._claim_at = 0.0

    async def _claim_by(self, consumer: str, ids: list[Any], idle_seconds: float) -> None:
        """Let a consumer hold these, as if it had been silent for so long, without counting a delivery."""
        if ids and consumer:
            with self._connection.answers("keeping or giving back messages"):
                await self._connection.client.xclaim(
                    self._stream, self._group, consumer, 0, ids, idle=int(idle_seconds * 1000), justid=True
                )

    async def backlog(self) -> Backlog:
        client = self._connection.client
        with self._connection.answers("asking about the group"):
            groups = await client.xinfo_groups(self._stream)
            group = next((one for one in groups if one["name"] == self._group.encode()), None)
            if group is None:
                return Backlog()
            last = group["last-delivered-id"]
            await self._look_for_trimmed(last)
            lag = group.get("lag")  # Redis 7
            first = await client.xrange(self._stream, b"(" + last, "+", _COUNT if lag is None else 1)
            pending = (await client.xpending(self._stream, self._group))["min"]
            oldest = pending or (first[0][0] if first else None)
        return Backlog(
            group["pending"] + (len(first) if lag is None else lag),
            None if oldest is None else appended_at(oldest.decode()),
        )

    async def _look_for_trimmed(self, last: bytes) -> None:
        """Tell of entries that were trimmed before this group was given them; Redis 7 knows the newest of these."""
        stream = await self._connection.client.xinfo_stream(self._stream)
        trimmed = stream.get("max-deleted-entry-id") or b"0-0"
        if _number(trimmed) > max(_number(last), _number(self._trimmed_to or b"0-0")):
            self._trimmed_to = trimmed
            log.error(
                "source %s: entries up to %s were deleted from its stream before they were delivered: let the stream "
                "keep more entries",
                self._name,
                trimmed.decode(),
                extra=about(),
            )


def _number(entry_id: bytes) -> tuple[int, int]:
    ms, _, n = entry_id.partition(b"-")
    return int(ms), int(n or 0)
