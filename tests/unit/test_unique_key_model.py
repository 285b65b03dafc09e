"""Unique keys against a plain dict, under every order of the journal's reads and writes that the examples reach.

Steps of instances run at the same time, on workers that are slow, die between any two calls, or whose writes land late. The
dict says after each record that lands who holds which key.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sagalog import ConflictError, InMemoryJournal, KeyTakenError, OutcomeUnknownError, PersistentRepr
from sagalog.decision.entries import Status
from sagalog.decision.ids import instance_of
from sagalog.decision.record import FORMAT, SagaRecord, decode_record, encode_record
from sagalog.decision.reservation import Standing
from sagalog.journal import reservations
from sagalog.journal.reservations import NotReservedError, Reservations
from sagalog.journal.store import JournalSagaStateStore, new_epoch, saved_of
from sagalog.testing.simulation.loop import VirtualLoop

NOW = datetime(2030, 1, 1, tzinfo=UTC)
RETENTION = timedelta(days=1)
PAUSES = (0.0, 0.0, 0.001, 0.01, 0.3, 1.5, 4.0)


class Shared(InMemoryJournal):
    """The journal that all share, and the dict: who holds a key, by the newest record of each instance."""

    def __init__(self) -> None:
        super().__init__()
        self.held: dict[str, str] = {}
        self.wrong: list[str] = []
        self.story: list[tuple[float, str, str | None]] = []  # when a key was given to whom

    def _store(self, message: PersistentRepr) -> None:
        super()._store(message)
        found = instance_of(message.persistence_id)
        if found is None:
            return
        name, now = found[1], asyncio.get_running_loop().time()
        record = decode_record(message.payload) if message.payload else None
        holds = set() if record is None or message.deleted else set(record.unique_keys.get("seat", ()))
        for key, holder in list(self.held.items()):
            if holder == name and key not in holds:
                del self.held[key]
                self.story.append((now, key, None))
        for key in holds:
            holder = self.held.setdefault(key, name)
            if holder != name:
                self.wrong.append(f"{key} is held by {holder}, and by {name}")
            self.story.append((now, key, name))


class Connection:
    """One worker's connection: it is slow, and its worker may die at it."""

    def __init__(self, inner: Shared, chance: random.Random, dies: float) -> None:
        self.inner = inner
        self.chance = chance
        self.dies = dies

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.inner, name)
        if not asyncio.iscoroutinefunction(call):
            return call

        async def slowly(*arguments: Any, **keywords: Any) -> Any:
            await self._pause()
            if name in ("write_batch", "write_messages") and self.chance.random() < 0.15:
                asyncio.get_running_loop().call_later(
                    self.chance.choice(PAUSES), lambda: asyncio.ensure_future(_late(call(*arguments, **keywords)))
                )
                if name == "write_messages":
                    raise OutcomeUnknownError("no answer")
                return [OutcomeUnknownError("no answer")] * len(arguments[0])
            told = await call(*arguments, **keywords)
            await self._pause()
            return told

        return slowly

    async def _pause(self) -> None:
        if self.chance.random() < self.dies:
            await asyncio.Event().wait()
        await asyncio.sleep(self.chance.choice(PAUSES))


async def _late(write: Any) -> None:
    try:
        await write
    except ConflictError:
        pass


async def take(journal: Any, saga: Reservations, name: str, action: str, key: str) -> str:
    """Do what a worker does for one event: read, decide, reserve, write; again, where another was faster."""
    store = JournalSagaStateStore(journal, "desk")
    while True:
        newest = await journal.latest_message(f"saga::desk::{name}")
        saved = None if newest is None else saved_of(newest)
        before = decode_record(saved.payload) if saved is not None and saved.payload else None
        version, epoch = (0, 0) if saved is None else (saved.version, saved.epoch)
        if before is None or before.status is not Status.RUNNING:
            record = SagaRecord(FORMAT, Status.RUNNING, msgspec.Raw(b"{}"), NOW, NOW)
        else:
            record = decode_record(encode_record(before))
        texts = record.unique_keys.get("seat", ())
        if action == "take" and key not in texts:
            try:
                await saga.reserve(name, version + 1, epoch, [("seat", key)])
            except (KeyTakenError, NotReservedError) as error:
                return type(error).__name__
            texts = (*texts, key)
        elif action == "leave":
            texts = tuple(one for one in texts if one != key)
        record.unique_keys = {"seat": texts} if texts and action != "end" else {}
        record.status = Status.COMPLETED if action == "end" else Status.RUNNING
        written = store.repr_of(
            name, version + 1, encode_record(record), None, deleted=action == "end", epoch=epoch or new_epoch()
        )
        (answer,) = await journal.write_batch([written])
        if answer is None:
            return "done"
        if isinstance(answer, OutcomeUnknownError):
            return "unknown"


