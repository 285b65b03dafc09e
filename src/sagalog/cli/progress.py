"""Progress of a long run: a live line on a terminal, nothing otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Self

from ..runner import Counters

if TYPE_CHECKING:
    from .lines import Lines


class LiveLine:
    """One line on standard error that is written again, at most ten times a second, and gone at the end."""

    def __init__(self) -> None:
        self._live: Any = None
        self._started = self._shown = time.monotonic()

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live("", console=Console(stderr=True), transient=True, auto_refresh=False)
            self._live.start()
        return self

    def show(self, text: Callable[[float], str]) -> None:
        """Show what `text` makes of the seconds since the beginning, if it is time for that."""
        now = time.monotonic()
        if self._live is not None and now - self._shown >= 0.1:
            self._live.update(text(now - self._started), refresh=True)
            self._shown = now

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()


class Progress(LiveLine):
    """Shows rate, live sagas, commands and errors of a run."""

    def __init__(self, counters: Counters, lines: Lines) -> None:
        super().__init__()
        self._counters = counters
        self._lines = lines

    def update(self, read: int) -> None:
        """Say how many lines have been read."""
        counters, share = self._counters, self._lines.share
        self.show(
            lambda seconds: (
                f"{read:,} lines"
                + (f" ({share:.0%})" if share is not None else "")
                + f", {read / seconds:,.0f}/s, {counters.started - counters.finished:,} sagas live, "
                f"{counters.commands:,} commands, {counters.handler_errors + counters.dispatch_errors:,} failed attempts"
            )
        )


class Counting(LiveLine):
    """Shows how many of something have been gone through, and how fast."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self._what = what

    def update(self, count: int) -> None:
        """Say how many there have been so far."""
        self.show(lambda seconds: f"{count:,} {self._what}, {count / seconds:,.0f}/s")
