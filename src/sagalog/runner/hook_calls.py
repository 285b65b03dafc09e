"""Calls the hooks. One that raises is complained about once, and is asked again the next time.

No step, write or delivery ever depends on a hook.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from ..logs import about, log
from .failures import ends_program
from .hooks import MAX_TRACE, Delivery, Hook


class HookCalls:
    """The hooks of a started runner, in the order they were given."""

    def __init__(self, hooks: tuple[Hook, ...]) -> None:
        self._hooks = hooks
        self._complained: set[tuple[int, str]] = set()

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method of every hook."""
        for hook in self._hooks:
            self._call(hook, method, *arguments)

    def ask(self, method: str, *arguments: Any) -> str:
        """Call a method of every hook; return the first trace that one gives."""
        found = ""
        for hook in self._hooks:
            given = self._call(hook, method, *arguments)
            if given and not found:
                if type(given) is str and len(given) <= MAX_TRACE and given.isascii() and given.isprintable():
                    found = given
                else:
                    self._complain(hook, method, "gave a trace that is not up to 256 printable ASCII characters")
        return found

    def _call(self, hook: Hook, method: str, *arguments: Any) -> Any:
        try:
            return getattr(hook, method)(*arguments)
        except BaseException as error:
            if ends_program(error):
                raise
            self._complain(hook, method, f"raised {type(error).__name__}")
            return None

    def _complain(self, hook: Hook, method: str, what: str) -> None:
        if (id(hook), method) not in self._complained:
            self._complained.add((id(hook), method))
            log.error("hook %s.%s %s; said once, it goes on", type(hook).__name__, method, what, extra=about())

    @contextmanager
    def within(self, delivery: Delivery) -> Iterator[None]:
        """Run what is inside in the contexts of all hooks."""
        entered: list[tuple[Hook, AbstractContextManager[Any]]] = []
        for hook in self._hooks:
            context = self._call(hook, "within", delivery)
            if context is not None:
                try:
                    context.__enter__()
                except BaseException as error:
                    if ends_program(error):
                        raise
                    self._complain(hook, "within", f"raised {type(error).__name__}")
                else:
                    entered.append((hook, context))
        try:
            yield
        finally:
            for hook, context in reversed(entered):
                try:
                    context.__exit__(None, None, None)
                except BaseException as error:
                    if ends_program(error):
                        raise
                    self._complain(hook, "within", f"raised {type(error).__name__}")
