"""The dead letters of a Kafka source: a compacted topic beside its own, one for each group.

The key of a dead letter is its message's id. So a message that is rejected twice is one letter, and a record without a
body takes the letter away; compaction removes both some time.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError, for_code

from ...errors import BrokerUnavailableError
from ..headers import text_of
from ..message import KEY, POSITION, REASON, DeadLetter, SourceMessage, back_headers, letter_headers, moment_of
from ..place import Place
from .connection import ANSWER_SECONDS, KafkaServers, decoded
from .sink import KafkaProducer

_TOPIC = "sagalog-topic"
_MOST_BYTES = "max.message.bytes"
_NO_LIMIT = 2**31 - 1
_MORE_BYTES = 1 << 20  # that a dead letter may take beside its message: reason, position, a second header for the key


class KafkaDeadLetters(ABC):
    """What a source does with messages that nobody can take."""

    def __init__(self, servers: KafkaServers, topics: list[str], letters: str) -> None:
        self._servers = servers
        self._topics = topics
        self._letters = letters
        # What the source's topic has taken its dead letters take, too: the client's own limit may be lower.
        self._producer = KafkaProducer(servers, {"max_request_size": _NO_LIMIT})
        self._place = Place()

    @abstractmethod
    async def accept(self, messages: Sequence[SourceMessage]) -> None:
        """Say that they are done with; the source does."""

    async def reject(self, message: SourceMessage, reason: str) -> None:
        await self._place.made(self._make_topic)
        ours = {**letter_headers(message, reason), _TOPIC: message.token.topic}
        if message.key:
            ours[KEY] = message.key
        try:
            await self._producer.send(self._letters, message.body, message.id, ours)
        except BrokerUnavailableError:
            self._place.lost()  # perhaps somebody has deleted it
            raise
        await self.accept([message])

    async def _make_topic(self) -> None:
        with self._servers.answers(f"making topic {self._letters}"):
            admin = AIOKafkaAdminClient(**self._servers.options)
            try:
                await admin.start()
                if self._letters in await admin.list_topics():  # whoever may write there need not be allowed to make it
                    return
                (source,) = await admin.describe_topics([self._topics[0]])
                copies = max((len(one["replicas"]) for one in source["partitions"]), default=1)
                largest = await self._largest(admin)
                topic = NewTopic(self._letters, 1, copies, topic_configs={"cleanup.policy": "compact", **largest})
                answer = await admin.create_topics([topic])
                for one in answer.topic_errors:
                    error = for_code(one[1])
                    if one[1] and error is not TopicAlreadyExistsError:
                        raise error
            except TopicAlreadyExistsError:
                pass
            finally:
                await admin.close()

    async def _largest(self, admin: AIOKafkaAdminClient) -> dict[str, str]:
        """Return the setting by which the dead letters take whatever the topics take; none where that is not told."""
        found = 0
        asked = [ConfigResource(ConfigResourceType.TOPIC, one) for one in self._topics]
        try:
            answers = await admin.describe_configs(asked)
        except KafkaError:  # an old broker, or one that lets us not ask: it takes what it takes by default
            return {}
        for answer in answers:
            for resource in answer.resources:
                settings = {setting[0]: setting[1] for setting in resource[4]}
                found = max(found, int(settings.get(_MOST_BYTES) or 0))
        return {_MOST_BYTES: str(found + _MORE_BYTES)} if found else {}

    async def dead_letters(self) -> AsyncIterator[DeadLetter]:
        await self._place.made(self._make_topic)
        with self._servers.answers("reading dead letters"):
            letters = await self._read()
        for letter in letters:
            yield letter

    async def _read(self) -> list[DeadLetter]:
        consumer = AIOKafkaConsumer(**self._servers.options, enable_auto_commit=False)
        found: dict[str, DeadLetter] = {}
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                await consumer.start()
                partition = TopicPartition(self._letters, 0)
                consumer.assign([partition])
                end = (await consumer.end_offsets([partition]))[partition]
                await consumer.seek_to_beginning(partition)
            while await consumer.position(partition) < end:
                for one in (await consumer.getmany(partition, timeout_ms=1000)).get(partition, ()):
                    letter = _letter(one)
                    found.pop(letter.id, None)
                    if one.value is not None and letter.headers.get(_TOPIC):
                        found[letter.id] = letter
        finally:
            await consumer.stop()
        return list(found.values())

    async def put_back(
        self, letter: DeadLetter, *, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        kept = back_headers(letter.headers if headers is None else headers, letter.headers)
        for name in (_TOPIC, KEY):
            kept.pop(name, None)
        await self._producer.send(letter.headers[_TOPIC], letter.body if body is None else body, letter.key, kept)
        await self.drop(letter)

    async def drop(self, letter: DeadLetter) -> None:
        await self._producer.send(self._letters, None, letter.id, {})


def _letter(one: Any) -> DeadLetter:
    headers = decoded(one.headers)
    return DeadLetter(
        text_of(one.key or b""),
        headers.get(REASON, ""),
        headers.get(POSITION, ""),
        one.value or b"",
        headers,
        headers.get(KEY, ""),
        moment_of(one.timestamp / 1000),
    )
