"""Lets messages be read whatever their senders have written into them.

pamqp, which decodes for the client, raises where a text is no UTF-8, a time lies beyond the calendar, or tables lie in
each other too deep; RabbitMQ checks none of that. The client then ends the connection with everything that is under way
on it, and the message comes again, for ever, and keeps back all that is behind it.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from pamqp import decode

from ..headers import text_of


def read_anything() -> None:
    """Let the decoder give a text with lone surrogates, no time, or no headers where it would raise."""
    decode.METHODS.update(shortstr=_text, timestamp=_time, table=_table)
    decode.TABLE_MAPPING.update({b"T": _time, b"F": _table})


def _text(value: bytes) -> tuple[int, str]:
    try:
        return decode.short_str(value)
    except UnicodeDecodeError:
        end = 1 + value[0]
        return end, text_of(value[1:end])


def _time(value: bytes) -> tuple[int, datetime | None]:
    try:
        return decode.timestamp(value)
    except (ValueError, OverflowError, OSError):
        return 8, None


def _table(value: bytes) -> tuple[int, dict[str, Any]]:
    try:
        return decode.field_table(value)
    except (ValueError, RecursionError):  # the name of a header is no UTF-8, or a table lies in a thousand others
        return 4 + int.from_bytes(value[:4]), {}
