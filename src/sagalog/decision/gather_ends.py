"""The end of a gather whose phase does not expect it: kept, ignored, or parked with, as its handler says.

    gathers ─► [may_wait] ─► finish ─► [meet] ─► kept in the record, held, or noted

It becomes a message of its own only there, in the step of the last answer. That step is stored whatever becomes of the end:
the command was carried out, and its answer is handled. A last answer that enters the phase which expects the end lets it
be handled behind that, in the same record.
"""

from __future__ import annotations

from enum import Enum
from typing import Any

from ..definition.actions import Enter
from ..definition.saga import Saga
from .draft import Draft
from .entries import Handled, Held
from .gathering import GatherEnd
from .ids import GATHER, command_id
from .record import SagaRecord, well_formed


def may_wait(saga: Saga[Any], event: Any, phase: Enum, actions: list[Any]) -> bool:
    """Say whether an end cannot be handled at once: not in this phase, or behind an `Enter` of the same step."""
    table, kind = saga.phase_table, type(event)
    if table is None or not table.depends(kind):
        return False
    return not table.expects(kind, phase) or any(isinstance(action, Enter) for action in actions)


def meet(draft: Draft, record: SagaRecord, name: str, end: GatherEnd) -> None:
    """Do what is declared for the end in the phase that the step has come to. Raises nothing."""
    saga, kind = draft.saga, type(end.event)
    table = saga.phase_table
    assert table is not None
    phase = table.phases[record.phase]
    expected = table.expects(kind, phase)
    policy = "keep" if expected else table.policy(kind, phase) or saga.unexpected
    message_id = command_id(draft.persistence_id, draft.next_id())
    if policy == "ignore":
        draft.append(record, "handled", Handled(message_id, kind.__name__, how="ignored"))
        return
    one = Held(
        message_id,
        end.stored,
        "timer",
        name=GATHER + name,
        trace=draft.trace,
        life=record.incarnation,
        gather=end.gathering,
    )
    full = len(record.kept) >= saga.most_kept
    if policy == "keep" and (expected or not full):
        draft.kept_by(record).add(one)
        record.waking = True
        return
    elsewhere = [member.name for member in table.phases_of(kind)]
    does = f"{' and '.join(elsewhere)} {'do' if len(elsewhere) > 1 else 'does'}"
    why = ", and most_kept messages are kept already" if policy == "keep" else ""
    record.held = (*record.held, one)
    record.parked = well_formed(
        f"{kind.__name__} is the end of the gather {name!r}, and its phase is {phase.name}, which does not expect it "
        f"({does}){why}: `retry` keeps it until then, `skip` drops it"
    )
