"""What the repair commands share: which instances, a preview of what will happen, the confirmation, the final count."""

from __future__ import annotations

import asyncio
import getpass
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import click

from ..decision.repair import Repair
from ..errors import ConflictError, SagalogError
from ..journal import Journal
from ..journal.protocol import server_now
from ..operating.apply import RETENTION, Applied, apply
from ..operating.inspect import SagaView, instances
from .journals import journal_option, reading
from .progress import Counting
from .selection import Selection
from .show import the_one
from .text import clean, json_line, line

F = TypeVar("F", bound=Callable[..., Any])
_SHOWN = 10  # previews; of more, the rest is counted
_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Wish:
    """How a repair was asked for on the command line."""

    note: str
    by: str
    dry_run: bool
    yes: bool
    as_json: bool
    retention: timedelta = RETENTION


@dataclass(frozen=True, slots=True)
class _ShownInstance:
    """One instance to be repaired, as it was shown: the version that the repair builds on, and whether it ends it."""

    saga: str
    correlation_id: str
    repair: Repair
    version: int
    ends: bool


Make = Callable[[Journal, SagaView], Awaitable[Repair]]


def login() -> str:
    """Return the name of whoever runs this, as the system knows it; nothing where it knows none."""
    try:
        return getpass.getuser()
    except (OSError, KeyError, ImportError):
        return ""


def repair_options(command: F) -> F:
    """Give a command the options that every repair has, which it takes as `wish`, and the journal as `url`."""

    def wrapped(*args: Any, note: str, by: str, dry_run: bool, yes: bool, as_json: bool, **given: Any) -> Any:
        return command(*args, wish=Wish(note, by, dry_run, yes, as_json), **given)

    wrapped.__doc__ = command.__doc__
    wrapped.__dict__.update(command.__dict__)
    for option in (
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object for each instance."),
        click.option(
            "--by", default=login, show_default="your login name", help="Who makes the repair, for the record."
        ),
        click.option("--note", default="", help="Why, for the record."),
        click.option("--yes", is_flag=True, help="Do not ask."),
        click.option("--dry-run", is_flag=True, help="Only print what would happen."),
        journal_option,
    ):
        wrapped = option(wrapped)
    return wrapped  # type: ignore[return-value]


def repair_all(
    url: str, ids: tuple[str, ...], selection: Selection, wish: Wish, make: Make, *, as_shown: bool = True
) -> None:
    """Repair the instances that are named or selected, and exit: with 1 if any could not be repaired.

    `as_shown`: what was shown and confirmed is what may be done: an instance that has moved on since is left alone.
    """
    others = Selection(selection.saga)
    if ids and selection != others:
        raise click.UsageError("give ids, or select with options, not both (--saga goes with either)")
    if not ids and not selection:
        raise click.UsageError("which instances? Give their ids, or select them, e.g. with --status parked")
    sys.exit(asyncio.run(_Repairs(wish, make, as_shown=as_shown).run(url, ids, selection)))


