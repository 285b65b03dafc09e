"""What a handler asked for, checked and put into stored form before anything is changed."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Collection, Coroutine, Iterable, Iterator
from datetime import datetime
from types import GeneratorType
from typing import Any

from ..definition.actions import (
    Action,
    AddKey,
    CancelTimer,
    Compensate,
    Complete,
    Enter,
    Gather,
    RemoveKey,
    Run,
    Schedule,
    Send,
    SetTimer,
    StartChild,
)
from ..definition.codec import Typed, TypeRegistry
from ..definition.results import pack_result
from ..definition.saga import Saga
from ..errors import DefinitionError
from .entries import Status
from .gathering import GatherStep, planned, step_of
from .itinerary import Proceed
from .keys import checked_key
from .moments import after, timer_due
from .planned_child import PlannedChild, check_room, planned_child
from .record import SagaRecord
from .requests import asked

Planned = Action | GatherStep | Proceed
_ACTIONS = (
    Send,
    SetTimer,
    CancelTimer,
    Compensate,
    Complete,
    Schedule,
    Enter,
    Gather,
    Run,
    StartChild,
    AddKey,
    RemoveKey,
)


def actions_of(result: Any, saga: Saga[Any]) -> list[Any] | Awaitable[list[Any]]:
    """Return what a handler asked for, whatever it gave; an awaitable of that where the handler is asynchronous.

    A handler gives None, an action, or an iterable of actions, and a generator may also return some: they come last.
    Raises DefinitionError for anything else. The caller has to await or close an awaitable.
    """
    kind = type(result)
    if kind is GeneratorType:  # mostly; the checks below ask abstract classes: slow
        return _all_of(result, saga)
    if result is None:
        return []
    if kind is list:
        return result  # type: ignore[no-any-return]
    if isinstance(result, _ACTIONS):
        return [result]
    if isinstance(result, (Awaitable, AsyncIterable)):
        return _awaited(result, saga)
    return _run_through(result, saga)


def _run_through(result: Any, saga: Saga[Any]) -> list[Any]:
    if not isinstance(result, Iterable) or isinstance(result, (str, bytes, dict)):
        raise DefinitionError(
            f"a handler of saga {saga.name!r} returned a {type(result).__name__}: return or yield actions (Send, "
            "SetTimer, ...), or None"
        )
    return _all_of(iter(result), saga)


def _all_of(result: Iterator[Any], saga: Saga[Any]) -> list[Any]:
    actions: list[Any] = []
    try:
        while True:
            actions.append(next(result))
    except StopIteration as end:
        returned = end.value  # a generator's, None for the rest
    if returned is not None:
        last = actions_of(returned, saga)
        if not isinstance(last, list):
            if isinstance(returned, Coroutine):
                returned.close()
            raise DefinitionError(
                f"a handler of saga {saga.name!r} yields and also returns a {type(returned).__name__}: make it async def"
            )
        actions.extend(last)
    return actions


async def _awaited(result: Any, saga: Saga[Any]) -> list[Any]:
    if isinstance(result, AsyncIterable):
        return [action async for action in result]
    actions = actions_of(await result, saga)
    return actions if isinstance(actions, list) else await actions


def plan_of(
    actions: list[Any],
    saga: Saga[Any],
    registry: TypeRegistry,
    now: datetime,
    state: Any = None,
    record: SagaRecord | None = None,
) -> list[tuple[Planned, Any, Typed | None]]:
    """Check every action and put its message into stored form, before anything is changed.

    `state`: as the handler left it, for methods that make legs. `record`: of the instance, as it was before.
    """
    under_way: Collection[str] = () if record is None else record.gathers
    children = 0 if record is None else len(record.children)
    plan: list[tuple[Planned, Any, Typed | None]] = []
    ended = False
    for action in actions:
        if isinstance(action, Send):
            if ended and action.undo is not None:
                raise DefinitionError(
                    f"saga {saga.name!r}: Send(undo=...) comes after the saga's end, so it could never be undone"
                )
            undo = registry.pack(action.undo) if action.undo is not None else None
            command = registry.pack(action.command)
            if action.reply_within is None and action.otherwise is None and action.reply is None:
                plan.append((action, command, undo))
                continue
            if ended:
                raise DefinitionError(
                    f"saga {saga.name!r}: a Send with reply_within= comes after the saga's end and would outlive it"
                )
            plan.append((action, asked(action, command, saga, registry, now), undo))
        elif isinstance(action, SetTimer):
            if ended:
                raise DefinitionError(f"saga {saga.name!r}: a SetTimer comes after the saga's end and would outlive it")
            plan.append((action, (registry.pack(action.event), *timer_due(action, saga, now)), None))
        elif isinstance(action, Schedule):
            plan.append((action, (registry.pack(action.command), after(now, action.after, saga, "Schedule")), None))
        elif isinstance(action, (Compensate, Complete)):
            if ended:
                raise DefinitionError(
                    f"saga {saga.name!r}: one step can end it only once, by Complete() or by Compensate()"
                )
            ended = True
            chain: Any = None
            if isinstance(action, Complete):
                chain = None if action.result is None else pack_result(action.result, registry)
            else:
                if not isinstance(action.commands, (tuple, list)):
                    raise DefinitionError(
                        f"saga {saga.name!r}: Compensate(commands=...) takes a tuple of commands, not a "
                        f"{type(action.commands).__name__}"
                    )
                chain = [registry.pack(command) for command in action.commands]
            plan.append((action, chain, None))
        elif isinstance(action, CancelTimer):
            if not isinstance(action.name, str):
                raise DefinitionError(
                    f"saga {saga.name!r}: CancelTimer takes the name of a timer, not {type(action.name).__name__}"
                )
            plan.append((action, None, None))
        elif isinstance(action, (Gather, GatherStep)):
            if ended:
                raise DefinitionError(f"saga {saga.name!r}: a Gather comes after the saga's end and would outlive it")
            step = step_of(action, saga, state, registry, under_way)
            under_way = {*under_way, step.name} - (set() if step.gathering else {step.name})
            legs = planned(step, saga, registry)
            children += sum(isinstance(leg, PlannedChild) for leg, _ in legs.commands)
            check_room(saga, children)
            plan.append((action, legs, None))
        elif isinstance(action, StartChild):
            if ended:
                raise DefinitionError(
                    f"saga {saga.name!r}: a StartChild comes after the saga's end, so the child's end could never be "
                    "handled"
                )
            if record is not None and record.status is not Status.RUNNING:
                raise DefinitionError(f"saga {saga.name!r}: StartChild while it is {record.status.value}")
            children += 1
            check_room(saga, children)
            undo = registry.pack(action.undo) if action.undo is not None else None
            plan.append((action, planned_child(action, saga, registry), undo))
        elif isinstance(action, Enter):
            if ended:
                raise DefinitionError(
                    f"saga {saga.name!r}: an Enter comes after the saga's end; enter the last phase before it"
                )
            if saga.phase_table is None:
                raise DefinitionError(f"saga {saga.name!r} has no phases to Enter: declare phases = an Enum of them")
            plan.append((action, None, None))
        elif isinstance(action, Proceed):
            plan.append((action, None, None))
        elif isinstance(action, (AddKey, RemoveKey)):
            if ended and isinstance(action, AddKey):
                raise DefinitionError(
                    f"saga {saga.name!r}: an AddKey comes after the saga's end, which gives up all its keys"
                )
            plan.append((action, checked_key(action, saga.name, saga.key_table), None))
        elif isinstance(action, Run):
            raise DefinitionError(
                f"saga {saga.name!r} has no activities to Run: decorate a method of it with @activity"
            )
        else:
            raise DefinitionError(
                f"a handler of saga {saga.name!r} yielded a {type(action).__name__}, which is not an action: wrap a "
                "command as Send(command)"
            )
    return plan
