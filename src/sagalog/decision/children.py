"""Parents and children: what each keeps of the other in its record, and what they tell each other through their outboxes.

    parent: StartChild ─► outbox "start" ─► the child's starting event, under an id of its own
    child:  its end ─► outbox "tell" ─► message "child" ─► @on_child of the parent
    parent: compensates ─► outbox "stop" for each child that runs ─► they end ─► its own undo stack

No step writes two records. A start is delivered again under the same id after a crash, so there is one child for each. What
a parent hears is known by its own record: of a child that is not in there it has heard, or it never was of this life.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from ..definition.children import ChildEnded, ChildOutcome
from ..definition.codec import Typed, TypeRegistry
from ..definition.results import unpack_result
from ..errors import CodecError
from .entries import FINAL, Child, Command, Family
from .ids import ParentId, end_id, parent_in, parts_of, persistence_id, start_id
from .planned_child import PlannedChild
from .record import SagaRecord, microseconds

NextId = Callable[[], str]  # the id of the next command of a step: `<sequence nr>/<index>`


class ChildTold(msgspec.Struct, omit_defaults=True, frozen=True):
    """What a parent is told of the end of a child, in stored form."""

    saga: str
    id: str
    outcome: ChildOutcome
    result: Typed | None = None
    reason: str = ""

    @property
    def title(self) -> str:
        """What to call it, without ids."""
        return f"{self.saga} {self.outcome}"

    def packed(self) -> Typed:
        """Return it as an outbox or a record holds it."""
        return Typed(self.title, msgspec.Raw(msgspec.json.encode(self)))

    def read(self, registry: TypeRegistry) -> ChildEnded:
        """Return it for a handler. Raises CodecError for a result that this code cannot read."""
        return ChildEnded(self.saga, self.id, self.outcome, unpack_result(self.result, registry), self.reason)


def unpack_told(stored: Typed) -> ChildTold:
    """Return what was packed. Raises CodecError for damaged data."""
    try:
        return msgspec.json.decode(stored.data, type=ChildTold)
    except msgspec.DecodeError:
        raise CodecError("what a child reported of its end is damaged") from None


def begin_child(record: SagaRecord, entry: str, planned: PlannedChild, trace: str) -> Command:
    """Note a child that is started, and return what starts it."""
    life = record.incarnation
    began = _began(record)
    record.children = {**record.children, entry: Child(planned.saga, planned.id, life, began)}
    to = persistence_id(planned.saga, planned.id)
    return Command(entry, planned.event, False, "", trace, life, "start", to, began)


def live_children(record: SagaRecord) -> dict[str, Child]:
    """Return the children of this life that have not ended, as far as it has heard; the one started last comes last."""
    life = record.incarnation
    return {entry: child for entry, child in record.children.items() if child.life == life}


def stops(record: SagaRecord, family: Family, next_id: NextId, trace: str = "") -> list[Command]:
    """Return what asks each child that runs to end: to compensate ("stop"), or as it stands ("cancel"); newest first."""
    return [
        Command(
            next_id(),
            Typed(f"{family} {child.saga}", msgspec.Raw(b"{}")),
            family == "stop",
            entry,
            trace,
            record.incarnation,
            family,
            persistence_id(child.saga, child.id),
            child.began,
        )
        for entry, child in reversed(live_children(record).items())
    ]


def settle_child(record: SagaRecord, entry: str, outcome: str) -> None:
    """Note that a child has ended. Only what completed is to be undone."""
    record.children = {other: child for other, child in record.children.items() if other != entry}
    record.child_ends = {**record.child_ends, outcome: record.child_ends.get(outcome, 0) + 1}
    if outcome != "completed" and record.undo:
        record.undo = tuple([undo for undo in record.undo if undo.of != entry])


def tell_parent(record: SagaRecord, own: str, next_id: NextId) -> None:
    """Let the parent of a child that has ended be told, once. A refusal that is held may yet make another end of it."""
    if record.told or not record.parent or record.status not in FINAL:
        return
    if any(held.kind == "refused" for held in record.held):
        return
    entry = Command(next_id(), told_of(record, own).packed(), life=record.incarnation, family="tell", to=record.parent)
    record.outbox, record.told = (*record.outbox, entry), True


def untell_parent(record: SagaRecord) -> None:
    """Take back that the parent is told of the end: the child had completed, and is compensated after all, or may be."""
    if record.told:
        life = record.incarnation
        record.outbox = tuple([c for c in record.outbox if c.family != "tell" or c.life != life])
        record.told = False


def tells_of(record: SagaRecord, parent: str) -> bool:
    """Say whether the parent that started a child under that id is still to be told, be it of an earlier life."""
    return any(command.family == "tell" and command.to == parent for command in record.outbox)


def start_of(own: str, command: Command) -> str:
    """Return the message id under which the child of a "start", "stop" or "cancel" of that parent was started."""
    entry = command.id if command.family == "start" else command.of
    return start_id(own, entry, command.life, command.began)


def started_as(own: str, entry: str, child: Child) -> str:
    """Return the message id under which that parent has started a child."""
    return start_id(own, entry, child.life, child.began)


def ended_silently(record: SagaRecord, started_as: str) -> bool:
    """Say whether a child that was started under that id has ended, and nothing is left that tells its parent so.

    Of a parent that waits for it all the same, an operator has dropped what was to tell it.
    """
    if record.parent != started_as or record.status not in FINAL or tells_of(record, started_as):
        return False
    return not any(held.kind == "refused" for held in record.held)


def told_of(record: SagaRecord, own: str) -> ChildTold:
    """Return what a child that has ended tells of that."""
    saga, correlation_id = parts_of(own)
    return ChildTold(saga, correlation_id, record.status.value, record.result)  # type: ignore[arg-type]


def failed_to_start(own: str, command: Command, reason: str) -> tuple[str, ChildTold]:
    """Return the message id and the content of what tells a parent that its child was not started, or is gone."""
    saga, correlation_id = parts_of(command.to)
    return end_id(start_of(own, command)), ChildTold(saga, correlation_id, "failed", None, reason)


def is_awaited(record: SagaRecord, message_id: str) -> bool:
    """Say whether a message tells of a child of this very life, of whose end it has not heard."""
    parent = parent_in(message_id)
    child = None if parent is None else record.children.get(parent.entry)
    if child is None or parent is None or child.life != record.incarnation:
        return False
    return (child.life, child.began) == (parent.life, parent.began)


def is_life(record: SagaRecord, parent: ParentId) -> bool:
    """Say whether a record is of the life that started a child."""
    return record.incarnation == parent.life and parent.began in (0, _began(record))


def _began(record: SagaRecord) -> int:
    return microseconds(record.started_at)


def child_entry(message_id: str) -> str:
    """Return the entry that started the child that a message tells of."""
    parent = parent_in(message_id)
    return "" if parent is None else parent.entry
