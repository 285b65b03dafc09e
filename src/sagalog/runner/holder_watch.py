"""Events for those who hold a key share the readings of a store that has no index.

    by key ─► [holder watch] ─► store

Without an index, finding who holds a key means reading all live instances of the saga. So one reading at a time serves all
events of a saga that came before it began: a server that has to list its messages for each reading would finish none of a
hundred at once. For events that find nobody and wait, another reading looks again and again, and takes a fifth of the time
at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from typing import TypeVar

from ..decision.keys import KeyValue
from ..decision.record import decode_record
from ..errors import CodecError
from .engine import Engine
from .failures import not_handled
from .finding import candidates
from .runtime import SagaRuntime

T = TypeVar("T")
_Asked = dict[KeyValue, list[asyncio.Future[bool]]]
_Wanted = dict[KeyValue, list[asyncio.Future[list[str]]]]
_REST_SECONDS = 0.5  # between two readings, at least ...
_REST_SHARE = 4.0  # ... and so many times what the last one took


class HolderWatch:
    """Reads the instances of one saga for all calls that ask who holds a key, or whether it is held by now."""

    def __init__(self, engine: Engine, runtime: SagaRuntime) -> None:
        self._engine = engine
        self._runtime = runtime
        self._wanted: _Wanted = {}
        self._gathering: asyncio.Task[None] | None = None
        self._asked: _Asked = {}
        self._reading: asyncio.Task[None] | None = None
        self._rests_until = 0.0

    async def holders(self, by: KeyValue) -> list[str]:
        """Return the ids of live instances that hold it, by a reading that begins after this call.

        Raises what the reading raises, RunnerStoppedError if the runner stops meanwhile.
        """
        told: asyncio.Future[list[str]] = self._engine.loop.create_future()
        self._wanted.setdefault(by, []).append(told)
        if self._gathering is None:
            self._gathering = self._engine.spawn_unattended(self._gather())
        return await told

    async def _gather(self) -> None:
        """Read until nobody wants to know any more."""
        try:
            while self._wanted:
                wanted, self._wanted = self._wanted, {}
                await self._gather_for(wanted)
        finally:
            self._gathering = None

    async def _gather_for(self, wanted: _Wanted) -> None:
        found: dict[KeyValue, list[str]] = {by: [] for by in wanted}
        try:
            async for correlation_id, held in self._keys_held():
                for by in held:
                    if by in found:
                        found[by].append(correlation_id)
            if self._engine.stopping.is_set():
                raise not_handled()
        except BaseException as error:
            for told in _open(wanted):
                told.set_exception(error if isinstance(error, Exception) else not_handled())
            if not isinstance(error, Exception):
                raise
        else:
            for by, correlation_ids in found.items():
                for told in _open({by: wanted[by]}):
                    told.set_result(correlation_ids)

    async def may_be_held(self, by: KeyValue, seconds: float) -> bool:
        """Say whether a reading that begins after this call meets a holder of the key; False when the time is over.

        True, too, if the reading fails: a caller that then reads by itself meets the same error.
        """
        told: asyncio.Future[bool] = self._engine.loop.create_future()
        self._asked.setdefault(by, []).append(told)
        if self._reading is None:
            self._reading = self._engine.spawn_unattended(self._read())
        try:
            async with asyncio.timeout(seconds):
                return await told
        except TimeoutError:
            return False

    async def _read(self) -> None:
        """Read until nobody asks any more."""
        loop = self._engine.loop
        asked: _Asked = {}
        try:
            while self._asked:
                if (rest := self._rests_until - loop.time()) > 0:
                    await self._engine.back_off(rest)
                asked, self._asked = self._asked, {}
                begun = loop.time()
                await self._look_for(asked)
                self._rests_until = loop.time() + max(_REST_SECONDS, _REST_SHARE * (loop.time() - begun))
                _tell(asked, held=False)
        except Exception:  # those who asked look by themselves, and say what is wrong
            self._rests_until = loop.time() + _REST_SECONDS
        finally:
            self._reading = None
            _tell(asked, held=True)
            _tell(self._asked, held=True)
            self._asked = {}

    async def _look_for(self, asked: _Asked) -> None:
        async for _, held in self._keys_held():
            for by in held:
                if by in asked:
                    _tell({by: asked.pop(by)}, held=True)
            if not asked:
                return

    async def _keys_held(self) -> AsyncIterator[tuple[str, Iterable[KeyValue]]]:
        """Yield each live instance with the keys that it holds, until the runner stops."""
        async for correlation_id, _, payload in candidates(self._runtime, []):
            if self._engine.stopping.is_set():
                return
            try:
                yield correlation_id, decode_record(payload).all_keys()
            except CodecError:  # which keys it holds is not known to this code
                continue


def _tell(asked: _Asked, *, held: bool) -> None:
    for told in _open(asked):
        told.set_result(held)


def _open(asked: Mapping[KeyValue, list[asyncio.Future[T]]]) -> Iterator[asyncio.Future[T]]:
    for waiting in asked.values():
        yield from (told for told in waiting if not told.done())  # else who asked has gone
