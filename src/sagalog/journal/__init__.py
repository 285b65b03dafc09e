"""Journals: where records are kept. `open_journal(url)` picks the backend by the URL's scheme."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ..errors import DefinitionError
from .protocol import MAX_SEQUENCE_NR, Journal, PersistentRepr

_BACKENDS = {
    "memory": ("sagalog.journal.memory", "InMemoryJournal"),
    "sqlite": ("sagalog.journal.sqlite", "SqliteJournal"),
}


def open_journal(url: str, **settings: Any) -> Journal:
    """Return the journal that `url` names: `sqlite:///orders.db`, `sqlite:////var/lib/orders.db`, `memory://`.

    `settings` go to the backend's constructor. Other schemes are looked up in the entry points `sagalog.journals`.
    Raises DefinitionError for an unknown scheme, and what opening raises (JournalFormatError, JournalUnavailableError).
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise DefinitionError("a journal is named by a URL such as sqlite:///orders.db or memory://")
    if scheme in _BACKENDS:
        module, name = _BACKENDS[scheme]
        backend = getattr(import_module(module), name)
    else:
        found = [e for e in entry_points(group="sagalog.journals") if e.name == scheme]
        if not found:
            raise DefinitionError(f"no journal for {scheme}:// URLs; known: {', '.join(sorted(_BACKENDS))}")
        backend = found[0].load()
    journal: Journal = backend.from_url(rest, **settings)
    return journal


__all__ = ["MAX_SEQUENCE_NR", "Journal", "PersistentRepr", "open_journal"]
