"""What the engine needs of a backend, so that one that lacks a method is told which when the runner is made."""

from __future__ import annotations

import inspect

ENGINE_METHODS = (
    *("open", "close", "write_batch", "latest_messages"),
    *("due_ids", "claim_due", "move_due", "ids_by_prefix", "purge"),
)


def missing_methods(journal: object) -> list[str]:
    """Return the names of the methods that the engine calls and that `journal` does not have, in a fixed order.

    A method counts if it can be called on that object. One that only a protocol's class states, without a body of the
    backend's own, is missing: who inherits from `Journal` would otherwise get None for an answer.
    """
    return [name for name in ENGINE_METHODS if not _has(journal, name)]


def _has(journal: object, name: str) -> bool:
    found = inspect.getattr_static(journal, name, None)
    if found is None or getattr(found, "__module__", "") == "sagalog.journal.protocol":
        return callable(getattr(type(journal), "__getattr__", None)) and callable(getattr(journal, name, None))
    return callable(getattr(journal, name, None))
