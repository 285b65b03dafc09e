"""A coroutine that was begun without a time limit, and goes on within one: most of what never waits needs none.

A limit costs a timer of the loop for each call. A coroutine cannot be interrupted before it waits for the first time, so
until then a limit would change nothing. It runs in one task all the while.
"""

from __future__ import annotations

from collections.abc import Coroutine, Generator
from typing import Any


class Waits:
    """A coroutine that waits for something. Await it, in the task that has begun it, to let it go on."""

    __slots__ = ("_coroutine", "_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any) -> None:
        self._coroutine = coroutine
        self._for = waits_for

    def __await__(self) -> Generator[Any, Any, Any]:
        """Hand on what the coroutine waits for, and what comes of that, until it has ended."""
        coroutine, waits_for = self._coroutine, self._for
        try:
            while True:
                try:
                    sent = yield waits_for
                except BaseException as error:
                    waits_for = coroutine.throw(error)
                else:
                    waits_for = coroutine.send(sent)
        except StopIteration as end:
            return end.value
        finally:
            coroutine.close()


def begun(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine until it waits, and return what is to be awaited then; or its result, if it has ended before."""
    try:
        waits_for = coroutine.send(None)
    except StopIteration as end:
        return end.value
    return Waits(coroutine, waits_for)
