"""The outside's own notes of who has called it, and under which id; the judge of what a service says."""

from __future__ import annotations

import asyncio
from typing import Any


class Ledger:
    """An ASGI app before another one: it notes each call that has an id, and holds those that it is told to, until they are
    let go.
    """

    def __init__(self, app: Any) -> None:
        self._app = app
        self.calls: list[tuple[str, str]] = []  # path, id
        self.holds: dict[
            str, list[bool]
        ] = {}  # by path, for its next calls: whether one is carried out before it is held
        self.held: asyncio.Queue[str] = asyncio.Queue()
        self.let_go = asyncio.Event()

    def came_twice(self) -> set[str]:
        """Return the paths at which a call has come again, under its id."""
        return {path for path, key in self.calls if self.calls.count((path, key)) > 1}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        key = dict(scope.get("headers", ())).get(b"idempotency-key")
        if key is None:
            await self._app(scope, receive, send)
            return
        path = scope["path"]
        self.calls.append((path, key.decode()))
        if not self.holds.get(path):
            await self._app(scope, receive, send)
            return
        after = self.holds[path].pop(0)
        answer: list[Any] = []

        async def keep(message: Any) -> None:
            answer.append(message)

        if after:
            await self._app(scope, receive, keep)
        self.held.put_nowait(path)
        await self.let_go.wait()
        # Who has asked is dead: nobody hears this.
        for message in answer or [{"type": "http.response.start", "status": 503}, {"type": "http.response.body"}]:
            await send(message)
