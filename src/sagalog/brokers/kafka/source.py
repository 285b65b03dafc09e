"""Events from Kafka topics, through a consumer group. Offsets are committed only up to the first message that is not done.

A client that commits by itself, or commits the newest of what it handled, passes over a message that failed; nobody sees
that one again.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import IllegalStateError, KafkaError, UnsupportedCodecError

from ...durations import seconds_of
from ...errors import BrokerRefusedError, BrokerUnavailableError, DefinitionError
from ...logs import about, log
from ...waiting import is_set_within
from ..arguments import LONGEST, letters_of, text_or
from ..headers import text_of
from ..message import UNDECODABLE, Backlog, SourceMessage, moment_of
from .connection import ANSWER_SECONDS, KafkaServers, decoded
from .dead_letters import KafkaDeadLetters
from .offsets import Offsets
from .singly import CANNOT_BE_DECODED, Read, Singly

_TOPIC = re.compile(r"[A-Za-z0-9._-]{1,249}")
_SINGLY_SECONDS = 60.0  # so long records are read one by one: a broker may be slow to give the one that cannot be read


class _Token(NamedTuple):
    topic: str
    partition: TopicPartition
    offset: int
    offsets: Offsets  # of the time when it was received: after a rebalance there are others


class KafkaSource(KafkaDeadLetters):
    """One topic or several, read by the consumer group `group` from the beginning, or from where the group has got to.

    Order is kept for each key, also when workers come and go: a partition belongs to one worker at a time.

    `session_timeout`: how long a worker may be silent before its partitions go to others. `revoke_timeout`: how long a
    rebalance waits for what is under way; what is not done by then is handled by the next worker, too, and known there
    by its id. `dead_letters`: the topic for dead letters, made when first needed. `options`: further arguments of
    `aiokafka.AIOKafkaConsumer`, such as `ssl_context` and `sasl_mechanism`, also used for the producer of dead letters.
    """

    def __init__(
        self,
        servers: str,
        *,
        topic: str | Sequence[str],
        group: str,
        session_timeout: timedelta = timedelta(seconds=10),
        revoke_timeout: timedelta = timedelta(seconds=5),
        dead_letters: str | None = None,
        options: Mapping[str, Any] | None = None,
        name: str | None = None,
    ) -> None:
        topics = [topic] if isinstance(topic, str) else list(topic) if isinstance(topic, Iterable) else []
        if not topics or not all(isinstance(one, str) and one for one in topics):
            raise DefinitionError("topic= must be the name of a topic, or a list of names")
        if not isinstance(group, str) or not group:
            raise DefinitionError(f"group= must be a name, not {group!r}")
        letters = letters_of(dead_letters, f"{topics[0]}.dead-letters.{group}", *topics)
        if not _TOPIC.fullmatch(letters):
            raise DefinitionError(
                f"{letters!r} cannot be the name of a topic: give one for dead letters as dead_letters="
            )
        super().__init__(KafkaServers(servers, options), topics, letters)
        self._group = group
        self._session_seconds = seconds_of("session_timeout", session_timeout, most=LONGEST)
        self._revoke_seconds = seconds_of("revoke_timeout", revoke_timeout, most=LONGEST)
        self._name = text_or("name", name, f"kafka:{','.join(topics)}/{group}")
        self._consumer: AIOKafkaConsumer | None = None
        self._offsets: dict[TopicPartition, Offsets] = {}
        self._changed = asyncio.Event()
        self._receiving = False
        self._singly = Singly(self._servers)
        self._singly_until = 0.0  # by the loop's clock: a record could not be read, so they are asked for one by one
        self._assigned = asyncio.Event()  # some time after it has joined its group, a consumer gets partitions
        self._told: set[TopicPartition] = set()
        self._beyond: set[TopicPartition] = set()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name}>"

    @property
    def name(self) -> str:
        return self._name

    @property
    def keep_every(self) -> timedelta | None:
        # A consumer that does not poll for max_poll_interval_ms (five minutes) loses its partitions.
        return timedelta(seconds=30)

    async def open(self) -> None:
        if self._consumer is not None:
            return
        settings = {
            **self._servers.options,
            "group_id": self._group,
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "session_timeout_ms": int(self._session_seconds * 1000),
            "heartbeat_interval_ms": int(self._session_seconds * 300),
            "rebalance_timeout_ms": int((self._revoke_seconds + self._session_seconds) * 1000),
        }
        with self._servers.takes_options():
            consumer = AIOKafkaConsumer(**settings)
        consumer.subscribe(self._topics, listener=_Listener(self))
        with self._servers.answers(f"joining group {self._group}"):
            try:
                async with asyncio.timeout(ANSWER_SECONDS + self._revoke_seconds):
                    await consumer.start()
            except BaseException:
                await consumer.stop()
                raise
        self._consumer = consumer

    async def close(self) -> None:
        await self._leave()
        await self._producer.close()

    async def _leave(self) -> None:
        consumer, self._consumer = self._consumer, None
        self._assigned.clear()
        self._offsets.clear()
        if consumer is not None:
            with self._servers.answers(f"leaving group {self._group}"):
                await consumer.stop()

    async def receive(self, most: int, wait: timedelta) -> Sequence[SourceMessage]:
        if self._consumer is None:
            await self.open()
        assert self._consumer is not None
        self._receiving = True
        singly = asyncio.get_running_loop().time() < self._singly_until
        receive = self._receive_singly if singly else self._receive_together
        try:
            return await receive(self._consumer, most, wait)
        except Exception as error:
            # The client does not mend itself after all of its errors; and it takes for received what it has given out, so
            # after a fault of ours it would go on behind that. But a partition that was asked alone, and whose codec is
            # missing, stands where it was: it must not take the others from the group again and again.
            if not (singly and isinstance(error, BrokerRefusedError)):
                await self._leave()
            raise
        finally:
            self._receiving = False

    async def _receive_together(self, consumer: AIOKafkaConsumer, most: int, wait: timedelta) -> list[SourceMessage]:
        with self._servers.answers("asking for messages"):
            try:
                found = await consumer.getmany(timeout_ms=int(wait.total_seconds() * 1000), max_records=most)
            except UnsupportedCodecError:
                self._go_on_singly()
                raise
            except CANNOT_BE_DECODED as error:
                self._go_on_singly()
                raise BrokerUnavailableError(
                    f"{self._servers.where} gave records that cannot be decoded ({type(error).__name__}): they are "
                    "asked for again, one by one"
                ) from None
        return [self._message(partition, one) for partition, some in found.items() for one in some]

    async def _receive_singly(self, consumer: AIOKafkaConsumer, most: int, wait: timedelta) -> list[SourceMessage]:
        await is_set_within(self._assigned, wait.total_seconds())
        try:
            read = await self._singly.read(consumer, most, wait.total_seconds())
        finally:
            if self._singly.refused:  # it will be so for a while
                self._go_on_singly()
        return [self._single(one) for one in read]

    def _go_on_singly(self) -> None:
        """Read records one by one for a while, so that other partitions do not wait for one that cannot be read."""
        self._singly_until = asyncio.get_running_loop().time() + _SINGLY_SECONDS

    def _single(self, one: Read) -> SourceMessage:
        if one.record is not None:
            return self._message(one.partition, one.record)
        offsets = self._offsets.setdefault(one.partition, Offsets())
        offsets.given(one.offset)
        topic, number = one.partition.topic, one.partition.partition
        return SourceMessage(
            b"",
            f"kafka:{topic}/{number}/{one.offset}@undecodable",
            f"topic {topic}, partition {number}, offset {one.offset}",
            {UNDECODABLE: f"{one.why} in it, or in front of it in its batch"},
            token=_Token(topic, one.partition, one.offset, offsets),
        )

    def _message(self, partition: TopicPartition, one: Any) -> SourceMessage:
        offsets = self._offsets.setdefault(partition, Offsets())
        offsets.given(one.offset)
        where = f"{one.topic}/{one.partition}/{one.offset}"
        return SourceMessage(
            one.value or b"",
            # The time too: the offsets of a topic that was made anew begin at 0 again.
            f"kafka:{where}@{one.timestamp}",
            f"topic {one.topic}, partition {one.partition}, offset {one.offset}",
            decoded(one.headers),
            text_of(one.key or b""),
            1,
            moment_of(one.timestamp / 1000),
            _Token(one.topic, partition, one.offset, offsets),
        )

    async def accept(self, messages: Sequence[SourceMessage]) -> None:
        for message in messages:
            message.token.offsets.done(message.token.offset)
        self._changed.set()
        await self._commit(self._offsets)

    async def _commit(self, partitions: Iterable[TopicPartition]) -> None:
        consumer = self._consumer
        moved = {}
        for partition in list(partitions):
            offsets = self._offsets.get(partition)
            if offsets is not None and offsets.to_commit != offsets.committed:
                moved[partition] = offsets.to_commit
        if consumer is None or not moved:
            return
        with self._servers.answers("a commit"):
            try:
                await consumer.commit(moved)
            except IllegalStateError:  # a partition went to another worker, which reads from the last commit on
                return
        for partition, offset in moved.items():
            if partition in self._offsets:
                self._offsets[partition].committed = offset

    async def keep(self, messages: Sequence[SourceMessage]) -> None:
        """Ask for nothing, so that the client sees that we are alive."""
        consumer = self._consumer
        if consumer is None or self._receiving:
            return
        with self._servers.answers("staying in the group"):
            assigned = consumer.assignment()
            consumer.pause(*assigned)
            try:
                await consumer.getmany(timeout_ms=0)
            finally:
                still = consumer.assignment()
                consumer.resume(*(one for one in assigned if one in still))

    async def give_back(self, messages: Sequence[SourceMessage], delay: timedelta) -> None:
        """Read again from the first of these on. Those behind it come again, too: a partition is read in order."""
        first: dict[TopicPartition, int] = {}
        for message in messages:
            token = message.token
            if self._offsets.get(token.partition) is token.offsets:
                first[token.partition] = min(token.offset, first.get(token.partition, token.offset))
        for partition, offset in first.items():
            if self._consumer is not None:
                with self._servers.answers("giving back messages"):
                    try:
                        self._consumer.seek(partition, offset)
                    except IllegalStateError:
                        continue
                self._offsets[partition].back_to(offset)

    async def backlog(self) -> Backlog:
        consumer = self._consumer
        if consumer is None:
            return Backlog()
        with self._servers.answers("asking about the partitions"):
            self._look_for_topics(consumer)
            assigned = list(consumer.assignment())
            begins = await consumer.beginning_offsets(assigned)
            # What grows is asked for in this order: a partition that others write to never seems shorter than it is.
            come_to = {one: await consumer.committed(one) for one in assigned}
            ours = {one: self._offsets[one].to_commit or 0 for one in assigned if one in self._offsets}
            ends = await consumer.end_offsets(assigned)
            waiting = 0
            for partition in assigned:
                done, begin, end = come_to[partition], begins[partition], ends[partition]
                self._look_for_deleted(partition, done, begin)
                self._look_for_another(partition, max(done or 0, ours.get(partition, 0)), end)
                waiting += max(0, end - max(done or 0, begin))
        return Backlog(waiting)

    def _look_for_another(self, partition: TopicPartition, done: int, end: int) -> None:
        """Kafka refuses to read behind the end, and the client begins anew, as we tell it. Another broker may give nothing.

        The end is no reason to begin anew by ourselves: a broker that has just started may not know it.
        """
        if done > end and partition not in self._beyond:
            self._beyond.add(partition)
            log.error(
                "source %s: topic %s, partition %d ends at offset %d, but group %s is at %d: if the topic was created "
                "again, or has lost messages, and new ones are not read, give the source another group",
                self._name,
                partition.topic,
                partition.partition,
                end,
                self._group,
                done,
                extra=about(),
            )

    def _look_for_topics(self, consumer: AIOKafkaConsumer) -> None:
        """A consumer of a topic that is not there waits for it without a word."""
        missing = [one for one in self._topics if not consumer.partitions_for_topic(one)]
        if missing:
            raise BrokerUnavailableError(f"{self._servers.where} has no topic {', '.join(missing)}: create it")

    def _look_for_deleted(self, partition: TopicPartition, done: int | None, begin: int) -> None:
        if done is not None and done < begin and partition not in self._told:
            self._told.add(partition)
            log.error(
                "source %s: topic %s, partition %d: offsets %d to %d were deleted before they were handled: raise "
                "the topic's retention",
                self._name,
                partition.topic,
                partition.partition,
                done,
                begin - 1,
                extra=about(),
            )

    def assigned(self, partitions: Iterable[TopicPartition]) -> None:
        """Read these partitions from now on."""
        if list(partitions):
            self._assigned.set()

    async def revoked(self, partitions: Iterable[TopicPartition]) -> None:
        """Finish what is under way of these partitions, for a while, and commit it: they go to another worker."""
        self._assigned.clear()
        theirs = list(partitions)
        try:
            async with asyncio.timeout(self._revoke_seconds):
                while any(self._offsets[one].left for one in theirs if one in self._offsets):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            pass
        try:
            await self._commit(theirs)
        except (BrokerUnavailableError, KafkaError):
            pass  # they come again, and are known
        for partition in theirs:
            self._offsets.pop(partition, None)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]
    def __init__(self, source: KafkaSource) -> None:
        self._source = source

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        await self._source.revoked(revoked)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Where they begin is what was committed."""
        self._source.assigned(assigned)
