"""Which offset of a partition may be committed: never one behind a message that is not done."""

from __future__ import annotations

from collections import deque


class Offsets:
    """What one partition has given since it was assigned to us.

    A group remembers one number for each partition: everything before it is done. So a message that is done early waits
    here until those before it are done, too.
    """

    def __init__(self) -> None:
        self._given: deque[int] = deque()
        self._done: set[int] = set()
        self.to_commit: int | None = None  # the offset behind the last message that is done with all before it
        self.committed: int | None = None

    @property
    def left(self) -> int:
        """How many were given and are not committable yet."""
        return len(self._given)

    def given(self, offset: int) -> None:
        """Note a message that was received, in order."""
        self._given.append(offset)

    def done(self, offset: int) -> None:
        """Note that a message is done. Doing so again has no effect."""
        if self._given and offset >= self._given[0]:
            self._done.add(offset)
        while self._given and self._given[0] in self._done:
            first = self._given.popleft()
            self._done.discard(first)
            self.to_commit = first + 1

    def back_to(self, offset: int) -> None:
        """Forget what was given from this offset on: it is read again."""
        while self._given and self._given[-1] >= offset:
            self._done.discard(self._given.pop())
