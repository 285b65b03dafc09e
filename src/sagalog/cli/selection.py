"""Which instances a command is about: the options that select them, the same for every command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import click

from ..decision.entries import FINAL, Status
from ..definition.indexing import as_term
from ..operating.inspect import SagaView
from .durations import Duration

F = TypeVar("F", bound=Callable[..., Any])

STATUSES = [*(status.value for status in Status), "parked", "unreadable"]
_OPTIONS = ("status", "phase", "why", "id_has", "where", "older_than", "newer_than", "overdue")


@dataclass(frozen=True, slots=True)
class Selection:
    """What an instance must be to be meant; what is None or empty does not matter."""

    saga: str | None = None
    status: str | None = None
    phase: str | None = None
    why: str | None = None
    id_has: str | None = None
    where: tuple[tuple[str, str | None], ...] = ()
    older_than: timedelta | None = None
    newer_than: timedelta | None = None
    overdue: bool = False

    def __bool__(self) -> bool:
        return self != Selection()

    @property
    def finished(self) -> bool:
        """It asks for finished ones."""
        return self.status in {status.value for status in FINAL}

    def takes(self, view: SagaView, now: datetime) -> bool:
        """Say whether an instance is meant. Its age is the time since its last step."""
        if self.status is not None and view.status != self.status:
            return False
        if self.phase is not None and view.phase != self.phase:
            return False
        if self.why is not None and self.why.casefold() not in view.why.casefold():
            return False
        if self.id_has is not None and self.id_has not in view.correlation_id:
            return False
        if self.where and (view.record is None or not view.record.found_by(dict(self.where))):
            return False
        if self.overdue and not view.overdue(now):
            return False
        if self.older_than is None and self.newer_than is None:
            return True
        if view.record is None:
            return False
        age = now - view.record.updated_at
        return (self.older_than is None or age > self.older_than) and (self.newer_than is None or age < self.newer_than)


def _wanted(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> tuple[tuple[str, str | None], ...]:
    wanted: dict[str, str | None] = {}
    for one in given:
        field, separator, text = one.partition("=")
        if not field.isidentifier():
            raise click.BadParameter(f"{one!r} is not NAME=VALUE, e.g. customer_id=c-7")
        if field in wanted:
            raise click.BadParameter(f"{field} is given twice")
        wanted[field] = as_term(text) if separator else None
    return tuple(wanted.items())


def not_empty(_: click.Context, __: click.Parameter, given: str | None) -> str | None:
    """Refuse an empty text, mostly that of a shell variable that is not set: every id and reason contains it."""
    if given == "":
        raise click.BadParameter("it is empty; leave the option out to select all")
    return given


def selecting(command: F) -> F:
    """Give a command the options of a selection, which it takes as `selection`."""

    def wrapped(*args: Any, saga: str | None, **given: Any) -> Any:
        chosen = {name: given.pop(name) for name in _OPTIONS}
        return command(*args, selection=Selection(saga=saga, **chosen), **given)

    wrapped.__doc__ = command.__doc__
    wrapped.__dict__.update(command.__dict__)
    options = (
        click.option("--saga", callback=not_empty, help="Only this saga."),
        click.option("--status", type=click.Choice(STATUSES), help="Only these."),
        click.option("--phase", metavar="NAME", callback=not_empty, help="Only those in this phase."),
        click.option(
            "--why",
            metavar="TEXT",
            callback=not_empty,
            help="Only those stuck for a reason that contains this text.",
        ),
        click.option("--id-has", metavar="TEXT", callback=not_empty, help="Only ids that contain this text."),
        click.option(
            "--where",
            metavar="NAME=VALUE",
            multiple=True,
            callback=_wanted,
            help="Only those with this value in their saga's index, or with this key; NAME alone means None. "
            "May be repeated.",
        ),
        click.option("--older-than", type=Duration(), help="Only those whose last step is older than this, e.g. 2h."),
        click.option("--newer-than", type=Duration(), help="Only those whose last step is newer than this."),
        click.option("--overdue", is_flag=True, help="Only what has been due for some time and no worker has taken."),
    )
    for option in reversed(options):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]
