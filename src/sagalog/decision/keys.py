"""The keys that an instance holds, and what the actions of a step make of them. They end with its life."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..definition.actions import AddKey, RemoveKey
from ..definition.keys import MAX_HELD, Key, key_text, no_key
from ..errors import DefinitionError

KeyTexts = dict[str, tuple[str, ...]]  # names of keys, and the texts of the values that are held
KeyValue = tuple[str, str]  # the name of a key, and the text of a value


def checked_key(action: AddKey | RemoveKey, saga: str, declared: Mapping[str, Key]) -> KeyValue:
    """Return what an action is about; the text is empty where all values of a key are removed. Raises DefinitionError."""
    what = f"saga {saga!r}: {type(action).__name__}"
    if not isinstance(action.key, str):
        shown = repr(action.key.name) if isinstance(action.key, Key) else "'customer'"
        raise DefinitionError(
            f"{what} takes the name of a key, {type(action).__name__}({shown}, ...), not {type(action.key).__name__}"
        )
    if action.key not in declared:
        known = f"declared are {', '.join(declared)}" if declared else "it declares none"
        raise DefinitionError(
            f"{what} names the key {action.key!r}, {known}: write keys = (Key({action.key!r}), ...) in its class"
        )
    if action.value is None and isinstance(action, RemoveKey):
        return action.key, ""
    text = key_text(action.value)
    if text is None:
        raise DefinitionError(
            f"{what}: the value of {action.key!r} must be a str that is not empty, an int or a UUID, not "
            f"{no_key(action.value)}"
        )
    return action.key, text


def held_after(
    saga: str, declared: Mapping[str, Key], held: tuple[KeyTexts, KeyTexts], plan: Iterable[tuple[Any, Any, Any]]
) -> tuple[KeyTexts, KeyTexts]:
    """Return what is held after the actions of a step, and of that the unique ones; as given where nothing changes.

    Raises DefinitionError for more than an instance may hold.
    """
    after: tuple[KeyTexts, KeyTexts] | None = None
    for action, named, _ in plan:
        if not isinstance(action, (AddKey, RemoveKey)):
            continue
        if after is None:
            after = dict(held[0]), dict(held[1])
        name, text = named
        added = None if isinstance(action, RemoveKey) else declared[name].unique
        for unique, some in enumerate(after):
            texts = some.get(name, ())
            if added is None or added != unique:  # one that was held before its declaration changed moves over
                texts = tuple([one for one in texts if text not in ("", one)])
            elif text not in texts:
                texts = (*texts, text)
            some[name] = texts
    if after is None:
        return held
    plain, unique_ones = ({name: texts for name, texts in some.items() if texts} for some in after)
    if sum(map(len, (*plain.values(), *unique_ones.values()))) > MAX_HELD:
        raise DefinitionError(
            f"saga {saga!r}: an instance holds {MAX_HELD} key values at most; remove one before you add another"
        )
    return plain, unique_ones


def pairs(held: KeyTexts) -> Iterator[KeyValue]:
    """Yield the values that are held, one by one."""
    for name, texts in held.items():
        for text in texts:
            yield name, text


def claimed(before: KeyTexts, after: KeyTexts) -> list[KeyValue]:
    """Return the values that are held after a step and were not before, in an order that all who reserve them keep to."""
    return sorted(key for key in pairs(after) if key[1] not in before.get(key[0], ()))
