"""`sagalog run`: feed events from a file through a runner, to the end, and again after a kill."""

from __future__ import annotations

import asyncio
import gc
import inspect
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from datetime import datetime
from typing import Any

import click
import msgspec

from ..errors import CodecError, InvalidEventError, RunnerStoppedError, SagalogError
from ..runner import Clock, EventClock, Incoming, SagaRunner, SystemClock
from ..runner.inside import check_event, reporter_of
from ..runner.signals import hear
from .lines import LineError, Lines, reader
from .progress import Progress
from .targets import load_runner
from .text import clean


@click.command("run")
@click.argument("target", metavar="MODULE:RUNNER")
@click.option(
    "--journal",
    "url",
    envvar="SAGALOG_JOURNAL",
    help="Use this journal instead of the runner's, e.g. sqlite:///orders.db.",
)
@click.option(
    "--events", "source", required=True, metavar="FILE|-", help="A file of JSON Lines, or .gz; - is standard input."
)
@click.option(
    "--clock",
    type=click.Choice(["system", "events"]),
    help="Which clock to use; `events` takes the time of each event's `at`.",
)
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="What to do with a line that is not an event, or is refused.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the summary as one JSON object.")
def run_(target: str, url: str | None, source: str, clock: str | None, on_error: str, as_json: bool) -> None:
    """Feed events from a file through a runner.

    A line is {"type": "OrderPlaced", "id": "m-1", "at": "2026-01-31T12:00:00Z", "data": {...}}, unless the runner reads
    lines of its own (SagaRunner.reads). If it is killed or stopped, run it again on the same file: events that were
    handled before are recognised by their ids and change nothing.

    \b
    Examples:
      sagalog run shop.sagas:runner --journal sqlite:///orders.db --events events.jsonl
      zcat events.jsonl.gz | sagalog run shop/sagas.py:runner --events - --on-error skip
    """
    runner = load_runner(target)
    clocks: dict[str | None, Clock | None] = {"system": SystemClock(), "events": EventClock(), None: None}
    runner = runner.using(journal=url, clock=clocks[clock])
    # This process does nothing else, so fewer and larger garbage collections are its to choose.
    gc.set_threshold(50_000, 20, 50)
    code = asyncio.run(
        _Feeding(runner, Lines(source, runner.settings.max_payload_bytes), on_error == "skip", as_json).run()
    )
    sys.exit(code)