Op = tuple[int, str, str, float]
ops = st.lists(
    st.tuples(
        st.integers(0, 3),
        st.sampled_from(["take", "take", "take", "leave", "end", "sweep"]),
        st.sampled_from(["1", "1", "2"]),
        st.sampled_from((0.0, 0.0, 0.5, 3.0)),
    ),
    min_size=2,
    max_size=14,
)


def play(plan: Sequence[Op], seed: int, dies: float) -> None:
    """Run the steps at the same time, and see that the dict and the records never disagree."""
    loop = VirtualLoop()
    try:
        loop.run_until_complete(_play(plan, random.Random(seed), dies))
    finally:
        loop.close()


async def _play(plan: Sequence[Op], chance: random.Random, dies: float) -> None:
    loop = asyncio.get_running_loop()
    shared = Shared()

    async def one(op: Op) -> None:
        number, action, key, later = op
        await asyncio.sleep(later)
        journal: Any = Connection(shared, chance, dies)
        saga = Reservations(journal, "desk", lambda: NOW + timedelta(seconds=loop.time()), loop.time, RETENTION)
        if action == "sweep":
            try:
                await saga.sweep()
            except OutcomeUnknownError:
                pass
            return
        began = loop.time()
        told = await take(journal, saga, f"D{number}", action, key)
        if told == "KeyTakenError":
            others = [who for at, what, who in shared.story if what == key and who not in (None, f"D{number}")]
            assert others, f"{key} was taken by nobody, said {told} to D{number} at {began}"

    tasks = [asyncio.ensure_future(one(op)) for op in plan]
    done, hanging = await asyncio.wait(tasks, timeout=3600)
    for task in hanging:  # their workers died
        task.cancel()
    await asyncio.gather(*hanging, return_exceptions=True)
    for task in done:
        task.result()
    await asyncio.sleep(60)
    assert not shared.wrong
    # Peace: who wants a key gets it exactly where nobody holds it, and nothing that was left behind is in the way.
    saga = Reservations(shared, "desk", lambda: NOW, loop.time, RETENTION)
    for key in ("1", "2"):
        holder = shared.held.get(key)
        told = await take(shared, saga, "new", "take", key)
        assert told == ("done" if holder is None else "KeyTakenError"), f"{key} is held by {holder}: {told}"
        assert await saga.holder_of(("seat", key)) == (holder or "new")


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(ops, st.integers(0, 2**32), st.sampled_from([0.0, 0.03, 0.1]))
def test_no_key_is_ever_held_twice_and_a_free_one_can_be_taken(plan: list[Op], seed: int, dies: float) -> None:
    play(plan, seed, dies)


def _never_pending(*arguments: Any) -> Standing:
    found = _standing(*arguments)
    return Standing.FREE if found is Standing.PENDING else found


_standing = reservations.standing


async def _no_fence(self: Any, reserved: Any) -> None:
    """As if a step on its way needed no fence, but only time."""
    reservations.standing = _never_pending


@pytest.mark.parametrize(
    ("name", "planted"),
    [
        ("standing", _never_pending),  # what may be on its way is taken over
        ("_outdated", lambda reserved, wanted, newest: reserved != wanted),  # a late worker goes back
        ("Reservations._fence", _no_fence),
        ("Reservations.reserve", None),
    ],
)
def test_the_model_finds_a_bug_that_is_planted(name: str, planted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    async def unreserved(self: Any, *arguments: Any) -> None: ...

    owner, _, attribute = name.rpartition(".")
    monkeypatch.setattr(reservations, "standing", _standing)
    monkeypatch.setattr(getattr(reservations, owner) if owner else reservations, attribute, planted or unreserved)
    chance = random.Random(7)
    kinds = ["take", "take", "take", "leave"]
    with pytest.raises(AssertionError):
        for seed in range(3000):
            plan = [
                (chance.choice((0, 0, 1)), chance.choice(kinds), "1", chance.choice((0.0, 0.0, 0.5, 3.0)))
                for _ in range(10)
            ]
            play(plan, seed, 0.05)
        pytest.fail("it was not found")
