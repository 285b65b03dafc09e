"""What a gather is in a record: which command is which leg, and which legs are answered, in a bit each.

The commands of one step are numbered one after the other, so a run (step, place, first leg, how many) says which legs they
are. Ten thousand legs take some two kilobytes, whatever has come; their answers are the saga's own to keep, or to count.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

import msgspec

from ..definition.actions import Gather, Gathered, Send, StartChild
from ..definition.codec import Typed, TypeRegistry
from ..definition.saga import Saga
from ..errors import DefinitionError
from .ids import sent_in
from .planned_child import PlannedChild, planned_child

MOST_LISTED = 1000  # commands that are given as a list: they stand in one record until they are accepted
MOST_LEGS = 100_000


class Gathering(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """One gather that is under way. `answered` and `refused` are bits by leg; a refused leg is not answered."""

    total: int
    then: Typed
    failed: Typed | None = None
    wait: bool = False  # for all, also after a refusal
    over: bool = False  # it has failed; kept to know the legs that are sent, whose refusals mean nothing any more
    sent: int = 0
    runs: tuple[tuple[int, int, int, int], ...] = ()  # of the legs that are sent and have not all come
    answered: bytes = b""
    refused: bytes = b""

    def leg_of(self, entry: str) -> int | None:
        """Return which leg the command of that entry is, if it is one that has not come."""
        step, index = sent_in(entry)
        for of, place, first, count in self.runs:
            if of == step and place <= index < place + count:
                leg = first + index - place
                return None if self._bits() >> leg & 1 else leg
        return None

    def _bits(self) -> int:
        return int.from_bytes(self.answered, "little") | int.from_bytes(self.refused, "little")

    @property
    def come(self) -> int:
        """How many legs have been answered or refused."""
        return self._bits().bit_count()

    @property
    def open(self) -> int:
        """How many legs are sent and have not come."""
        return self.sent - self.come

    def told(self) -> Gathered:
        """Return what a handler is told of it."""
        refused = int.from_bytes(self.refused, "little")
        numbers = tuple(n for n in range(refused.bit_length()) if refused >> n & 1)
        return Gathered(self.total, int.from_bytes(self.answered, "little").bit_count(), numbers)

    def with_leg(self, leg: int, *, refused: bool) -> Gathering:
        """Return it with one more leg that has come."""
        name = "refused" if refused else "answered"
        bits = int.from_bytes(getattr(self, name), "little") | 1 << leg
        return msgspec.structs.replace(self, **{name: bits.to_bytes((bits.bit_length() + 7) // 8, "little")})

    def with_sent(self, step: int, place: int, count: int) -> Gathering:
        """Return it with the next legs sent as the commands of that step, from that place on."""
        bits = self._bits()
        full = [
            (of, at, first, n) for of, at, first, n in self.runs if (bits >> first) & ((1 << n) - 1) != (1 << n) - 1
        ]
        return msgspec.structs.replace(self, sent=self.sent + count, runs=(*full, (step, place, self.sent, count)))


class GatherEnd(msgspec.Struct, frozen=True):
    """The event that ends a gather, and how that went."""

    event: Any
    stored: Typed
    gathering: Gathering


class PlannedGather(msgspec.Struct, frozen=True):
    """A GatherStep with its commands, and how to undo them, in stored form."""

    name: str
    gathering: Gathering | None
    commands: list[tuple[Typed | PlannedChild, Typed | None]]
    end: GatherEnd | None = None


class GatherStep(msgspec.Struct, frozen=True):
    """What a step does to a gather, as an action of the engine's own: how it is then, and the legs that are sent."""

    name: str
    gathering: Gathering | None  # None: it is over
    sends: list[Any]
    end: GatherEnd | None = None  # that is not handled in this step, because its phase may not expect it
    ended: Any = None  # the event of its end, if it is handled in this step


def ends_in(actions: Iterable[Any]) -> list[Any]:
    """Return the events that end gathers and are handled in a step of these actions, beside its message.

    Each is an event like any other: a join may have it as a leg, an activity or a request may wait for it.
    """
    return [action.ended for action in actions if isinstance(action, GatherStep) and action.ended is not None]


