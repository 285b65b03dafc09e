"""Seeds over all cores: each process is given a few at a time, and tells what came of them."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from ..testing.simulation import Report, SimulationError, World, simulate
from .simulate_target import load_world

_AT_A_TIME = 10  # seeds


class Processes:
    """Runs seeds in processes of their own, which end with this one."""

    def __init__(self, target: str, world: str | None, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipes: list[Connection] = []
        self._children: list[Any] = []
        for _ in range(count):
            ours, theirs = context.Pipe()
            child = context.Process(target=_work, args=(target, world, theirs), daemon=True)
            child.start()
            theirs.close()
            self._pipes.append(ours)
            self._children.append(child)

    def run(self, seeds: range, counted: Callable[[Report], None]) -> SimulationError | None:
        """Run the seeds, tell what each portion counted; stop at the first that goes wrong and return its error."""
        portions = iter(seeds[first : first + _AT_A_TIME] for first in range(0, len(seeds), _AT_A_TIME))
        busy = [pipe for pipe in self._pipes if self._give(pipe, portions)]
        while busy:
            for ready in wait(busy):
                assert isinstance(ready, Connection)
                try:
                    told = ready.recv()
                except EOFError:
                    raise ChildProcessError("a process ended in the middle of its seeds: did memory run out?") from None
                if isinstance(told, BaseException):
                    if isinstance(told, SimulationError):
                        return told
                    raise told
                counted(told)
                if not self._give(ready, portions):
                    busy.remove(ready)
        return None

    def _give(self, pipe: Connection, portions: Iterator[range]) -> bool:
        portion = next(portions, None)
        if portion is not None:
            pipe.send(portion)
        return portion is not None

    def end(self) -> None:
        """End the processes at once: they have nothing that could be lost."""
        for child in self._children:
            child.terminate()
        for child in self._children:
            child.join()


def _work(target: str, name: str | None, pipe: Connection) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us
    with suppress(EOFError, ConnectionError):  # of the pipe: its parent has ended
        try:
            sagas, world = load_world(target, name)
        except Exception as error:
            pipe.send(_sendable(error))
            return
        while True:
            pipe.send(_told(sagas, world, pipe.recv()))


def _told(sagas: list[Any], world: type[World], seeds: range) -> Report | Exception:
    try:
        return simulate(sagas, world, seeds=seeds)
    except Exception as error:
        return _sendable(error)


def _sendable(error: Exception) -> Exception:
    """Return the error, or what it says: those of a user's own code need not survive the way to another process."""
    if isinstance(error, SimulationError):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}")
