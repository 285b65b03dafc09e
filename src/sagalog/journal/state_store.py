"""Where a saga's record is kept, by four methods, one key at a time, compare-and-set by version: a plug for any store.

What more a store can do, it says by the small protocols behind it. `store.py` is the one over a journal.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Protocol, runtime_checkable

import msgspec


class SavedState(msgspec.Struct, frozen=True):
    """What is stored: the payload, its version, and whether it is a tombstone (never so from `load`).

    `epoch`: of the record, see PersistentRepr; 0 where the store has none.
    """

    payload: bytes
    version: int
    tombstone: bool = False
    epoch: int = 0

    def __repr__(self) -> str:  # without what it holds
        return (
            f"<SavedState version {self.version}, {len(self.payload):,} bytes{', tombstone' if self.tombstone else ''}>"
        )


@runtime_checkable
class SagaStateStore(Protocol):
    """The least that a runner needs: these four methods are enough for one process."""

    async def load(self, correlation_id: str) -> SavedState | None:
        """Return what is stored; None: nothing live is stored. Never hides a failure as None."""

    async def save(
        self,
        correlation_id: str,
        payload: bytes,
        *,
        expected_version: int | None = None,
        due_at: datetime | None = None,
    ) -> int:
        """Store `payload` as the newest state and return its version; durable on return.

        `expected_version` 0: nothing live may exist; n: the newest version must be n; None: unconditional.
        `due_at`: when this instance next needs attention; a store without a way to find due ones may ignore it.

        Raises:
            ConflictError: the version is another; nothing was stored.
            OutcomeUnknownError: the connection broke during commit; load before trying again.
        """

    async def delete(
        self, correlation_id: str, *, expected_version: int | None = None, tombstone: bytes | None = None
    ) -> None:
        """End the live state; `load` gives None from now on. Raises as `save`. Deleting an unknown id has no effect."""

    def keys(self) -> AsyncIterator[str]:
        """Yield every live id once, in constant memory, also while others write."""


@runtime_checkable
class TombstoneStore(Protocol):
    """A store that remembers finished instances: their tombstones can be read, and saved over by their version.

    Its `create`, `save` and `delete_until` take an `epoch` (PersistentRepr): what was purged and begun anew since is told
    apart by it, although the versions are the same.
    """

    async def create(
        self, correlation_id: str, payload: bytes, *, due_at: datetime | None = None, epoch: int = 0
    ) -> int:
        """Save the first version, 1. Raises ConflictError if anything is stored, also a tombstone."""

    async def load_with_tombstone(self, correlation_id: str) -> SavedState | None:
        """Return the live state or else the tombstone."""

    async def delete_until(
        self,
        correlation_id: str,
        *,
        expected_version: int | None,
        tombstone: bytes | None,
        purge_at: datetime,
        epoch: int = 0,
    ) -> int:
        """Delete as `delete` does and return the tombstone's version; it comes up as due at `purge_at`, to be purged.

        `expected_version` 0: nothing at all may be stored, also no tombstone.
        """

    async def purge(self, correlation_id: str, version: int) -> None:
        """Forget a tombstone of that version altogether; anything else stays."""


@runtime_checkable
class DueStore(Protocol):
    """A store that finds due instances by an index."""

    async def due(self, before: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        """Return up to `limit` (correlation id, due_at), earliest first, due at `before` or earlier."""

    async def claim(self, before: datetime, until: datetime, *, limit: int = 1000) -> list[tuple[str, datetime]]:
        """Return what `due` would, and let it be due again at `until`, unless it is saved before."""
