"""A NATS journal in use: full streams, lost answers, entries without a record, damaged messages."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import pytest

from sagalog import (
    DefinitionError,
    InvalidEventError,
    Journal,
    JournalFormatError,
    JournalUnavailableError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    SequenceOutOfOrder,
    open_journal,
)
from sagalog.conformance.records import record, replay, write
from sagalog.journal import migrate_journal
from sagalog.journal.nats import NatsJournal
from sagalog.journal.nats.publishing import Publisher
from sagalog.journal.nats.refusals import Rejected
from sagalog.journal.nats.subjects import Subjects, token, untoken

from ..servers.nats import Nats
from ..servers.proxy import Proxy
from .named import stream_of


async def test_a_full_stream_refuses_and_goes_on_when_there_is_room(url: str, js: Any) -> None:
    await migrate_journal(url)
    config = (await js.stream_info(stream_of(url))).config
    config.max_bytes = 20_000
    await js.update_stream(config)
    async with open_journal(url) as journal:
        with pytest.raises(JournalUnavailableError, match="is full .*give JetStream more room"):
            for number in range(1, 100):
                await journal.write_messages([record("p", number, b"x" * 1000, tags=("t",))])
        highest = await journal.highest_sequence_nr("p")
        assert 5 < highest < 20
        # What is there can be listed, and so be looked at, exported and purged.
        assert await journal.ids_by_prefix("p", limit=9) == ["p"]
        assert await journal.ids_by_prefix("q", limit=9) == []
        tagged = [one async for one in journal.events_by_tag("t", 0)]
        assert [one.sequence_nr for _, one in tagged] == list(range(1, highest + 1))
        assert [one async for one in journal.events_by_tag("t", tagged[-1][0])] == []
        assert [(one.name, one.level) for one in await journal.examine() if one.level == "fail"] == [
            ("writable", "fail")
        ]
        config.max_bytes = -1
        await js.update_stream(config)
        await write(journal, "p", highest + 1)
        assert await replay(journal, "p") == list(range(1, highest + 2))


async def test_a_record_over_the_servers_limit_is_refused_and_the_connection_stays(url: str) -> None:
    async with open_journal(f"{url}&migrate=true") as journal:
        with pytest.raises(PayloadTooLargeError, match="for this NATS server"):
            await journal.write_messages([record("p", 1, b"x" * 2_097_152)])
        await write(journal, "p", 1)


async def test_writing_several_ids_all_or_nothing_is_refused(url: str) -> None:
    async with open_journal(f"{url}&migrate=true") as journal:
        with pytest.raises(DefinitionError, match="atomically; nothing was stored"):
            await journal.write_messages([record("a", 1), record("b", 1)], atomic=True)
        assert await journal.highest_sequence_nr("a") == 0


@pytest.mark.parametrize(("history", "kept"), [("all", [1, 2, 3, 4, 5]), ("0", [5]), ("2", [3, 4, 5])])
async def test_history_is_a_setting_of_the_stream(url: str, history: str, kept: list[int]) -> None:
    async with open_journal(f"{url}&migrate=true&history={history}") as journal:
        await write(journal, "p", 1, 2, 3, 4, 5)
        assert await replay(journal, "p") == kept


async def test_an_answer_that_is_lost_is_an_unknown_outcome_and_reading_resolves_it(server: Nats, url: str) -> None:
    proxy = Proxy(server.ports[0])
    way = url.replace(str(server.ports[0]), str(proxy.port))
    try:
        async with open_journal(f"{way}&migrate=true&timeout_seconds=1.5") as journal:
            await write(journal, "p", 1)
            proxy.lose("answer")
            with pytest.raises(OutcomeUnknownError, match="may be stored"):
                await journal.write_messages([record("p", 2, due_at=datetime.now(UTC))])
            assert await journal.highest_sequence_nr("p") == 2
            assert [key for key, _ in await journal.due_ids("", datetime.now(UTC))] == ["p"]
            proxy.lose("request")
            with pytest.raises(OutcomeUnknownError):
                await journal.write_messages([record("p", 3)])
            assert await journal.highest_sequence_nr("p") == 2
            await write(journal, "p", 3)
    finally:
        proxy.close()


@pytest.mark.parametrize("lost", ["request", "answer"])
async def test_a_reading_whose_connection_breaks_is_made_again(
    server: Nats, url: str, js: Any, lost: Literal["request", "answer"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a reading writes is its own mark: nobody who reads is told that something may be stored."""
    proxy = Proxy(server.ports[0])
    way = url.replace(str(server.ports[0]), str(proxy.port))
    try:
        async with open_journal(f"{way}&migrate=true&timeout_seconds=1.5") as journal:
            await write(journal, "p", 1)
            real = Publisher.publish

            async def once(self: Publisher, *messages: Any) -> Any:
                monkeypatch.undo()
                proxy.lose(lost)
                return await real(self, *messages)

            monkeypatch.setattr(Publisher, "publish", once)
            assert list(await journal.ids_by_prefix("", limit=10)) == ["p"]
            assert Publisher.publish is real
    finally:
        proxy.close()
    left = await js.stream_info(stream_of(url), subjects_filter=f"{stream_of(url)}.mark.>")
    assert not left.state.subjects


