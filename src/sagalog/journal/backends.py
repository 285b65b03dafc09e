"""Which backend a URL names: one of ours, imported when it is asked for, or one by an entry point."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from ..errors import DefinitionError, MissingExtraError
from .protocol import Journal

_BACKENDS = {
    "memory": ("sagalog.journal.memory", "InMemoryJournal"),
    "sqlite": ("sagalog.journal.sqlite", "SqliteJournal"),
    "postgresql": ("sagalog.journal.postgres", "PostgresJournal"),
    "postgres": ("sagalog.journal.postgres", "PostgresJournal"),
    "nats": ("sagalog.journal.nats", "NatsJournal"),
    "tls": ("sagalog.journal.nats", "TlsNatsJournal"),
}


def _backend(url: str) -> tuple[Any, str]:
    if not isinstance(url, str):
        raise DefinitionError(f"a journal's URL must be a str, not {type(url).__name__}")
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise DefinitionError("a journal needs a URL such as sqlite:///orders.db or memory://")
    if scheme in _BACKENDS:
        module, name = _BACKENDS[scheme]
        try:
            return getattr(import_module(module), name), rest
        except ModuleNotFoundError as error:
            extra = module.rpartition(".")[2]
            raise MissingExtraError(
                f"a journal at {scheme}:// needs the package {error.name}: pip install 'sagalog[{extra}]'"
            ) from error
    from importlib.metadata import entry_points  # here, because it takes a third of the time of `import sagalog`

    found = [e for e in entry_points(group="sagalog.journals") if e.name == scheme]
    if not found:
        raise DefinitionError(f"there is no journal for {scheme}:// URLs; known: {', '.join(sorted(_BACKENDS))}")
    return found[0].load(), rest


async def migrate_journal(url: str) -> str:
    """Create or migrate what the journal at `url` needs in its server; return what was done, as a sentence.

    A journal whose constructor makes all it needs (a file, memory) has nothing to migrate.
    """
    backend, rest = _backend(url)
    migrate = getattr(backend, "migrate", None)
    if migrate is None:
        return "nothing to do: this journal creates what it needs when it is opened"
    done: str = await migrate(rest)
    return done


def open_journal(url: str, **settings: Any) -> Journal:
    """Return the journal that `url` names.

    `sqlite:///orders.db`, `sqlite:////var/lib/orders.db`, `postgresql://user@host/database`, `memory://`; `settings` go
    to the backend's constructor. Other schemes are looked up in the entry points `sagalog.journals`. A server is
    connected to at first use, or by the journal's `open`.
    Raises DefinitionError for an unknown scheme, MissingExtraError, and what opening a file raises (JournalFormatError,
    JournalUnavailableError).
    """
    backend, rest = _backend(url)
    journal: Journal = backend.from_url(rest, **settings)
    return journal


def open_existing(url: str) -> Journal:
    """Return the journal as `open_journal` does, but only to look at: a missing file is not created.

    One that cannot be written here (a read-only mount, another user's file) is opened to read it.
    Raises JournalUnavailableError for it, and what `open_journal` raises.
    """
    backend, rest = _backend(url)
    for_looking = getattr(backend, "for_looking", backend.from_url)
    journal: Journal = for_looking(rest)
    return journal
