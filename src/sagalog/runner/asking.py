"""What a program asks of its sagas: the state of one, and how it ended.

runner.state, runner.outcome ─► [asking] ─► store, follower
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

from ..definition.saga import Saga
from ..errors import DefinitionError, InvalidEventError, NoInstanceError, OutcomeTimeoutError, RunnerStoppedError
from .arguments import check_duration, check_text, check_whole
from .awaited import Waiter
from .context import event_handler
from .ended import SagaOutcome
from .follower import Follower
from .runtime import SagaRuntime

S = TypeVar("S")


def runtime_of(saga: type[Saga[S]] | Saga[S], named: Callable[[str], SagaRuntime]) -> SagaRuntime:
    """Return the saga that is asked about. Raises DefinitionError for what is none, or another one of that name."""
    kind = saga if isinstance(saga, type) else type(saga)
    if not issubclass(kind, Saga) or not isinstance(getattr(kind, "name", None), str):
        raise DefinitionError(f"ask for a saga by its class, e.g. OrderSaga, not by {_shown(saga)}")
    runtime = named(kind.name)
    if not isinstance(runtime.saga, kind):
        raise DefinitionError(
            f"this runner runs {type(runtime.saga).__name__} under the name {kind.name!r}, not {kind.__name__}"
        )
    return runtime


async def state_of(runtime: SagaRuntime, correlation_id: str) -> Any:
    """Return the state that is stored, decoded anew. See `SagaRunner.state`."""
    check_text("correlation_id", correlation_id, error=InvalidEventError)
    saved = await runtime.load(correlation_id)
    record = None if saved is None else runtime.reader.record(correlation_id, saved.payload, deleted=saved.tombstone)
    if record is None:
        why = "there is no such instance, or it ended so long ago that it is forgotten"
        raise NoInstanceError(runtime.name, correlation_id, "", why)
    return runtime.reader.state(correlation_id, record)


async def outcome_of(
    runtime: SagaRuntime,
    correlation_id: str,
    follower: Follower,
    *,
    timeout: timedelta | None,  # noqa: ASYNC109  (the error says what was waited for)
    incarnation: int | None,
    missing: str,
) -> SagaOutcome[Any]:
    """Wait until a life of an instance has ended. See `SagaRunner.outcome`."""
    check_text("correlation_id", correlation_id, error=InvalidEventError)
    if timeout is not None:
        check_duration("timeout=", timeout)
        if not timeout:
            raise DefinitionError("timeout= must be longer than 0; use `state` to read an instance's present state")
    if incarnation is not None:
        check_whole("incarnation=", incarnation, least=1)
    if missing not in ("raise", "wait"):
        raise DefinitionError(f"missing= must be 'raise' or 'wait', not {missing!r}")
    if (caller := event_handler()) is not None:
        raise DefinitionError(
            f"saga {caller.runtime.name!r}, id {caller.correlation_id!r}: its event handler waits for an outcome, "
            "which holds up its own instance. Let a command handler wait, and answer with an event"
        )
    if runtime.engine.stopping.is_set():
        raise RunnerStoppedError("the runner is stopping: ask any other worker for the outcome")
    seconds = None if timeout is None else timeout.total_seconds()
    future: asyncio.Future[SagaOutcome[Any]] = runtime.engine.loop.create_future()
    waiter = Waiter(runtime.reader, correlation_id, incarnation, future, waits=missing == "wait")
    follower.add(waiter)
    try:
        async with asyncio.timeout(seconds):
            return await future
    except TimeoutError:
        assert seconds is not None
        if future.done() and not future.cancelled():  # in the same moment
            return future.result()
        seen = waiter.seen + (f". The journal could not be asked: {follower.trouble}" if follower.trouble else "")
        raise OutcomeTimeoutError(runtime.name, correlation_id, seconds, seen) from None
    finally:
        follower.remove(waiter)
        if future.done() and not future.cancelled():
            future.exception()  # nobody is left to be told, where the caller was cancelled in the same moment


def _shown(value: Any) -> str:
    return value.__name__ if isinstance(value, type) else type(value).__name__
