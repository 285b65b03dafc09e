"""Two incarnations in one record: what belongs to the one is never done to the other."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from sagalog import SagaRecord
from sagalog.decision.advance import advance
from sagalog.decision.draft import Draft
from sagalog.decision.message import Message, Outcome, refusal, unhold

from ..orders import Charge, Closed, Noted, OrderSaga, Paid, Placed

SAGA = OrderSaga()
REGISTRY = SAGA.registry()
PID = "saga::order::a"
NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Life:
    """Steps of one instance, each on the record that the one before has left."""

    def __init__(self) -> None:
        self.record: SagaRecord | None = None
        self.version = 0

    def draft(self) -> Draft:
        return Draft(SAGA, REGISTRY, PID, self.record, self.version, NOW, timedelta(days=7))

    def keep(self, draft: Draft) -> SagaRecord:
        self.version += 1
        self.record = draft.frozen()
        assert self.record is not None
        return self.record

    def step(self, message: Message) -> Outcome:
        draft = self.draft()
        outcome = advance(draft, message)
        assert isinstance(outcome, Outcome)
        self.keep(draft)
        return outcome

    def replay(self) -> SagaRecord:
        """As runner/replay.py does, after an operator's retry."""
        draft = self.draft()
        record = draft.touch()
        draft.replaying, record.held, record.parked, record.stuck = tuple(record.held), (), "", ""
        for held in draft.replaying:
            advance(draft, unhold(held, REGISTRY))
        return self.keep(draft)


def test_a_refusal_that_is_held_behind_a_new_beginning_takes_back_the_life_that_it_is_of() -> None:
    life = Life()
    for number, event in enumerate((Placed("a"), Paid("a"), Closed("a"))):
        life.step(Message(f"e{number}", event))
    draft = life.draft()
    record = draft.touch()
    record.parked, record.stuck = "the charge is not accepted", "2/0"
    life.keep(draft)
    assert life.step(Message("again", Placed("a"))) is Outcome.HELD
    assert life.step(refusal(Charge("a"), f"{PID}/2/0", "no")) is Outcome.HELD
    record = life.replay()
    assert (record.status, record.incarnation) == ("running", 2)
    assert [(c.command.type, c.of, c.life) for c in record.outbox if c.undo] == [("Release", "1/0", 1)]
    assert [(u.command.type, u.life) for u in record.undo] == [("Release", 2)]


def test_an_answer_that_is_held_behind_a_new_beginning_is_not_handled_by_the_life_that_did_not_ask() -> None:
    life = Life()
    for number, event in enumerate((Placed("a"), Paid("a"))):
        life.step(Message(f"e{number}", event))
    draft = life.draft()
    record = draft.touch()
    record.parked, record.stuck = "the charge is not accepted", "2/0"
    life.keep(draft)
    for number, event in enumerate((Closed("a"), Placed("a"))):
        assert life.step(Message(f"held{number}", event)) is Outcome.HELD
    assert life.step(Message(f"{PID}/1/0/reply/Noted/0", Noted("a", "late"), answer=True, life=1)) is Outcome.HELD
    record = life.replay()
    assert (record.status, record.incarnation) == ("running", 2)
    assert SAGA.decode_state(record.state_bytes()).log == ["placed"]
