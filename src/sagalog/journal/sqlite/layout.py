"""The tables, and how files of older versions become the newest. See docs/design/0002-sqlite-layout.md.

version 1: persistence id, manifest, writer and tags in every record
version 2: an integer for the instance, one for manifest, writer and tags together; epochs
version 3: terms
"""

from __future__ import annotations

from collections.abc import Mapping

VERSION = 3
TABLES = ("instance", "record", "label", "term")

_LABEL = """
CREATE TABLE label (                  -- what most records of a saga have in common, once
    label_id       INTEGER PRIMARY KEY,
    manifest       TEXT NOT NULL,
    writer_uuid    TEXT NOT NULL,
    tags           TEXT NOT NULL,     -- a JSON list
    UNIQUE (manifest, writer_uuid, tags)
)"""
_INSTANCE = """
CREATE TABLE instance (
    instance_id    INTEGER PRIMARY KEY,
    persistence_id TEXT NOT NULL UNIQUE,
    sequence_nr    INTEGER NOT NULL,
    record_id      INTEGER NOT NULL,  -- the newest record; older ones hang on its previous_id
    deleted        INTEGER NOT NULL,  -- 1: the newest record is a tombstone
    deleted_to     INTEGER NOT NULL DEFAULT 0,
    due_at         INTEGER,           -- microseconds since 1970
    epoch          INTEGER NOT NULL DEFAULT 0
)"""
_DUE = "CREATE INDEX instance_due ON instance (due_at) WHERE due_at IS NOT NULL"
_RECORD = """
CREATE TABLE record (
    record_id      INTEGER PRIMARY KEY,
    instance_id    INTEGER NOT NULL,
    sequence_nr    INTEGER NOT NULL,
    previous_id    INTEGER,
    label_id       INTEGER NOT NULL,
    deleted        INTEGER NOT NULL,
    due_at         INTEGER,
    payload        BLOB NOT NULL
)"""
# Of live instances whose saga has an index; written in the transaction of the record.
_TERM = """
CREATE TABLE term (
    term           TEXT NOT NULL,
    instance_id    INTEGER NOT NULL,
    PRIMARY KEY (term, instance_id)
) WITHOUT ROWID"""
_TERM_OF = "CREATE INDEX term_of_instance ON term (instance_id)"
# For people: sqlite3 orders.db 'select * from saga'. A payload that is no JSON is shown in hexadecimal, so that
# json_extract does not fail for all rows because of one.
_SAGA = """
CREATE VIEW saga AS
    SELECT i.persistence_id, i.sequence_nr, datetime(i.due_at / 1000000, 'unixepoch') AS due_at, i.deleted,
           CASE WHEN json_valid(CAST(r.payload AS TEXT)) THEN CAST(r.payload AS TEXT)
                ELSE json_quote(hex(r.payload)) END AS record
    FROM instance i JOIN record r ON r.record_id = i.record_id"""

_NEW = (_LABEL, _INSTANCE, _DUE, _RECORD, _TERM, _TERM_OF, _SAGA)
_FROM_1 = (
    "DROP VIEW IF EXISTS saga",
    "DROP INDEX IF EXISTS instance_due",
    "ALTER TABLE instance RENAME TO instance_1",
    "ALTER TABLE record RENAME TO record_1",
    _LABEL,
    _INSTANCE,
    _RECORD,
    """INSERT INTO label (manifest, writer_uuid, tags)
       SELECT manifest, writer_uuid, tags FROM record_1 GROUP BY manifest, writer_uuid, tags ORDER BY min(record_id)""",
    """INSERT INTO instance (persistence_id, sequence_nr, record_id, deleted, deleted_to, due_at)
       SELECT persistence_id, sequence_nr, record_id, deleted, deleted_to, due_at FROM instance_1 ORDER BY record_id""",
    """INSERT INTO record (record_id, instance_id, sequence_nr, previous_id, label_id, deleted, due_at, payload)
       SELECT r.record_id, i.instance_id, r.sequence_nr, r.previous_id, l.label_id, r.deleted, r.due_at, r.payload
         FROM record_1 r CROSS JOIN instance i USING (persistence_id)
              CROSS JOIN label l USING (manifest, writer_uuid, tags) ORDER BY r.record_id""",
    "DROP TABLE record_1",
    "DROP TABLE instance_1",
    _DUE,
    _TERM,
    _TERM_OF,
    _SAGA,
)
_FROM_2 = (_TERM, _TERM_OF)
_STEPS = {0: _NEW, 1: _FROM_1, 2: _FROM_2, VERSION: ()}

# The columns that tell a journal by its tables, where the header does not.
_COLUMNS_1 = {
    "instance": {"persistence_id", "sequence_nr", "record_id", "deleted", "deleted_to", "due_at"},
    "record": {"record_id", "persistence_id", "sequence_nr", "previous_id", "payload", "manifest", "writer_uuid"}
    | {"deleted", "tags", "due_at"},
    "label": set[str](),
    "term": set[str](),
}
_COLUMNS_2 = {
    "instance": _COLUMNS_1["instance"] | {"instance_id", "epoch"},
    "record": {"record_id", "instance_id", "sequence_nr", "previous_id", "label_id", "deleted", "due_at", "payload"},
    "label": {"label_id", "manifest", "writer_uuid", "tags"},
    "term": set[str](),
}
_COLUMNS_3 = {**_COLUMNS_2, "term": {"term", "instance_id"}}


def steps_from(version: int) -> tuple[str, ...]:
    """Return the statements that make the newest tables of those of an older version; 0: of nothing."""
    return _STEPS[version]


def version_of(columns: Mapping[str, set[str]]) -> int:
    """Return the version whose tables have these columns; 0: they are not a journal's."""
    known = ((_COLUMNS_3, 3), (_COLUMNS_2, 2), (_COLUMNS_1, 1))
    return next((version for named, version in known if columns == named), 0)
