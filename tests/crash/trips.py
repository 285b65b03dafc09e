"""A worker on trips in a process of its own: `python -m tests.crash.trips JOURNAL LEDGER NUMBER [SIZE]`.

The ledger is a file outside of Sagalog: each activity adds a line when it begins and one when it has done its work, so
that a kill in between is seen. The first activity that begins when it has SIZE bytes never ends, and says `within`: there
this worker is to be killed. Trips whose number ends in 3 are refused their payment.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from datetime import timedelta

from sagalog import Call, CommandRefused, ItinerarySaga, RunnerSettings, SagaRunner, activity


@dataclass
class Requested:
    trip_id: str


@dataclass
class Trip:
    request: Requested | None = None
    flight: str | None = None
    hotel: str | None = None
    car: str | None = None
    payment: str | None = None


class TripSaga(ItinerarySaga[Trip]):
    name = "trip"
    starts_with, key = Requested, "trip_id"

    def __init__(self, ledger: str = "/dev/null", size: int = sys.maxsize) -> None:
        self._file = os.open(ledger, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self._size = size

    async def work(self, what: str, call: Call) -> str:
        os.write(self._file, f"begins {what} {call.id} {call.of}\n".encode())
        if os.fstat(self._file).st_size >= self._size:
            self._size = sys.maxsize
            print("within", flush=True)
            await asyncio.Event().wait()
        await asyncio.sleep(0.002)
        os.write(self._file, f"does {what} {call.id} {call.of}\n".encode())
        return f"{what} {call.id}"

    @activity
    async def flight(self, trip: Trip, call: Call) -> str:
        return await self.work("flight", call)

    @flight.undo
    async def cancel_flight(self, trip: Trip, call: Call) -> None:
        assert trip.flight == f"flight {call.of}"
        await self.work("undo-flight", call)

    @activity(after=flight)
    async def hotel(self, trip: Trip, call: Call) -> str:
        return await self.work("hotel", call)

    @hotel.undo
    async def cancel_hotel(self, trip: Trip, call: Call) -> None:
        await self.work("undo-hotel", call)

    @activity(after=flight)
    async def car(self, trip: Trip, call: Call) -> str:
        return await self.work("car", call)

    @car.undo
    async def cancel_car(self, trip: Trip, call: Call) -> None:
        await self.work("undo-car", call)

    @activity(after=(hotel, car))
    async def payment(self, trip: Trip, call: Call) -> str:
        if call.correlation_id.endswith("3"):
            raise CommandRefused("no money")
        return await self.work("payment", call)


async def main(journal: str, ledger: str, count: int, size: int = sys.maxsize) -> None:
    settings = RunnerSettings(lease=timedelta(milliseconds=400), due_poll=timedelta(milliseconds=50))
    async with SagaRunner(journal, sagas=[TripSaga(ledger, size)], settings=settings) as runner:
        ids = [f"T-{n}" for n in range(count)]
        for trip in ids:
            await runner.handle(Requested(trip), message_id=trip)
        await asyncio.gather(*(runner.outcome(TripSaga, one, timeout=timedelta(seconds=60)) for one in ids))
        print("over", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])))
