"""A journal that lacks what the engine calls is told so by name."""

from __future__ import annotations

import pytest

from sagalog import InMemoryJournal
from sagalog.journal import Journal
from sagalog.journal.needs import ENGINE_METHODS, missing_methods


def test_a_whole_journal_lacks_nothing() -> None:
    assert missing_methods(InMemoryJournal()) == []


def test_what_is_no_journal_lacks_everything() -> None:
    assert missing_methods(None) == list(ENGINE_METHODS)


@pytest.mark.parametrize("name", ENGINE_METHODS)
def test_a_method_that_is_not_there_or_cannot_be_called_is_named(name: str) -> None:
    class Old:
        pass

    for other in ENGINE_METHODS:
        if other != name:
            setattr(Old, other, getattr(InMemoryJournal, other))
    assert missing_methods(Old()) == [name]
    setattr(Old, name, None)
    assert missing_methods(Old()) == [name]


def test_a_method_that_only_the_protocol_states_is_missing() -> None:
    class Inherits(Journal):
        async def write_batch(self, records: object) -> list[None]:  # type: ignore[override]
            return []

    assert missing_methods(Inherits()) == [one for one in ENGINE_METHODS if one != "write_batch"]


def test_a_wrapper_that_hands_calls_on_lacks_nothing() -> None:
    class Wrapper:
        def __init__(self, inner: object) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> object:
            return getattr(self._inner, name)

    assert missing_methods(Wrapper(InMemoryJournal())) == []
    assert missing_methods(Wrapper(object())) == list(ENGINE_METHODS)
