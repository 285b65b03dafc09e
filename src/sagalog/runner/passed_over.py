"""In event time: the messages that found no instance, for an instance that starts at the same moment.

    outcome ─► [passed_over] ─► event_time

When the same log is fed again, they must find nothing again, although the instance is there by then.
"""

from __future__ import annotations

from datetime import datetime

_MAX_PASSED_OVER = 100_000  # ids of instances


class PassedOver:
    """Their ids, by correlation id, for the newest moment only. Older messages are recognised by their time alone."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[datetime, list[str]]] = {}

    def add(self, correlation_id: str, at: datetime, message_id: str) -> None:
        """Note a message."""
        moment, ids = self._found.pop(correlation_id, (at, []))
        if moment != at:
            ids = []
        ids.append(message_id)
        self._found[correlation_id] = (at, ids)
        if len(self._found) > _MAX_PASSED_OVER:
            del self._found[next(iter(self._found))]

    def of(self, correlation_id: str, at: datetime) -> list[str]:
        """Return, and forget, the messages of that moment."""
        moment, ids = self._found.pop(correlation_id, (at, []))
        return ids if moment == at else []
