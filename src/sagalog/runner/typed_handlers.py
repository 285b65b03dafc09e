"""What a handler of one command type takes and returns, so that type checkers catch one of another command."""

from __future__ import annotations

from collections.abc import AsyncIterable, Awaitable, Callable, Iterator, Sequence
from typing import Any, ClassVar, Protocol, TypeAlias, TypeVar, overload

import msgspec

from .commands import CommandContext


class _Dataclass(Protocol):
    __dataclass_fields__: ClassVar[dict[str, Any]]


class _Attrs(Protocol):
    __attrs_attrs__: ClassVar[Any]


class _Pydantic(Protocol):
    __pydantic_fields__: ClassVar[dict[str, Any]]


Event: TypeAlias = _Dataclass | _Attrs | _Pydantic | msgspec.Struct
Events: TypeAlias = Event | Sequence[Event] | None
Answer: TypeAlias = Events | Iterator[Event] | Awaitable[Events] | AsyncIterable[Event]

C = TypeVar("C")
R = TypeVar("R", bound=Answer)


class Registers(Protocol[C]):
    """Registers the decorated function as the handler of commands of type `C`, and returns it."""

    @overload
    def __call__(self, function: Callable[[C], R], /) -> Callable[[C], R]: ...

    @overload
    def __call__(self, function: Callable[[C, CommandContext], R], /) -> Callable[[C, CommandContext], R]: ...