class _Feeding:
    def __init__(self, runner: SagaRunner, lines: Lines, skip: bool, as_json: bool) -> None:
        self.runner = runner
        self.lines = lines
        self.skip = skip
        self.as_json = as_json
        self.read = 0
        self.errors: list[tuple[int, str]] = []
        self.error_count = 0
        self.stopped_by = 0
        self._in_event_time = isinstance(runner.clock, EventClock)
        self._dated = not isinstance(runner.clock, EventClock) or runner.clock.begun  # so that each event has a time
        self._stopped = asyncio.Event()
        self._at_work: set[asyncio.Task[None]] = set()
        self._free = asyncio.Semaphore(2048)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        started = time.monotonic()
        for number in (signal.SIGINT, signal.SIGTERM):
            hear(number, self._stop, number)
        try:
            async with self.runner:
                with Progress(self.runner.counters, self.lines) as progress:
                    await self._feed(progress.update)
                    await self._unless_stopped(self.runner.settle())
                report = await self._report() if not self.stopped_by else None
            await asyncio.gather(*self._at_work)  # what the stop has refused
        finally:
            self.lines.close()
            for number in (signal.SIGINT, signal.SIGTERM):
                loop.remove_signal_handler(number)
        self._print(time.monotonic() - started, report)
        if self.stopped_by:
            click.echo("stopped; what was accepted is stored. Run the same command again to continue.", err=True)
            return 128 + self.stopped_by
        return 1 if self.error_count and not self.skip else 0

    def _stop(self, number: int) -> None:
        self.stopped_by = number
        self._stopped.set()
        self.lines.end()

    async def _unless_stopped(self, work: Coroutine[Any, Any, Any]) -> None:
        """Do it, or leave it undone at a signal: a command that is tried again without end must not keep the process."""
        doing, stopped = asyncio.ensure_future(work), asyncio.ensure_future(self._stopped.wait())
        try:
            await asyncio.wait([doing, stopped], return_when=asyncio.FIRST_COMPLETED)
            if doing.done():
                doing.result()
        finally:
            doing.cancel()
            stopped.cancel()
            await asyncio.gather(doing, stopped, return_exceptions=True)

    async def _feed(self, progressed: Callable[[int], None]) -> None:
        """Hand the events over in the order of the file, with a bounded number at work."""
        parse, group = reader(self.runner, self.lines), self._at_work
        async for number, incoming in self._events(parse):
            if self._free.locked():
                await self._unless_stopped(self._free.acquire())
            else:
                await self._free.acquire()
            if self.stopped_by:
                break
            task = asyncio.create_task(self._one(number, incoming))
            group.add(task)
            task.add_done_callback(group.discard)
            if number % 1000 == 0:
                progressed(number)
            if self.error_count and not self.skip:
                break
        if group:
            await self._unless_stopped(asyncio.wait(set(group)))
        progressed(self.read)

    async def _events(self, parse: Callable[[int, bytes], Incoming | None]) -> AsyncIterator[tuple[int, Incoming]]:
        try:
            async for number, line in self.lines:
                self.read += 1
                try:
                    self.lines.check(number, line)
                    incoming = parse(number, line)
                    if incoming is not None:
                        self._check(number, incoming)
                except LineError as error:
                    self._error(error)
                    if not self.skip:
                        return
                    continue
                if incoming is not None:
                    yield number, incoming
        except LineError as error:
            self._error(error)

    def _check(self, number: int, incoming: Incoming) -> None:
        """Raise LineError for an event that is refused in any case, before those behind it are handled."""
        at = self._at(incoming)
        self._dated = self._dated or at is not None
        if not self._dated:
            raise LineError(number, 'it has no "at", and neither has any line before it: when it was is not known')
        if not self.skip:
            try:
                check_event(self.runner, incoming.event, incoming.message_id, at)
            except SagalogError as error:
                raise _refused(number, error) from error

    def _at(self, incoming: Incoming) -> datetime | None:
        return incoming.at if self._in_event_time else None

    async def _one(self, number: int, incoming: Incoming) -> None:
        try:
            await self.runner.handle(incoming.event, message_id=incoming.message_id, at=self._at(incoming))
        except SagalogError as error:
            if not (self.stopped_by and isinstance(error, RunnerStoppedError)):  # it was not accepted any more
                self._error(_refused(number, error))
        finally:
            self._free.release()

    def _error(self, error: LineError) -> None:
        self.error_count += 1
        if self.error_count <= 20:
            click.echo(clean(str(error)), err=True)
        elif self.error_count == 21:
            click.echo("further errors are only counted", err=True)

    async def _report(self) -> str | None:
        if (reporter := reporter_of(self.runner)) is None:
            return None
        text = reporter(self.runner)
        return str(await text if inspect.isawaitable(text) else text)

    def _print(self, seconds: float, report: str | None) -> None:
        counters = self.runner.counters
        if self.as_json:
            fields = {
                "lines": self.read,
                "seconds": round(seconds, 3),
                "errors": self.error_count,
                "stopped": bool(self.stopped_by),
                "report": report,
                **msgspec.to_builtins(counters),
            }
            click.echo(msgspec.json.encode(fields))
            return
        if report is not None:
            click.echo(clean(report))
        rate = self.read / seconds if seconds else 0
        click.echo(
            f"{self.read:,} lines in {seconds:.1f} s ({rate:,.0f}/s): {counters.handled:,} handled, "
            f"{counters.duplicates:,} known already, {counters.ignored:,} without a live instance, "
            f"{counters.commands:,} commands, {self.error_count:,} errors"
        )


def _refused(number: int, error: SagalogError) -> LineError:
    """Return what is told of a line whose event was not handled."""
    of_the_line = isinstance(error, (InvalidEventError, CodecError))
    return LineError(number, str(error) if of_the_line else f"{type(error).__name__}: {error}")
