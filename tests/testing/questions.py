"""The world of requests: each question is answered, refused, or not answered in time; late answers do as was said."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from sagalog import CommandRefused
from sagalog.testing.simulation import Finished, World

from ..asking import Answered, Ask, AskSaga, Confirmed, Wanted


class Questions(World):
    sagas = (AskSaga,)
    repairs = ("retry",)

    def events(self, chance: random.Random) -> Iterator[Any]:
        for n in range(4):
            by_type = chance.random() < 0.5
            yield Wanted(f"q{n}", chance.choice(["handle", "ignore", "ignore", "park"]), by_type)
            yield chance.random() * 60
            if by_type and chance.random() < 0.7:
                yield chance.choice([1, 100, 130, 200])
                yield Confirmed(f"q{n}")

    def answer(self, command: Any, chance: random.Random) -> Any:
        if isinstance(command, Ask) and command.id in ("q1", "q3"):
            if chance.random() < 0.3:
                raise CommandRefused("no")
            return Answered(command.id)
        return None

    def check(self, instance: Finished) -> None:
        state = instance.state
        said = [word for word in state.log if word != "asked"]
        assert instance.status == "completed"
        assert said.count("silence") <= 1, "silence came twice"
        for word in ("confirmed", "refused"):
            assert not (word in said and "silence" in said[said.index(word) :]), f"silence, and it was {word} before"
        if state.late == "ignore" and "silence" in said:
            assert said[-1] == "silence" or "refused" in said or "answered" in said, "a late answer was handled"
        if not said:
            raise AssertionError("neither an answer nor silence")
