"""Connections that break in the middle of a batch: what is told of each record is true."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Any, Literal, Protocol

import pytest

from ..errors import JournalUnavailableError, OutcomeUnknownError
from ..journal.protocol import Journal
from .capability import Capability, may
from .records import record


class Lose(Protocol):
    """Lose the next request (it never arrives), or the next answer, of each open connection, and end it then."""

    def __call__(self, what: Literal["request", "answer"], /) -> None: ...


class Breaking:
    """What a journal promises of a batch whose connection breaks."""

    def breakable(self, place: Any) -> AbstractAsyncContextManager[tuple[Journal, Lose]]:
        """Return a context manager that gives a journal at `place` and a way to break it; for the capability BREAKABLE."""
        raise NotImplementedError(f"{type(self).__name__}.breakable(place) must return a journal and a way to break it")

    @may(Capability.BREAKABLE)
    @pytest.mark.parametrize("lost", ["request", "answer"])
    async def test_a_batch_whose_connection_breaks_tells_the_truth_of_each_record(
        self, journal: Journal, place: Any, lost: Literal["request", "answer"]
    ) -> None:
        keys = [f"k{n:03}" for n in range(200)]
        async with self.breakable(place) as (broken, lose):
            assert list(await broken.write_batch([record(key, 1) for key in keys])) == [None] * len(keys)
            lose(lost)
            answers = await broken.write_batch([record(key, 2) for key in keys])
            found = await journal.latest_messages(keys)
            for key, answer, newest in zip(keys, answers, found, strict=True):
                assert newest is not None
                assert isinstance(answer, (OutcomeUnknownError, JournalUnavailableError, type(None))), answer
                if answer is None:
                    assert newest.sequence_nr == 2, f"{key} was acknowledged, but is not stored"
                elif isinstance(answer, JournalUnavailableError):
                    assert newest.sequence_nr == 1, f"{key} was refused, but is stored"
            again = [record(key, newest.sequence_nr + 1) for key, newest in zip(keys, found, strict=True) if newest]
            assert list(await broken.write_batch(again)) == [None] * len(keys)
