"""Answers of the server: each is waited for under a key of its own, and all equally long.

The client's own futures have no time limit, and a timer for each would cost more than the publishing.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Sequence
from typing import Any

from nats.aio.msg import Msg

from .refusals import DENIED, Rejected

_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')


class AwaitedAnswers:
    """The answers that one call waits for; `future` has them when the last is there."""

    __slots__ = ("future", "keys", "messages", "missing", "subjects")

    def __init__(self, keys: range, subjects: Sequence[str], future: asyncio.Future[list[Any]]) -> None:
        self.keys: range = keys
        self.subjects: Sequence[str] = subjects
        self.messages: list[Any] = [None] * len(keys)
        self.missing: int = len(keys)
        self.future: asyncio.Future[list[Any]] = future

    def add(self, key: int, message: Msg | Rejected) -> None:
        self.messages[key - self.keys.start] = message
        self.leave_out(1)

    def leave_out(self, count: int) -> None:
        """Wait for so many less."""
        self.missing -= count
        if self.missing <= 0 and not self.future.done():
            self.future.set_result(self.messages)


class Inbox:
    """Where answers arrive. `subject`: the beginning of the subjects that they are sent to."""

    def __init__(self, timeout_seconds: float) -> None:
        self.subject = ""
        self._timeout = timeout_seconds
        self._answers: dict[int, AwaitedAnswers] = {}
        self._deadlines: deque[tuple[float, AwaitedAnswers]] = deque()  # all wait equally long: the first comes first
        self._alarm: asyncio.TimerHandle | None = None
        self._number = 0

    async def arrived(self, message: Msg) -> None:
        key = int(message.subject.rpartition(".")[2])
        answers = self._answers.pop(key, None)
        if answers is not None:
            answers.add(key, message)

    def expect(self, subjects: Sequence[str]) -> AwaitedAnswers:
        """Wait for an answer from each subject, at `reply_to` of its key; a TimeoutError if one is missing in time."""
        loop = asyncio.get_running_loop()
        count = len(subjects)
        first = self._number + 1
        self._number += count
        answers = AwaitedAnswers(range(first, first + count), subjects, loop.create_future())
        for key in answers.keys:
            self._answers[key] = answers
        self._deadlines.append((loop.time() + self._timeout, answers))
        if self._alarm is None:
            self._alarm = loop.call_later(self._timeout, self._late)
        return answers

    def reply_to(self, key: int) -> str:
        return f"{self.subject}.{key}"

    def _late(self) -> None:
        """End the waits whose time is up. One timer for all: most are answered long before."""
        loop = asyncio.get_running_loop()
        while self._deadlines and (self._deadlines[0][1].future.done() or self._deadlines[0][0] <= loop.time()):
            answers = self._deadlines.popleft()[1]
            self._give_up(answers)
        self._alarm = loop.call_at(self._deadlines[0][0], self._late) if self._deadlines else None

    def denied(self, said: str) -> None:
        """Answer what waits for a subject that this user may not publish to: nobody else will."""
        found = _VIOLATION.search(said)
        if found is None:
            return
        kind, subject = found.groups()
        for key, answers in list(self._answers.items()):
            # Without the inbox no answer at all arrives.
            if kind == "subscription" or answers.subjects[key - answers.keys.start].lower() == subject:
                del self._answers[key]
                answers.add(key, Rejected(DENIED, f"this user has no permission for {kind} to {found[2]!r}"))

    def _give_up(self, answers: AwaitedAnswers) -> None:
        if answers.missing:
            for key in answers.keys:
                self._answers.pop(key, None)
            if not answers.future.done():
                answers.future.set_exception(TimeoutError())

    def close(self) -> None:
        """End all waits; what is not answered stays unknown."""
        if self._alarm is not None:
            self._alarm.cancel()
        for _, answers in self._deadlines:
            self._give_up(answers)
        self._deadlines.clear()