def step_of(
    action: Gather | GatherStep, saga: Saga[Any], state: Any, registry: TypeRegistry, under_way: Collection[str]
) -> GatherStep:
    """Return the first step of a gather, or a further one as it is. Raises DefinitionError, which names it."""
    if isinstance(action, GatherStep):
        return action
    what = f"saga {saga.name!r}: Gather({action.name!r})"
    if not isinstance(action.name, str) or not action.name:
        raise DefinitionError(f"saga {saga.name!r}: a gather's name must be a string that is not empty")
    if action.name in under_way:
        raise DefinitionError(f"{what} is under way already: give this one another name")
    if not isinstance(action.wait, bool):
        raise DefinitionError(f"{what} takes wait=True or False")
    for name, event in (("then", action.then), ("failed", action.failed)):
        if event is None and name == "failed":
            continue
        if isinstance(event, type):
            shown = event.__name__
            raise DefinitionError(f"{what}: {shown} is a class: pass an instance, {name}={shown}(...)")
        if event is None or not saga.handles_event(event):
            raise DefinitionError(f"{what} has a {type(event).__name__} as {name}=, which no handler takes")
    failed = None if action.failed is None else registry.pack(action.failed)
    if action.legs in (0, [], ()):
        raise DefinitionError(
            f"{what} has no legs, so no answer would ever end it: if there are none, do right away what then= leads to"
        )
    if isinstance(action.legs, int) and not isinstance(action.legs, bool):
        if not 1 <= action.legs <= MOST_LEGS:
            raise DefinitionError(f"{what} takes 1 to {MOST_LEGS:,} legs, not {action.legs:,}")
        if action.name not in saga.legs():
            raise DefinitionError(f"{what} needs a method that makes its legs: decorate one with @leg({action.name!r})")
        gathering = Gathering(action.legs, registry.pack(action.then), failed, action.wait)
        return GatherStep(action.name, gathering, more_legs(action.name, gathering, saga, state))
    if not isinstance(action.legs, (list, tuple)):
        raise DefinitionError(f"{what} takes a list of Sends, or how many legs, not {type(action.legs).__name__}")
    if len(action.legs) > MOST_LISTED:
        raise DefinitionError(
            f"{what} takes 1 to {MOST_LISTED:,} commands in one record, not {len(action.legs):,}: give their number, and "
            f"make them one by one in a method with @leg({action.name!r})"
        )
    for send in action.legs:
        _check_leg(what, send)
    gathering = Gathering(len(action.legs), registry.pack(action.then), failed, action.wait)
    return GatherStep(action.name, gathering, list(action.legs))


def more_legs(name: str, gathering: Gathering, saga: Saga[Any], state: Any) -> list[Send | StartChild]:
    """Return the legs to be sent now, so that as many are unanswered as may be. Raises DefinitionError."""
    made = saga.legs().get(name)
    if made is None or gathering.sent == gathering.total:
        if gathering.sent < gathering.total and gathering.sent:
            raise DefinitionError(f"saga {saga.name!r}: gather {name!r} needs a method for its legs: @leg({name!r})")
        return []
    until = min(gathering.total, gathering.sent + made.at_once - gathering.open)
    method, sends = getattr(saga, made.method), []
    for number in range(gathering.sent, until):
        send = method(state, number)
        _check_leg(f"saga {saga.name!r}: {made.method}()", send)
        if send.undo is not None:
            raise DefinitionError(
                f"saga {saga.name!r}: {made.method}() makes a {type(send).__name__} with undo=: "
                "the undo stack cannot hold that many; undo them by another gather"
            )
        sends.append(send)
    return sends


def _check_leg(what: str, send: Any) -> None:
    if isinstance(send, StartChild):
        return
    if not isinstance(send, Send):
        raise DefinitionError(f"{what} makes legs of Send(...) or StartChild(...), not of a {type(send).__name__}")
    if send.reply_within is not None or send.otherwise is not None or send.reply is not None:
        raise DefinitionError(f"{what}: a leg cannot have a deadline of its own; set a timer for the whole gather")


def planned(step: GatherStep, saga: Saga[Any], registry: TypeRegistry) -> PlannedGather:
    """Put the legs of a step into stored form. Raises CodecError, and DefinitionError for what is no child."""
    commands = [
        (
            planned_child(leg, saga, registry) if isinstance(leg, StartChild) else registry.pack(leg.command),
            None if leg.undo is None else registry.pack(leg.undo),
        )
        for leg in step.sends
    ]
    return PlannedGather(step.name, step.gathering, commands, step.end)