async def test_an_entry_whose_record_never_came_is_not_due_and_one_of_an_older_record_goes_away(
    url: str, js: Any
) -> None:
    now = datetime.now(UTC)
    async with open_journal(f"{url}&migrate=true") as journal:
        assert isinstance(journal, NatsJournal)
        await journal.write_messages([record("p", 1, due_at=now)])
        await write(journal, "p", 2)  # due no more
        ((subject, body, headers), *_) = journal._due.messages("q", 1, now)  # its record is not there
        await journal._publisher.publish((subject, body, headers))
        assert await journal.due_ids("", now) == []
        assert await journal.claim_due("", now, now + timedelta(seconds=5)) == []
        left = await js.stream_info(stream_of(url), subjects_filter=f"{stream_of(url)}.due.>")
        assert list(left.state.subjects) == [subject]
        await journal.write_messages([record("q", 1, due_at=now)])  # it came late
        assert await journal.claim_due("", now, now + timedelta(seconds=5)) == [("q", now)]


async def test_a_write_that_loses_does_not_hide_when_its_id_is_due(url: str) -> None:
    """Its entry is stored before it is refused, and in the same second as the one that counts."""
    now = datetime.now(UTC).replace(microsecond=500)
    async with open_journal(f"{url}&migrate=true") as journal:
        await write(journal, "p", 1, 2)
        await journal.write_messages([record("p", 3, due_at=now)])
        for at in (now, now + timedelta(microseconds=7)):
            with pytest.raises(SequenceOutOfOrder):
                await journal.write_messages([record("p", 1, due_at=at)])
        later = now + timedelta(seconds=1)
        assert await journal.due_ids("", later) == [("p", now)]
        until = later + timedelta(seconds=5)
        assert await journal.claim_due("", later, until) == [("p", now)]
        with pytest.raises(SequenceOutOfOrder):
            await journal.write_messages([record("p", 1, due_at=until)])
        assert await journal.claim_due("", later, until) == []
        assert await journal.claim_due("", until, until + timedelta(seconds=5)) == [("p", until)]


async def test_entries_that_nobody_needs_go_away_together(url: str, js: Any) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    async with open_journal(f"{url}&migrate=true") as journal:
        for number in range(1, 6):
            await journal.write_messages([record("p", number, due_at=now + timedelta(milliseconds=number))])
        await write(journal, "p", 6)
        assert await journal.claim_due("", now + timedelta(seconds=1), now + timedelta(seconds=9)) == []
        left = await js.stream_info(stream_of(url), subjects_filter=f"{stream_of(url)}.due.>")
        assert not left.state.subjects


async def test_the_leader_tells_the_time(url: str) -> None:
    async with open_journal(f"{url}&migrate=true") as journal:
        assert isinstance(journal, NatsJournal)
        assert abs((await journal.server_time() - datetime.now(UTC)).total_seconds()) < 5


@pytest.mark.parametrize("text", ["a", "a.b", "a b", "*", ">", "~", "%", "", "a::b::c.d", "é🚢", "\x00", "$JS.API"])
def test_any_text_is_one_token(text: str) -> None:
    made = token(text)
    assert untoken(made) == text
    assert not set(made) & set(". *>\t\r\n\x00")
    assert made.isascii()


