"""What stands in headers and keys as bytes that are no text comes back from the dead letters as it was sent."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from sagalog.brokers.headers import bytes_of, text_of
from sagalog.brokers.kafka.connection import decoded, encoded
from sagalog.brokers.rabbitmq.connection import headers_of, properties_of
from sagalog.brokers.redis import RedisSource
from sagalog.brokers.redis.connection import fields, parts
from sagalog.cli.dead_letters import _fields

from ..servers.redis import RedisServer

NO_TEXT = b"\x08\x96\x01\xff\x80"


@given(st.binary())
def test_any_bytes_but_surrogates_come_back_as_they_were(value: bytes) -> None:
    assert bytes_of(text_of(value)) == value or b"\xed" in value


@given(st.text())
def test_any_text_comes_back_as_it_was(text: str) -> None:
    assert text_of(bytes_of(text)) == text


def test_each_broker_keeps_them() -> None:
    text = text_of(NO_TEXT)
    assert parts(fields(b"", {"payload": text})) == (b"", {"payload": text})
    assert fields(b"", {"payload": text})[b"payload"] == NO_TEXT
    assert encoded(decoded([("payload", NO_TEXT)])) == [("payload", NO_TEXT)]
    properties = properties_of({"payload": text}, "id")
    assert (properties.headers or {})["payload"] == NO_TEXT
    assert headers_of(properties) == {"payload": text}


async def test_a_dead_letter_is_put_back_as_it_was_sent(one_redis: RedisServer) -> None:
    source = RedisSource(one_redis.url, stream="no-text", group="g")
    async with Redis.from_url(one_redis.url) as client:
        await client.xadd("no-text", {"payload": NO_TEXT})
        await source.open()
        (message,) = await source.receive(1, timedelta(seconds=10))
        await source.reject(message, "cannot be read")
        (letter,) = [one async for one in source.dead_letters()]
        assert _fields(letter)["headers"] == {"payload": "\x08\\udc96\x01\\udcff\\udc80"}
        await source.put_back(letter)
        (again,) = await source.receive(1, timedelta(seconds=10))
        await source.accept([again])
        entries = await client.xrange("no-text")
        assert [entry[b"payload"] for _, entry in entries] == [NO_TEXT, NO_TEXT]
    await source.close()


@pytest.mark.parametrize("key", [b"", b"A-1", NO_TEXT])
def test_a_key_leads_to_the_same_partition_again(key: bytes) -> None:
    assert bytes_of(text_of(key)) == key
