"""Text on a terminal: what comes from the journal is cleaned before it is printed."""

from __future__ import annotations

from ..text import clean, line, moment

__all__ = ["clean", "line", "moment"]