@dataclass(slots=True)
class _Repairs:
    wish: Wish
    make: Make
    as_shown: bool
    previews: list[_ShownInstance] = field(default_factory=list)  # what is to be repaired; a dry run only counts
    changing: int = 0
    done: int = 0
    unchanged: int = 0  # another operator or worker was first
    failed: int = 0

    async def run(self, url: str, ids: tuple[str, ...], selection: Selection) -> int:
        async with reading(url) as journal:
            with Counting("instances looked at") as counting:
                number = 0
                async for view in self._meant(journal, ids, selection):
                    number += 1
                    await self._preview(journal, view, named=bool(ids))
                    counting.update(number)
            if not self.wish.dry_run and self.previews:
                if not self.wish.yes:
                    self._confirm()
                await self._apply(journal)
        self._count(bool(ids))
        return 1 if self.failed else 0

    async def _meant(self, journal: Journal, ids: tuple[str, ...], selection: Selection) -> AsyncIterator[SagaView]:
        for one in dict.fromkeys(ids):
            try:
                yield await the_one(journal, one, selection.saga)
            except click.ClickException as error:
                if len(ids) == 1:
                    raise
                self._failed(one, selection.saga or "", error.message)
        if ids:
            return
        now = await server_now(journal)
        async for view in instances(journal, selection.saga, finished=selection.finished, where=dict(selection.where)):
            if selection.takes(view, now):
                yield view

    async def _preview(self, journal: Journal, view: SagaView, *, named: bool) -> None:
        try:
            repair = await self.make(journal, view)
            applied = await apply(journal, view.saga, view.correlation_id, repair, dry_run=True)
        except SagalogError as error:
            self._failed(view.correlation_id, view.saga, f"{type(error).__name__}: {error}")
            return
        if applied.changes:
            self.changing += 1
            if not self.wish.dry_run:
                ends = applied.after.finished
                self.previews.append(_ShownInstance(view.saga, view.correlation_id, repair, applied.version - 1, ends))
        if not (applied.changes or named):  # selected, and needs nothing
            return
        if self.wish.as_json:
            if self.wish.dry_run or not applied.changes:
                self._print_json(applied)
        elif not applied.changes or self.changing <= _SHOWN:
            _show(applied)
        elif self.changing == _SHOWN + 1:
            click.echo("... (--dry-run --json shows all)")

    def _confirm(self) -> None:
        if not sys.stdin.isatty():
            raise click.UsageError(
                "there is no terminal to ask for confirmation: add --yes to repair, or --dry-run to look"
            )
        count = len(self.previews)
        what = self.previews[0].repair.action
        click.confirm(f"{what.capitalize()}: {count:,} {_instances(count)}?", abort=True, err=True)

    async def _apply(self, journal: Journal) -> None:
        todo = iter(self.previews)

        async def work() -> None:
            for shown in todo:  # shared by all who work
                await self._repair(journal, shown)
                counting.update(self.done + self.failed)

        with Counting("instances") as counting:
            try:
                await asyncio.gather(*(work() for _ in range(_AT_ONCE)))
            except asyncio.CancelledError:
                left = len(self.previews) - self.done - self.failed - self.unchanged
                click.echo(f"{self.done:,} repaired so far, {left:,} not looked at, or nobody knows", err=True)
                raise

    async def _repair(self, journal: Journal, shown: _ShownInstance) -> None:
        expected = shown.version if self.as_shown and not self.wish.yes else None
        try:
            applied = await apply(
                journal,
                shown.saga,
                shown.correlation_id,
                shown.repair,
                expected_version=expected,
                retention=self.wish.retention,
            )
        except ConflictError:
            self._failed(shown.correlation_id, shown.saga, "it has moved on since it was shown: look again")
        except SagalogError as error:
            self._failed(shown.correlation_id, shown.saga, f"{type(error).__name__}: {error}")
        else:
            self.done += applied.changes
            self.unchanged += not applied.changes
            if self.wish.as_json:
                self._print_json(applied)

    def _count(self, named: bool) -> None:
        if self.wish.as_json:
            return
        failed = f", {self.failed:,} could not be" if self.failed else ""
        if self.unchanged:
            failed += f", {self.unchanged:,} needed nothing any more: another operator or worker was first"
        if self.wish.dry_run:
            count = self.changing
            click.echo(f"dry run: {count:,} {_instances(count)} would be repaired{failed}; nothing was changed")
        elif self.done:
            live = any(not shown.ends for shown in self.previews)
            then = "; a running worker takes it from there" if live else ""
            click.echo(f"{self.done:,} {_instances(self.done)} repaired{failed}{then}")
        elif failed or not named:
            click.echo(f"0 instances repaired{failed}")

    def _failed(self, correlation_id: str, saga: str, why: str) -> None:
        self.failed += 1
        if self.wish.as_json:
            click.echo(json_line({"saga": saga, "id": correlation_id, "error": why}))
        else:
            click.echo(f"{line(saga)} {line(correlation_id)}: {clean(why)}", err=True)

    def _print_json(self, applied: Applied) -> None:
        fields = {
            "saga": applied.saga,
            "id": applied.correlation_id,
            "action": applied.action,
            "changes": applied.changes,
            "version": applied.version,
            "effects": applied.effects,
        }
        click.echo(json_line(fields))


def _show(applied: Applied) -> None:
    click.echo(f"{line(applied.saga)} {line(applied.correlation_id)}")
    for effect in applied.effects:
        click.echo(f"  {line(effect)}")


def _instances(count: int) -> str:
    return "instance" if count == 1 else "instances"
