"""What a handler asked for, checked and put into stored form before anything is changed."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any

from ..definition.actions import Action, CancelTimer, Compensate, Complete, Schedule, Send, SetTimer
from ..definition.codec import Typed, TypeRegistry
from ..definition.saga import Saga
from ..errors import DefinitionError

SCHEDULED = "schedule/"  # how the timers of scheduled commands are named


def listed(result: Any, saga: Saga[Any]) -> list[Any]:
    """Return the actions that a handler returned or yields, run to its end."""
    if not isinstance(result, Iterable) or isinstance(result, (str, bytes, dict)):
        raise DefinitionError(
            f"a handler of saga {saga.name!r} returned a {type(result).__name__}: return or yield actions (Send, "
            "SetTimer, ...), or None"
        )
    return list(result)


def plan_of(
    actions: list[Any], saga: Saga[Any], registry: TypeRegistry, now: datetime
) -> list[tuple[Action, Any, Typed | None]]:
    """Check every action and put its message into stored form, before anything is changed."""
    plan: list[tuple[Action, Any, Typed | None]] = []
    ended = False
    for action in actions:
        if isinstance(action, Send):
            if ended and action.undo is not None:
                raise DefinitionError(f"saga {saga.name!r}: Send(undo=...) after its end could never be undone")
            undo = registry.pack(action.undo) if action.undo is not None else None
            plan.append((action, registry.pack(action.command), undo))
        elif isinstance(action, SetTimer):
            if ended:
                raise DefinitionError(f"saga {saga.name!r}: a SetTimer after its end would outlive the saga")
            plan.append((action, (registry.pack(action.event), _timer_due(action, saga, now)), None))
        elif isinstance(action, Schedule):
            plan.append((action, (registry.pack(action.command), _after(now, action.after, saga, "Schedule")), None))
        elif isinstance(action, (Compensate, Complete)):
            if ended:
                raise DefinitionError(f"saga {saga.name!r}: one step ends it once, by Complete() or by Compensate()")
            ended = True
            chain = [registry.pack(command) for command in action.commands] if isinstance(action, Compensate) else None
            plan.append((action, chain, None))
        elif isinstance(action, CancelTimer):
            plan.append((action, None, None))
        else:
            raise DefinitionError(
                f"a handler of saga {saga.name!r} yielded a {type(action).__name__}, which is not an action: wrap a "
                "command as Send(command)"
            )
    return plan


def _timer_due(action: SetTimer, saga: Saga[Any], now: datetime) -> datetime:
    name = action.name
    if not isinstance(name, str) or not name or name.startswith(SCHEDULED):
        raise DefinitionError(
            f"saga {saga.name!r}: a timer's name is a text, not empty, that does not begin with {SCHEDULED}"
        )
    if not saga.handles_event(action.event):
        raise DefinitionError(
            f"saga {saga.name!r}: SetTimer({name!r}) brings a {type(action.event).__name__}, and no handler takes it"
        )
    if (action.after is None) == (action.at is None):
        raise DefinitionError(f"saga {saga.name!r}: SetTimer({name!r}) takes either after= or at=")
    if action.after is not None:
        return _after(now, action.after, saga, f"SetTimer({name!r})")
    if not isinstance(action.at, datetime) or action.at.tzinfo is None:
        raise DefinitionError(f"saga {saga.name!r}: SetTimer({name!r}) needs an aware datetime as at=")
    return action.at


def _after(now: datetime, after: timedelta, saga: Saga[Any], what: str) -> datetime:
    try:
        return now + after
    except (OverflowError, TypeError):
        raise DefinitionError(f"saga {saga.name!r}: {what} needs a timedelta that ends before the year 10000") from None
