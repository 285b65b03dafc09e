"""Gathers: an answer counts for its leg, the next legs are sent, and the last one lets the saga go on, all in one step.

advance ─► handler of the answer ─► [gathers] ─► joins ─► draft
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from typing import Any

import msgspec

from ..definition.actions import Compensate, Complete
from ..definition.context import StepContext
from .checked import actions_of
from .children import child_entry
from .draft import Draft
from .gathering import Gathering, GatherStep, more_legs
from .ids import answered_entry, entry_of
from .message import Message
from .record import SagaRecord


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

    A gather whose last leg an operator has dropped comes to its end with whatever message is handled next.
    """
    found = leg_of(record, draft.persistence_id, message)
    for name, gathering in record.gathers.items():
        if any(isinstance(action, (Complete, Compensate)) for action in actions):
            return
        is_leg = found is not None and found[0] == name
        if found is not None and is_leg:
            gathering = gathering.with_leg(found[2], refused=_is_refused(message))
        failed = bool(gathering.refused) and not gathering.wait
        if gathering.over:
            if is_leg:
                actions.append(GatherStep(name, gathering if gathering.open else None, []))
        elif failed or gathering.come == gathering.total:
            yield from _ended(draft, name, gathering, state, actions, context)
        elif is_leg:
            actions.append(GatherStep(name, gathering, more_legs(name, gathering, draft.saga, state)))


def _is_refused(message: Message) -> bool:
    """Say whether a leg counts as refused: its command was, or its child has not completed."""
    return message.kind == "refused" or (message.kind == "child" and message.event.outcome != "completed")


def _ended(
    draft: Draft, name: str, gathering: Gathering, state: Any, actions: list[Any], context: StepContext
) -> Iterator[Awaitable[list[Any]]]:
    left = msgspec.structs.replace(gathering, over=True) if gathering.open else None
    actions.append(GatherStep(name, left, []))
    stored = gathering.failed if gathering.refused else gathering.then
    if stored is None:  # it failed, and nothing is said about it: as any refusal
        actions.append(Compensate())
        return
    event = draft.registry.unpack(stored)
    told = msgspec.structs.replace(context, gathered=gathering.told())
    more = actions_of(draft.saga.handle_in(state, event, told), draft.saga)
    if isinstance(more, list):
        actions.extend(more)
    else:
        yield more
