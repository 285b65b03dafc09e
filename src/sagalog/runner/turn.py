"""A turn: what one instance does in a round, how it is begun, and how one message is run against its draft.

queue ─► [turn] ─► decide
"""

from __future__ import annotations

from collections.abc import Awaitable
from datetime import datetime
from functools import partial

from ..decision.draft import Draft
from ..decision.message import Message, Outcome
from ..decision.state import UnreadableStateError
from .context import EventHandler
from .envelope import Claim, Envelope, Maintenance
from .failures import cancellations, ends_program, not_handled, passes_through
from .instance import Instance
from .load import unreadable
from .replay import NOT_REPLAYED, Replayed
from .reporter import Reporter

_HANDLED = Outcome.HANDLED  # looked up once: Python 3.11 finds a member of an enum by a call


class HandlerFailed(Exception):  # noqa: N818
    """A handler raised `error` for `message`."""

    def __init__(self, message: Message, error: BaseException) -> None:
        self.message = message
        self.error = error


class StepFull(Exception):  # noqa: N818
    """One record can take no more: what was decided is written, and the rest waits for the next turn."""


class CacheTooOld(Exception):  # noqa: N818
    """This must not be decided on a cached record, because another worker may have changed the instance."""


class Turn:
    """What one instance does in a round. `batch[:at]` was decided on `draft`.

    `unseen`: it is decided on the guess that nothing is stored; `fresh`: on a record that was read for it. `asked`: what
    the batch asks for beside its messages. `to_record`: the record still holds commands that were accepted. `single`: it
    takes only one message.
    """

    __slots__ = (
        "asked",
        "at",
        "batch",
        "draft",
        "failure",
        "fresh",
        "instance",
        "replayed",
        "reporter",
        "single",
        "stale",
        "timer",
        "to_record",
        "unseen",
        "woken",
    )

    def __init__(
        self, instance: Instance, batch: list[Envelope], draft: Draft, reporter: Reporter, *, unseen: bool
    ) -> None:
        self.instance: Instance = instance
        self.batch: list[Envelope] = batch
        self.draft: Draft = draft
        self.reporter: Reporter = reporter
        self.unseen: bool = unseen
        self.fresh: bool = instance.cached.fresh
        self.at: int = 0
        self.single: bool = False
        self.asked: tuple[Maintenance | Claim, ...] = ()
        self.replayed: Replayed = NOT_REPLAYED
        self.failure: HandlerFailed | None = None
        self.timer: Message | None = None  # the timer that fired last
        self.woken: Message | None = None  # the kept message that was handled last
        self.stale: bool = False
        self.to_record: bool = draft.changed
        draft.changed = False

    def move_time_on(self) -> None:
        """Move the time of the step on to that of the clock: what comes next in it is not to be dated back."""
        self.draft.now = self.instance.runtime.engine.timing.moved_on(self.draft.now)

    @property
    def decided(self) -> list[Envelope]:
        """The envelopes that were decided, or passed over."""
        return self.batch[: self.at]


def may_begin(instance: Instance, now: datetime) -> bool:
    """Say whether a turn may begin on what is in memory; otherwise the record must be read first."""
    cached = instance.cached
    if cached.loaded and (cached.fresh or not _may_be_of_a_forgotten_life(instance, now)):
        return True
    cached.unload()
    return _may_start_unseen(instance)


def _may_be_of_a_forgotten_life(instance: Instance, now: datetime) -> bool:
    """Say whether the cached record is so old that its instance may have ended elsewhere and been purged since."""
    record = instance.cached.record
    return record is not None and now - record.updated_at >= instance.runtime.half_retention


def _may_start_unseen(instance: Instance) -> bool:
    """Say whether to handle a starting event as if nothing were stored: the write fails if anything is."""
    if instance.cached.load_first or instance.unknown is not None or not instance.runtime.starts_unseen:
        return False
    first = next((envelope for envelope in instance.mailbox if not envelope.over), None)
    if first is None or first.message is None or first.message.kind != "event" or first.park is not None:
        return False
    return instance.runtime.saga.may_start(first.message.event)


