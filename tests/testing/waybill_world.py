"""The world of gathers in phases: ends that come too early, answers that nobody hears, legs that an operator drops."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from sagalog import CommandRefused
from sagalog.testing.simulation import Finished, World

from ..waybills import Ask, Begun, Closed, Load, Unheard, WaybillSaga, answered


class Waybills(World):
    sagas = (WaybillSaga,)
    repairs = ("retry", "skip")

    def events(self, chance: random.Random) -> Iterator[Any]:
        for n in range(4):
            end = chance.choice(["kept", "kept", "ignored", "raised"])
            answer = chance.choice(["counted", "unheard", "unheard", "closing"])
            refused = chance.choice(["ok", "ok", "no"])
            name = f"{refused}-{end}-{answer}-{n}"
            yield Begun(name, end, chance.choice([1, 3, 5]), answer, chance.random() < 0.5, asks=True)
            yield chance.choice([0.0, chance.random(), 30.0])
            yield Closed(name)

    def answer(self, command: Any, chance: random.Random) -> Any:
        if isinstance(command, Ask):
            return Unheard(command.id)
        assert isinstance(command, Load)
        if command.id.startswith("no") and command.number == 1:
            raise CommandRefused("no")
        return answered(command)

    def check(self, instance: Finished) -> None:
        log = instance.state.log
        _, end, _, _ = instance.correlation_id.split("-")
        ends = [line for line in log if ":" in line]
        legs = len({one.number for one in instance.commands if isinstance(one, Load)})
        assert "silence" not in log or "skip" in instance.repairs, "the request was answered in time"
        assert len(ends) <= 1, f"it ended {len(ends)} times"
        if ends:
            told = ends[0].partition(": ")[2]
            assert ", not" in told or int(told.partition(" ")[0]) >= legs, f"{legs} legs, and its end tells of {told}"
            assert log.index("closed") < log.index(ends[0]), "its end was handled in a phase that does not expect it"
        elif end == "kept" and "closed" in log:
            assert "skip" in instance.repairs, "it never came to its end"
