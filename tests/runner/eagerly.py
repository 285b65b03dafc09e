"""Tasks that begin at once, as `asyncio.eager_task_factory` makes them: on Python 3.11, something that does the same."""

from __future__ import annotations

import asyncio
import types
from collections.abc import Coroutine, Generator
from contextvars import Context, copy_context
from typing import Any

_ENDED = object()


def eager_task_factory(
    loop: asyncio.AbstractEventLoop, work: Coroutine[Any, Any, Any], *, context: Context | None = None, **named: Any
) -> asyncio.Task[Any]:
    """Run `work` up to where it first waits, as the task that is returned. One that has ended is done a turn later."""
    builtin = getattr(asyncio, "eager_task_factory", None)
    if builtin is not None:
        return builtin(loop, work, context=context, **named)  # type: ignore[no-any-return]
    context = context or copy_context()
    if not loop.is_running():
        return asyncio.Task(work, loop=loop, context=context)
    first: list[Any] = []
    task = asyncio.Task(_go_on(work, first), loop=loop, context=context)
    starter = asyncio.current_task()
    if starter is not None:
        asyncio.tasks._leave_task(loop, starter)  # type: ignore[attr-defined]
    asyncio.tasks._enter_task(loop, task)  # type: ignore[attr-defined]
    try:
        first += [context.run(work.send, None)]
    except StopIteration as end:
        first += [_ENDED, end.value]
    except BaseException as error:
        first += [_ENDED, error]
    finally:
        asyncio.tasks._leave_task(loop, task)  # type: ignore[attr-defined]
        if starter is not None:
            asyncio.tasks._enter_task(loop, starter)  # type: ignore[attr-defined]
    return task


async def _go_on(work: Coroutine[Any, Any, Any], first: list[Any]) -> Any:
    return await _rest(work, first)


@types.coroutine
def _rest(work: Coroutine[Any, Any, Any], first: list[Any]) -> Generator[Any, Any, Any]:
    waits_for = first.pop(0)
    if waits_for is _ENDED:
        if isinstance(first[0], BaseException):
            raise first[0]
        return first[0]
    while True:
        try:
            sent = yield waits_for
        except BaseException as error:
            step, given = work.throw, error
        else:
            step, given = work.send, sent
        try:
            waits_for = step(given)
        except StopIteration as end:
            return end.value
