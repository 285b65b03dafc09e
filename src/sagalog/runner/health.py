"""Is this runner alive, and does it keep up? Asked by probes, answered without changing anything.

Live means that the process can work at all; if not, only a new process helps. Ready means that it does work: the journal
answers, and due work is taken. So a journal that is down makes a worker not ready, but never dead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterable, Iterator

import msgspec

from ..decision.controls import reasons_of
from ..decision.ids import FAMILY
from ..errors import CodecError, JournalError, SagalogError
from ..journal import Journal
from ..journal.controls import read_controls
from ..journal.protocol import ExaminesItself, server_now
from .due import DueLoop
from .engine import Engine
from .failures import cancellations, passes_through
from .runtime import SagaRuntime

BEHIND_LEASES = 6  # what nobody has claimed for that long has been neglected


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """The health of a runner. `reasons` says what is wrong; it is empty if the runner is live and ready.

    They also name instances that this worker cannot read, and commands that wait because they are paused or their receiver
    is away. Those do not make it unready, because the others go on.

    `oldest_due_seconds`: how long the oldest work that nobody has claimed yet is overdue, 0 where there is none; None
    where the journal did not say. `journal_seconds`: how long it took to answer.
    """

    live: bool
    ready: bool
    reasons: tuple[str, ...] = ()
    oldest_due_seconds: float | None = None
    journal_seconds: float | None = None


NOT_STARTED = Health(live=True, ready=False, reasons=("the runner is not started, or has stopped",))


async def examine(
    engine: Engine,
    runtimes: list[SagaRuntime],
    journal: Journal | None,
    due_loop: DueLoop,
    due_task: asyncio.Task[None],
    *,
    timeout_seconds: float,
    behind_seconds: float | None,
    waiting: Iterable[str],
) -> Health:
    """Return the health of a started runner. What the journal raises becomes one of the reasons.

    `waiting`: why commands of some types do not leave.
    """
    if engine.stopping.is_set():
        return Health(live=True, ready=False, reasons=("the runner is stopping",))
    reasons: list[str] = []
    live = not due_task.done()
    if not live:
        reasons.append("the loop that looks for due work has ended: restart this process")
    behind = engine.seconds.lease * BEHIND_LEASES if behind_seconds is None else behind_seconds
    oldest, took, unanswered = await _asked(_oldest(engine, runtimes), timeout_seconds)
    if unanswered:
        reasons.append(unanswered)
    else:
        reasons.extend(await failing(journal, timeout_seconds))
    waited = engine.unanswered_seconds
    if waited > max(timeout_seconds, engine.seconds.lease):
        reasons.append(f"the journal has not answered a write for {waited:.0f} s")
    if live and not engine.alone and not engine.client:
        silent = engine.loop.time() - due_loop.scanned_at
        if due_loop.trouble:
            reasons.append(f"looking for due work fails: {due_loop.trouble}")
        elif silent > max(behind, 2 * engine.seconds.due_poll):
            reasons.append(f"due work has not been looked for since {silent:.0f} s")
        reasons.extend(_behind(oldest, behind))
    return Health(
        live=live,
        ready=live and not reasons,
        reasons=(*reasons, *waiting, *_unreadable(runtimes)),
        oldest_due_seconds=oldest,
        journal_seconds=took,
    )


def _unreadable(runtimes: list[SagaRuntime]) -> Iterator[str]:
    for one in runtimes:
        if one.unreadable:
            first = next(iter(one.unreadable))
            many = f"{len(one.unreadable)} instances" if len(one.unreadable) > 1 else "1 instance"
            yield f"saga {one.name}: {many} cannot be read by this worker, {first!r} first: see `sagalog doctor`"


async def failing(journal: Journal | None, timeout_seconds: float) -> tuple[str, ...]:
    """Return what a journal finds wrong with itself. It may answer questions and still refuse writes.

    Whether it is set up to be durable is not asked here; `sagalog doctor` tells.
    """
    if not isinstance(journal, ExaminesItself):
        return ()
    try:
        async with asyncio.timeout(timeout_seconds):
            return tuple(
                f"{one.name}: {one.text}"
                for one in await journal.examine()
                if one.level == "fail" and one.name != "durable"
            )
    except TimeoutError:
        return (
            f"the journal did not say within {timeout_seconds:g} s whether it can be written: it is slow, or "
            "another program holds its lock",
        )
    except SagalogError as error:
        return (f"the journal cannot examine itself: {error}",)
    except Exception as error:  # of somebody else's journal; its message may hold anything
        return (f"the journal cannot examine itself: {type(error).__name__}",)


async def examine_journal(journal: Journal, *, timeout_seconds: float, behind_seconds: float) -> Health:
    """Return what a journal alone tells about its workers: whether it answers, and whether they keep up."""
    oldest, took, unanswered = await _asked(_oldest_in(journal), timeout_seconds)
    reasons = [unanswered] if unanswered else _behind(oldest, behind_seconds)
    try:
        paused = () if unanswered else await _paused_in(journal, timeout_seconds)
    except JournalError as error:  # what is due may stand in pages that are whole, and this beside them is damaged
        paused, reasons = (), [*reasons, f"it is not known what is paused: {error}"]
    return Health(
        live=True,
        ready=not reasons,
        reasons=(*reasons, *paused),
        oldest_due_seconds=oldest,
        journal_seconds=took,
    )


async def _paused_in(journal: Journal, timeout_seconds: float) -> tuple[str, ...]:
    try:
        async with asyncio.timeout(timeout_seconds):
            controls, _ = await read_controls(journal)
    except TimeoutError:
        return ("the journal did not say what is paused",)
    except CodecError as error:  # a newer version may have said it
        return (f"it is not known what is paused: {error}",)
    return tuple(reasons_of(controls))


def _behind(oldest: float | None, behind: float) -> list[str]:
    if oldest is None or oldest <= behind:
        return []
    return [f"due work is falling behind: the oldest has been due for {oldest:.0f} s"]


async def _asked(question: Awaitable[float], timeout_seconds: float) -> tuple[float | None, float | None, str]:
    """Return the answer, how long it took, and why there is none."""
    begun, before = time.monotonic(), cancellations()
    try:
        async with asyncio.timeout(timeout_seconds):
            return await question, time.monotonic() - begun, ""
    except TimeoutError:
        return None, None, f"the journal has not answered for {timeout_seconds:g} s"
    except SagalogError as error:
        return None, None, f"the journal does not answer: {error}"
    except BaseException as error:  # of somebody else's store; its message may hold anything
        if passes_through(error, before):
            raise
        return None, None, f"the journal does not answer: {type(error).__name__}"


async def _oldest_in(journal: Journal) -> float:
    now = await server_now(journal)
    due = await journal.due_ids(FAMILY, now, limit=1)
    return (now - due[0][1]).total_seconds() if due else 0.0


async def _oldest(engine: Engine, runtimes: list[SagaRuntime]) -> float:
    """Ask the store of every saga how long its oldest due work has been due."""
    oldest, now = 0.0, engine.now()
    for one in runtimes:
        if one.scanned is not None:  # it answers that from memory, so ask the store for something that is not there
            await one.store.load("sagalog health")
        for _, due_at in await one.due.due(now, limit=1):
            oldest = max(oldest, (now - due_at).total_seconds())
    return oldest
