"""What is in a journal, as plain values: how each instance stands, and what it holds."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from sagalog.decision.record import decode_record
from sagalog.journal import Journal
from sagalog.journal.protocol import all_ids


async def seen(journal: Journal) -> dict[str, Any]:
    """Return the newest record of each instance that is live or remembered, by persistence id."""
    found: dict[str, Any] = {}
    for deleted in (False, True):
        async for persistence_id in all_ids(journal, "", deleted=deleted):
            latest = await journal.latest_message(persistence_id)
            assert latest is not None
            if not persistence_id.startswith("saga::"):
                found[persistence_id] = {"sequence_nr": latest.sequence_nr, "deleted": latest.deleted}
                continue
            record = decode_record(latest.payload)
            found[persistence_id] = {
                "sequence_nr": latest.sequence_nr,
                "deleted": latest.deleted,
                "due_at": None if latest.due_at is None else latest.due_at.isoformat(),
                "record": json.loads(msgspec.json.encode(record)),  # without what holds its default
            }
    return found
