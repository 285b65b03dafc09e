"""What a runner is given: the sagas, and the journal or stores, checked before anything is opened."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ..definition.codec import TypeRegistry
from ..definition.saga import Saga
from ..errors import DefinitionError
from ..journal import Journal
from ..journal.needs import missing_methods
from ..journal.state_store import SagaStateStore
from ..journal.store import JournalSagaStateStore
from .clock import EventClock


def check_source(source: Any, sagas: list[Saga[Any]]) -> None:
    """Raise DefinitionError for a journal or stores that a runner with these sagas cannot use."""
    for saga in sagas:
        store = source.get(saga.name) if isinstance(source, Mapping) else source
        unique = next((key.name for key in saga.keys if key.unique), None)
        if unique and isinstance(store, SagaStateStore) and not isinstance(store, JournalSagaStateStore):
            raise DefinitionError(
                f"saga {saga.name!r} has the unique key {unique!r}, and a {type(store).__name__} cannot reserve it: "
                "open the runner on a journal"
            )
    if isinstance(source, Mapping):
        missing = [saga.name for saga in sagas if saga.name not in source]
        if missing:
            raise DefinitionError(f"no store was given for saga {', '.join(missing)}")
        for name in (saga.name for saga in sagas):
            if not isinstance(source[name], SagaStateStore):
                raise DefinitionError(
                    f"the store of saga {name!r} must be a SagaStateStore (load, save, delete, keys), not a "
                    f"{type(source[name]).__name__}"
                )
    elif isinstance(source, SagaStateStore) and len(sagas) != 1:
        raise DefinitionError(
            "one store holds the instances of one saga: for several sagas pass a mapping {saga name: store}, or a "
            "journal"
        )
    elif callable(getattr(source, "write_batch", getattr(source, "write_messages", None))):
        if missing := missing_methods(source):
            raise DefinitionError(
                f"the journal {type(source).__name__} lacks methods that a runner calls: {', '.join(missing)}; see "
                "docs/writing-a-journal.md"
            )
    elif not isinstance(source, (str, Journal, SagaStateStore)):
        raise DefinitionError(
            f"a runner needs a journal, a journal's URL, or a saga state store, not {type(source).__name__}"
        )


def client_of(client: Any, source: Any, clock: Any) -> bool:
    """Return whether a runner is a client. Raises DefinitionError where nobody could do for it what it leaves undone."""
    if not isinstance(client, bool):
        raise DefinitionError(f"client= must be True or False, not {type(client).__name__}")
    if client and source == "memory://":
        raise DefinitionError(
            "a journal in memory belongs to one runner, so no worker would carry out a client's commands"
        )
    if client and isinstance(clock, EventClock):
        raise DefinitionError(
            "an EventClock is for a single runner that does everything itself: do not use it with client=True"
        )
    return client


def event_registry(sagas: Iterable[Saga[Any]]) -> TypeRegistry:
    """Return the event types that sagas take, by name. Raises DefinitionError if two of them have one name."""
    registry = TypeRegistry()
    for saga in sagas:
        for cls in type(saga).event_types():
            registry.add(cls)
    return registry


def sagas_of(sagas: Iterable[Saga[Any] | type[Saga[Any]]]) -> list[Saga[Any]]:
    """Return the sagas, made where a class was given. Raises DefinitionError."""
    if isinstance(sagas, (str, bytes, Mapping)) or not isinstance(sagas, Iterable):
        what = sagas.__name__ if isinstance(sagas, type) else type(sagas).__name__
        raise DefinitionError(f"sagas= takes a list of Saga classes or instances, not {what}: sagas=[OrderSaga]")
    made = [_made(saga) for saga in sagas]
    names: set[str] = set()
    for saga in made:
        if not isinstance(saga, Saga):
            raise DefinitionError(f"sagas= takes Saga classes or instances, not {type(saga).__name__}")
        _check_made(saga)
        if saga.name in names:
            raise DefinitionError(f"two sagas are named {saga.name!r}; a name belongs to one saga")
        names.add(saga.name)
    if not made:
        raise DefinitionError("a runner needs at least one saga: sagas=[OrderSaga]")
    return made


def _check_made(saga: Saga[Any]) -> None:
    cls = type(saga)
    if not isinstance(getattr(saga, "name", None), str):
        raise DefinitionError(f"{cls.__name__} has no name, which is stored with every instance: declare name = ...")
    if cls.state_type() is None and cls.initial_state is Saga.initial_state:
        raise DefinitionError(f"{cls.__name__} does not name its state type: class {cls.__name__}(Saga[YourState])")


def _made(saga: Any) -> Any:
    if not isinstance(saga, type) or not issubclass(saga, Saga):
        return saga
    try:
        return saga()
    except TypeError as error:
        raise DefinitionError(
            f"{saga.__name__} cannot be made without arguments: pass an instance, sagas=[{saga.__name__}(...)]"
        ) from error
