"""Durations on the command line: 90s, 15m, 2h, 7d, 1h30m."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_MAX_DURATION = timedelta(days=36_525)  # so that every moment before or after now is in the calendar
_PART = re.compile(r"([0-9]{1,9})([smhdw])")


if TYPE_CHECKING:
    _DurationType = click.ParamType[timedelta]
else:  # generic in newer clicks only
    _DurationType = click.ParamType


class Duration(_DurationType):
    """Whole numbers with a unit, one after the other: s, m, h, d or w."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        if isinstance(value, timedelta):
            return value
        text = str(value)
        parts = _PART.findall(text)
        if not parts or "".join(number + unit for number, unit in parts) != text:
            self.fail(f"{text!r} is not a duration: write it as 90s, 15m, 2h, 7d or 1h30m", param, ctx)
        try:
            total = sum((timedelta(**{_UNITS[unit]: int(number)}) for number, unit in parts), timedelta())
        except OverflowError:
            total = timedelta.max
        if total > _MAX_DURATION:
            self.fail(f"{text!r} is too long: the longest is {_MAX_DURATION.days}d, a hundred years", param, ctx)
        return total


class Seconds(click.FloatRange):
    """A number of seconds, at least some and at most a day; what is no number (nan) is none."""

    def __init__(self, least: float) -> None:
        super().__init__(min=least, max=86_400)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        seconds = super().convert(value, param, ctx)
        if seconds != seconds:  # nan is neither below nor above
            self.fail(f"{value!r} is not a number of seconds", param, ctx)
        return seconds


def spoken(duration: timedelta) -> str:
    """Return a duration for people: the two largest units, e.g. 2d 3h, 15m, 40s; 0s for a negative one."""
    seconds = max(0, int(duration.total_seconds()))
    parts = []
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, seconds = divmod(seconds, size)
        if count:
            parts.append(f"{count}{unit}")
    return " ".join(parts[:2]) or "0s"
