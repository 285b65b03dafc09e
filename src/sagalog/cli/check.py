"""`sagalog check`: would this code be able to go on with what is in that journal? Read-only, before a deploy."""

from __future__ import annotations

import asyncio
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import click

from ..decision.advance import UnreadableStateError, decode_state
from ..decision.message import unhold
from ..decision.record import SagaRecord
from ..definition.saga import Saga
from ..errors import CodecError
from ..operating.inspect import SagaView, instances
from ..runner import SagaRunner
from .journals import journal_option, reading
from .progress import Counting
from .targets import load_runner
from .text import json_line, line

_EXAMPLES = 3


@click.command("check")
@click.argument("target", metavar="MODULE:RUNNER")
@journal_option
@click.option("--json", "as_json", is_flag=True, help="One JSON object: counts, and every instance that would park.")
def check_(target: str, url: str, as_json: bool) -> None:
    """Read every live saga of a journal with this code, and say which it could not go on with.

    Does each state still decode, each timer, pending command, undo command and held event? Has each a handler? What
    older code stored is upcast as a worker would. Nothing is changed. Exit code 1 if an instance would park.

    \b
    Examples:
      sagalog check shop.sagas:runner --journal postgresql://reader@db/shop
      sagalog check shop/sagas.py:runner --journal sqlite:///orders.db --json
    """
    sys.exit(asyncio.run(_Check(load_runner(target)).run(url, as_json)))


class _Check:
    def __init__(self, runner: SagaRunner) -> None:
        self._runner = runner
        self._sagas: dict[str, Saga[Any]] = {saga.name: saga for saga in runner.sagas}
        self._registries = {saga.name: type(saga).registry(saga) for saga in runner.sagas}
        self._read: Counter[str] = Counter()
        self._parked = 0
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
        for reason in dict.fromkeys(self._reasons(view)):
            self._found[(view.saga, reason)].append(view.correlation_id)

    def _reasons(self, view: SagaView) -> Iterator[str]:
        """Yield why this code could not go on with an instance; no values, only the names of types."""
        saga, record = self._sagas.get(view.saga), view.record
        if saga is None:
            yield "this runner has no such saga"
            return
        if record is None:
            yield view.unreadable or "its record is empty"
            return
        try:
            decode_state(saga, record)
        except UnreadableStateError as error:
            yield f"state: {error}"
        yield from self._messages(saga, record)

    def _messages(self, saga: Saga[Any], record: SagaRecord) -> Iterator[str]:
        registry = self._registries[saga.name]
        for name, timer in record.timers.items():
            try:
                event = registry.unpack(timer.event)
            except CodecError as error:
                yield f"timer {line(name) if not timer.send else 'of a scheduled command'}: {error}"
                continue
            if timer.send:
                yield from self._handled(event, "scheduled command")
            elif not saga.handles_event(event):
                yield f"timer {line(name)}: no handler takes {timer.event.type}"
        for what, stored in (
            *(("pending command", command.command) for command in record.outbox),
            *(("undo command", undo.command) for undo in record.undo),
        ):
            try:
                yield from self._handled(registry.unpack(stored), what)
            except CodecError as error:
                yield f"{what}: {error}"
        for held in record.held:
            try:
                event = unhold(held, registry).event
            except CodecError as error:
                yield f"held event: {error}"
                continue
            if held.kind != "refused" and not saga.handles_event(event):
                yield f"held event: no handler takes {held.event.type}"

    def _handled(self, command: Any, what: str) -> Iterator[str]:
        if not self._runner.has_handler(type(command)):
            yield f"{what}: no command handler for {type(command).__name__}"

    def _print(self) -> None:
        for (saga, reason), ids in sorted(self._found.items()):
            examples = ", ".join(line(one) for one in ids[:_EXAMPLES]) + (", ..." if len(ids) > _EXAMPLES else "")
            click.echo(f"{len(ids):>7,}  {line(saga)}: {line(reason)} ({examples})")
        total, would_park = (
            self._read.total(),
            len({(saga, one) for (saga, _), ids in self._found.items() for one in ids}),
        )
        sagas = ", ".join(f"{count:,} of {line(saga)}" for saga, count in sorted(self._read.items()))
        click.echo(
            f"{total:,} live instances{f' ({sagas})' if sagas else ''}: {total - would_park:,} could go on, "
            f"{would_park:,} could not; {self._parked:,} are parked already"
        )

    def _print_json(self) -> None:
        fields = {
            "read": dict(sorted(self._read.items())),
            "parked_already": self._parked,
            "would_park": [
                {"saga": saga, "reason": reason, "ids": ids} for (saga, reason), ids in sorted(self._found.items())
            ],
        }
        click.echo(json_line(fields))
