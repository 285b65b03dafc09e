"""Calls the hooks. One that raises is complained about once, and is asked again the next time.

No step, write or delivery ever depends on a hook.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from types import TracebackType
from typing import Any

from ..logs import about, log
from .failures import ends_program
from .hooks import Delivery, Hook, is_trace

_METHODS = tuple(name for name, value in vars(Hook).items() if not name.startswith("_") and callable(value))
_NOTHING = nullcontext()


class HookCalls:
    """The hooks of a started runner, in the order they were given. Each is called for what its class overrides only."""

    def __init__(self, hooks: tuple[Hook, ...]) -> None:
        self._listening = {name: tuple(hook for hook in hooks if _overrides(hook, name)) for name in _METHODS}
        self._complained: set[tuple[int, str]] = set()

    def hears(self, method: str) -> bool:
        """Say whether anybody listens to that method."""
        return bool(self._listening[method])

    def tell(self, method: str, *arguments: Any) -> None:
        """Call a method of every hook that listens."""
        for hook in self._listening[method]:
            self._call(hook, method, *arguments)

    def ask(self, method: str, *arguments: Any) -> str:
        """Call a method of every hook that listens; return the first trace that one gives."""
        found = ""
        for hook in self._listening[method]:
            given = self._call(hook, method, *arguments)
            if given and not found:
                if is_trace(given):
                    found = given
                else:
                    self._complain(hook, method, "returned a trace that is not up to 256 printable ASCII characters")
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
            log.error(
                "hook %s.%s %s; further failures of it are not logged", type(hook).__name__, method, what, extra=about()
            )

    def within(self, delivery: Delivery) -> AbstractContextManager[None]:
        """Return the contexts of all hooks, as one."""
        return _Within(self, delivery) if self._listening["within"] else _NOTHING


class _Within(AbstractContextManager[None]):
    """The contexts of all hooks for one delivery."""

    __slots__ = ("_calls", "_delivery", "_entered")

    def __init__(self, calls: HookCalls, delivery: Delivery) -> None:
        self._calls = calls
        self._delivery = delivery
        self._entered: list[tuple[Hook, AbstractContextManager[Any]]] = []

    def __enter__(self) -> None:
        for hook in self._calls._listening["within"]:
            context = self._calls._call(hook, "within", self._delivery)
            if context is None:
                continue
            if not isinstance(context, AbstractContextManager):
                self._calls._complain(hook, "within", "returned what is no context manager")
            elif self._survived(hook, context.__enter__):
                self._entered.append((hook, context))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        for hook, context in reversed(self._entered):
            self._survived(hook, partial(context.__exit__, None, None, None))

    def _survived(self, hook: Hook, call: Callable[[], object]) -> bool:
        try:
            call()
        except BaseException as error:
            if ends_program(error):
                raise
            self._calls._complain(hook, "within", f"raised {type(error).__name__}")
            return False
        return True


def _overrides(hook: Hook, method: str) -> bool:
    """Say whether a hook has a method of its own, by its class or itself."""
    return getattr(type(hook), method, None) is not getattr(Hook, method) or method in getattr(hook, "__dict__", ())
