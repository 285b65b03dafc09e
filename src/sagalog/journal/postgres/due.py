"""Which ids are due, by the index on `due_at`; workers that claim at the same time get different ones."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from ..protocol import MovedDue
from .connections import Connections
from .statements import MOMENT, microseconds

# Not as a range of ids: where the statistics are old, PostgreSQL reads all of it rather than the few that are due.
_STARTS_SO = "CASE WHEN substring(persistence_id FROM 1 FOR length($1::bytea)) = $1 THEN true ELSE false END"


def _moment(parameter: str) -> str:
    return MOMENT.format(f"{parameter}::bigint")


class DueIds:
    """Finds, claims and moves what is due in one schema."""

    def __init__(self, connections: Connections, schema: str) -> None:
        self._connections = connections
        self._due = f"""SELECT persistence_id, due_at FROM {schema}.instance
                WHERE due_at <= {_moment("$2")} AND {_STARTS_SO} ORDER BY due_at, persistence_id LIMIT $3"""
        self.claim_statement: str = f"""WITH due AS MATERIALIZED (
                SELECT persistence_id, due_at FROM {schema}.instance
                WHERE due_at <= {_moment("$2")} AND {_STARTS_SO}
                ORDER BY due_at, persistence_id LIMIT $4 FOR UPDATE SKIP LOCKED)
            UPDATE {schema}.instance i SET due_at = {_moment("$3")} FROM due
            WHERE i.persistence_id = due.persistence_id RETURNING due.persistence_id, due.due_at"""
        self._move = f"""WITH held AS MATERIALIZED (
                SELECT i.persistence_id, {MOMENT.format("due")} AS due_at
                FROM unnest($1::bytea[], $2::bigint[], $3::bigint[]) AS given (persistence_id, sequence_nr, due)
                JOIN {schema}.instance i USING (persistence_id, sequence_nr)
                WHERE NOT i.hidden FOR UPDATE OF i SKIP LOCKED)
            UPDATE {schema}.instance i SET due_at = held.due_at FROM held
            WHERE i.persistence_id = held.persistence_id RETURNING i.persistence_id"""

    async def due(self, prefix: str, before: datetime, limit: int) -> list[tuple[str, datetime]]:
        """Return up to `limit` ids that are due at `before`, earliest first."""
        rows = await self._connections.read(self._due, prefix.encode(), microseconds(before), limit)
        return [(row[0].decode(), row[1]) for row in rows]

    async def claim(self, prefix: str, before: datetime, until: datetime, limit: int) -> list[tuple[str, datetime]]:
        """Return such ids, and let them be due at `until` instead; passes over what another worker is claiming."""
        rows = await self._connections.change(
            (self.claim_statement, (prefix.encode(), microseconds(before), microseconds(until), limit))
        )
        return sorted([(row[0].decode(), row[1]) for row in rows], key=lambda one: one[1])

    async def move(self, moves: Sequence[MovedDue]) -> list[bool]:
        """Let ids be due at another moment if their newest record is still that number; say which were moved."""
        times = [None if move.due_at is None else microseconds(move.due_at) for move in moves]
        keys = [move.persistence_id.encode() for move in moves]
        rows = await self._connections.change((self._move, (keys, [move.sequence_nr for move in moves], times)))
        moved = {row[0] for row in rows}
        return [key in moved for key in keys]
