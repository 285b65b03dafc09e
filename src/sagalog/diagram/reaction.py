"""What the picture of a saga is drawn from: one reaction for each event, refusal, join, end of a child, and activity."""

from __future__ import annotations

from dataclasses import dataclass, field

UNKNOWN_PHASE = "?"  # one that only a run would tell


@dataclass(slots=True)
class Reaction:
    """One event, or the refusal of a command, and what its handler may do: names, in the order they are written."""

    trigger: str
    method: str
    starts: bool = False
    refusal: bool = False
    legs: tuple[str, ...] = ()  # of a join: the events that all have to come
    sends: dict[str, str] = field(default_factory=dict)  # command -> its undo, or nothing
    # Command -> how long, and the event if no answer.
    requests: dict[str, tuple[str, str]] = field(default_factory=dict)
    gathers: dict[str, tuple[str, str]] = field(default_factory=dict)  # name -> the events of its end, well or not
    children: dict[str, str] = field(default_factory=dict)  # saga of a child that it starts -> its undo, or nothing
    ended: str = ""  # it is no event: a child of that saga has ended
    schedules: list[str] = field(default_factory=list)
    sets: dict[str, str] = field(default_factory=dict)  # timer -> the event it brings
    recurs: dict[str, str] = field(default_factory=dict)  # timer with a rule or a local time -> which, as is written
    cancels: list[str] = field(default_factory=list)
    compensates: bool = False
    chain: list[str] = field(default_factory=list)  # what Compensate(...) names itself
    completes: bool = False
    during: tuple[str, ...] = ()  # phases that expect it; none are named: all of them
    unexpected: dict[str, str] = field(default_factory=dict)  # phase -> what it does with such an event
    enters: list[str] = field(default_factory=list)  # phases
    activity: bool = False  # it is no event, it is an activity that has ended
    runs: list[str] = field(default_factory=list)  # activities that it begins
    answers: str = ""  # the activity that waits for it
    undone_by: str = ""  # of an activity: the method
    failing: str = ""  # of an activity: the method that is called where it has failed
    notes: tuple[str, ...] = ()  # what is special about an activity; how an event is numbered
    by: str = ""  # the key by which the event reaches instances
    adds: list[str] = field(default_factory=list)  # keys
    removes: list[str] = field(default_factory=list)  # keys
    acts: str = ""  # it is no event: "entering" or "leaving" one of the phases in `during`

    @property
    def title(self) -> str:
        """The trigger, with its key, its numbers and its phases where it has some; what is special about an activity."""
        notes = [*([f"by {self.by}"] if self.by else []), *self.notes, *(self.during if not self.acts else ())]
        return f"{self.trigger} ({', '.join(notes)})" if notes else self.trigger

    @property
    def noted(self) -> str:
        """The trigger with its notes alone, which are the same for every phase of an event."""
        return f"{self.trigger} ({', '.join(self.notes)})" if self.notes else self.trigger


@dataclass(frozen=True, slots=True)
class Outline:
    """A saga's reactions: starting events first, then in the order of its class. `unread`: no source was found there.

    `phases`: their names, the initial one first.
    """

    saga: str
    reactions: tuple[Reaction, ...]
    unread: tuple[str, ...] = ()
    phases: tuple[str, ...] = ()
