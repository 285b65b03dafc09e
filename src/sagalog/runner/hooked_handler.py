"""Command handlers that run in the contexts of the hooks.

deliver, attempt ─► [hooked_handler] ─► command handler
"""

from __future__ import annotations

from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Generator, Iterator
from inspect import isgenerator
from typing import Any, TypeVar

from ..decision.entries import Command
from .commands import CommandContext, CommandHandler, CommandPolicy
from .hook_calls import HookCalls
from .hooks import Delivery

T = TypeVar("T")
Begin = Callable[[Command, CommandContext], Delivery]


class HookedHandler:
    """A command handler that runs, with whatever it returns, in the contexts of the hooks. `begin` tells of it."""

    __slots__ = ("_begin", "_entry", "_handler", "_hooks", "asynchronous", "beside", "policy", "takes_context")

    def __init__(self, hooks: HookCalls, begin: Begin, handler: CommandHandler, entry: Command) -> None:
        self._hooks = hooks
        self._begin = begin
        self._handler = handler
        self._entry = entry
        self.asynchronous: bool = handler.asynchronous
        self.beside: bool = handler.beside
        self.policy: CommandPolicy = handler.policy
        self.takes_context: bool = True  # the hooks do

    def __call__(self, command: Any, context: CommandContext | None) -> Any:
        assert context is not None
        delivery = self._begin(self._entry, context)
        with self._hooks.within(delivery):
            answer = self._handler(command, context)
        if isinstance(answer, Awaitable):
            return self._awaited(delivery, answer)
        if isinstance(answer, AsyncIterable):
            return self._iterated(delivery, answer)
        return self._generated(delivery, answer) if isgenerator(answer) else answer

    async def _awaited(self, delivery: Delivery, answer: Awaitable[T]) -> T:
        with self._hooks.within(delivery):
            return await answer

    async def _iterated(self, delivery: Delivery, answer: AsyncIterable[T]) -> AsyncIterator[T]:
        events = aiter(answer)
        while True:
            # Not around the `yield`: in between, the runner stores the reply, which is no part of the handler.
            with self._hooks.within(delivery):
                try:
                    event = await anext(events)
                except StopAsyncIteration:
                    return
            yield event

    def _generated(self, delivery: Delivery, answer: Iterator[T]) -> Generator[T, None, Any]:
        while True:
            with self._hooks.within(delivery):
                try:
                    event = next(answer)
                except StopIteration as end:
                    return end.value
            yield event
