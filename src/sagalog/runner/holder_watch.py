"""Events that wait for somebody to hold a key share the readings of a store that has no index.

    by key ─► [holder watch] ─► store

Without an index, to look for who holds a key is to read all live instances of the saga. Each event does so once. While it
waits, one reading at a time looks for the keys of all events of its saga that wait, and takes a fifth of the time at most.
"""

from __future__ import annotations

import asyncio

from ..decision.keys import ByKey
from ..decision.record import decode_record
from ..errors import CodecError
from .engine import Engine
from .finding import candidates
from .runtime import SagaRuntime

_Asked = dict[ByKey, list[asyncio.Future[bool]]]
_REST_SECONDS = 0.5  # between two readings, at least ...
_REST_SHARE = 4.0  # ... and so many times what the last one took


class HolderWatch:
    """Reads the instances of one saga again and again, for all who ask which keys are held by now."""

    def __init__(self, engine: Engine, runtime: SagaRuntime) -> None:
        self._engine = engine
        self._runtime = runtime
        self._asked: _Asked = {}
        self._reading: asyncio.Task[None] | None = None
        self._rests_until = 0.0

    async def may_be_held(self, by: ByKey, seconds: float) -> bool:
        """Say whether a reading that begins after this call meets somebody who holds it; False when the time is over.

        True, too, where the reading fails: whoever reads by itself then meets the same error.
        """
        told: asyncio.Future[bool] = self._engine.loop.create_future()
        self._asked.setdefault(by, []).append(told)
        if self._reading is None:
            self._reading = self._engine.beside(self._read())
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
        async for _, _, payload in candidates(self._runtime, []):
            if not asked or self._engine.stopping.is_set():
                return
            try:
                held = decode_record(payload).all_keys()
            except CodecError:  # which keys it holds is not known to this code
                continue
            for by in held:
                if by in asked:
                    _tell({by: asked.pop(by)}, held=True)


def _tell(asked: _Asked, *, held: bool) -> None:
    for waiting in asked.values():
        for told in waiting:
            if not told.done():  # else who asked has gone
                told.set_result(held)
