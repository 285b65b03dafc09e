"""What operators have said about the commands of a journal: which types are paused, since when, by whom and why.

One record for all of a journal, under an id of its own. A pause ends when somebody ends it, whatever is restarted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime

import msgspec

from ..errors import CodecError, RepairError
from ..text import line

MAX_PAUSED = 1000
_MAX_NAME = 400  # characters, as of the note's author
_MAX_NOTE = 2000


class CommandPause(msgspec.Struct, frozen=True, omit_defaults=True):
    """When commands of a type were paused, by whom and why."""

    at: datetime
    by: str = ""
    note: str = ""


class Controls(msgspec.Struct, frozen=True, omit_defaults=True):
    """The pauses, by the name of the command type."""

    paused: dict[str, CommandPause] = {}

    def pause_of(self, stored: str) -> CommandPause | None:
        """Return the pause of commands that are stored under that type; `ShipOrder` also names `shop:ShipOrder`."""
        return self.paused.get(stored) or self.paused.get(short_name(stored))


Change = Callable[[Controls], Controls]


def since(pause: CommandPause) -> str:
    """Return since when, by whom and why, in words."""
    return f"since {pause.at:%Y-%m-%d %H:%M:%S} UTC{by_whom(pause)}"


def by_whom(pause: CommandPause) -> str:
    """Return by whom and why, as the end of a sentence; empty where neither was said."""
    return f"{f' by {line(pause.by)}' if pause.by else ''}{f': {line(pause.note)}' if pause.note else ''}"


def reasons_of(controls: Controls) -> Iterator[str]:
    """Yield why commands do not leave, a sentence for each type that is paused."""
    for name, pause in controls.paused.items():
        yield f"commands {line(name)} are paused {since(pause)}"


def short_name(stored: str) -> str:
    """Return the name of a class without the module that it is stored with, if any."""
    return stored.rpartition(":")[2]


def pausing(command: str, *, at: datetime, by: str = "", note: str = "") -> Change:
    """Return the change that pauses a command type. A type that is paused stays so, as it was first said.

    Raises RepairError for texts that cannot be kept; applied, it raises RepairError where too many types are paused.
    """
    _check("the command type", command, _MAX_NAME, empty=False)
    _check("the name", by, _MAX_NAME)
    _check("the note", note, _MAX_NOTE)

    def change(controls: Controls) -> Controls:
        if command in controls.paused:
            return controls
        if len(controls.paused) >= MAX_PAUSED:
            raise RepairError(f"{MAX_PAUSED:,} command types are paused already; nothing was stored")
        return Controls({**controls.paused, command: CommandPause(at, by, note)})

    return change


def resuming(command: str) -> Change:
    """Return the change that ends the pause of a command type. Where it is not paused, nothing changes."""
    _check("the command type", command, _MAX_NAME, empty=False)

    def change(controls: Controls) -> Controls:
        if command not in controls.paused:
            return controls
        return Controls({name: pause for name, pause in controls.paused.items() if name != command})

    return change


def _check(what: str, text: str, most: int, *, empty: bool = True) -> None:
    if not isinstance(text, str):
        raise RepairError(f"{what} must be a string, not {type(text).__name__}; nothing was stored")
    if not text and not empty:
        raise RepairError(f"{what} is empty; nothing was stored")
    if len(text) > most:
        raise RepairError(f"{what} has {len(text):,} characters, and at most {most:,} can be kept; nothing was stored")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RepairError(f"{what} contains a lone surrogate, which is not valid Unicode; nothing was stored") from None


def encode_controls(controls: Controls) -> bytes:
    """Return the payload to store."""
    return msgspec.json.encode(controls)


def decode_controls(payload: bytes) -> Controls:
    """Return what was stored. Raises CodecError for what cannot be read."""
    try:
        return msgspec.json.decode(payload, type=Controls)
    except msgspec.MsgspecError as error:
        raise CodecError(f"the record of what is paused in this journal cannot be read: {error}") from None
