"""Reads one source: each message becomes a step, and is accepted only after that.

    source ─► [intake] ─► in order ─► runner ─► accepting ─► source
                 └─ unreadable, untaken: dead letters, ignored, or stop

What if this process dies ...        then
before the step                      the message comes again, and nothing has happened
after it, before the acknowledgement the message comes again under the same id, and is a duplicate
between dead letter and accepting    it comes again, and is rejected again

At most `prefetch` messages are here at once: a place is free again when the broker was told. While the journal is away,
messages stay here and are tried again with pauses; the broker is told that they are still at work.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from datetime import datetime, timedelta
from typing import Any

from ..errors import BrokerRefusedError, SagalogError
from ..logs import about, log, trace_of
from ..waiting import Attempts, Waiting, end_within, is_set_within, start_task
from .accepting import Accepting
from .counts import SourceCounts, SourceGauges
from .in_order import PAUSES, Arrival, InOrder, TakesEvents, pause
from .looking import Looking
from .message import SourceMessage
from .protocol import Source
from .reading import MessageReader, UnreadableError, UntakenError
from .subscription import Policy, Subscription
from .suspects import Suspects
from .trouble import SourceTrouble

# How long an empty source is waited for in one go, and how long a stop may have to wait for it.
RECEIVE_WAIT = timedelta(milliseconds=500)
_RECEIVE_SECONDS = 3.0  # so long the last `receive` is waited for at a stop: a broker may hang
_LEAST_SECONDS = 1.0  # of each part of a stop, when its time is up
_REJECTED_AT_ONCE = 64
_REFUSED = Waiting(first=1.0, most=30.0)  # between attempts at what helps only when an operator does something


class Intake:
    """Reads one subscription, from `start` until `drain` and `close`."""

    def __init__(self, subscription: Subscription, reader: MessageReader, runner: TakesEvents) -> None:
        self.subscription = subscription
        self.source: Source = subscription.source
        self.counts: SourceCounts = SourceCounts()
        self.stopped: str = ""
        self.trouble: SourceTrouble = SourceTrouble(self.source.name)
        self._reader = reader
        self._stopping = asyncio.Event()
        self._closing = asyncio.Event()
        self._lanes = InOrder(
            runner,
            self.counts,
            self._stopping,
            lambda serving: self._spawn(serving, self._handling),
            handled=self._accept,
            declined=self._declined,
        )
        self._suspects = Suspects(
            subscription.most_deliveries,
            self._stopping,
            self._take,
            lambda arrival, reason: self._spawn(self._reject(arrival, reason), self._letters),
        )
        self._under_way: dict[Arrival, None] = {}
        self._freed = asyncio.Event()
        self._handling: set[asyncio.Task[Any]] = set()  # tasks that need the runner
        self._letters: set[asyncio.Task[Any]] = set()  # tasks that need the broker alone
        self._accepting = Accepting(self.source, self.trouble, self.counts, self._closing)
        self._looking = Looking(self.source, self.trouble, self.counts, self._closing)
        self._rejecting = asyncio.Semaphore(_REJECTED_AT_ONCE)
        self._not_rejected: set[Arrival] = set()  # for which the broker has taken no dead letter yet
        self._loops: list[asyncio.Task[Any]] = []

    def start(self) -> None:
        """Begin to read. A broker that is away is waited for."""
        self._loops = [start_task(self._receive_all()), start_task(self._accepting.run(self._told))]
        self._loops += [start_task(self._looking.run()), start_task(self._suspects.run())]
        if (every := self.source.keep_every) is not None:
            self._loops.append(start_task(self._keep_all(every.total_seconds())))
        for task in self._loops:
            task.add_done_callback(self._loop_ended)

    def gauges(self) -> SourceGauges:
        """Return how this source is doing."""
        return SourceGauges(
            self.source.name,
            self.counts,
            len(self._under_way),
            self._looking.backlog.messages,
            self.trouble.seconds_since(self._oldest()),
            self.stopped,
            self.trouble.text,
            self.trouble.seconds,
        )

    def _oldest(self) -> datetime | None:
        """Return since when the oldest message waits. The broker gives old ones first, so that one is here."""
        if self._looking.backlog.oldest_at is not None:
            return self._looking.backlog.oldest_at
        return min((at for one in list(self._under_way) if (at := one.message.published_at) is not None), default=None)

    async def drain(self, seconds: float) -> None:
        """Receive no more, and let what is handled end, for so long at most. What waits for another try is given back.

        Dead letters are on their way until `close`: a broker that hangs with them holds up nothing that the runner does.
        """
        left = _Left(seconds)
        self._stopping.set()
        self._freed.set()
        if self._loops:
            receiving = self._loops[0]
            await asyncio.wait([receiving], timeout=min(_RECEIVE_SECONDS, seconds + RECEIVE_WAIT.total_seconds()))
            receiving.cancel()  # what it would have received comes again
        if self._handling:
            await asyncio.wait(list(self._handling), timeout=left.seconds)

    async def close(self, seconds: float) -> None:
        """Tell the broker what was accepted, give the rest back, disconnect. The runner has stopped: nothing is handled.

        Takes little longer than `seconds`. A broker that hangs then gives what it has to somebody after a while.
        """
        left = _Left(seconds)
        if under_way := [*self._handling, *self._letters]:
            await asyncio.wait(under_way, timeout=left.seconds)
        await self._accepting.flush(left.seconds)
        self._closing.set()  # a client may swallow a cancellation, so each loop also looks whether it should end
        left_to_end = [*self._loops, *self._handling, *self._letters]
        for task in left_to_end:
            task.cancel()
        if left_to_end:
            await asyncio.wait(left_to_end, timeout=left.seconds)
        try:
            if unfinished := [one.message for one in self._under_way if not one.done]:
                await end_within(left.seconds, self.source.give_back(unfinished, timedelta(0)))
        except Exception as error:
            self.trouble.is_(error, "giving back")
        await end_within(left.seconds, self.source.close())
        self._loops = []

    async def _receive_all(self) -> None:
        attempts = Attempts(PAUSES)
        opened = False
        while not self._stopping.is_set() and not self.stopped:
            try:
                if not opened:
                    await self.source.open()
                    opened = True  # that it can be read is shown by the first answer
                free = self.subscription.prefetch - len(self._under_way)
                if free <= 0:
                    self._freed.clear()
                    await self._freed.wait()
                    continue
                messages = await self.source.receive(free, RECEIVE_WAIT)
                self.trouble.is_over("reading")
                attempts.reset()
            except Exception as error:
                opened = False
                self.counts.broker_errors += 1
                self.trouble.is_(error, "reading")
                await pause(attempts, self._stopping)
                continue
            for message in messages:
                self._arrived(message)

    def _arrived(self, message: SourceMessage) -> None:
        self.counts.received += 1
        self.counts.redelivered += message.deliveries > 1
        arrival = Arrival(message)
        self._under_way[arrival] = None
        if self.stopped:
            return
        if not self._suspects.is_one(arrival):
            self._take(arrival)
        else:
            self._suspects.put(arrival)

    def _take(self, arrival: Arrival) -> None:
        try:
            arrival.decoded = self._reader.read(arrival.message)
            self._lanes.put(arrival)
        except UnreadableError as error:
            self._no_step(arrival, self.subscription.unreadable, str(error))
        except (UntakenError, SagalogError) as error:
            self._declined(arrival, str(error))
        except Exception as error:  # of the user's code, such as a function that gives the key
            self._failed("a message", error)
            self._no_step(arrival, self.subscription.unreadable, f"reading it raised {type(error).__name__}")

    def _declined(self, arrival: Arrival, reason: str) -> None:
        self._no_step(arrival, self.subscription.untaken, reason)

    def _spawn(self, work: Coroutine[Any, Any, None], among: set[asyncio.Task[Any]]) -> None:
        task = start_task(work)
        among.add(task)
        task.add_done_callback(among.discard)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self._failed("a task", error)

    def _failed(self, what: str, error: BaseException) -> None:
        name = type(error).__name__
        log.error("source %s: %s failed: %s", self.source.name, what, name, exc_info=trace_of(error), extra=about())

    def _loop_ended(self, task: asyncio.Task[Any]) -> None:
        """Stop for all to see where a loop has ended by itself: a source that reads no more looks like one that is idle."""
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._failed("a loop", error)
        if not (self._stopping.is_set() or self.stopped):
            self.stopped = (
                f"a fault that ended its reading: {'a cancellation' if error is None else type(error).__name__}"
            )
            log.critical("source %s stops at %s", self.source.name, self.stopped, extra=about())
            self._freed.set()

    def _no_step(self, arrival: Arrival, policy: Policy | str, reason: str) -> None:
        if policy == Policy.IGNORE:
            self.counts.ignored += 1
            self._accept(arrival)
        elif policy == Policy.DEAD_LETTER:
            self._spawn(self._reject(arrival, reason), self._letters)
        elif not self.stopped:
            self.stopped = f"message {arrival.message.position}: {reason}"
            log.critical("source %s stops at %s", self.source.name, self.stopped, extra=about())
            self._freed.set()

    async def _reject(self, arrival: Arrival, reason: str) -> None:
        """Put it among the dead letters. Where the broker refuses that, it stays where it is, and health tells of it."""
        position = arrival.message.position
        attempts, refusals = Attempts(PAUSES), Attempts(_REFUSED)
        while not self._stopping.is_set():
            try:
                async with self._rejecting:
                    await self.source.reject(arrival.message, reason)
            except Exception as error:
                self.counts.broker_errors += 1
                self._not_rejected.add(arrival)
                self._suspects.ended(arrival)
                if isinstance(error, BrokerRefusedError):
                    error = BrokerRefusedError(f"message {position} cannot be moved to the dead letters: {error}")
                self.trouble.is_(error, "dead letters")
                await pause(refusals if isinstance(error, BrokerRefusedError) else attempts, self._stopping)
            else:
                self.counts.dead_letters += 1
                self._not_rejected.discard(arrival)
                if not self._not_rejected:
                    self.trouble.is_over("dead letters")
                log.warning(
                    "source %s: message %s went to the dead letters: %s",
                    self.source.name,
                    position,
                    reason,
                    extra=about(),
                )
                arrival.done = True
                self._told([arrival])
                return

    def _accept(self, arrival: Arrival) -> None:
        arrival.done = True
        self._accepting.put(arrival)

    def _told(self, arrivals: Sequence[Any]) -> None:
        """The broker was told of these: their places are free."""
        for arrival in arrivals:
            self._under_way.pop(arrival, None)
            self._suspects.ended(arrival)
        self._freed.set()

    async def _keep_all(self, seconds: float) -> None:
        while not await is_set_within(self._closing, seconds):
            await self._quietly(lambda: self.source.keep([one.message for one in self._under_way]))

    async def _quietly(self, call: Callable[[], Awaitable[None]]) -> None:
        try:
            await call()
        except Exception as error:  # `receive` tells of it
            self.counts.broker_errors += 1
            log.debug("source %s: %s", self.source.name, type(error).__name__, extra=about())


class _Left:
    """How many of so many seconds are left; never less than a second, so that each part of a stop gets its chance."""

    def __init__(self, seconds: float) -> None:
        self._until = asyncio.get_running_loop().time() + seconds

    @property
    def seconds(self) -> float:
        return max(_LEAST_SECONDS, self._until - asyncio.get_running_loop().time())
