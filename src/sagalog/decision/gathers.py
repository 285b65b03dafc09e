"""Gathers: an answer counts for its leg, the next legs are sent, and the last one lets the saga go on, all in one step.

advance ─► handler of the answer ─► [gathers] ─► joins ─► draft
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from typing import Any

import msgspec

from ..definition.actions import Compensate, Complete
from ..definition.codec import Typed
from ..definition.context import StepContext
from ..errors import CodecError
from .checked import actions_of
from .children import child_entry
from .draft import Draft
from .gather_ends import may_wait
from .gathering import GatherEnd, Gathering, GatherStep, more_legs
from .ids import DROPPED, GATHER, answered_entry, entry_of
from .message import Message
from .record import SagaRecord
from .state import UnreadableStateError


def leg_of(record: SagaRecord, persistence_id: str, message: Message) -> tuple[str, Gathering, int] | None:
    """Return which leg of which gather a message answers or refuses; None for one that has come, and any other message."""
    if message.kind == "timer":
        return None
    if message.kind == "refused":
        entry = entry_of(persistence_id, message.event.command_id)
    elif message.kind == "child":
        entry = child_entry(message.id)
    else:
        entry = answered_entry(persistence_id, message.id)
    if not entry:
        return None
    for name, gathering in record.gathers.items():
        leg = gathering.leg_of(entry)
        if leg is not None:
            return name, gathering, leg
    return None


def follow(
    draft: Draft, message: Message, record: SagaRecord, state: Any, actions: list[Any], context: StepContext
) -> Iterator[Awaitable[list[Any]]]:
    """Count a leg, and add to `actions` what follows; yield what has to be waited for.

    A gather of which an operator has dropped a leg goes on with the message that the repair leaves behind.
    """
    found = leg_of(record, draft.persistence_id, message)
    for name, gathering in record.gathers.items():
        if any(isinstance(action, (Complete, Compensate)) for action in actions):
            return
        is_leg = found is not None and found[0] == name
        goes_on = is_leg or (message.name == GATHER + name and message.id.startswith(DROPPED))
        if found is not None and is_leg:
            gathering = gathering.with_leg(found[2], refused=_is_refused(message))
        failed = bool(gathering.refused) and not gathering.wait
        if gathering.over:
            if goes_on:
                actions.append(GatherStep(name, gathering if gathering.open else None, []))
        elif failed or gathering.come == gathering.total:
            yield from _ended(draft, name, gathering, state, actions, context)
        elif goes_on:
            actions.append(GatherStep(name, gathering, more_legs(name, gathering, draft.saga, state)))


def _is_refused(message: Message) -> bool:
    """Say whether a leg counts as refused: its command was, or its child has not completed."""
    return message.kind == "refused" or (message.kind == "child" and message.event.outcome != "completed")


def _ended(
    draft: Draft, name: str, gathering: Gathering, state: Any, actions: list[Any], context: StepContext
) -> Iterator[Awaitable[list[Any]]]:
    left = msgspec.structs.replace(gathering, over=True) if gathering.open else None
    stored = gathering.failed if gathering.refused else gathering.then
    if stored is None:  # it failed, and nothing is said about it: as any refusal
        actions += [GatherStep(name, left, []), Compensate()]
        return
    event = _end_of(draft, name, stored)
    if context.phase is not None and may_wait(draft.saga, event, context.phase, actions):
        actions.append(GatherStep(name, left, [], GatherEnd(event, stored, gathering)))
        return
    actions.append(GatherStep(name, left, [], ended=event))
    told = msgspec.structs.replace(context, gathered=gathering.told())
    more = actions_of(draft.saga.handle_in(state, event, told), draft.saga)
    if isinstance(more, list):
        actions.extend(more)
    else:
        yield more


def _end_of(draft: Draft, name: str, stored: Typed) -> Any:
    """Return the event that ends a gather. Raises UnreadableStateError where only newer code can read it, CodecError."""
    try:
        return draft.registry.unpack(stored)
    except CodecError as error:
        if draft.registry.is_newer(stored):
            raise UnreadableStateError(f"gather {name}: {error}") from error
        raise
