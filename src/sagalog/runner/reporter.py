"""Tells the hooks of the messages that one turn takes: what each was, and what became of it.

decide, commit, settle ─► [reporter] ─► hooks
"""

from __future__ import annotations

import time
from collections.abc import Awaitable
from typing import Any, ClassVar

from ..decision.advance import advance
from ..decision.draft import Draft
from ..decision.message import Message, Outcome
from ..decision.record import SagaRecord
from ..decision.state import UnreadableStateError
from ..errors import ConflictError
from .failures import certain
from .hook_calls import HookCalls
from .hooks import Handling, Save


class Reporter:
    """Tells of the messages that one draft takes: each is over when the draft is saved, lost or given up."""

    __slots__ = ("_begun", "_correlation_id", "_hooks", "_open", "_saga", "_unseen")

    def __init__(self, hooks: HookCalls, saga: str, correlation_id: str, *, unseen: bool) -> None:
        self._hooks = hooks
        self._saga = saga
        self._correlation_id = correlation_id
        self._unseen = unseen
        self._open: list[Handling] = []
        self._begun = 0.0

    def advance(self, draft: Draft, message: Message) -> Outcome | Awaitable[Outcome]:
        """Do as `decision.advance`, and tell."""
        event = message.event.command if message.kind == "refused" else message.event
        late = None
        if message.kind == "timer" and message.at is not None and not message.replayed:
            late = max(0.0, (draft.now - message.at).total_seconds())
        kind = event.title if message.kind == "child" else type(event).__name__
        if event is None and draft.record is not None and message.name in draft.record.timers:
            kind = draft.record.timers[message.name].event.type  # a scheduled command, which is not unpacked here
        handling = Handling(
            self._saga,
            self._correlation_id,
            message.kind,
            kind,
            message.id,
            draft.sequence_nr,
            message.trace,
            message.kind == "timer" or message.replayed,
            late,
        )
        draft.trace = handling.trace = self._hooks.ask("handling", handling)
        try:
            outcome = advance(draft, message)
        except BaseException as error:
            self._fail(handling, error)
            raise
        if not isinstance(outcome, Outcome):
            return self._awaited(handling, outcome)
        handling.outcome = outcome.value
        self._open.append(handling)
        return outcome

    async def _awaited(self, handling: Handling, work: Awaitable[Outcome]) -> Outcome:
        try:
            outcome = await work
        except BaseException as error:
            self._fail(handling, error)
            raise
        handling.outcome = outcome.value
        self._open.append(handling)
        return outcome

    def _fail(self, handling: Handling, error: BaseException) -> None:
        self._end(handling, "failed", error)
        if isinstance(error, UnreadableStateError):  # it ends the whole turn
            self.taken_back()

    def _end(self, handling: Handling, outcome: str = "", error: BaseException | None = None) -> None:
        handling.outcome = outcome or handling.outcome
        handling.error = "" if error is None else type(error).__name__
        self._hooks.tell("handled", handling)

    def writing(self) -> None:
        """The record goes to the journal now."""
        self._begun = time.perf_counter()

    def written(self, sequence_nr: int, record: SagaRecord, error: BaseException | None) -> None:
        """Tell what became of the record; `settled` or `taken_back` follows."""
        outcome = "saved"
        if isinstance(error, ConflictError):
            outcome = "exists" if self._unseen else "conflict"
        elif error is not None:
            outcome = "unavailable" if certain(error) else "unknown"
        oldest = record.outbox[0].id if record.outbox else ""
        seconds = time.perf_counter() - self._begun
        self._hooks.tell(
            "saved",
            Save(self._saga, self._correlation_id, sequence_nr, outcome, len(self._open), seconds, oldest),
        )
        if error is not None:
            for handling in self._drain():
                self._end(handling, outcome, error)

    def settled(self) -> None:
        """What was decided holds."""
        for handling in self._drain():
            self._end(handling)

    def taken_back(self, message_id: str | None = None) -> None:
        """Nothing of it (or of that message) was stored, and all is decided again."""
        for handling in self._drain():
            if message_id is None or handling.message_id == message_id:
                self._end(handling, "repeated")
            else:
                self._open.append(handling)

    def _drain(self) -> list[Handling]:
        handled, self._open = self._open, []
        return handled


class NoReporter(Reporter):
    """Nobody listens."""

    __slots__ = ()

    def __init__(self) -> None:
        """Nothing is kept."""

    advance: ClassVar[Any] = staticmethod(advance)  # for each message of each step: so it is one call, not two

    def writing(self) -> None:
        """Nobody listens."""

    def written(self, sequence_nr: int, record: SagaRecord, error: BaseException | None) -> None:
        """Nobody listens."""

    def settled(self) -> None:
        """Nobody listens."""

    def taken_back(self, message_id: str | None = None) -> None:
        """Nobody listens."""
