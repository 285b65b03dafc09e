"""`sagalog worker`: run a runner for its due work until it is told to stop; several processes of it if asked."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import Process
from pathlib import Path
from typing import Any

import click
import msgspec

from ..errors import DefinitionError
from ..runner import RunnerSettings, SagaRunner
from ..runner.signals import hear
from ..telemetry.fleet import probes_of_all
from ..telemetry.http import Address, HttpServer
from ..telemetry.probes import probes, with_metrics
from ..waiting import Attempts, Waiting, is_set_within
from .targets import load_runner
from .text import clean
from .tied import TIE, end_with_supervisor

_STOPS = (signal.SIGINT, signal.SIGTERM)
_MAX_PAUSE = 30.0
_STOP_SECONDS = 30.0  # beyond `stop_timeout`: for a journal that is slow


@click.command("worker")
@click.argument("target", metavar="MODULE:RUNNER")
@click.option(
    "--journal",
    "url",
    envvar="SAGALOG_JOURNAL",
    help="Use this journal instead of the runner's, e.g. postgresql://host/orders.",
)
@click.option(
    "--processes",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="How many worker processes to run on this machine.",
)
@click.option(
    "--http",
    "address",
    metavar="HOST:PORT",
    help="Answer /live, /ready and /metrics at this address, for all processes together.",
)
def worker_(target: str, url: str | None, processes: int, address: str | None) -> None:
    """Run a worker: fire timers, deliver commands, take over what dead workers left.

    Any number of workers on any number of machines may share one journal. SIGTERM or Ctrl-C stops it: work that is
    under way is finished, and the rest is left to other workers. SIGUSR1 makes it print what it has done as one line
    of JSON.

    \b
    Examples:
      sagalog worker shop.sagas:runner --journal postgresql://shop@db/shop --processes 4
      sagalog worker shop.sagas:runner --http 0.0.0.0:8080
      kill -USR1 $(pgrep -f 'sagalog worker')
    """
    end_with_supervisor()
    runner = load_runner(target).using(journal=url, sources=True, client=False)
    try:
        where = None if address is None else Address.parse(address)
    except DefinitionError as error:
        raise click.BadParameter(clean(str(error)), param_hint="--http") from error
    if processes == 1:
        gc.set_threshold(50_000, 20, 50)  # this process does nothing else
        sys.exit(asyncio.run(work(runner, where)))
    if runner.in_memory:
        raise click.UsageError("a journal in memory belongs to one process: choose another with --journal")
    environment = {**os.environ, **({"SAGALOG_JOURNAL": url} if url else {})}  # not an argument: it may hold a password
    command = [sys.executable, "-m", "sagalog", "worker", target]
    sys.exit(asyncio.run(supervise(command, environment, processes, where, runner.settings)))


async def work(runner: SagaRunner, where: Address | None) -> int:
    """Run a worker in this process until it is told to stop; return its exit code."""
    if where is None:
        return await _run(runner)
    _expect_crowds()
    runner = with_metrics(runner)
    async with probes(runner, where) as server:  # before the runner starts: a slow start is told from a dead worker
        if not where.path:
            click.echo(f"worker {os.getpid()} answers at http://{server.address}/ready", err=True)
        return await _run(runner)


async def supervise(
    command: list[str], environment: dict[str, str], processes: int, where: Address | None, settings: RunnerSettings
) -> int:
    """Run workers as processes of their own, each with this command, until this one is told to stop.

    One that has not stopped long after `stop_timeout`, because it is frozen, say, is killed.
    """
    patience = settings.stop_timeout.total_seconds() + _STOP_SECONDS
    if where is None:
        return await _Supervisor([command] * processes, environment, patience).run()
    _expect_crowds()
    with tempfile.TemporaryDirectory(prefix="sagalog-") as folder:  # for its owner only
        sockets = [Address(path=str(Path(folder) / str(number))) for number in range(1, processes + 1)]
        commands = [[*command, "--http", str(socket)] for socket in sockets]
        async with HttpServer(where, probes_of_all(sockets)) as server:
            click.echo(f"{processes} workers answer at http://{server.address}/ready", err=True)
            return await _Supervisor(commands, environment, patience).run()


def _expect_crowds() -> None:
    from ..telemetry.connections import open_more_files  # needs the extra that probes need

    open_more_files()


async def _run(runner: SagaRunner) -> int:
    started = time.monotonic()
    stopping = asyncio.Event()
    names = ", ".join(saga.name for saga in runner.sagas)

    def tell() -> None:
        fields: dict[str, Any] = {
            "pid": os.getpid(),
            "up_seconds": round(time.monotonic() - started, 1),
            "sagas": [saga.name for saga in runner.sagas],
            **msgspec.structs.asdict(runner.counters),
        }
        if sources := runner.gauges().sources:
            fields["sources"] = {one.name: msgspec.structs.asdict(one.counts) for one in sources}
        click.echo(msgspec.json.encode(fields), err=True)

    hear(signal.SIGUSR1, tell)  # also while the journal is waited for: it must not end the process
    async with runner:
        for number in _STOPS:  # from the line below on it stops gracefully; `serve` hears them itself
            hear(number, stopping.set)
        click.echo(f"worker {os.getpid()} runs: {clean(names)}", err=True)
        if not stopping.is_set():
            await runner.serve()
    counters = runner.counters
    click.echo(
        f"worker {os.getpid()} stopped: {counters.handled:,} handled, {counters.commands:,} commands, "
        f"{counters.timers:,} timers, {counters.takeovers:,} taken over",
        err=True,
    )
    return 0


class _Supervisor:
    """Keeps a worker running for each command: one that ends is started again, after a pause that grows while they fail."""

    def __init__(self, commands: list[list[str]], environment: dict[str, str], patience: float) -> None:
        self._commands = commands
        self._patience = patience
        # Its other end closes with this process, however it ends.
        self._tie, self._held = os.pipe()
        self._environment = {**environment, TIE: str(self._tie)}
        self._running: set[Process] = set()
        self._stopping = asyncio.Event()
        self._asked = 0  # times that it was told to stop
        self._broken = False

    async def run(self) -> int:
        for number in _STOPS:
            hear(number, self._stop)
        hear(signal.SIGUSR1, self._send, signal.SIGUSR1)
        await asyncio.gather(*(self._keep(command) for command in self._commands))
        return 1 if self._broken else 0

    def _stop(self) -> None:
        if not self._stopping.is_set():
            asyncio.get_running_loop().call_later(self._patience, self._kill)
        self._stopping.set()
        self._asked += 1
        self._send(signal.SIGTERM)

    def _kill(self) -> None:
        for process in self._running:
            self._broken = True
            click.echo(
                f"worker {process.pid} has not stopped within {self._patience:g} s, so it is killed; another one "
                "takes over what "
                "it had begun",
                err=True,
            )
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        for process in self._running:
            if process.returncode is None:
                process.send_signal(number)

    def _stopped(self, process: Process, code: int) -> None:
        not_begun = code == -signal.SIGTERM and self._asked == 1  # it was still waiting for its journal
        if code and not not_begun and not self._broken:
            self._broken = True
            click.echo(
                f"worker {process.pid} ended with {code} before it had stopped; another takes over what it had begun",
                err=True,
            )

    async def _keep(self, command: list[str]) -> None:
        attempts = Attempts(Waiting(first=0.2, most=_MAX_PAUSE))
        while not self._stopping.is_set():
            started = time.monotonic()
            # A session of its own: Ctrl-C reaches the supervisor only, which then tells each worker once.
            process = await asyncio.create_subprocess_exec(
                *command, env=self._environment, start_new_session=True, pass_fds=(self._tie,)
            )
            self._running.add(process)
            if self._stopping.is_set():  # meanwhile
                process.send_signal(signal.SIGTERM)
            code = await process.wait()
            self._running.discard(process)
            if self._stopping.is_set():
                self._stopped(process, code)
                return
            if code in (1, 2) and time.monotonic() - started < 3:  # it said why: another start would fail the same way
                self._broken = True
                self._stop()
                return
            if time.monotonic() - started > 60:
                attempts.reset()
            pause = attempts.failed()
            assert pause is not None  # without end
            click.echo(f"worker {process.pid} ended with {code}; another starts in {pause:.1f} s", err=True)
            await is_set_within(self._stopping, pause)
