"""A runner for as long as a web server runs: started before the first request, drained after the last one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from ..errors import DefinitionError
from ..runner import SagaRunner
from .stopping import begin_anew, told_by_signals

Lifespan = Callable[[Any], AbstractAsyncContextManager[Any]]


def lifespan(*runners: SagaRunner, within: Lifespan | None = None) -> Lifespan:
    """Return a lifespan that starts the runners and drains them: `Starlette(lifespan=lifespan(runner))`, also for FastAPI.

    `within`: your own lifespan. What it opens is open before the runners start, and until they have stopped; its
    state is passed on. At SIGTERM, streams end and who waits for an outcome is answered, so that the server can stop.
    """
    if not runners or not all(isinstance(runner, SagaRunner) for runner in runners):
        raise DefinitionError("lifespan takes one or more SagaRunner: lifespan(runner)")

    @asynccontextmanager
    async def running(app: Any) -> AsyncIterator[Any]:
        async with AsyncExitStack() as stack:
            state = None if within is None else await stack.enter_async_context(within(app))
            events = [begin_anew(runner) for runner in runners]
            for runner in runners:
                await stack.enter_async_context(runner)
            try:
                with told_by_signals(events):
                    yield state
            finally:
                for event in events:
                    event.set()

    return running


class WithLifespan:
    """An ASGI app that has no lifespan of its own, with one that starts and drains the runners."""

    def __init__(self, app: ASGIApp, *runners: SagaRunner) -> None:
        self._app = app
        self._lifespan = lifespan(*runners)

    def __repr__(self) -> str:
        return f"<WithLifespan of {self._app!r}>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a request, or run the lifespan."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()
        try:
            async with self._lifespan(self._app):
                await send({"type": "lifespan.startup.complete"})
                await receive()
        except asyncio.CancelledError:
            raise
        except BaseException as error:
            # The server says it once more; what it says is in its own log.
            await send({"type": "lifespan.startup.failed", "message": f"{type(error).__name__}: {error}"})
            raise
        await send({"type": "lifespan.shutdown.complete"})
