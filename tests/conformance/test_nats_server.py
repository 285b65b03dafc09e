"""What is particular to NATS: what is refused at open, and what is known after a lost answer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any

import nats
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
from sagalog.journal.nats.connection import check_version
from sagalog.journal.nats.refusals import Rejected
from sagalog.journal.nats.subjects import Subjects, token, untoken

from ..servers.nats import Nats
from ..servers.proxy import Proxy


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    """One server with users, a small store, and small messages."""
    extra = "authorization { users: [{user: shop, password: right}] }\n"
    server = Nats(tmp_path_factory.mktemp("nats-one"), 1, extra=extra)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def url(server: Nats, request: pytest.FixtureRequest) -> str:
    name = "".join(c if c.isalnum() else "_" for c in request.node.name)
    return f"nats://shop:right@127.0.0.1:{server.ports[0]}?stream={name}"


@pytest.fixture
async def js(server: Nats) -> AsyncIterator[Any]:
    client = await nats.connect(f"nats://shop:right@127.0.0.1:{server.ports[0]}")
    yield client.jetstream()
    await client.close()


def stream_of(url: str) -> str:
    return url.partition("stream=")[2].partition("&")[0]


async def refused(url: str, message: str) -> None:
    with pytest.raises(JournalFormatError, match=message):
        async with open_journal(url):
            pass


# At open.


async def test_a_stream_that_was_not_made_is_refused_with_the_command_that_makes_it(url: str) -> None:
    journal = open_journal(url)
    with pytest.raises(JournalFormatError, match="sagalog migrate --journal URL"):
        await journal.open()
    await journal.close()
    assert (await migrate_journal(url)).endswith("made")
    assert (await migrate_journal(url)).endswith("there already")
    async with open_journal(url) as journal:
        await write(journal, "p", 1)


async def test_wrong_credentials_are_told_without_the_password(url: str) -> None:
    journal = open_journal(url.replace("shop:right", "shop:hunter2"))
    with pytest.raises(JournalUnavailableError, match="user, password or token are wrong") as caught:
        await journal.open()
    assert "hunter2" not in str(caught.value)
    await journal.close()


async def test_a_server_that_is_not_there_is_told(url: str) -> None:
    journal = open_journal("nats://shop:hunter2@127.0.0.1:1?connect_seconds=0.3")
    with pytest.raises(JournalUnavailableError, match=r"NATS 127.0.0.1:1 cannot be reached") as caught:
        await journal.open()
    assert "hunter2" not in str(caught.value)
    await journal.close()


async def test_a_stream_of_another_program_is_refused_and_not_touched(url: str, js: Any) -> None:
    await js.add_stream(name=stream_of(url), subjects=["theirs.>"])
    for asked in (url, f"{url}&migrate=true"):
        await refused(asked, "belongs to another program; it was not touched")
    assert (await js.stream_info(stream_of(url))).config.subjects == ["theirs.>"]


async def test_subjects_of_another_stream_are_told(url: str, js: Any) -> None:
    await js.add_stream(name=f"other_{stream_of(url)}"[:30], subjects=[f"{stream_of(url)}.>"])
    with pytest.raises(JournalUnavailableError, match="cannot be made: .*overlap"):
        await migrate_journal(url)


async def test_more_replicas_than_servers_are_told(url: str) -> None:
    with pytest.raises(JournalUnavailableError, match="Are there as many servers as replicas"):
        await migrate_journal(f"{url}&replicas=3")


async def test_settings_that_lose_sagas_are_refused(url: str, js: Any) -> None:
    await migrate_journal(url)
    config = (await js.stream_info(stream_of(url))).config
    config.max_age = 3600
    await js.update_stream(config)
    await refused(url, "has max_age, which deletes sagas that wait")


async def test_another_format_is_refused(url: str, js: Any) -> None:
    await migrate_journal(url)
    config = (await js.stream_info(stream_of(url))).config
    config.metadata = {**config.metadata, "sagalog": "9"}
    await js.update_stream(config)
    await refused(url, "has format 9, this code knows 1: upgrade sagalog")


@pytest.mark.parametrize("version", [(2, 9, 10), (2, 9, 25), (1, 0, 0)])
def test_a_server_that_breaks_compare_and_set_is_refused(version: tuple[int, int, int]) -> None:
    major, minor, patch = version
    with pytest.raises(JournalFormatError, match="lets several writers win one compare-and-set: 2.10.0 or newer"):
        check_version(SimpleNamespace(major=major, minor=minor, patch=patch), "here")
    check_version(SimpleNamespace(major=2, minor=10, patch=0), "here")
    check_version(SimpleNamespace(major=3, minor=0, patch=0), "here")


async def test_one_replica_is_warned_about(url: str, caplog: pytest.LogCaptureFixture) -> None:
    await migrate_journal(url)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "sagalog"):
        async with open_journal(url):
            pass
    assert "has one replica" in caplog.text
    assert "sync_interval: always" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("nats://x?stream=a.b", "a stream's name is"),
        ("nats://x?replicas=9", "replicas are 1 to 5"),
        ("nats://x?replicas=many", "replicas in a nats:// URL is a number"),
        ("nats://x?migrate=perhaps", "migrate in a nats:// URL is true or false"),
        ("nats://x?speed=high", "unknown setting 'speed'"),
        ("nats://x?history=-1", "history is"),
    ],
)
def test_a_wrong_url_is_told(wrong: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        open_journal(wrong)


# In use.


async def test_a_full_stream_refuses_and_goes_on_when_there_is_room(url: str, js: Any) -> None:
    await migrate_journal(url)
    config = (await js.stream_info(stream_of(url))).config
    config.max_bytes = 20_000
    await js.update_stream(config)
    async with open_journal(url) as journal:
        with pytest.raises(JournalUnavailableError, match="is full .*give JetStream more room"):
            for number in range(1, 100):
                await journal.write_messages([record("p", number, b"x" * 1000)])
        highest = await journal.highest_sequence_nr("p")
        assert 5 < highest < 20
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
        with pytest.raises(DefinitionError, match="all or nothing; nothing was stored"):
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
        async with open_journal(f"{way}&migrate=true&timeout_seconds=0.5") as journal:
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
    journal: Journal = open_journal(f"{server.url}?migrate=true&timeout_seconds=0.3&connect_seconds=0.3")
    await write(journal, "p", 1)
    server.stop()
    with pytest.raises((JournalUnavailableError, OutcomeUnknownError)):
        await write(journal, "p", 2)
    await asyncio.wait_for(journal.close(), 5)


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
        with pytest.raises(OutcomeUnknownError, match="stored, but not when it is due"):
            await journal.write_messages([record("p", 1, due_at=datetime.now(UTC))])
        assert await journal.highest_sequence_nr("p") == 1


# What is damaged, or not ours.


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
        assert "is passed over: it was written by something else" in caplog.text
        assert "is damaged, or was written by something else or by a newer version" in caplog.text
        assert await journal.claim_due("s::x::", now, now + timedelta(seconds=5)) == [("s::x::good", now)]
        assert await replay(journal, "s::x::good") == [1]
        with pytest.raises(JournalFormatError, match="worse of the stream is damaged"):
            await journal.latest_message("s::x::worse")
