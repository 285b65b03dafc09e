"""Events that their sender numbers: which field holds the number, where it begins, and what a missing one means.

@on(Measured, key="meter", sequence="n")
@on(Measured, key="meter", sequence=Sequence("n", sender="station", gap_within=timedelta(minutes=5), gap="skip"))
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from operator import attrgetter
from typing import Any, Literal, TypeAlias, get_args

import msgspec

from ..errors import DefinitionError, InvalidEventError
from .annotations import attributes, check_of_one
from .fields import hints_of

_LARGEST = 2**63 - 1
_LONGEST = timedelta(days=3650)


class Gap(msgspec.Struct, frozen=True):
    """Numbers that did not come in time. `first` to `last`, both included; `last` is one below the next that is there."""

    sequence: str
    sender: str
    correlation_id: str
    first: int
    last: int

    def __str__(self) -> str:
        what = f"{self.sequence} of {self.sender}" if self.sender else self.sequence
        return f"{what} {self.first}" if self.first == self.last else f"{what} {self.first} to {self.last}"


Missing: TypeAlias = Literal["park", "skip"] | Callable[[Gap], Any]


class Sequence(msgspec.Struct, frozen=True):
    """Numbers that a sender gives its events, without gaps: they are handled in that order, each once.

    `field`: the attribute that holds the number. `name`: what it is stored as; handlers that give the same name share
    one sequence. By default it is that of the event. `first`: its lowest number; None: the first that comes. `sender`:
    the attribute that tells senders apart, each with numbers of its own.

    `gap_within`: so long a missing number is waited for; None: without end. After that, `gap`: "park" the instance, "skip"
    the numbers, or a function that makes an event of the `Gap`, which is handled before they are skipped.

    `restarts`: the numbers begin anew with each life of an instance. By default they go on, so an event of an earlier life
    is known as such.
    """

    field: str
    name: str = ""
    first: int | None = 1
    sender: str | None = None
    gap_within: timedelta | None = None
    gap: Missing = "park"
    restarts: bool = False


class Numbering:
    """A sequence of one type of event, as the engine asks for it."""

    __slots__ = ("_event", "_number", "_sender", "sequence")

    def __init__(self, event: type, sequence: Sequence) -> None:
        self.sequence: Sequence = sequence
        self._event = event
        self._number = attrgetter(sequence.field)
        self._sender = attrgetter(sequence.sender) if sequence.sender is not None else None

    def place(self, event: Any) -> tuple[str, int]:
        """Return the key under which the sequence is stored, and the number. Raises InvalidEventError for a wrong one."""
        what, known = f"{self._event.__name__}.{self.sequence.field}", self.sequence
        try:
            number = self._number(event)
            sender = "" if self._sender is None else self._sender(event)
        except Exception as error:  # a property may raise anything
            raise InvalidEventError(
                f"{what}: finding the number raised {type(error).__name__}; nothing was stored"
            ) from error
        if type(number) is not int or not (known.first or 0) <= number <= _LARGEST:
            raise InvalidEventError(
                f"{what} numbers the events of {known.name!r}: it must be a whole number from {known.first or 0} to "
                "2**63-1; "
                "nothing was stored"
            )
        if self._sender is None:
            return known.name, number
        if not isinstance(sender, (str, int)) or isinstance(sender, bool) or sender == "":
            raise InvalidEventError(
                f"{self._event.__name__}.{known.sender} tells senders apart: it must be a whole number, or a string "
                "that is not empty; "
                "nothing was stored"
            )
        return f"{known.name}/{sender}", number


def sequence_of(event: type, given: str | Sequence | None, stored_as: str) -> Sequence | None:
    """Return the checked sequence of a handler, with its name. Raises DefinitionError."""
    if given is None:
        return None
    what = f"sequence= of {event.__name__}"
    made = Sequence(given) if isinstance(given, str) else given
    if not isinstance(made, Sequence):
        raise DefinitionError(f"{what} takes the name of the attribute that holds the number, or a Sequence(...)")
    for name, attribute in (("field", made.field), ("sender", made.sender)):
        if not isinstance(attribute, str) and (name == "field" or attribute is not None):
            raise DefinitionError(
                f"{what}: its {name} must be the name of an attribute, not {type(attribute).__name__}"
            )
        if attribute is not None and attribute not in attributes(event):
            have = ", ".join(sorted(attributes(event))) or "none"
            raise DefinitionError(
                f"{what}: {event.__name__} has no attribute {attribute!r} for its {name} (it has: {have})"
            )
    declared = hints_of(event).get(made.field)
    if (
        declared is not Any
        and isinstance(declared, type)
        and (declared is bool or (not issubclass(int, declared) and not issubclass(declared, int)))
    ):
        raise DefinitionError(
            f"{what}: {event.__name__}.{made.field} is a {declared.__name__}, but sequence numbers are whole: "
            "declare it as int"
        )
    if not isinstance(made.name, str) or "/" in made.name:
        raise DefinitionError(f"{what}: its name must be a string without '/'")
    if made.first is not None and (type(made.first) is not int or not 0 <= made.first <= _LARGEST):
        raise DefinitionError(f"{what}: first= must be a whole number, 0 or more, or None for whichever comes first")
    if made.gap_within is not None and (
        not isinstance(made.gap_within, timedelta) or not timedelta() < made.gap_within <= _LONGEST
    ):
        raise DefinitionError(f"{what}: gap_within= must be a timedelta above zero, up to ten years")
    if not callable(made.gap) and made.gap not in get_args(get_args(Missing)[0]):
        raise DefinitionError(f'{what}: gap= must be "park", "skip", or a function that makes an event from a Gap')
    if callable(made.gap):
        check_of_one(f"{what}: gap=", made.gap, "the Gap")
    if made.gap != "park" and made.gap_within is None:
        raise DefinitionError(f"{what}: gap= without gap_within= has no effect: say how long to wait for a number")
    if not isinstance(made.restarts, bool):
        raise DefinitionError(f"{what}: restarts= must be True or False")
    return msgspec.structs.replace(made, name=made.name or stored_as)


def numberings(saga: str, found: dict[type, tuple[Sequence | None, ...]]) -> dict[type, Numbering]:
    """Return the numbering of each event that has one. Raises DefinitionError where handlers do not agree."""
    made: dict[type, Numbering] = {}
    named: dict[str, tuple[type, Sequence]] = {}
    for event, several in found.items():
        first = several[0]
        if any(other != first for other in several):
            raise DefinitionError(f"{saga}: the handlers of {event.__name__} do not give the same sequence=")
        if first is None:
            continue
        made[event] = Numbering(event, first)
        other, known = named.setdefault(first.name, (event, first))
        if _shared(first) != _shared(known):
            raise DefinitionError(
                f"{saga}: {event.__name__} and {other.__name__} share the sequence {first.name!r}, but declare it "
                "differently"
            )
    return made


def _shared(sequence: Sequence) -> tuple[Any, ...]:
    """Return what events of one sequence have to agree in."""
    return (
        sequence.first,
        sequence.sender is None,
        sequence.gap_within,
        sequence.gap,
        sequence.restarts,
    )