@pytest.mark.parametrize("recent", [True, False])
def test_wildcards_of_what_is_due_cover_exactly_the_seconds_up_to_now(recent: bool) -> None:
    subjects = Subjects("s")
    now = datetime(2031, 7, 9, 1, 46, 41, tzinfo=UTC)
    wildcards = subjects.due_by(now, "saga::order::", recent=recent)

    def covered(at: datetime) -> int:
        parts = subjects.due(at, "saga::order::a", 1).split(".")
        return sum(
            all(w in ("*", p) for w, p in zip(wildcard.split("."), parts, strict=True)) for wildcard in wildcards
        )

    for seconds in (0, 1, 5, 9, 10):
        assert covered(now - timedelta(seconds=seconds)) == 1
    for seconds in (1, 2, 60, 86_400):
        assert covered(now + timedelta(seconds=seconds)) == 0
    for seconds in (30, 3_600, 10**6, 10**9):
        assert covered(now - timedelta(seconds=seconds)) == (0 if recent else 1)
    assert len(wildcards) < 95


async def test_an_id_that_is_too_long_is_refused(url: str) -> None:
    async with open_journal(f"{url}&migrate=true") as journal:
        with pytest.raises(InvalidEventError):
            await journal.latest_message("x" * 2000)


async def test_a_stale_writer_loses_also_after_the_cache_has_moved_on(url: str) -> None:
    async with open_journal(f"{url}&migrate=true") as one, open_journal(url) as two:
        await write(one, "p", 1)
        await write(two, "p", 2)
        with pytest.raises(SequenceOutOfOrder):
            await write(one, "p", 2)
        await write(one, "p", 3)
        with pytest.raises(SequenceOutOfOrder):
            await write(two, "p", 3)


async def test_everything_closes_also_while_the_server_is_away(tmp_path: Any) -> None:
    server = Nats(tmp_path / "nats", 1)
    server.start()
    journal: Journal = open_journal(f"{server.url}?migrate=true&timeout_seconds=1.5&connect_seconds=1.5")
    await write(journal, "p", 1)
    server.stop()
    with pytest.raises((JournalUnavailableError, OutcomeUnknownError)):
        await write(journal, "p", 2)
    await asyncio.wait_for(journal.close(), 40)


async def test_a_record_that_is_stored_without_its_entry_is_never_called_not_stored(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_journal(f"{url}&migrate=true") as journal:
        assert isinstance(journal, NatsJournal)
        publish_each = journal._publisher.publish_each

        async def refuse_entries(pieces: Any) -> Any:
            answered = await publish_each([piece[1:] for piece in pieces])
            return [[Rejected(10077, "full"), *answers] for answers in answered]

        async def away(*_: Any) -> Any:
            raise JournalUnavailableError("the leader went away in between")

        monkeypatch.setattr(journal._publisher, "publish_each", refuse_entries)
        monkeypatch.setattr(journal._publisher, "publish", away)
        with pytest.raises(OutcomeUnknownError, match="stored, but not its due time:"):
            await journal.write_messages([record("p", 1, due_at=datetime.now(UTC))])
        assert await journal.highest_sequence_nr("p") == 1


async def test_one_damaged_message_stops_neither_the_due_work_nor_the_records_of_others(
    url: str, js: Any, caplog: pytest.LogCaptureFixture
) -> None:
    now = datetime(2030, 1, 1, tzinfo=UTC)
    async with open_journal(f"{url}&migrate=true") as journal:
        for key in ("s::x::bad", "s::x::good", "s::x::worse"):
            await journal.write_messages([record(key, 1, due_at=now)])
        subjects = Subjects(stream_of(url))
        await js.publish(subjects.due(now, "s::x::good", 1) + "x", b"")
        await js.publish(subjects.record("s::x::bad"), b"", headers={"Sagalog": "not JSON"})
        await js.publish(subjects.record("s::x::worse"), b"", headers={"Sagalog": '{"nr":2,"newer":1}'})
        assert await journal.due_ids("s::x::", now) == [("s::x::good", now)]
        assert "another program wrote it" in caplog.text
        assert "is damaged, or was written by something else or by a newer version" in caplog.text
        assert await journal.claim_due("s::x::", now, now + timedelta(seconds=5)) == [("s::x::good", now)]
        assert await replay(journal, "s::x::good") == [1]
        with pytest.raises(JournalFormatError, match="worse of the stream is damaged"):
            await journal.latest_message("s::x::worse")
