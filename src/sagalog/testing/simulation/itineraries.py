"""Rules about the activities of one instance: each follows from its definition and from the record before."""

from __future__ import annotations

from collections.abc import Iterator

from ...decision.entries import Stage, Status
from ...decision.record import SagaRecord
from ...definition.itinerary import ActivityTable

_ENDED = frozenset({"done", "skipped", "left", "undone"})
_FOLLOWS = {
    "running": {"running", "done", "failed", "left", "skipped", "stopped", "undone"},
    "waiting": {"waiting", "done", "failed", "left", "stopped", "undone"},
    "early": {"early", "done", "failed", "left"},
    "stopped": {"stopped", "undone"},
    "done": {"done", "undone"},
    "failed": {"failed", "undone"},
    "left": {"left", "undone"},
    "skipped": {"skipped", "undone"},
    "undone": {"undone"},
}


def check_activities(here: str, table: ActivityTable, before: SagaRecord | None, after: SagaRecord) -> None:
    """Check one record against the one before it; None: it is the first."""
    same = before is not None and before.incarnation == after.incarnation
    old = before.activities if same and before is not None else {}
    for name, stage in after.activities.items():
        _check_stage(here, table, name, old.get(name), stage, after)
    lost = old.keys() - after.activities.keys()
    assert not lost or not table.automatic, f"{here} forgets activities: {', '.join(sorted(lost))}"
    committed = after.committed
    undoing = [one.command.type for one in after.outbox if one.undo and one.of in _entries(after)]
    assert not (committed and undoing), f"{here} undoes {', '.join(undoing)} behind a pivot"
    refused = {stage.entry: name for name, stage in after.activities.items() if stage.why.startswith("refused:")}
    needless = [refused[one.of] for one in after.outbox if one.undo and one.of in refused]
    assert not needless, f"{here} undoes {', '.join(needless)}, which was refused"
    if after.status is Status.COMPLETED and table.automatic:
        left = [name for name in table.steps if name not in after.activities]
        left += [name for name, stage in after.activities.items() if stage.status not in _ENDED]
        assert not left, f"{here} is completed without {', '.join(left)}"
    if after.status is Status.COMPENSATED and all(audit.action == "retry" for audit in after.audit):
        left = list(_not_undone(table, after))
        assert committed or not left, f"{here} is compensated, and {', '.join(left)} is not undone"


def check_itinerary_ended(here: str, table: ActivityTable, last: SagaRecord) -> None:
    """Check the last record of an itinerary: it has ended, or somebody or something is waited for."""
    waits = last.outbox or last.timers or last.held or last.kept or last.parked or last.status is not Status.RUNNING
    waiting = any(stage.status == "waiting" for stage in last.activities.values())
    assert waits or waiting or not table.automatic, f"{here} runs on, and nothing is left that it could wait for"


def _check_stage(
    here: str, table: ActivityTable, name: str, old: Stage | None, stage: Stage, record: SagaRecord
) -> None:
    if old is not None and (table.automatic or old.entry == stage.entry):
        assert stage.status in _FOLLOWS[old.status], f"{here}: activity {name} was {old.status}, and is {stage.status}"
        begun = old.status == "early" and stage.entry != ""
        assert old.entry == stage.entry or begun, (
            f"{here}: activity {name} was called as {old.entry}, and is another call"
        )
    if stage.status in ("running", "waiting") and (old is None or old.status not in ("running", "waiting")):
        step = table.steps[name]
        for other in step.after or () if table.automatic else ():
            ended = other in record.activities and record.activities[other].status in _ENDED
            assert ended, f"{here}: {name} begins, and {other} has not ended"
        failed = [one for one, other in record.activities.items() if other.status == "failed"]
        assert not failed, f"{here}: {name} begins, and {', '.join(failed)} has failed"
    if stage.status == "running":
        known = stage.entry in {one.id for one in record.outbox} or record.held
        assert known or record.status is not Status.RUNNING, f"{here}: {name} runs, and nobody is to call it"


def _entries(record: SagaRecord) -> set[str]:
    return {stage.entry for stage in record.activities.values() if stage.entry}


def _not_undone(table: ActivityTable, record: SagaRecord) -> Iterator[str]:
    for name, stage in record.activities.items():
        step = table.steps.get(name)
        if step is not None and "undo" in step.methods and stage.status == "done" and stage.entry:
            yield name
