"""Which ids there are, and which records came behind a place in the stream."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from ..protocol import PersistentRepr
from .consuming import Consumers
from .messages import Stored, head_of, header
from .requests import Requests
from .subjects import SHARDS, shard

_FEW_SUBJECTS = 20_000  # so many are listed in one go


class NatsListing:
    """Lists ids in an order of the journal's own: by shard, then by id."""

    def __init__(self, requests: Requests, consumers: Consumers) -> None:
        self._requests = requests
        self._consumers = consumers

    async def all_ids(self) -> AsyncGenerator[str]:
        """Yield every live id once."""
        for part in await self._parts():
            for persistence_id in await self._listed(part, "", deleted=False):
                yield persistence_id

    async def ids_by_prefix(self, prefix: str, after: str, limit: int, *, deleted: bool) -> list[str]:
        """Return the next live ids (or tombstones) behind `after`."""
        found: list[str] = []
        place = (shard(after), after) if after else (-1, "")
        for part in await self._parts():
            if part is None or part >= place[0]:
                page = await self._listed(part, prefix, deleted=deleted)
                found += [one for one in page if (shard(one), one) > place]
                if len(found) >= limit:
                    break
        return found[:limit]

    async def _parts(self) -> Sequence[int | None]:
        """Return the shards, or None for all at once where there is little to list."""
        subjects = (await self._requests.info())["state"].get("num_subjects", 0)
        return [None] if subjects <= _FEW_SUBJECTS else range(SHARDS)

    async def _listed(self, part: int | None, prefix: str, *, deleted: bool) -> list[str]:
        """Return the live ids (or the tombstones) of a shard in the order of this journal: by shard, then by id."""
        found: dict[str, bool] = {}
        for message in await self._consumers.newest([self._requests.subjects.records(part, prefix)]):
            persistence_id = self._requests.subjects.id_of(message.subject)
            if persistence_id.startswith(prefix):
                head = head_of(header(message), message.subject)
                found[persistence_id] = head.deleted == deleted and head.hidden_to < head.nr
        return sorted((one for one, wanted in found.items() if wanted), key=lambda one: (shard(one), one))

    async def newest_offset(self) -> int:
        """Return the place of the newest message in the stream."""
        newest: int = (await self._requests.info())["state"]["last_seq"]
        return newest

    async def records_after(self, offset: int, limit: int) -> tuple[list[PersistentRepr], int]:
        """Return records behind a place, and the place of the last of them."""
        found: list[PersistentRepr] = []
        if await self.newest_offset() > offset:
            # Without a mark: a replica that is behind gives the beginning of what is new, and the rest another time.
            records = [self._requests.subjects.records(None, "")]
            async with aclosing(self._consumers.stored_after(records, offset)) as new:
                async for message in new:
                    offset = message.metadata.sequence.stream
                    persistence_id = self._requests.subjects.id_of(message.subject)
                    head = head_of(header(message), message.subject)
                    found += Stored(offset, persistence_id, head, message.data).records()
                    if len(found) >= limit:
                        break
        return found, offset

    async def by_tag(self, tag: str, offset: int) -> AsyncGenerator[tuple[int, PersistentRepr]]:
        """Yield the records behind a place that carry a tag, each with its own place."""
        subjects = [self._requests.subjects.records(None, "")]
        async for message in self._consumers.read_after(subjects, offset):
            sequence = message.metadata.sequence.stream
            persistence_id = self._requests.subjects.id_of(message.subject)
            head = head_of(header(message), message.subject)
            for record in Stored(sequence, persistence_id, head, message.data).records():
                if tag in record.tags:
                    yield sequence, record
