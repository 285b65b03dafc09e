"""The verdict on tours and trips: the ledger, the journal's own bytes, and what a runner says of them tell one story."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from sagalog import NoInstanceError, SagaRunner, open_journal

from . import travel
from .shop import Killer, Ledger, read_ledger, settings
from .travel import FIRST_TICK, LEGS, STAMPS, TICK, TourSaga, TripSaga, kind, number, region, stays
from .travelling import dispatch
from .witness import read, url_of, witness

WITH_UNDO = ("flight", "hotel", "car")


def examine(folder: Path, tours: int) -> Counter[str]:
    """Raise AssertionError for anything lost, doubled, early or out of order. Return what was counted."""
    ledger = read_ledger(folder / "ledger")
    history, living = read(folder)
    counted: Counter[str] = Counter()
    for note in ledger:
        if note.get("outcome") in ("handled", "kept", "duplicate"):
            name = note["ack"].partition("/")[0]
            steps = history[f"saga::{'tour' if name.startswith('t-') else 'trip'}::{name}"]
            if "/stamp" in note["ack"]:  # known by its number, not by its id
                assert note["ack"] in steps[-1]["state"]["log"], f"accepted, and lost: {note['ack']}"
                assert note["ack"] not in steps[-1]["inbox"]
            else:
                assert note["ack"] in steps[-1]["inbox"], f"accepted, and lost: {note['ack']}"
            counted[note["outcome"]] += 1
    _every_command_has_one_id(ledger, history)
    for n in range(tours):
        _one_tour(f"t-{n}", history[f"saga::tour::t-{n}"], counted)
        _one_trip(f"p-{n}", history[f"saga::trip::p-{n}"], [c for c in ledger if c.get("trip") == f"p-{n}"], counted)
    assert sorted(living) == sorted(f"saga::tour::t-{n}" for n in range(tours) if stays(f"t-{n}"))
    results = {name: history[f"saga::tour::{name}"][-1] for name in (f"t-{n}" for n in range(tours)) if not stays(name)}
    for note in ledger:
        if "told" in note:
            assert note["status"] == "completed", note
            assert note["result"] == results[note["told"]]["result"]["data"], "an outcome that is not what is stored"
            counted["told"] += 1
    return counted


def _every_command_has_one_id(ledger: list[dict[str, Any]], history: dict[str, list[dict[str, Any]]]) -> None:
    decided = {
        f"{persistence_id}/{entry['id']}": sequence_nr
        for persistence_id, steps in history.items()
        for sequence_nr, step in reversed(list(enumerate(steps, 1)))
        for entry in step.get("outbox", ())
    }
    sent = [note for note in ledger if "command" in note or "called" in note]
    early = {note["id"] for note in sent if not note["durable"]}
    assert not early, f"left before their step was durable: {early}"
    seen = {note["id"] for note in sent}
    assert seen == decided.keys(), f"{seen ^ decided.keys()} was sent or decided, and not both"
    for command_id, sequence_nr in decided.items():
        assert int(command_id.rsplit("/", 2)[1]) == sequence_nr, f"an id that does not name its step: {command_id}"
    by_purpose: dict[tuple[str, str], set[str]] = defaultdict(set)
    for note in sent:
        by_purpose[note.get("order", note.get("trip")), note.get("command", note.get("called"))].add(note["id"])
    doubled = {purpose: ids for purpose, ids in by_purpose.items() if len(ids) > 1}
    assert not doubled, f"one command under several ids: {doubled}"


def _one_tour(tour: str, steps: list[dict[str, Any]], counted: Counter[str]) -> None:
    last = steps[-1]
    log: list[str] = last["state"]["log"]
    assert len(log) == len(set(log)), f"{tour} changed twice by one message: {log}"
    assert len(last["inbox"]) == len(set(last["inbox"])), f"{tour} consumed one message twice"
    for before, after in pairwise(steps):
        assert after["state"]["log"][: len(before["state"]["log"])] == before["state"]["log"], f"{tour}: rewritten"
    for step in steps:
        assert step["index"] == {"region": region(tour), "phase": step["phase"]}, f"{tour} is not found by what it is"

    events = [f"{tour}/{one}" for one in ("planned", "visa 1", "visa 2", "ticket 1", "ticket 2", "bag 1", "bag 2")]
    ends = ["papers", "ready", "boarded", *(f"seat {seat}" for seat in range(LEGS))]
    stamps = [f"{tour}/stamp {n}" for n in range(1, STAMPS + 1)]
    assert [entry for entry in log if "/stamp" in entry] == stamps, f"{tour}: not in the order of the numbers: {log}"
    assert last["sequences"] == {"Stamped": STAMPS + 1}
    events += stamps
    ticks = [entry for entry in log if entry.startswith("tick")]
    asked = [entry for entry in log if entry in ("silent", f"{tour}/priced")]
    wanted = [*events, *ends, *([] if stays(tour) else [f"{tour}/closed"])]
    assert sorted(log) == sorted(wanted + ticks + asked), f"{tour}: {log}"

    place = {entry: log.index(entry) for entry in log}
    last_leg = max(min(place[f"{tour}/{leg} 1"], place[f"{tour}/{leg} 2"]) for leg in ("visa", "ticket"))
    assert log[last_leg + 1 : last_leg + 3] == ["papers", "ready"], f"{tour}: the join did not run with its last leg"
    ready = next(step for step in steps if "ready" in step["state"]["log"])
    assert ready["phase"] == "READY"
    counted["stamps kept"] += len(
        {kept["id"] for step in steps for kept in step.get("kept", ()) if "/stamp" in kept["id"]}
    )
    for bag in (f"{tour}/bag 1", f"{tour}/bag 2"):
        assert place[bag] > place["ready"], f"{tour}: handled before its phase"
        if any(kept["id"] == bag for step in steps for kept in step.get("kept", ())):
            assert bag in ready["state"]["log"] or ready.get("waking"), f"{tour}: {bag} waited beyond its phase"
            counted["was kept"] += 1
    assert place["boarded"] > max(place[f"seat {seat}"] for seat in range(LEGS)), f"{tour}: gathered too early"
    assert not last.get("gathers"), f"{tour}: a gather is left"

    first = datetime.fromisoformat(steps[0]["started_at"]) + FIRST_TICK
    times = [datetime.fromisoformat(tick.removeprefix("tick ")) for tick in ticks]
    assert times == [first + TICK * n for n in range(len(times))], (
        f"{tour}: a tick is missing, or one too many: {times}"
    )
    for tick, at in zip(ticks, times, strict=True):
        step = next(step for step in steps if tick in step["state"]["log"])
        assert datetime.fromisoformat(step["updated_at"]) >= at, f"{tour}: a tick came early"

    assert asked, f"{tour}: neither an answer nor its absence"
    if kind(tour) == 3:
        assert asked == ["silent"]
    late = any(entry.get("late") for step in steps for entry in step.get("handled", ()))
    assert not late or (kind(tour) == 2 and asked == ["silent"]), f"{tour}: an answer was passed over"
    if kind(tour) == 2:
        assert len(asked) == 1, f"{tour}: an answer that came too late was handled"
        assert late or f"{tour}/priced" in asked, f"{tour}: an answer was lost"
        counted["late, ignored"] += late
    if kind(tour) == 1:
        assert f"{tour}/priced" in asked, f"{tour}: an answer was lost"
        counted["late, handled"] += asked[0] == "silent"
    if "silent" in asked:
        step = next(step for step in steps if "silent" in step["state"]["log"])
        waited = datetime.fromisoformat(step["updated_at"]) - datetime.fromisoformat(steps[0]["started_at"])
        assert waited.total_seconds() >= travel.PRICE_SECONDS, f"{tour}: gave up after {waited}"

    if stays(tour):
        assert last["status"] == "running"
        assert last["phase"] == "READY"
        assert list(last["timers"]) == ["tick"]
    else:
        assert last["status"] == "completed"
        assert not last.get("timers")
        assert not last.get("kept")
        assert last["result"]["data"] == {"ticks": len(ticks), "boarded": LEGS, "bags": 2}
    counted["tours"] += 1
    counted["ticks"] += len(ticks)


def _one_trip(trip: str, steps: list[dict[str, Any]], calls: list[dict[str, Any]], counted: Counter[str]) -> None:
    last = steps[-1]
    first = list(dict.fromkeys(call["called"] for call in calls))  # in the order of their first call
    ids = {call["called"]: call["id"] for call in calls}
    assert first[0] == "flight"
    assert set(first[1:3]) == {"hotel", "car"}
    assert first[3] == "payment"
    for name in WITH_UNDO:
        assert last["state"][name] == f"{name} {ids[name]}", f"{trip}: a result that was not given: {last['state']}"
    if number(trip) % 3 == 0:
        assert last["status"] == "compensated"
        stored = {name: next(n for n, step in enumerate(steps) if step["state"][name]) for name in WITH_UNDO}
        order = sorted(WITH_UNDO, key=lambda name: stored[name])
        undone = first[4:]
        assert sorted(undone) == sorted(f"cancel {name}" for name in order), f"{trip}: {first}"
        assert undone[-1] == "cancel flight", f"{trip}: not backwards: {first}"
        if stored["hotel"] != stored["car"]:  # two that end in one step have no order there
            assert undone == [f"cancel {name}" for name in reversed(order)], f"{trip}: not backwards: {first}"
        for call in calls:
            if call["of"]:
                assert call["of"] == ids[call["called"].removeprefix("cancel ")]
    else:
        assert last["status"] == "completed"
        assert len(first) == 4, f"{trip}: undone, and paid: {first}"
        assert last["result"]["data"] == last["state"]["flight"]
    assert not last.get("outbox")
    counted[f"trips {last['status']}"] += 1


def asked_from_outside(folder: Path, tours: int) -> None:
    """Ask another process's runner for outcomes, states and by index: it says what the records say."""
    history, living = read(folder)

    async def ask() -> None:
        seen = witness(folder)
        travel.under(Killer(Ledger(folder / "ledger"), "", 0), seen)
        url = url_of(folder)
        journal = open_journal(url or f"sqlite:///{folder}/shop.db")
        async with SagaRunner(journal, sagas=[TourSaga, TripSaga], dispatch=dispatch, settings=settings(url)) as runner:
            names = [f"t-{n}" for n in range(tours)]
            for name in itertools.filterfalse(stays, names):
                outcome = await runner.outcome(TourSaga, name)
                last = history[f"saga::tour::{name}"][-1]
                assert outcome.status.value == last["status"]
                assert outcome.finished
                assert vars(outcome.result) == last["result"]["data"]
                assert outcome.state.log == last["state"]["log"]
            for n in range(tours):
                trip = await runner.outcome(TripSaga, f"p-{n}")
                last = history[f"saga::trip::p-{n}"][-1]
                assert trip.status.value == last["status"]
                assert trip.result == last.get("result", {"data": None})["data"]
            for place in sorted({region(name) for name in names}):
                for phase in travel.Phase:
                    found = [one.correlation_id async for one in runner.find(TourSaga, region=place, phase=phase)]
                    live = (one.rpartition("::")[2] for one in living)
                    due = [n for n in live if region(n) == place and phase is travel.Phase.READY]
                    assert sorted(found) == sorted(due), f"by {place} and {phase}: {found}"
            try:
                await runner.outcome(TourSaga, f"t-{tours}")
            except NoInstanceError:
                pass
            else:
                raise AssertionError("an outcome of nothing")
        await seen.close()
        await journal.close()

    asyncio.run(ask())
