"""The keys that an instance holds, and what the actions of a step make of them. They end with its life."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from ..definition.actions import AddKey, RemoveKey
from ..definition.keys import MAX_HELD, Key, key_text
from ..errors import DefinitionError

Held = dict[str, tuple[str, ...]]  # names of keys, and the texts of the values that are held
ByKey = tuple[str, str]  # the name of a key, and the text of a value


def checked_key(action: AddKey | RemoveKey, saga: str, declared: Mapping[str, Key]) -> ByKey:
    """Return what an action is about; the text is empty where all values of a key are removed. Raises DefinitionError."""
    what = f"saga {saga!r}: {type(action).__name__}"
    if action.key not in declared:
        known = f"declared are {', '.join(declared)}" if declared else "it declares none"
        raise DefinitionError(
            f"{what} names the key {action.key!r}, {known}: write keys = (Key({action.key!r}), ...) in its class"
        )
    if action.value is None and isinstance(action, RemoveKey):
        return action.key, ""
    text = key_text(action.value)
    if text is None:
        shown = "an empty text" if action.value == "" else f"a {type(action.value).__name__}"
        raise DefinitionError(
            f"{what}: the value of {action.key!r} is a str that is not empty, int or UUID, not {shown}"
        )
    return action.key, text


def held_after(saga: str, held: Held, plan: Iterable[tuple[Any, Any, Any]]) -> Held:
    """Return what is held after the actions of a step; the same object where nothing changes.

    Raises DefinitionError for more than an instance may hold.
    """
    after: dict[str, tuple[str, ...]] | None = None
    for action, named, _ in plan:
        if not isinstance(action, (AddKey, RemoveKey)):
            continue
        if after is None:
            after = dict(held)
        name, text = named
        texts = after.get(name, ())
        if isinstance(action, RemoveKey):
            texts = tuple([one for one in texts if text not in ("", one)])
        elif text not in texts:
            texts = (*texts, text)
        after[name] = texts
    if after is None:
        return held
    found = {name: texts for name, texts in after.items() if texts}
    if sum(map(len, found.values())) > MAX_HELD:
        raise DefinitionError(
            f"saga {saga!r}: an instance holds {MAX_HELD} values of its keys at most; remove one before another is added"
        )
    return found


def holds(held: Held, by: ByKey) -> bool:
    """Say whether a value of a key is held."""
    return by[1] in held.get(by[0], ())


def pairs(held: Held) -> Iterator[ByKey]:
    """Yield the values that are held, one by one."""
    for name, texts in held.items():
        for text in texts:
            yield name, text
