"""Begins a coroutine without a time limit, and sets one only if it waits: one that never waits needs none.

A limit costs a timer of the loop for each call. A coroutine cannot be interrupted before it waits for the first time, so
until then a limit would change nothing. It runs in one task all the while, in a context of its own: what it sets there is
not seen by what the same task carries out next.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from contextvars import copy_context
from typing import Any


class Waits:
    """A coroutine that waits for something. Await it, in the task that has begun it, to let it go on."""

    __slots__ = ("_coroutine", "_for", "_run")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any, run: Callable[..., Any]) -> None:
        self._coroutine = coroutine
        self._for = waits_for
        self._run = run  # calls a function within the context of the coroutine

    def __await__(self) -> Generator[Any, Any, Any]:
        """Yield what the coroutine waits for, and send it the results, until it has ended."""
        coroutine, waits_for, run = self._coroutine, self._for, self._run
        try:
            while True:
                try:
                    sent = yield waits_for
                except BaseException as error:
                    waits_for = run(coroutine.throw, error)
                else:
                    waits_for = run(coroutine.send, sent)
        except StopIteration as end:
            return end.value
        finally:
            coroutine.close()


def begun(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine until it waits, and return what is to be awaited then; or its result, if it has ended before."""
    run = copy_context().run
    try:
        waits_for = run(coroutine.send, None)
    except StopIteration as end:
        return end.value
    return Waits(coroutine, waits_for, run)
