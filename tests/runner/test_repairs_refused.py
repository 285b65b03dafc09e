"""A repair from outside that cannot be made, or that another was faster with, changes nothing and says so."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sagalog import (
    CodecError,
    ConflictError,
    InMemoryJournal,
    JournalSagaStateStore,
    JournalUnavailableError,
    NoInstanceError,
    OutcomeUnknownError,
    SagaParkedError,
)
from sagalog.decision.repair import cancel, edit, retry, skip

from ..orders import Closed, Noted, Placed
from .conftest import Bench
from .outside import apply, journal, park


async def test_a_note_that_is_no_unicode_is_refused_and_nothing_is_stored(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner)
    for repair in (retry(note="a\ud800"), skip(by="\udfff")):
        with pytest.raises(CodecError, match="in audit, a string contains a lone surrogate"):
            await apply(journal(shared), "order", "a", repair)
    record = await shared.record("a")
    assert record.parked
    assert record.audit == ()


async def test_of_two_operators_at_once_one_repairs_and_the_other_is_told(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"), Noted("a", "2"))
    done = await asyncio.gather(
        *(apply(journal(shared), "order", "a", skip(by=name)) for name in ("ada", "bob", "eve"))
    )
    assert [applied.changes for applied in done].count(True) == 1
    told = {applied.effects for applied in done if not applied.changes}
    assert told == {("nothing: it is repaired already; what it holds is replayed as soon as a worker takes it over",)}
    record = await shared.record("a")
    assert [held.id for held in record.held] == ["h0", "h1"]
    assert len(record.audit) == 1


async def test_with_an_expected_version_a_concurrent_step_is_never_overwritten(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner)
        shown = (await shared.stored("a")).version  # type: ignore[union-attr]
        await runner.handle(Noted("a", "meanwhile"))
        before = await shared.stored("a")
        with pytest.raises(ConflictError):
            await apply(journal(shared), "order", "a", retry(), expected_version=shown)
        assert await shared.stored("a") == before
        both = await asyncio.gather(
            *(apply(journal(shared), "order", "a", retry(), expected_version=shown + 1) for _ in range(2)),
            return_exceptions=True,
        )
    assert sorted(type(one).__name__ for one in both) == ["Applied", "ConflictError"]


async def test_a_second_retry_and_one_of_an_instance_that_is_not_parked_change_nothing_and_say_so(
    shared: Bench,
) -> None:
    async with shared.runner() as runner:
        await park(shared, runner)
        first = await apply(journal(shared), "order", "a", retry())
        second = await apply(journal(shared), "order", "a", retry())
        assert (second.changes, second.version) == (False, first.version)
        await runner.settle()
        before = await shared.stored("a")
        third = await apply(journal(shared), "order", "a", retry())
        assert third.effects == ("nothing: it is not parked, it is running",)
        assert third.after is third.before
        assert await shared.stored("a") == before


async def test_a_dry_run_says_the_same_and_changes_nothing(shared: Bench) -> None:
    async with shared.runner() as runner:
        await park(shared, runner, Noted("a", "1"))
    before = await shared.stored("a")
    assert before is not None
    dry = await apply(journal(shared), "order", "a", skip(note="n"), dry_run=True)
    assert await shared.stored("a") == before
    done = await apply(journal(shared), "order", "a", skip(note="n"))
    assert (dry.effects, dry.version) == (done.effects, done.version)
    assert dry.effects[0] == "drops the held Failing, message bad; it counts as consumed"
    assert done.version == before.version + 1


@pytest.mark.parametrize("repair", [retry(), skip(), cancel(compensate=True), edit(b"{}", state_version=1)])
async def test_what_is_not_there_or_not_readable_is_named(shared: Bench, repair: Any) -> None:
    with pytest.raises(NoInstanceError, match="id 'nobody': there is no such instance; nothing was stored$"):
        await apply(journal(shared), "order", "nobody", repair)
    await JournalSagaStateStore(journal(shared), "order").save("bad", b"{")
    with pytest.raises(SagaParkedError, match="damaged"):
        await apply(journal(shared), "order", "bad", repair)
    async with shared.runner() as runner:
        await runner.handle(Placed("a"))
        await runner.handle(Closed("a"))
        await runner.settle()
    with pytest.raises(NoInstanceError, match="id 'a': it has ended; nothing was stored$"):
        await apply(journal(shared), "order", "a", repair)


class _LosesAnswers(InMemoryJournal):
    """Loses the answer of the next write, which is stored or not."""

    stored: bool | None = None
    down = False

    async def write_messages(self, messages: Any, *, atomic: bool = False) -> None:
        stored, self.stored = self.stored, None
        if stored is None or stored:
            await super().write_messages(messages, atomic=atomic)
        if stored is not None:
            raise OutcomeUnknownError("no answer")

    async def latest_message(self, persistence_id: str) -> Any:
        if self.down:
            raise JournalUnavailableError("down")
        return await super().latest_message(persistence_id)


@pytest.mark.parametrize("stored", [True, False])
async def test_a_repair_without_an_answer_is_made_once(stored: bool) -> None:
    bench = Bench(_LosesAnswers())
    async with bench.runner() as runner:
        await park(bench, runner, Noted("a", "1"))
    held = await bench.record("a")
    bench.journal.stored = stored  # type: ignore[union-attr]
    applied = await apply(journal(bench), "order", "a", skip())
    record = await bench.record("a")
    assert len(record.audit) == len(held.audit) + 1
    assert [one.id for one in record.held] == ["h0"]
    assert applied.changes
    assert applied.version == (await bench.stored("a")).version  # type: ignore[union-attr]


async def test_a_journal_that_stops_answering_during_a_repair_does_not_claim_that_nothing_is_stored() -> None:
    bench = Bench(_LosesAnswers())
    async with bench.runner() as runner:
        await park(bench, runner)
    bench.journal.down = True  # type: ignore[union-attr]
    with pytest.raises(JournalUnavailableError):
        await apply(journal(bench), "order", "a", retry())
    bench.journal.down = False  # type: ignore[union-attr]
    real = bench.journal.write_messages  # type: ignore[union-attr]

    async def write(messages: Any, *, atomic: bool = False) -> None:
        bench.journal.stored, bench.journal.down = True, True  # type: ignore[union-attr]
        await real(messages, atomic=atomic)

    bench.journal.write_messages = write  # type: ignore[union-attr,method-assign]
    with pytest.raises(OutcomeUnknownError, match="may or may not be stored"):
        await apply(journal(bench), "order", "a", retry())
