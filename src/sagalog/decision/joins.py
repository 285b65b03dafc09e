"""Joins: which legs have come, and the methods that run when all of them have, in the step of the last one.

    advance ─► handler of the leg ─► [joins] ─► draft: one step, the actions of both

Progress is kept by name. A leg that new code adds is waited for; one that it takes away is not any more, and a join that
has all of its legs by that runs with the next message that the instance handles.
"""

from __future__ import annotations

from collections.abc import Awaitable, Iterator
from itertools import chain
from typing import Any

from ..definition.actions import Compensate, Complete
from ..definition.context import StepContext
from ..definition.joins import Join
from ..definition.schema import schema_of
from .checked import actions_of
from .draft import Draft
from .entries import Joined
from .finish import finish
from .gathering import ends_in
from .gathers import follow
from .message import Message, Outcome
from .phases import entered
from .record import SagaRecord


def finish_with_joins(
    draft: Draft, message: Message, record: SagaRecord, state: Any, actions: list[Any], context: StepContext
) -> Outcome | Awaitable[Outcome]:
    """Run the joins that are complete now, then finish the step. Raises with the draft unchanged, as the handler does."""
    progress = came(draft.saga.joins(), record, message)
    running = chain(
        follow(draft, message, record, state, actions, context), _run(draft, progress, state, actions, context)
    )
    more = next(running, None)
    if more is not None:
        return _finish_slowly(draft, message, record, state, actions, progress, context, running, more)
    return _finish(draft, message, record, state, actions, progress, context)


async def _finish_slowly(
    draft: Draft,
    message: Message,
    record: SagaRecord,
    state: Any,
    actions: list[Any],
    progress: dict[str, Joined],
    context: StepContext,
    running: Iterator[Awaitable[list[Any]]],
    more: Awaitable[list[Any]],
) -> Outcome:
    actions.extend(await more)
    for following in running:
        actions.extend(await following)
    outcome = _finish(draft, message, record, state, actions, progress, context)
    return outcome if isinstance(outcome, Outcome) else await outcome


def _finish(
    draft: Draft,
    message: Message,
    record: SagaRecord,
    state: Any,
    actions: list[Any],
    progress: dict[str, Joined],
    context: StepContext,
) -> Outcome | Awaitable[Outcome]:
    outcome = finish(draft, message, record, state, entered(draft.saga, record, state, actions, context))
    if not isinstance(outcome, Outcome):
        return _finished(outcome, record, progress)
    record.joins = progress
    return outcome


async def _finished(outcome: Awaitable[Outcome], record: SagaRecord, progress: dict[str, Joined]) -> Outcome:
    finished = await outcome
    record.joins = progress
    return finished


def _run(
    draft: Draft, progress: dict[str, Joined], state: Any, actions: list[Any], context: StepContext
) -> Iterator[Awaitable[list[Any]]]:
    """Run what is complete, and add what it asks for to `actions`; yield what has to be waited for."""
    saga = draft.saga
    for event in ends_in(actions):
        _count(saga.joins(), progress, schema_of(type(event)).name)
    for join in saga.joins():
        joined = progress.get(join.name)
        if joined is None or joined.done or not set(join.legs) <= set(joined.came):
            continue
        if any(isinstance(action, (Complete, Compensate)) for action in actions):
            return  # it has ended
        method = getattr(saga, join.method)
        more = actions_of(method(state, context) if join.takes_context else method(state), saga)
        if isinstance(more, list):
            actions.extend(more)
        else:
            yield more
        progress[join.name] = Joined(done=True)


def came(joins: tuple[Join, ...], record: SagaRecord, message: Message) -> dict[str, Joined]:
    """Return the progress of the joins with this message counted, to be changed by whoever asks."""
    leg = "" if message.kind == "refused" or message.passed else schema_of(type(message.event)).name
    progress = dict(record.joins)
    _count(joins, progress, leg)
    return progress


def _count(joins: tuple[Join, ...], progress: dict[str, Joined], leg: str) -> None:
    for join in joins:
        joined = progress.get(join.name)
        if joined is not None and joined.done:
            continue
        if leg in join.legs:
            known = () if joined is None else joined.came
            legs = known if leg in known else (*known, leg)
            progress[join.name] = Joined(legs, tuple(one for one in join.legs if one not in legs))
