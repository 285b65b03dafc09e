"""Command handlers: how a user's function is called, for how long, and how many of its calls run at once."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import msgspec

from ..definition.rates import check_rate
from ..durations import seconds_of
from ..errors import DefinitionError
from ..text import given
from .circuit import Circuit
from .settings import RetryPolicy


class CommandPolicy(msgspec.Struct, frozen=True):
    """How commands of one type are delivered. None: as `RunnerSettings` says.

    `timeout`: how long one attempt may take; then it is cancelled and counts as failed. `retry`: how often and when it is
    tried again. `places`: how many attempts of this type run at once in this worker. `rate`: how many commands of this
    type leave this worker in a second; `shared_rate`: all workers on one journal together. `circuit`: when they wait
    because their receiver is away. None: no such bound.
    """

    timeout: timedelta | None = None
    retry: RetryPolicy | None = None
    places: int | None = None
    rate: float | None = None
    circuit: Circuit | None = None
    shared_rate: float | None = None

    def __post_init__(self) -> None:
        if self.timeout is not None:
            seconds_of("timeout= of a command", self.timeout)
        if self.retry is not None and not isinstance(self.retry, RetryPolicy):
            raise DefinitionError(f"retry= of a command must be a RetryPolicy, not {type(self.retry).__name__}")
        if self.places is not None and (type(self.places) is not int or self.places < 1):
            raise DefinitionError(
                f"places= of a command must be a whole number of at least 1, not {given(self.places)}"
            )
        if self.rate is not None:
            check_rate("rate=", self.rate)
        if self.shared_rate is not None:
            check_rate("shared_rate=", self.shared_rate)
        if self.circuit is not None and not isinstance(self.circuit, Circuit):
            raise DefinitionError(f"circuit= of a command must be a Circuit, not {type(self.circuit).__name__}")

    @property
    def gated(self) -> bool:
        """Commands of the type may have to wait before they leave."""
        return self.rate is not None or self.circuit is not None or self.shared_rate is not None


DEFAULT_POLICY = CommandPolicy()


class CommandContext(msgspec.Struct, frozen=True, gc=False):
    """One delivery to a command handler, which takes it as its second parameter.

    `id` is the same at every delivery: the receiver's key against duplicates. `attempt` counts from 1, in this worker.
    A second parameter with a default is a setting of the handler's own, unless its name or its type says that it is this.
    """

    id: str
    saga: str
    correlation_id: str
    attempt: int
    undo: bool
    resources: Any = None  # what the runner's `lifespan` has opened

    def __repr__(self) -> str:  # without resources: they may show anything
        return f"<CommandContext {self.id}, attempt {self.attempt}>"


class CommandHandler:
    """A user's handler, and how to call it: with the command, or with the command and its context."""

    beside = False  # it is carried out beside the other commands of its instance

    def __init__(self, function: Callable[..., Any], name: str, policy: CommandPolicy = DEFAULT_POLICY) -> None:
        self.policy = policy
        if not callable(function):
            raise DefinitionError(f"the handler of {name} is not callable")
        try:
            parameters = inspect.signature(function).parameters.values()
        except (TypeError, ValueError):  # a builtin such as list.append
            parameters = {}.values()
        positional = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
        required = [p for p in positional if p.default is p.empty]
        keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY and p.default is p.empty]
        several = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        if len(required) > 2 or keywords or (parameters and not positional and not several):
            raise DefinitionError(f"the handler of {name} must take (command) or (command, context)")
        self.takes_context: bool = len(required) == 2 or (len(positional) > 1 and _is_context(positional[1]))
        self.function = function
        asynchronous = inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function)
        call = getattr(function, "__call__", None)  # noqa: B004  (an object with an async __call__)
        self.asynchronous = asynchronous or inspect.iscoroutinefunction(call)

    def __call__(self, command: Any, context: CommandContext | None) -> Any:
        """Call it. `context` is needed where `takes_context` says so."""
        return self.function(command, context) if self.takes_context else self.function(command)


def _is_context(second: inspect.Parameter) -> bool:
    """Say whether a parameter with a default is the context, and no setting of the handler's own."""
    return second.name == "context" or "CommandContext" in str(second.annotation)


class CommandHandlers:
    """The handlers by command type; one for all the others may be given as well."""

    def __init__(self) -> None:
        self._by_type: dict[type, CommandHandler] = {}
        self._rest: CommandHandler | None = None
        self.shares: bool = False  # some of them share a rate with other workers
        self.gated: bool = False  # some of them have a policy by which their commands may have to wait

    def add(self, dispatch: Callable[..., Any] | Mapping[type, Callable[..., Any]] | None) -> None:
        """Register a handler for all commands, or a mapping from command types to handlers."""
        if isinstance(dispatch, Mapping):
            for command, function in dispatch.items():
                self.add_for(command, function)
        elif dispatch is not None:
            self._rest = CommandHandler(dispatch, "all commands")

    def add_for(self, command: type, function: Callable[..., Any], policy: CommandPolicy = DEFAULT_POLICY) -> None:
        """Register the handler of one command type. Raises DefinitionError if it has one."""
        if not isinstance(command, type):
            raise DefinitionError(f"a command handler is registered for a command type, not for {command!r}")
        if command in self._by_type:
            raise DefinitionError(f"{command.__name__} has two command handlers; keep one")
        self._put(command, CommandHandler(function, command.__name__, policy))

    def add_own(self, command: type, handler: CommandHandler) -> None:
        """Register a handler of ours, for a command type of ours."""
        self._put(command, handler)

    def _put(self, command: type, handler: CommandHandler) -> None:
        self._by_type[command] = handler
        self.gated = self.gated or handler.policy.gated
        self.shares = self.shares or handler.policy.shared_rate is not None

    def get(self, command: type) -> CommandHandler | None:
        """Return the handler of a command type, or None."""
        return self._by_type.get(command, self._rest)
