"""`sagalog check`: would this code be able to go on with what is in that journal? Read-only, before a deploy."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, defaultdict
from functools import partial

import click

from ..diagram import outline, unreached
from ..operating.inspect import SagaView, instances
from ..operating.readable import (
    Code,
    begun_without_undo,
    otherwise_declared,
    passed_over,
)
from ..runner import SagaRunner
from ..runner.inside import has_handler
from .journals import journal_option, reading
from .progress import Counting
from .targets import load_runner
from .text import json_line, line

_EXAMPLES = 3


@click.command("check")
@click.argument("target", metavar="MODULE:RUNNER")
@journal_option
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object: counts, and every instance that would park."
)
def check_(target: str, url: str, as_json: bool) -> None:
    """Read every live instance of a journal with this code, and list those that it could not continue.

    It decodes each state, timer, pending command, undo command, held and kept event, and looks for their handlers and
    phases. It warns of a phase that no handler seems to enter; of an activity that would be skipped because later ones
    have begun, or was begun without the undo that it has now; and of sequences that are numbered in another way. Data of
    older code is upcast. Nothing is changed. Exit code 1 if an instance would be parked.

    \b
    Examples:
      sagalog check shop.sagas:runner --journal postgresql://reader@db/shop
      sagalog check shop/sagas.py:runner --journal sqlite:///orders.db --json
    """
    sys.exit(asyncio.run(_Check(load_runner(target)).run(url, as_json)))


class _Check:
    def __init__(self, runner: SagaRunner) -> None:
        self._code = Code(runner.sagas, partial(has_handler, runner))
        self._read: Counter[str] = Counter()
        self._parked = 0
        self._unreached = [
            (saga.name, phase) for saga in runner.sagas if saga.phases for phase in unreached(outline(type(saga)))
        ]
        self._sagas = {saga.name: saga for saga in runner.sagas}
        self._not_indexed: Counter[str] = Counter()
        self._passed_over: Counter[tuple[str, str]] = Counter()
        self._without_undo: Counter[tuple[str, str]] = Counter()
        self._keys: Counter[tuple[str, str]] = Counter()  # that are held otherwise than they are declared
        self._sequences: Counter[tuple[str, str]] = Counter()  # that are counted otherwise than they are declared
        self._found: dict[tuple[str, str], list[str]] = defaultdict(list)

    async def run(self, url: str, as_json: bool) -> int:
        with Counting("instances read") as counting:
            async with reading(url) as journal:
                async for view in instances(journal):
                    self._look(view)
                    counting.update(self._read.total())
        if as_json:
            self._print_json()
        else:
            self._print()
        return 1 if self._found else 0

    def _look(self, view: SagaView) -> None:
        self._read[view.saga] += 1
        if view.record is not None and view.record.parked:
            self._parked += 1
        saga = self._sagas.get(view.saga)
        if saga is not None and view.record is not None and not set(saga.index) <= set(view.record.index):
            self._not_indexed[view.saga] += 1
        if saga is not None and view.record is not None:
            self._passed_over.update((view.saga, name) for name in passed_over(saga, view.record))
            self._without_undo.update((view.saga, name) for name in begun_without_undo(saga, view.record))
            self._keys.update((view.saga, key) for key in otherwise_declared(saga, view.record))
            self._sequences.update((view.saga, what) for what in self._code.numbered_otherwise(saga, view.record))
        for reason in dict.fromkeys(one.text for one in self._code.reasons(view)):
            self._found[(view.saga, reason)].append(view.correlation_id)

    def _print(self) -> None:
        for (saga, reason), ids in sorted(self._found.items()):
            examples = ", ".join(line(one) for one in ids[:_EXAMPLES]) + (", ..." if len(ids) > _EXAMPLES else "")
            click.echo(f"{len(ids):>7,}  {line(saga)}: {line(reason)} ({examples})")
        for saga, phase in self._unreached:
            click.echo(f"warning  {line(saga)}: no handler is seen to enter the phase {line(phase)}")
        for (saga, name), count in sorted(self._passed_over.items()):
            click.echo(
                f"warning  {line(saga)}: activity {line(name)} will be skipped in {count:,}, in which what comes "
                "after it in this code has already begun"
            )
        for (saga, name), count in sorted(self._without_undo.items()):
            click.echo(
                f"warning  {line(saga)}: activity {line(name)} will not be undone in {count:,}, where it was begun by code "
                "without an undo for it"
            )
        for saga, count in sorted(self._not_indexed.items()):
            fields = ", ".join(self._sagas[saga].index)
            click.echo(
                f"warning  {line(saga)}: {count:,} are not in its index as it is now ({fields}): each will be with its "
                "next step, or by `sagalog reindex`"
            )
        for (saga, key), count in sorted(self._keys.items()):
            click.echo(f"warning  {line(saga)}: {count:,} hold {line(key)}")
        for (saga, what), count in sorted(self._sequences.items()):
            click.echo(f"warning  {line(saga)}: {count:,} have {line(what)}")
        total, would_park = (
            self._read.total(),
            len({(saga, one) for (saga, _), ids in self._found.items() for one in ids}),
        )
        sagas = ", ".join(f"{count:,} of {line(saga)}" for saga, count in sorted(self._read.items()))
        click.echo(
            f"{total:,} live instances{f' ({sagas})' if sagas else ''}: {total - would_park:,} could continue, "
            f"{would_park:,} could not; {self._parked:,} are parked already"
        )

    def _print_json(self) -> None:
        held = [{"saga": saga, "key": key, "count": count} for (saga, key), count in sorted(self._keys.items())]
        undone = [
            {"saga": saga, "activity": name, "instances": count}
            for (saga, name), count in sorted(self._without_undo.items())
        ]
        numbered = [
            {"saga": saga, "sequence": what, "count": count} for (saga, what), count in sorted(self._sequences.items())
        ]
        fields = {
            "read": dict(sorted(self._read.items())),
            "parked_already": self._parked,
            "phases_never_entered": [{"saga": saga, "phase": phase} for saga, phase in self._unreached],
            "activities_passed_over": [
                {"saga": saga, "activity": name, "instances": count}
                for (saga, name), count in sorted(self._passed_over.items())
            ],
            "not_indexed": dict(sorted(self._not_indexed.items())),
            **({"activities_without_undo": undone} if undone else {}),
            **({"keys": held} if held else {}),
            **({"sequences": numbered} if numbered else {}),
            "would_park": [
                {"saga": saga, "reason": reason, "ids": ids} for (saga, reason), ids in sorted(self._found.items())
            ],
        }
        click.echo(json_line(fields))
