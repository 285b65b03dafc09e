"""What a broker has to have before something can be sent there: a topic, a stream."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable


class Place:
    """It is made when it is first needed, by one of many that need it at once, and again after it was `lost`."""

    def __init__(self) -> None:
        self._made = False
        self._making = asyncio.Lock()

    async def made(self, make: Callable[[], Awaitable[None]]) -> None:
        """Return when it is there. `make` changes nothing where it is there already. Raises what `make` raises."""
        async with self._making:
            if not self._made:
                await make()
            self._made = True

    def lost(self) -> None:
        """Note that it may be gone: whoever needs it next makes it."""
        self._made = False
