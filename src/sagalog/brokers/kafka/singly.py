"""Records one by one, past those that the client cannot decode.

    asked again ─► asked again ─► without its content, known by its offset

The client drops what it has fetched with such a record, and fetches it again, for ever; the records of all other partitions
wait meanwhile. It decodes a batch from its beginning, so what is behind such a record in its batch cannot be read either.
What was damaged on its way is right when it is fetched again.
"""

from __future__ import annotations

import asyncio
import gzip
import struct
import zlib
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import CorruptRecordException

from ...errors import BrokerError, BrokerRefusedError
from ...logs import about, log
from .connection import KafkaServers

_FETCHES = 3  # of a record, before it is passed over
_PAUSE_SECONDS = 0.1  # before the second one; twice that before the third
_COMPLAIN_SECONDS = 60.0

# What the client raises for what it got. Anything else may go away, such as a lack of memory, and passes over nothing.
CANNOT_BE_DECODED: tuple[type[Exception], ...] = (
    CorruptRecordException,
    ValueError,  # a name that is no UTF-8
    IndexError,
    struct.error,
    gzip.BadGzipFile,
    zlib.error,
    EOFError,
)
try:
    from cramjam import DecompressionError
except ImportError:  # then the client says that the codec is missing
    pass
else:
    CANNOT_BE_DECODED += (DecompressionError,)


class Read(NamedTuple):
    """A record; or why there is none at that offset, named without what it contains."""

    partition: TopicPartition
    offset: int
    record: Any
    why: str = ""


class Singly:
    """Reads the partitions of a consumer in turn, so that none of them waits for another."""

    def __init__(self, servers: KafkaServers) -> None:
        self._servers = servers
        self._passed_over: dict[TopicPartition, int] = {}  # the last offset that was; more of its batch may follow
        self.refused: bool = False  # the last time, by one partition at least: its codec is missing, say
        self._complain_at = 0.0
        self._first = 0  # whose turn it is to be read first

    async def read(self, consumer: AIOKafkaConsumer, most: int, seconds: float) -> list[Read]:
        """Return what there is, after `seconds` at most if that is nothing. Raises BrokerError if nothing can be read."""
        found: list[Read] = []
        failed: BrokerError | None = None
        assigned = sorted(consumer.assignment())
        self._first = (self._first + 1) % max(1, len(assigned))
        for partition in (*assigned[self._first :], *assigned[: self._first]):
            share = min(most - len(found), max(1, most // len(assigned)))
            if share == 0:
                break
            what = f"asking for messages of topic {partition.topic}, partition {partition.partition}"
            try:
                with self._servers.answers(what):
                    await self._read(consumer, partition, len(found) + share, seconds / len(assigned), found)
            except BrokerError as error:
                failed = failed or error
        self.refused = isinstance(failed, BrokerRefusedError)
        if failed is not None:
            if not found:
                raise failed
            self._complain(failed)
        return found

    async def _read(
        self, consumer: AIOKafkaConsumer, partition: TopicPartition, most: int, seconds: float, found: list[Read]
    ) -> None:
        fetches = 1
        while len(found) < most:
            try:
                got = await consumer.getmany(partition, timeout_ms=int(seconds * 1000), max_records=1)
            except CANNOT_BE_DECODED as error:
                offset = await consumer.position(partition)
                if fetches < _FETCHES and self._passed_over.get(partition) != offset - 1:
                    consumer.seek(partition, offset)
                    await asyncio.sleep(_PAUSE_SECONDS * fetches)
                    fetches += 1
                    continue
                consumer.seek(partition, offset + 1)
                self._passed_over[partition] = offset
                found.append(Read(partition, offset, None, type(error).__name__))
            else:
                if not got:
                    return
                found += [Read(partition, one.offset, one) for one in got[partition]]
            fetches = 1

    def _complain(self, failed: BrokerError) -> None:
        """Log what one partition has while others go on: nobody else hears of it."""
        now = asyncio.get_running_loop().time()
        if now >= self._complain_at:
            self._complain_at = now + _COMPLAIN_SECONDS
            log.error("%s; the other partitions go on", failed, extra=about())
