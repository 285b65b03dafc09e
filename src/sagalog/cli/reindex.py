"""`sagalog reindex`: put instances into the index that were stored before their saga had it."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter

import click

from ..errors import SagalogError
from ..operating.inspect import instances
from ..operating.reindex import Indexed, reindex
from ..runner import SagaRunner
from .journals import journal_option, reading
from .progress import Counting
from .selection import not_empty
from .targets import load_runner
from .text import clean, json_line, line

_AT_ONCE = 64


@click.command("reindex")
@click.argument("target", metavar="MODULE:RUNNER")
@journal_option
@click.option("--saga", callback=not_empty, help="Only this saga.")
@click.option("--force", is_flag=True, help="Include instances that are in the index already, going by their record.")
@click.option("--dry-run", is_flag=True, help="Only print what would happen.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def reindex_(target: str, url: str, saga: str | None, force: bool, dry_run: bool, as_json: bool) -> None:
    """Index live instances by all fields that the `index` of their saga now names.

    Each step updates the index of its own instance. This command does it for instances that wait, with one record
    each; workers may run meanwhile. If it is stopped, run it again, and it continues. Exit code 1 if an instance
    could not be indexed.

    \b
    Examples:
      sagalog reindex shop.sagas:runner --journal sqlite:///orders.db --dry-run
      sagalog reindex shop.sagas:runner --journal postgresql://db/shop --saga order
    """
    sys.exit(asyncio.run(_Reindexing(load_runner(target), saga, force, dry_run).run(url, as_json)))


class _Reindexing:
    def __init__(self, runner: SagaRunner, saga: str | None, force: bool, dry_run: bool) -> None:
        self._sagas = {one.name: one for one in runner.sagas if saga in (None, one.name)}
        if not self._sagas:
            raise click.BadParameter(
                f"this runner has no saga {saga!r}; it has {', '.join(s.name for s in runner.sagas)}"
            )
        self._force, self._dry_run = force, dry_run
        self._counts: Counter[Indexed] = Counter()
        self._failed = 0

    async def run(self, url: str, as_json: bool) -> int:
        with Counting("instances looked at") as counting:
            async with reading(url) as journal:
                some: list[tuple[str, str]] = []
                for name in self._sagas:
                    async for view in instances(journal, name):
                        some.append((name, view.correlation_id))
                        if len(some) == _AT_ONCE:
                            await self._reindex(journal, some)
                            some = []
                            counting.update(self._counts.total())
                await self._reindex(journal, some)
        changed, unreadable = self._counts[Indexed.INDEXED], self._counts[Indexed.UNREADABLE]
        if as_json:
            counts = {kind.name.lower(): self._counts[kind] for kind in Indexed}
            click.echo(json_line({**counts, "failed": self._failed, "dry_run": self._dry_run}))
        else:
            would = "would be" if self._dry_run else "were"
            text = f"{self._counts.total():,} live instances: {changed:,} {would} put into the index"
            if unreadable:
                text += f"; {unreadable:,} cannot be read by this code"
            click.echo(text + (f"; {self._failed:,} failed" if self._failed else ""))
        return 1 if self._failed or unreadable else 0

    async def _reindex(self, journal: object, some: list[tuple[str, str]]) -> None:
        await asyncio.gather(*(self._one(journal, name, key) for name, key in some))

    async def _one(self, journal: object, name: str, correlation_id: str) -> None:
        try:
            done = await reindex(
                journal,  # type: ignore[arg-type]
                self._sagas[name],
                correlation_id,
                force=self._force,
                dry_run=self._dry_run,
            )
        except SagalogError as error:
            self._failed += 1
            click.echo(f"{line(name)} {line(correlation_id)}: {type(error).__name__}: {clean(str(error))}", err=True)
        else:
            self._counts[done] += 1
