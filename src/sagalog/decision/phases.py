"""In which phase an instance is, and what an `Enter` among the actions of a handler comes to."""

from __future__ import annotations

from enum import Enum
from typing import Any

from ..definition.actions import Enter
from ..definition.context import StepContext
from ..definition.saga import Saga
from ..errors import DefinitionError
from .checked import actions_of
from .record import SagaRecord
from .state import UnreadableStateError, decode_state

_MAX_PHASES = 100  # phases that one step enters: a circle of them would never end


def phase_of(saga: Saga[Any], record: SagaRecord) -> Enum | None:
    """Return the phase that the record says; None for a saga without phases.

    An instance that has handled nothing yet is in the initial phase; of one that was stored before the saga had phases,
    its code says which it is. Raises UnreadableStateError for a phase that this code does not know.
    """
    table = saga.phase_table
    if table is None:
        return None
    if record.phase:
        found = table.named(record.phase)
        if found is None:
            raise UnreadableStateError(unknown_phase(saga, record))
        return found
    if not record.started_by:
        return table.initial
    found = saga.phase_of(decode_state(saga, record))
    table.check(f"{type(saga).__name__}.phase_of()", found)
    return found


def unknown_phase(saga: Saga[Any], record: SagaRecord) -> str:
    """Say what is wrong with a stored phase that the code of its saga does not know, and what helps."""
    assert saga.phases is not None
    return (
        f"its phase {record.phase} is unknown to this code: if it was renamed, keep the old name as an alias in "
        f"{saga.phases.__name__}; `sagalog edit --phase` sets another"
    )


def entered(
    saga: Saga[Any],
    record: SagaRecord,
    state: Any,
    actions: list[Any],
    context: StepContext,
    *,
    begins: bool = True,
) -> list[Any]:
    """Return the actions with those of the phases that they leave and enter, each before or behind its `Enter`.

    `context` is that of the step. `begins`: these are its first actions, before which a new instance enters its phase.
    Raises what those methods raise, and DefinitionError for a phase of another saga, for one that is entered while another
    is left, and for a circle; nothing has changed then but `state`.
    """
    phase = context.phase
    if phase is None:
        return actions
    out: list[Any] = []
    if begins and not record.phase:
        out.append(Enter(phase))
        if not record.started_by:
            actions = [*_acts(saga, phase, state, context, entering=True), *actions]
    pending, count = actions[::-1], 0
    while pending:
        action = pending.pop()
        if not isinstance(action, Enter):
            out.append(action)
            continue
        assert saga.phase_table is not None
        saga.phase_table.check(f"Enter(...) in saga {saga.name!r}", action.phase)
        if action.phase is phase:
            continue
        count += 1
        if count > _MAX_PHASES:
            raise DefinitionError(
                f"saga {saga.name!r}: one step enters more than {_MAX_PHASES} phases; do they form a cycle?"
            )
        leaving = _acts(saga, phase, state, context, entering=False)
        if any(isinstance(one, Enter) for one in leaving):
            raise DefinitionError(
                f"saga {saga.name!r}: leaving {phase.name} enters another phase; only handlers and @on_enter may do that"
            )
        phase = action.phase
        out += [*leaving, action]
        pending += _acts(saga, phase, state, context, entering=True)[::-1]
    return out


def _acts(saga: Saga[Any], phase: Enum, state: Any, context: StepContext, *, entering: bool) -> list[Any]:
    actions = actions_of(saga.acts(phase, state, context, entering=entering), saga)
    if isinstance(actions, list):
        return actions
    close = getattr(actions, "close", None)
    if close is not None:
        close()
    raise DefinitionError(
        f"saga {saga.name!r}: a method that runs when {phase.name} is entered or left may not be async"
    )
