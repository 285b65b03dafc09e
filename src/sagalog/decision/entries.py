"""What a record is made of: commands, timers, requests, joins, children, held messages, and who did what."""

from datetime import datetime
from enum import StrEnum
from typing import Literal

import msgspec

from ..definition.actions import Late
from ..definition.codec import Typed
from ..definition.recurring import Rule
from .gathering import Gathering
from .ids import parent_in, parts_of

Kind = Literal["event", "timer", "refused", "child"]  # of a message; the last one tells that a child has ended


Family = Literal["", "start", "stop", "cancel", "tell"]


class Status(StrEnum):
    """The status of an instance. The last three are final, COMPENSATION_FAILED waits for an operator."""

    RUNNING = "running"
    COMPENSATING = "compensating"
    COMPENSATION_FAILED = "compensation_failed"
    COMPLETED = "completed"
    COMPENSATED = "compensated"
    CANCELLED = "cancelled"


FINAL = frozenset({Status.COMPLETED, Status.COMPENSATED, Status.CANCELLED})


ENDS = FINAL | {Status.COMPENSATION_FAILED}  # of which a caller that waits for the end is told


class Command(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """An outbox entry. `id` is `<sequence nr>/<index>`; with the persistence id before it, the command's id."""

    id: str
    command: Typed
    undo: bool = False
    of: str = ""  # the command that this one takes back
    trace: str = ""  # of the step that sends it, as a hook gave it: opaque here
    life: int = 1  # the incarnation that sends it
    # Between parent and child, for no command handler: it starts a child, asks one to compensate, or to end as it stands,
    # or tells the parent of the end; see children.py.
    family: Family = ""
    to: str = ""  # the persistence id of the child; of "tell", the message id that started this one
    began: int = 0  # of "start", "stop" and "cancel": when the life began that starts the child; see ids.start_id

    @property
    def title(self) -> str:
        """What to call it where instances are shown: its type, and where it goes if that is a child or a parent."""
        if not self.family:
            return self.command.type
        parent = parent_in(self.to)
        saga, correlation_id = parts_of(self.to if parent is None else parent.persistence_id)
        if self.family == "tell":
            return f"{self.command.type}, to its parent {saga} {correlation_id}"
        if self.family == "start":
            return f"{self.command.type}, to its child {saga} {correlation_id}"
        return f"{self.command.type} {correlation_id}"


class Timer(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """A pending timer. `id` names the step that set it, so that a replaced timer is told from its successor."""

    id: str
    due_at: datetime
    event: Typed
    send: bool = False  # a scheduled command: moved to the outbox when due, not handed to the saga
    trace: str = ""  # of the step that set it
    life: int = 1  # the incarnation that set it
    rule: Rule | None = None  # when it comes again; each firing makes the next one, under an id of its own


class Request(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """A command that waits for an answer until its deadline, which is a timer. `id`: the command's outbox entry."""

    id: str
    command: str  # its type
    reply: str = ""  # the type of the event that answers it; empty: whatever its handler answers this instance
    late: Late = "handle"
    overdue: bool = False  # its deadline has passed; kept to know a late answer


class Joined(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """How far a join is: the legs that have come and those that it waits for, by name; or that it has run."""

    came: tuple[str, ...] = ()
    waits: tuple[str, ...] = ()
    done: bool = False


class Child(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """A child that has not ended, as far as its parent has heard."""

    saga: str
    id: str  # its correlation id
    life: int = 1  # of the parent ...
    began: int = 0  # ... and when that began; see ids.start_id


UNDER_WAY = frozenset({"running", "waiting"})


class Stage(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """How far one activity has come; itinerary.py says what each status means, and which follow which."""

    status: Literal["done", "running", "waiting", "failed", "left", "skipped", "early", "stopped", "undone"] = "done"
    entry: str = ""  # of its command; nothing where it was never called
    why: str = ""  # of a failure, or why it was skipped
    pivot: bool = False  # nothing that was done before it is undone any more


class Undo(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """How to take back the command `of`."""

    of: str
    command: Typed
    life: int = 1  # the incarnation that sent it


class Held(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """An accepted message that waits: for the repair of a parked instance (held), or for its moment (kept)."""

    id: str
    event: Typed
    kind: Kind = "event"
    reason: str = ""  # of a refusal
    name: str = ""  # of a timer
    trace: str = ""  # that it brought
    waits: bool = False  # to begin the next incarnation, once this one has ended
    life: int = 0  # of a refusal, and of an answer to this very instance: the incarnation that sent the command
    at: datetime | None = None  # its own time, where it has one; of a timer: when it was due
    kept: bool = False  # it was kept before it was held, and its sender was told so
    sequence: str = ""  # in which its sender numbers it ...
    number: int = 0  # ... and its number there
    gather: Gathering | None = None  # whose end it is; see gather_ends.py
    by: str = ""  # the operator who sent it


class HeldPage(msgspec.Struct, array_like=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """An earlier record of the same instance, in which messages are stored that newer ones only name; see pages.py.

    `version`: its number. `count`: how many it has itself. `size`: their JSON in bytes, with the commas in between.
    """

    version: int
    count: int
    size: int


class Audit(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """One repair by an operator, or what the engine has to tell: a message that was let go, a number that never came."""

    at: datetime
    action: str
    note: str = ""
    by: str = ""  # the operator's name, as told

    @property
    def by_engine(self) -> bool:
        """No operator did it: a message was let go, a number is not waited for any more, or a parent compensates."""
        return self.action in ("replay", "kept", "gap", "parent") and not self.by


class Handled(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """One message that the step which wrote this record handled."""

    id: str
    type: str
    late: bool = False  # an answer that came after its deadline, and was ignored
    how: str = ""  # "kept": it waited in the record; "ignored": a timer, or the end of a gather, that its phase did not
    # expect; "gap": a deadline; "passed": no handler takes it, but it answers a command, or ends an activity
    by: str = ""  # the operator who sent it, if one did and is known


class Ended(msgspec.Struct, omit_defaults=True, forbid_unknown_fields=True, frozen=True, gc=False):
    """How the incarnation before ended, for callers that ask once the next one has begun."""

    status: Status
    at: datetime
    started_at: datetime
    result: Typed | None = None
    left_out: bool = False  # its result was too large to be carried on
