"""Command handlers that use Django's ORM."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any, TypeVar

from asgiref.sync import sync_to_async
from django.db import close_old_connections

T = TypeVar("T")


def in_thread(function: Callable[..., T]) -> Callable[..., Coroutine[Any, Any, T]]:
    """Let a plain function be a command handler that runs in a thread, where the ORM may be used.

    Connections that are too old or broken are closed before and after it, as Django does around a request.
    """

    def call(*arguments: Any) -> T:
        close_old_connections()
        try:
            return function(*arguments)
        finally:
            close_old_connections()

    run = sync_to_async(call, thread_sensitive=False)

    @wraps(function)
    async def handler(*arguments: Any) -> T:
        result: T = await run(*arguments)
        return result

    return handler
