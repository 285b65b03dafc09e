"""When what a handler asks for is due: checked, and as moments in UTC that every journal can carry."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from ..definition.actions import SetTimer
from ..definition.recurring import Rule, RuleError, local_moment, next_after, rule_of
from ..definition.saga import Saga
from ..durations import remedy
from ..errors import DefinitionError
from .ids import ACTIVITY, ANSWER, GAP, GATHER

SCHEDULED = "schedule/"  # how the timers of scheduled commands are named
_OURS = (SCHEDULED, ANSWER, ACTIVITY, GATHER, GAP)

# Schedule and SetTimer take moments that every journal and every zone can carry; a day at both ends is left for zones.
FIRST_MOMENT = datetime(1, 1, 2, tzinfo=UTC)
LAST_MOMENT = datetime(9998, 12, 31, tzinfo=UTC)


def timer_due(action: SetTimer, saga: Saga[Any], now: datetime) -> tuple[datetime, Rule | None]:
    """Return when a timer is due, and its rule if it comes again. Raises DefinitionError, which names the timer."""
    name = action.name
    if not isinstance(name, str) or not name or name.startswith(_OURS):
        raise DefinitionError(
            f"saga {saga.name!r}: a timer's name must be a string that is not empty and does not begin with "
            f"{' or '.join(_OURS)}"
        )
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DefinitionError(
            f"saga {saga.name!r}: a timer's name contains a lone surrogate, which is not valid Unicode"
        ) from None
    if not saga.handles_event(action.event):
        raise DefinitionError(
            f"saga {saga.name!r}: SetTimer({name!r}) has a {type(action.event).__name__}, which no handler takes"
        )
    if action.every is not None or action.cron is not None or action.missed is not None:
        return _recurring(action, saga, now)
    return _first(action, saga, now, zone=action.zone), None


def _recurring(action: SetTimer, saga: Saga[Any], now: datetime) -> tuple[datetime, Rule]:
    what, begins = f"SetTimer({action.name!r})", action.after is not None or action.at is not None
    try:
        if action.every is None and action.cron is None:
            raise RuleError("takes missed= only with every= or cron=")
        rule = rule_of(action.every, action.cron, action.zone, action.missed)
        if begins and action.cron is not None:
            raise RuleError("takes neither after= nor at= with cron=: the rule says when it fires")
        if action.zone is not None and action.cron is None and action.at is None:
            raise RuleError("takes zone= only with cron= or at=; every= is the same span of time in every zone")
        first = None if begins else next_after(rule, now)
    except RuleError as error:
        raise DefinitionError(f"saga {saga.name!r}: {what} {error}") from None
    if begins:
        return _first(action, saga, now, zone=action.zone), rule
    if first is None:
        raise _outside(saga, what)
    return first, rule


def _first(action: SetTimer, saga: Saga[Any], now: datetime, zone: str | None) -> datetime:
    name = action.name
    if (action.after is None) == (action.at is None):
        raise DefinitionError(
            f"saga {saga.name!r}: SetTimer({name!r}) takes either after= or at=, or every= or cron= to recur"
        )
    if action.after is not None:
        if zone is not None:
            raise DefinitionError(f"saga {saga.name!r}: SetTimer({name!r}) takes zone= only with at= or cron=")
        return after(now, action.after, saga, f"SetTimer({name!r})")
    if zone is not None:
        try:
            return _carried(local_moment(action.at, zone, now), saga, f"SetTimer({name!r})")
        except RuleError as error:
            raise DefinitionError(f"saga {saga.name!r}: SetTimer({name!r}) {error}") from None
        except OverflowError:
            raise _outside(saga, f"SetTimer({name!r})") from None
    if not isinstance(action.at, datetime) or action.at.utcoffset() is None:
        raise DefinitionError(
            f"saga {saga.name!r}: SetTimer({name!r}) needs an aware datetime as at=, or a zone= with it"
        )
    try:
        # Two moments of one zone are compared by their clock faces, which is wrong while clocks are changed.
        return _carried(action.at.astimezone(UTC), saga, f"SetTimer({name!r})")
    except OverflowError:
        raise _outside(saga, f"SetTimer({name!r})") from None


def after(now: datetime, span: timedelta, saga: Saga[Any], what: str) -> datetime:
    """Return now + `span`, in UTC. Raises DefinitionError, which says what asks for it."""
    if not isinstance(span, timedelta):
        raise DefinitionError(
            f"saga {saga.name!r}: {what} needs a timedelta as after=, not {type(span).__name__}: {remedy('after', span)}"
        )
    try:
        return _carried(now.astimezone(UTC) + span, saga, what)
    except OverflowError:
        raise _outside(saga, what) from None


def _carried(moment: datetime, saga: Saga[Any], what: str) -> datetime:
    if not FIRST_MOMENT <= moment <= LAST_MOMENT:
        raise _outside(saga, what)
    return moment


def _outside(saga: Saga[Any], what: str) -> DefinitionError:
    return DefinitionError(
        f"saga {saga.name!r}: {what} needs a time from {FIRST_MOMENT.date()} to {LAST_MOMENT.date()}, which every journal "
        "can store"
    )
