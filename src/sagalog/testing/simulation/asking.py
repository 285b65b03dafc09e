"""Callers who wait for the end of an instance, at any worker, and what they are told: judged by what was stored.

An answer is that of a life that was the newest while it was waited for, and tells of it what its records say. Who waits is
told within a bound, whichever worker ended it.
"""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from typing import Any

import msgspec

from ...decision.entries import ENDS, Status
from ...decision.ids import parts_of, persistence_id
from ...decision.record import SagaRecord
from ...definition.results import unpack_result
from ...definition.saga import Saga
from ...errors import CodecError, NoInstanceError, OutcomeGoneError, OutcomeTimeoutError, RunnerStoppedError
from ...runner import SagaOutcome
from .crew import Crew
from .ledger import Landed
from .situation import Situation
from .worker import Worker

_SHARE = 0.2  # of the accepted events, whose senders ask then
_SECONDS = (30, 300, 1000)  # that they wait
_PROMPT_SECONDS = 180.0  # a stall, answers that are late or lost, pauses; and then some


class Told(msgspec.Struct):
    """What one who waited was told."""

    saga: str
    persistence_id: str
    asked: int  # tick
    told: int  # tick
    outcome: SagaOutcome[Any]


class Askers:
    """Let those whose event was accepted ask, now and then, how it ended."""

    def __init__(self, run: Situation, crew: Crew) -> None:
        self._run = run
        self._crew = crew
        self.answers: list[Told] = []

    def may_ask(self, sagas: list[str], event: Any, message_id: str) -> None:
        """The event was accepted by these sagas: perhaps its sender wants to know how it ends.

        Drawn for each message by itself, so that what is left out of a run changes nothing for the others.
        """
        run = self._run
        draw = random.Random(f"{run.chance.seed} {message_id}")
        if draw.random() >= _SHARE or not self._crew.workers:
            return
        name = draw.choice(sorted(sagas))
        saga = next(one for one in run.sagas if one.name == name)
        correlation_id = saga.correlation_id(event)
        assert correlation_id is not None
        worker = draw.choice(self._crew.workers)
        own = persistence_id(name, correlation_id)
        life = _life(run, own) if draw.random() < 0.5 else 0
        run.spawn(self._ask(worker, saga, own, life, draw.choice(_SECONDS)))

    async def _ask(self, worker: Worker, saga: Saga[Any], own: str, life: int, seconds: float) -> None:
        run, asked = self._run, self._run.tick()
        correlation_id, time_limit = parts_of(own)[1], timedelta(seconds=seconds)
        work = worker.runner.outcome(type(saga), correlation_id, timeout=time_limit, incarnation=life or None)
        try:
            outcome = await worker.does(work)
        except (RunnerStoppedError, CodecError):  # a newer version's record
            return
        except NoInstanceError:
            forgotten = own in run.ledger.purged or len(run.ledger.lives[own]) > 1
            assert forgotten, f"{worker.name} knows of no {own}, which was accepted"
            return
        except OutcomeGoneError as gone:
            run.tell(f"{worker.name} cannot say how {own} ended: {gone.why}")
            if own not in run.ledger.purged and len(run.ledger.lives[own]) == 1 and _life(run, own) <= gone.incarnation:
                run.blame(f"{worker.name} lost the outcome of {own}, life {gone.incarnation}, which is the newest")
            return
        except OutcomeTimeoutError:
            self._check_told(worker, own)
            return
        run.tell(f"{worker.name} says that {own}, life {outcome.incarnation}, is {outcome.status.value}")
        assert life in (0, outcome.incarnation), (
            f"{own}: life {life} was asked for, and life {outcome.incarnation} is told"
        )
        self.answers.append(Told(saga.name, own, asked, run.tick(), outcome))

    def _check_told(self, worker: Worker, own: str) -> None:
        """Who waited in vain waited for what had not ended, or only just."""
        newest, now = self._run.ledger.newest(own), asyncio.get_running_loop().time()
        if (
            newest is None
            or newest.record is None
            or newest.record.status not in ENDS
            or worker.condition.dead.is_set()
        ):
            return
        life = [one for one in self._run.ledger.lives[own][-1] if one.record is not None and _same(one, newest)]
        ended = next(one for one in life if one.record is not None and one.record.status in ENDS)
        assert now - ended.seconds < _PROMPT_SECONDS, (
            f"{worker.name} was waited at for the end of {own}, which had ended {now - ended.seconds:.0f} s before"
        )

    def check(self) -> None:
        """Judge all answers."""
        for answer in self.answers:
            self._check(answer)

    def _check(self, answer: Told) -> None:
        run, outcome = self._run, answer.outcome
        saga = next(one for one in run.sagas if one.name == answer.saga)
        what = f"{answer.persistence_id} was said to be {outcome.status.value} in life {outcome.incarnation}"
        landed = [one for life in run.ledger.lives[answer.persistence_id] for one in life if one.tick < answer.told]
        newest_when_asked = max((one.tick for one in landed if one.tick < answer.asked), default=0)
        seen = [one.record for one in landed if one.tick >= newest_when_asked and one.record is not None]
        lives = {record.incarnation for record in seen}
        assert outcome.incarnation in lives, f"{what}, which was not the newest: {sorted(lives)}"
        ends = [one for record in seen for one in _ends(record) if one[0] == outcome.incarnation]
        assert outcome.status is Status.COMPLETED or outcome.result is None, f"{what}, with a result"
        registry = type(saga).registry(saga)
        told = (outcome.status, outcome.ended_at, outcome.result)
        assert any(told == (status, at, unpack_result(result, registry)) for _, status, at, result in ends), (
            f"{what}, and no record says so"
        )
        try:
            state = outcome.state
        except OutcomeGoneError:
            return
        states = [
            saga.decode_state(record.state_bytes()) for record in seen if record.incarnation == outcome.incarnation
        ]
        assert state in states, f"{what}, in a state that it never was in"


def _ends(record: SagaRecord) -> list[tuple[Any, ...]]:
    found: list[tuple[Any, ...]] = []
    if record.status in ENDS:
        found.append((record.incarnation, record.status, record.ended_at, record.result))
    if record.last_end is not None:
        end = record.last_end
        found.append((record.incarnation - 1, end.status, end.at, end.result))
    return found


def _life(run: Situation, own: str) -> int:
    newest = run.ledger.newest(own)
    return 0 if newest is None or newest.record is None else newest.record.incarnation


def _same(one: Landed, other: Landed) -> bool:
    assert one.record is not None
    assert other.record is not None
    return (one.record.incarnation, one.record.status) == (other.record.incarnation, other.record.status)
