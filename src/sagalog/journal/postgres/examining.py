"""What the server says of itself: how durable it is set up to be, and whether it would take what is written now."""

from __future__ import annotations

from ..protocol import Finding
from .connections import Connections
from .schema import MIGRATIONS

_DURABLE = """
    SELECT name, setting, current_setting('server_version') FROM pg_settings
    WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit')"""
# A standby is read-only for every transaction; so says a server, database or user with default_transaction_read_only.
_WRITABLE = """
    SELECT current_setting('transaction_read_only')::boolean,
           ARRAY(SELECT may || ' on ' || name
                 FROM unnest(ARRAY['INSERT', 'UPDATE', 'DELETE']) may, unnest(ARRAY['instance', 'record']) name
                 WHERE NOT has_table_privilege(format('%I.%I', $1::text, name), may))"""
_RIGHTS = 6  # of those that it asks for


async def findings_of(connections: Connections, schema: str) -> list[Finding]:
    """Say how durable the server is set up to be, of which version the schema is, and what keeps this user from writing."""
    rows = await connections.read(_DURABLE)
    off = sorted(row[0] for row in rows if row[1] == "off")
    where = f"PostgreSQL {rows[0][2]}" if rows else "PostgreSQL"
    if off:
        text = f"{where} with {', '.join(off)} off: committed data may be lost when the server's machine fails"
        durable = Finding("durable", "fail", text, f"set {', '.join(f'{name} = on' for name in off)}")
    else:
        names = "fsync, full_page_writes, synchronous_commit"
        durable = Finding("durable", "ok", f"{where}, {names} on: durable when a call returns")
    version = Finding("schema", "ok", f"{schema}, version {len(MIGRATIONS)}, as this code has it")
    return [durable, version, *await _refused(connections, schema)]


async def _refused(connections: Connections, schema: str) -> list[Finding]:
    """Say why writes are refused; nothing where they are not. Who has no right to write at all is there to look."""
    ((read_only, missing),) = await connections.read(_WRITABLE, schema)
    # The server is, or a connection of the pool made before a failover, which is replaced when it is written to.
    if read_only:
        connection = await connections.connect()
        try:
            (read_only, missing) = await connection.fetchrow(_WRITABLE, schema)
        finally:
            connection.terminate()
    if len(missing) == _RIGHTS:
        return [Finding("writable", "ok", "not checked: this user may only read")]
    if missing:
        text = f"writes are refused: this user lacks the right to {', '.join(missing)}"
        return [Finding("writable", "fail", text, "GRANT it to the user")]
    if read_only:
        text = "writes are refused: the server is read-only, perhaps a replica"
        return [Finding("writable", "fail", text, "connect to the primary, or turn default_transaction_read_only off")]
    return []
