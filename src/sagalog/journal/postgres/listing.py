"""Records of one id in their order, ids by what they begin with, and what was written behind an ordinal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any

from ..protocol import MAX_SEQUENCE_NR, PersistentRepr
from .connections import Connections
from .following import Horizon
from .rows import COLUMNS, record_of

_PAGE = 256
_FEW = 2000  # ids of a term, which are found at once, and then looked through in order


def _range_of(prefix: str) -> tuple[bytes, bytes]:
    """Return the range of ids that start with `prefix`: the lowest, and the first behind the highest."""
    if not prefix:
        return b"", b"\xff"  # which no UTF-8 begins with
    low = prefix.encode()
    return low, low[:-1] + bytes([low[-1] + 1])


class PostgresListing:
    """Lists what is in one schema, page by page."""

    def __init__(self, connections: Connections, schema: str) -> None:
        self._read = connections.read
        self._schema = schema
        self._horizon = Horizon(connections.read, schema)

    async def replay(
        self, persistence_id: str, from_sequence_nr: int, to_sequence_nr: int, most: int
    ) -> AsyncIterator[PersistentRepr]:
        """Yield records of one id, bounds inclusive, in their order."""
        following, left = min(from_sequence_nr, MAX_SEQUENCE_NR), most
        while left > 0 and following <= to_sequence_nr:
            rows = await self._read(
                f"""SELECT {COLUMNS} FROM {self._schema}.record r JOIN {self._schema}.instance i USING (persistence_id)
                    WHERE r.persistence_id = $1 AND r.sequence_nr BETWEEN $2 AND $3 ORDER BY r.sequence_nr LIMIT $4""",
                persistence_id.encode(),
                following,
                min(to_sequence_nr, MAX_SEQUENCE_NR),
                min(left, _PAGE),
            )
            for row in rows:
                yield record_of(row)
            if len(rows) < _PAGE:
                return
            following, left = rows[-1][1] + 1, left - len(rows)

    async def ids(self, prefix: str, after: str, limit: int, *, deleted: bool) -> list[str]:
        """Return the next live ids (or tombstones) behind `after`."""
        rows = await self._read(
            f"""SELECT persistence_id FROM {self._schema}.instance WHERE persistence_id >= $1 AND persistence_id < $2
                AND persistence_id > $3 AND deleted = $4 AND NOT hidden ORDER BY persistence_id LIMIT $5""",
            *_range_of(prefix),
            after.encode(),
            deleted,
            limit,
        )
        return [row[0].decode() for row in rows]

    async def latest(self, prefix: str, after: str, limit: int, *, deleted: bool | None) -> list[PersistentRepr]:
        """Return the newest records of the next ids behind `after`; None: live ones and tombstones."""
        rows = await self._read(
            f"""SELECT {COLUMNS} FROM {self._schema}.instance i JOIN {self._schema}.record r
                USING (persistence_id, sequence_nr) WHERE i.persistence_id >= $1 AND i.persistence_id < $2
                AND i.persistence_id > $3 AND i.deleted = coalesce($4, i.deleted) AND NOT i.hidden
                ORDER BY i.persistence_id LIMIT $5""",
            *_range_of(prefix),
            after.encode(),
            deleted,
            limit,
        )
        return [record_of(row) for row in rows]

    async def found_by(self, terms: Sequence[str], after: str, limit: int) -> tuple[list[PersistentRepr], str]:
        """Return newest records of live ids with all these terms, behind a place, and the place to go on from.

        By the index on terms, unless more than _FEW ids have them: then in the order of ids, as otherwise each page would
        collect all of them anew. A place says which way it is of, and then the id.
        """
        wide, place = after[:1] == "w", after[1:].encode()
        if not wide:
            found = await self._read(
                f"SELECT persistence_id FROM {self._schema}.instance WHERE terms @> $1::text[] AND NOT deleted "
                "AND NOT hidden LIMIT $2",
                list(terms),
                _FEW + 1,
            )
            wide = len(found) > _FEW
        if wide:  # the empty array keeps the index on terms out
            rows = await self._read(
                f"""SELECT {COLUMNS} FROM (SELECT * FROM {self._schema}.instance WHERE terms || '{{}}'::text[] @> $1::text[]
                        AND persistence_id > $2 AND NOT deleted AND NOT hidden ORDER BY persistence_id LIMIT $3) i
                    JOIN {self._schema}.record r USING (persistence_id, sequence_nr) ORDER BY i.persistence_id""",
                list(terms),
                place,
                limit + 1,
            )
        else:
            keys = sorted(row[0] for row in found if row[0] > place)[: limit + 1]
            rows = await self._read(
                f"""SELECT {COLUMNS} FROM {self._schema}.instance i JOIN {self._schema}.record r
                    USING (persistence_id, sequence_nr) WHERE i.persistence_id = ANY($1) AND NOT i.deleted
                    AND NOT i.hidden AND i.terms @> $2::text[] ORDER BY i.persistence_id""",
                keys,
                list(terms),
            )
            if len(keys) > limit:  # whatever became of the last ones meanwhile
                behind = [row for row in rows if row[0] <= keys[limit - 1]]
                return [record_of(row) for row in behind], "f" + keys[limit - 1].decode()
            return [record_of(row) for row in rows], ""
        more = f"w{rows[limit - 1][0].decode()}" if len(rows) > limit else ""
        return [record_of(row) for row in rows[:limit]], more

    async def newest_offset(self) -> int:
        """Return the ordinal up to which all there will ever be can be read."""
        return await self._horizon.reached()

    async def records_after(self, offset: int, limit: int) -> tuple[list[PersistentRepr], int]:
        """Return records behind an ordinal, and the ordinal of the last of them."""
        rows = await self._behind(offset, limit, "")
        return [record_of(row) for row in rows], rows[-1][9] if rows else offset

    async def by_tag(self, tag: str, offset: int) -> AsyncIterator[tuple[int, PersistentRepr]]:
        """Yield the records behind an ordinal that carry a tag, each with its own ordinal."""
        while True:
            rows = await self._behind(offset, _PAGE, "AND r.tags ? $4", tag)
            for row in rows:
                yield row[9], record_of(row)
            if len(rows) < _PAGE:
                return
            offset = rows[-1][9]

    async def _behind(self, offset: int, limit: int, condition: str, *arguments: str) -> list[Any]:
        return await self._read(
            f"""SELECT {COLUMNS}, r.ordinal FROM {self._schema}.record r JOIN {self._schema}.instance i
                USING (persistence_id) WHERE r.ordinal > $1 AND r.ordinal <= $2 {condition}
                ORDER BY r.ordinal LIMIT $3""",
            offset,
            await self._horizon.reached(),
            limit,
            *arguments,
        )