def begin(instance: Instance, now: datetime) -> Turn:
    """Take what waits, up to `max_batch`, and begin a draft."""
    runtime = instance.runtime
    engine, cached = runtime.engine, instance.cached
    unseen, single = not cached.loaded, instance.one_by_one > 0
    if unseen:
        cached.guess_nothing()
    batch = _taken_from_mailbox(instance, engine.settings.max_batch)
    if cached.fresh and instance.waiting and cached.record is not None:
        # Another worker has handled a starting event, and may have ended the instance already.
        batch[:0] = instance.wait_no_longer()
    draft = Draft(
        runtime.saga,
        runtime.registry,
        instance.persistence_id,
        cached.record,
        cached.version,
        engine.timing.of_turn(now, cached.record),
        engine.retention,
    )
    draft.lookups = cached.lookups
    draft.whole_moments = engine.timing.dated
    if runtime.reservations is not None:
        draft.reserve = partial(runtime.reservations.reserve, instance.correlation_id, draft.sequence_nr, cached.epoch)
    if instance.deliveries.accepted:
        draft.accept(instance.deliveries.accepted)
    record = draft.record
    if record is not None and record.waking and record.owes_waking and batch[0].content is not Maintenance.WAKE:
        batch = _woken_first(instance, batch, single=single)
    reporter = engine.hooks.reporter(runtime.name, instance.correlation_id, unseen=unseen)
    turn = Turn(instance, batch, draft, reporter, unseen=unseen)
    turn.single = single
    return turn


def _taken_from_mailbox(instance: Instance, most: int) -> list[Envelope]:
    batch = instance.take(most)
    if instance.cached.fresh and batch[0].seen:
        # What has come since the read must not be passed over because of what was read.
        late = next(
            (at for at, envelope in enumerate(batch) if envelope.message is not None and not envelope.seen), None
        )
        if late is not None:
            instance.put_back(batch[late:])
            del batch[late:]
    return batch


def _woken_first(instance: Instance, batch: list[Envelope], *, single: bool) -> list[Envelope]:
    """Return a batch in which kept messages come before everything that came since.

    A worker died, a handler failed, or the instance was repaired.
    """
    if instance.runtime.engine.stopping.is_set():  # another worker's then, or a failing one would be tried for ever
        for envelope in batch:
            if envelope.message is not None and not envelope.over:
                envelope.fail(not_handled())
    elif single:
        instance.put_back(batch)
        instance.decide_singly(instance.one_by_one + 1)
        return [Envelope(Maintenance.WAKE)]
    else:
        batch.insert(0, Envelope(Maintenance.WAKE))
    return batch


def advance(turn: Turn, message: Message) -> Outcome | Awaitable[Outcome]:
    """Run a message against the draft. Raises HandlerFailed, or SagaParkedError for a state that cannot be read."""
    try:
        outcome = turn.reporter.advance(turn.draft, message)
    except BaseException as error:
        if ends_program(error):
            raise
        raise failure_of(turn, message, error) from error
    if outcome is _HANDLED or isinstance(outcome, Outcome):
        return outcome
    return advance_slowly(turn, message, outcome)


async def advance_slowly(turn: Turn, message: Message, outcome: Awaitable[Outcome]) -> Outcome:
    """Wait for an `async def` handler. Raises as `advance`."""
    instance = turn.instance
    before = cancellations()
    try:
        with EventHandler(instance):
            return await outcome
    except BaseException as error:
        withdrawn = turn.at < len(turn.batch) and turn.batch[turn.at].withdrawn
        if passes_through(error, before) and (withdrawn or not instance.runtime.engine.cancelled_by_handler(error)):
            raise
        raise failure_of(turn, message, error) from error


def failure_of(turn: Turn, message: Message, error: BaseException) -> Exception:
    """Return what a turn makes of what a handler raised."""
    if isinstance(error, UnreadableStateError):
        # A worker with newer code may have handled the message since the record was read.
        return unreadable(turn.instance, str(error)) if turn.fresh else CacheTooOld()
    return HandlerFailed(message, error)
