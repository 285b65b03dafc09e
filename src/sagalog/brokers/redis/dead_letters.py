"""The dead letters of a Redis source: a stream beside its own, one for each group."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import datetime

from ..message import KEY, POSITION, REASON, DeadLetter, SourceMessage, back_headers, letter_headers, moment_of
from .connection import RedisConnection, fields, parts

_PAGE = 100
_MOST_ARGUMENTS = 4000  # that a script can pass on

# Atomic: rejected again because the answer was lost, it is one letter still.
_REJECT = """
if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[2], ARGV[2], 1) == 0 then return 0 end
redis.call('XADD', KEYS[2], '*', unpack(ARGV, 3))
return redis.call('XACK', KEYS[1], ARGV[1], ARGV[2])
"""


class RedisDeadLetters:
    """What a source does with messages that nobody can take."""

    def __init__(self, connection: RedisConnection, stream: str, group: str, letters: str) -> None:
        self._connection = connection
        self._stream = stream
        self._group = group
        self._letters = letters

    async def reject(self, message: SourceMessage, reason: str) -> None:
        entry = fields(message.body, letter_headers(message, reason))
        given = [part for field in entry.items() for part in field]
        with self._connection.answers("a dead letter"):
            if len(given) > _MOST_ARGUMENTS:
                await self._connection.client.xadd(self._letters, entry)
                await self._connection.client.xack(self._stream, self._group, message.token)
            else:
                await self._connection.client.eval(
                    _REJECT, 2, self._stream, self._letters, self._group, message.token, *given
                )

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        after = "-"
        while True:
            with self._connection.answers("reading dead letters"):
                page = await self._connection.client.xrange(self._letters, after, "+", _PAGE)
            for entry_id, entry in page:
                body, headers = parts(entry)
                name = entry_id.decode()
                yield DeadLetter(
                    name,
                    headers.get(REASON, ""),
                    headers.get(POSITION, ""),
                    body,
                    headers,
                    headers.get(KEY, ""),
                    appended_at(name),
                )
                after = f"({name}"
            if len(page) < _PAGE:
                return

    async def put_back(
        self, letter: DeadLetter, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        kept = back_headers(letter.headers if headers is None else headers, letter.headers)
        with self._connection.answers("putting a dead letter back"):
            await self._connection.client.xadd(self._stream, fields(letter.body if body is None else body, kept))
        await self.drop(letter)

    async def drop(self, letter: DeadLetter) -> None:
        with self._connection.answers("dropping a dead letter"):
            await self._connection.client.xdel(self._letters, letter.id)


def appended_at(entry_id: str) -> datetime | None:
    """Return when an entry was appended, as its id says; None where whoever appended it has made another id."""
    return moment_of(int(entry_id.partition("-")[0]) / 1000)
