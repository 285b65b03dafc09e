"""When a recurring timer comes again: every so often, or by a cron rule in a zone. Pure: the time is given.

A rule is stored beside its next moment, and asked again each time that it fires: so it follows the zone's rules as they
are then. Cron rules mean what they mean to Debian's cron, over both changes of the clocks (docs/recurring-times.md).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, time, timedelta, tzinfo
from functools import lru_cache
from typing import Any, Literal, TypeAlias, get_args

import msgspec

Missed: TypeAlias = Literal["each", "once", "skip"]

SHORTEST = timedelta(seconds=1)  # each firing is a durable step
_LONGEST = timedelta(days=36_525)  # a hundred years: what is longer is a mistake, and would soon have no date
LATE = timedelta(minutes=1)  # from then on a firing counts as missed: longer than a takeover takes
_LAST = datetime(9998, 12, 31, tzinfo=UTC)
_MAX_RULE = 200  # characters
_CHANGE = timedelta(hours=27)  # more than clocks are ever changed by


class RuleError(ValueError):
    """A rule that this code cannot follow: it is wrong, or what it needs is not installed."""


class Rule(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """Either `every` or `cron`. `zone` is that of a cron rule, UTC if empty."""

    every: timedelta | None = None
    cron: str = ""
    zone: str = ""
    missed: Missed = "once"

    def __str__(self) -> str:
        when = f"every {self.every}" if self.every is not None else f"cron {self.cron} in {self.zone or 'UTC'}"
        return when if self.missed == "once" else f"{when}, missed: {self.missed}"


def rule_of(every: Any, cron: Any, zone: Any, missed: Any) -> Rule:
    """Return the rule that a SetTimer asks for. Raises RuleError, which names what is wrong."""
    if every is not None and cron is not None:
        raise RuleError("takes either every= or cron=")
    if missed is not None and missed not in get_args(Missed):
        raise RuleError(f'missed= must be "each", "once" or "skip", not {missed!r}')
    if every is not None:
        if not isinstance(every, timedelta):
            raise RuleError(f"needs a timedelta as every=, not {type(every).__name__}")
        if every < SHORTEST:
            raise RuleError(f"fires at most once a second, but every= is {every}")
        if every > _LONGEST:
            raise RuleError(f"fires at least once in a hundred years, but every= is {every}")
        return Rule(every, missed=missed or "once")
    if not isinstance(cron, str):
        raise RuleError(f"needs a string as cron=, not {type(cron).__name__}")
    if zone is not None:
        zone_named(zone)
    rule = Rule(None, " ".join(cron.split()), zone or "", missed or "once")
    check_rule(rule)
    return rule


@lru_cache(maxsize=256)
def check_rule(rule: Rule) -> None:
    """Raise RuleError for a rule that this code cannot follow: a bad one, an unknown zone, a library that is missing."""
    if rule.every is None:
        zone = zone_named(rule.zone) if rule.zone else UTC
        if _next_by_cron(rule.cron, datetime(2000, 1, 1, tzinfo=zone)) is None:
            raise RuleError(f"has a cron rule that never fires: {rule.cron!r}")


def next_after(rule: Rule, moment: datetime) -> datetime | None:
    """Return the first moment of the rule after `moment`, in UTC; None where the calendar ends. Raises RuleError.

    For `every`, `moment` is one of its own.
    """
    try:
        if rule.every is not None:
            found: datetime | None = moment.astimezone(UTC) + rule.every
        else:
            found = _next_by_cron(rule.cron, moment.astimezone(zone_named(rule.zone) if rule.zone else UTC))
    except OverflowError:
        return None
    return None if found is None or found > _LAST else found


def following(rule: Rule, due_at: datetime, now: datetime) -> tuple[datetime | None, bool]:
    """Return when a timer that was due at `due_at` comes again, and whether its own firing is to be passed over.

    `now` is when it fires. With "each", what was missed comes one by one; otherwise the next one lies ahead of `now`.
    """
    if rule.missed == "each" or now <= due_at:
        return next_after(rule, due_at), False
    if rule.every is None:
        ahead = next_after(rule, now)
    else:
        ahead = next_after(rule, due_at.astimezone(UTC) + (now - due_at) // rule.every * rule.every)
    return ahead, rule.missed == "skip" and now - due_at > LATE


def zone_named(name: Any) -> tzinfo:
    """Return the zone of that name. Raises RuleError where this machine knows none."""
    if not isinstance(name, str):
        raise RuleError(f"needs the name of a time zone as zone=, not {type(name).__name__}")
    from zoneinfo import ZoneInfo, ZoneInfoNotFoundError  # when it is needed: it takes a while to import

    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise RuleError(
            f"names an unknown time zone: {name[:60]!r}; time zones have names such as 'Europe/Berlin'. If the "
            "machine has no time zone data: pip install tzdata"
        ) from None


def local_moment(at: Any, zone: Any, now: datetime) -> datetime:
    """Return the moment, in UTC, when clocks in `zone` show `at`; for a time of day, when they next do. Raises RuleError.

    A time that the clocks jump over is the moment of the jump. Of one that they show twice, it is the first, unless `at`
    has `fold=1`.
    """
    where = zone_named(zone)
    if isinstance(at, time) and at.tzinfo is None:
        here = now.astimezone(where)
        found = _shown(datetime.combine(here.date(), at), where)
        return found if found > now else _shown(datetime.combine(here.date() + timedelta(days=1), at), where)
    if isinstance(at, datetime) and at.tzinfo is None:
        return _shown(at, where)
    raise RuleError("needs a datetime or a time without a zone of its own as at=, when zone= is given")


def _shown(local: datetime, zone: tzinfo) -> datetime:
    before, behind = (local.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if before <= behind:  # the clocks show it
        return behind if local.fold else before
    return _change_between(behind, before, zone)


def _change_between(low: datetime, high: datetime, zone: tzinfo) -> datetime:
    """Return when the clocks, which are changed once between two moments, have been changed."""
    offset = _offset(low, zone)
    while high - low > timedelta(seconds=1):
        middle = low + timedelta(seconds=(high - low) // timedelta(seconds=2))
        if _offset(middle, zone) == offset:
            low = middle
        else:
            high = middle
    return high.replace(microsecond=0)


def _offset(moment: datetime, zone: tzinfo) -> timedelta:
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset


def _next_by_cron(rule: str, moment: datetime) -> datetime | None:
    """Return the first moment after `moment`, which is in the rule's zone; None if it does not come in decades."""
    try:
        from cronsim import CronSim, CronSimError
    except ImportError:
        raise RuleError("has a cron rule, which needs a library: pip install 'sagalog[cron]'") from None
    if len(rule.split()) != 5 or len(rule) > _MAX_RULE:
        raise RuleError(
            f"needs a cron rule of five fields (minute, hour, day of month, month, day of week), not {rule[:60]!r}"
        )
    try:
        if moment.tzinfo is not UTC and any(field.startswith("*") for field in rule.split()[:2]):
            return _next_that_passes(rule, moment.astimezone(UTC), moment.tzinfo, CronSim)
        for found in CronSim(rule, moment):
            utc = found.astimezone(UTC)
            # Within the hour that the clocks show twice, a fixed time is found in the first one, which may have passed.
            if utc > moment:
                return utc
    except (CronSimError, ValueError) as error:
        raise RuleError(f"has a bad cron rule {rule[:60]!r}: {str(error)[:60].lower()}") from None
    return None


def _next_that_passes(rule: str, moment: datetime, zone: Any, cron: type[Iterator[datetime]]) -> datetime | None:
    """Return the first moment after `moment`, in UTC, at which the clocks show a time of the rule, also once more.

    The library is asked on clocks that nobody changes. With a zone it misses times where the clocks are changed within an
    hour, or over midnight, and may give one that they do not show.
    """
    behind, offset = moment, _offset(moment, zone)
    while True:
        local = next(cron(rule, (behind + offset).replace(tzinfo=None)), None)  # type: ignore[call-arg]
        if local is None:
            return None
        found = local.replace(tzinfo=UTC) - offset
        until = min(found, behind + _CHANGE)
        if _offset(until, zone) != offset:  # before that the clocks are changed, and show something else
            change = _change_between(behind, until, zone)
            behind, offset = change - timedelta(seconds=1), _offset(change, zone)
        elif until == found:
            return found
        else:  # until a day before it the clocks show no time of the rule, however they are changed meanwhile
            behind = max(until, local.replace(tzinfo=UTC) - 2 * _CHANGE)
            offset = _offset(behind, zone)
