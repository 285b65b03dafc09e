"""Progress of a long run: a live line on a terminal, nothing otherwise."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from ..runner import Counters

if TYPE_CHECKING:
    from .lines import Lines


class Progress:
    """Shows rate, live sagas, commands and errors on standard error, at most ten times a second."""

    def __init__(self, counters: Counters, lines: Lines) -> None:
        self._counters = counters
        self._lines = lines
        self._live: Any = None
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live("", console=Console(stderr=True), transient=True, auto_refresh=False)
            self._live.start()
        return self

    def update(self, read: int) -> None:
        """Say how many lines have been read."""
        now = time.monotonic()
        if self._live is None or now - self._shown < 0.1:
            return
        counters, share = self._counters, self._lines.share
        rate = read / (now - self._started)
        self._live.update(
            f"{read:,} lines"
            + (f" ({share:.0%})" if share is not None else "")
            + f", {rate:,.0f}/s, {counters.started - counters.finished:,} sagas live, {counters.commands:,} commands, "
            f"{counters.handler_errors + counters.dispatch_errors:,} failed attempts",
            refresh=True,
        )
        self._shown = now

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
