"""A repair (decision/repair.py) as a step of its instance, with the replay of what it holds in the same turn."""

from __future__ import annotations

import msgspec

from ..decision.draft import Draft
from ..decision.entries import Status
from ..decision.repair import Repair
from ..errors import NoInstanceError
from .cache import InstanceCache
from .envelope import Envelope, Repairing
from .replay import NOT_REPLAYED, replay_held, tell_parked_again
from .reporter import Reporter


class Repaired(msgspec.Struct, frozen=True):
    """What a repair did, in plain words; how many held messages were replayed; why it is parked again, if it is."""

    effects: tuple[str, ...]
    replayed: int
    parked: str
    held: int
    status: Status


async def apply(cache: InstanceCache, correlation_id: str, repair: Repair) -> Repaired:
    """Run a repair as a step of its instance: one record, against the newest version.

    Raises NoInstanceError where nothing live is stored under that id, SagaParkedError for a record that this code
    cannot read (only code that can read it helps), RepairError.
    """
    instance = cache.instance(correlation_id)
    instance.read_again()
    replayed = NOT_REPLAYED

    async def run(draft: Draft, reporter: Reporter) -> Repaired:
        nonlocal replayed
        record = draft.record
        if record is None or (record.finished and not repair.on_finished):
            why = "there is no such instance" if record is None else "it has ended"
            raise NoInstanceError(cache.runtime.name, correlation_id, "", f"{why}; nothing was stored")
        decision = repair.decide(record, draft.next_id, draft.now, draft.persistence_id)
        if decision.record is not record:
            draft.record = decision.record
            draft.touch()
            replayed = await replay_held(instance, draft, reporter)
        after = draft.record
        assert after is not None
        return Repaired(decision.effects, replayed.count, after.parked, len(after.held), after.status)

    envelope = Envelope(Repairing(run))
    await instance.submit(envelope)
    tell_parked_again(instance, replayed)
    result: Repaired = envelope.result
    return result
