"""What every source and every sink promises: see `sagalog.brokers.Source` and `Sink`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import pytest
import pytest_asyncio

from ..brokers import KeepsDeadLetters, Sink, SinkMessage, Source, SourceMessage
from .capability import Capability, Capable, may

TEXTS = ["plain", "with space", "50%", "é🚢", 'quo"te', "a::b/c,d;e=f", "line\nbreak", "\x00"]
# What only some brokers have.
_BROKER = frozenset({Capability.DELIVERIES, Capability.GIVES_BACK, Capability.ONCE, Capability.STAYING_IDS})


@pytest.mark.asyncio
class BrokerConformance(Capable):
    """Subclass it with `source` and `sink`, and name the capabilities that the broker has.

    `place` names what is read and written: a topic, a stream, a queue that is there, empty, and of this test alone;
    override that fixture. `source` returns a source of one group at that place, which is not opened yet, `sink` a sink
    whose messages it gets. What a source holds that is not closed properly comes to another within `takeover`.
    What has not come within `quiet` is taken not to come.
    """

    capabilities: Collection[Capability] = _BROKER
    takeover: timedelta = timedelta(seconds=30)
    quiet: timedelta = timedelta(seconds=1)

    def source(self, place: Any) -> Source:
        """Return a source, each time a new one of the same group."""
        raise NotImplementedError(f"{type(self).__name__}.source(place) must return the source to be tested")

    def sink(self, place: Any) -> Sink:
        """Return a sink whose messages the source gets."""
        raise NotImplementedError(f"{type(self).__name__}.sink(place) must return the sink to be tested")

    async def leave(self, source: Source) -> None:
        """Make a source disappear as if its process was killed: it says nothing to the broker.

        By default it is closed, which gives nothing back by itself.
        """
        await source.close()

    @pytest_asyncio.fixture
    async def sent(self, place: Any) -> AsyncIterator[Sink]:
        sink = self.sink(place)
        yield sink
        await sink.close()

    @asynccontextmanager
    async def opened(self, place: Any) -> AsyncIterator[Source]:
        """Give an open source."""
        source = self.source(place)
        await source.open()
        try:
            yield source
        finally:
            await source.close()

    async def received(
        self, source: Source, count: int, wait: timedelta = timedelta(seconds=10)
    ) -> list[SourceMessage]:
        """Return so many messages, or fewer when time is up."""
        found: list[SourceMessage] = []
        end = time.monotonic() + wait.total_seconds()
        while len(found) < count and time.monotonic() < end:
            found += await source.receive(count - len(found), timedelta(seconds=0.2))
            await source.keep(found)
        return found

    async def test_it_is_a_source_and_a_sink(self, place: Any) -> None:
        source, sink = self.source(place), self.sink(place)
        assert isinstance(source, Source)
        assert isinstance(source, KeepsDeadLetters)
        assert isinstance(sink, Sink)
        assert source.name
        assert sink.name
        await source.close()
        await sink.close()

    async def test_what_is_sent_arrives_in_order_with_body_headers_and_key(self, place: Any, sent: Sink) -> None:
        for n in range(20):
            headers = {"ce-type": "Placed", "traceparent": "00-1", "ce-subject": TEXTS[n % len(TEXTS)]}
            await sent.send(SinkMessage(bytes([n, 0, 255]), f"id-{n}", headers, "the key"))
        async with self.opened(place) as source:
            found = await self.received(source, 20)
            await source.accept(found)
        assert [one.body for one in found] == [bytes([n, 0, 255]) for n in range(20)]
        assert [one.headers["ce-subject"] for one in found] == [TEXTS[n % len(TEXTS)] for n in range(20)]
        assert {(one.key, one.headers["ce-type"], one.headers["traceparent"]) for one in found} == {
            ("the key", "Placed", "00-1")
        }
        assert all(one.position and one.published_at is not None for one in found)

    async def test_ids_and_keys_may_be_long(self, place: Any, sent: Sink) -> None:
        long = [f"{letter * 1000}{n}" for n, letter in enumerate(("x", "é", "/ "))]
        for one in long:
            await sent.send(SinkMessage(b"x", one, {"ce-id": one}, one))
        async with self.opened(place) as source:
            found = await self.received(source, len(long))
            await source.accept(found)
        assert [one.key for one in found] == long
        assert [one.headers["ce-id"] for one in found] == long
        assert len({one.id for one in found}) == len(long)

    async def test_no_more_arrive_at_once_than_asked_for(self, place: Any, sent: Sink) -> None:
        for n in range(10):
            await sent.send(SinkMessage(b"x", f"id-{n}"))
        async with self.opened(place) as source:
            assert len(await self.received(source, 1)) == 1
            some = list(await source.receive(3, timedelta(seconds=2.0)))
            assert 1 <= len(some) <= 3

    async def test_an_empty_source_answers_within_the_time_given(self, place: Any) -> None:
        async with self.opened(place) as source:
            begun = time.monotonic()
            assert list(await source.receive(10, timedelta(seconds=0.3))) == []
            assert time.monotonic() - begun < 5

    async def test_what_was_accepted_does_not_come_again(self, place: Any, sent: Sink) -> None:
        for n in range(5):
            await sent.send(SinkMessage(b"%d" % n, f"id-{n}"))
        async with self.opened(place) as source:
            found = await self.received(source, 5)
            await source.accept(found)
            await source.accept(found)  # again has no effect
        await sent.send(SinkMessage(b"last", "last"))
        async with self.opened(place) as source:
            found = await self.received(source, 2, self.quiet)
            await source.accept(found)
        assert [one.body for one in found] == [b"last"]

    async def test_what_was_not_accepted_comes_again_under_the_same_id(self, place: Any, sent: Sink) -> None:
        for n in range(5):
            await sent.send(SinkMessage(b"%d" % n, f"id-{n}"))
        first = self.source(place)
        await first.open()
        before = {one.body: one for one in await self.received(first, 5)}
        await self.leave(first)
        async with self.opened(place) as source:
            after = await self.received(source, 5, self.takeover)
            await source.accept(after)
        assert {one.body for one in after} == set(before)
        assert [one.id for one in after] == [before[one.body].id for one in after]
        assert [one.position for one in after] == [before[one.body].position for one in after]

    async def test_what_is_given_back_at_the_end_comes_to_the_next_before_what_follows_it(
        self, place: Any, sent: Sink
    ) -> None:
        for n in range(10):
            await sent.send(SinkMessage(b"%d" % n, f"id-{n}", {}, "the key"))
        first = self.source(place)
        await first.open()
        found = await self.received(first, 5)
        await first.accept(found[:2])
        await first.give_back(found[2:], timedelta())
        await first.close()
        async with self.opened(place) as source:
            again = await self.received(source, 8, self.takeover)
            await source.accept(again)
        assert [int(one.body) for one in again] == list(range(2, 10))

    async def test_accepting_a_later_message_does_not_accept_an_earlier_one(self, place: Any, sent: Sink) -> None:
        for n in range(3):
            await sent.send(SinkMessage(b"%d" % n, f"id-{n}"))
        first = self.source(place)
        await first.open()
        found = await self.received(first, 3)
        await first.accept([one for one in found if one.body != b"0"])
        await self.leave(first)
        async with self.opened(place) as source:
            again = await self.received(source, 1, self.takeover)
            await source.accept(again)
        assert again[0].body == b"0"

    @may(Capability.STAYING_IDS)
    async def test_each_message_has_an_id_of_its_own(self, place: Any, sent: Sink) -> None:
        for n in range(10):
            await sent.send(SinkMessage(b"the same", f"id-{n}"))
        async with self.opened(place) as source:
            found = await self.received(source, 10)
            await source.accept(found)
        assert len({one.id for one in found} - {""}) == 10

    @may(Capability.DELIVERIES)
    async def test_deliveries_are_counted(self, place: Any, sent: Sink) -> None:
        await sent.send(SinkMessage(b"x", "x"))
        async with self.opened(place) as source:
            for count in (1, 2, 3):
                (found,) = await self.received(source, 1)
                assert found.deliveries == count
                await source.give_back([found], timedelta(seconds=0.0))

    @may(Capability.GIVES_BACK)
    async def test_what_is_given_back_comes_again_after_the_delay(self, place: Any, sent: Sink) -> None:
        await sent.send(SinkMessage(b"x", "x"))
        async with self.opened(place) as source:
            (found,) = await self.received(source, 1)
            given = time.monotonic()
            await source.give_back([found], timedelta(seconds=0.5))
            (again,) = await self.received(source, 1)
            assert time.monotonic() - given > 0.4
            assert (again.id, again.body) == (found.id, b"x")
            await source.accept([again])

    async def test_what_is_kept_goes_to_nobody_else(self, place: Any, sent: Sink) -> None:
        await sent.send(SinkMessage(b"x", "x"))
        async with self.opened(place) as source:
            found = await self.received(source, 1)
            for _ in range(3):
                await source.keep(found)
                assert list(await source.receive(5, timedelta(seconds=0.2))) == []
            await source.accept(found)

    async def test_a_rejected_message_is_a_dead_letter_with_its_reason_and_does_not_come_again(
        self, place: Any, sent: Sink
    ) -> None:
        for n in range(3):
            await sent.send(SinkMessage(b"%d" % n, f"id-{n}", {"ce-type": "Placed"}, "k"))
        async with self.opened(place) as source:
            assert isinstance(source, KeepsDeadLetters)
            assert [one async for one in source.dead_letters()] == []
            found = await self.received(source, 3)
            await source.reject(found[1], "nobody can read it: é")
            await source.accept([found[0], found[2]])
            letters = [one async for one in source.dead_letters()]
        assert [(one.body, one.reason, one.key) for one in letters] == [(b"1", "nobody can read it: é", "k")]
        assert letters[0].headers["ce-type"] == "Placed"
        assert letters[0].position == found[1].position
        async with self.opened(place) as source:
            assert await self.received(source, 1, self.quiet) == []

    async def test_a_dead_letter_that_is_put_back_comes_again_as_mended_under_its_id(
        self, place: Any, sent: Sink
    ) -> None:
        await sent.send(SinkMessage(b"broken", "x", {"ce-type": "Placed"}, "k"))
        async with self.opened(place) as source:
            assert isinstance(source, KeepsDeadLetters)
            (found,) = await self.received(source, 1)
            await source.reject(found, "broken")
            (letter,) = [one async for one in source.dead_letters()]
            await source.put_back(letter, body=b"mended")
            assert [one async for one in source.dead_letters()] == []
            (again,) = await self.received(source, 1)
            assert (again.body, again.headers["ce-type"], again.key) == (b"mended", "Placed", "k")
            assert "sagalog-reason" not in again.headers
            if found.id:
                assert again.headers["sagalog-message-id"] == found.id
            await source.reject(again, "still")
            (letter,) = [one async for one in source.dead_letters()]
            if found.id:
                assert letter.headers["sagalog-message-id"] == found.id
            await source.drop(letter)
            await source.drop(letter)
            assert [one async for one in source.dead_letters()] == []

    async def test_two_sources_share_the_work(self, place: Any, sent: Sink) -> None:
        async with self.opened(place) as one, self.opened(place) as other:
            await self._both(one, other)
            for n in range(30):
                await sent.send(SinkMessage(b"%d" % n, f"id-{n}", {}, f"key-{n}"))
            bodies: list[bytes] = []
            end = time.monotonic() + self.takeover.total_seconds()
            while len(set(bodies)) < 30 and time.monotonic() < end:
                for source in (one, other):
                    found = await source.receive(5, timedelta(seconds=0.1))
                    await source.accept(found)
                    bodies += [message.body for message in found]
        assert {int(body) for body in bodies} == set(range(30))

    async def _both(self, *sources: Source) -> None:
        """Let a group settle, where it has to."""
        for source in sources:
            await source.receive(1, timedelta(seconds=0.1))

    @may(Capability.ONCE)
    async def test_what_is_sent_twice_is_there_once(self, place: Any, sent: Sink) -> None:
        for _ in range(2):
            await sent.send(SinkMessage(b"x", "the same"))
        await sent.send(SinkMessage(b"y", "another"))
        async with self.opened(place) as source:
            found = await self.received(source, 3, self.quiet)
            await source.accept(found)
        assert [one.body for one in found] == [b"x", b"y"]

    async def test_many_may_be_sent_at_once(self, place: Any, sent: Sink) -> None:
        await asyncio.gather(*(sent.send(SinkMessage(b"%d" % n, f"id-{n}")) for n in range(200)))
        async with self.opened(place) as source:
            found = await self.received(source, 200)
            await source.accept(found)
        assert {int(one.body) for one in found} == set(range(200))

    async def test_the_backlog_counts_what_is_not_accepted(self, place: Any, sent: Sink) -> None:
        for n in range(7):
            await sent.send(SinkMessage(b"x", f"id-{n}"))
        async with self.opened(place) as source:
            found = await self.received(source, 3)
            await source.accept(found[:2])
            await _until(lambda: self._waiting(source, 5))
            await source.accept([*found, *await self.received(source, 4)])
            await _until(lambda: self._waiting(source, 0))

    @staticmethod
    async def _waiting(source: Source, count: int) -> bool:
        return (await source.backlog()).messages == count


async def _until(check: Callable[[], Any], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not await check():
        assert time.monotonic() < end, "it did not come true in time"
        await asyncio.sleep(0.02)
