"""Loan applications, from the day they are submitted to the decision: a saga over a real log of events.

    sagalog run examples/loans.py:runner --journal sqlite:///loans.db --events examples/loans.jsonl.gz

Each line of the log is one thing that happened to one application (`case`): A_... to the application itself, O_... to
an offer, W_... a piece of work by an employee. The saga counts offers, sends one decision, and reminds the customer of
an offer that stays unanswered for 30 days. All of it runs in the log's own time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sagalog import (
    Action,
    Actions,
    CancelTimer,
    Complete,
    EventClock,
    Incoming,
    RunnerSettings,
    Saga,
    SagaRunner,
    Send,
    SetTimer,
    on,
    starts,
)
from sagalog.operating.inspect import instances

REMIND_AFTER = timedelta(days=30)


@dataclass
class Submitted:
    case: str
    amount: int


@dataclass
class OfferSent:
    case: str


@dataclass
class OfferAnswered:
    """Sent back, accepted or declined by the customer, or withdrawn by the bank."""

    case: str
    answer: str


@dataclass
class OfferUnanswered:
    case: str


@dataclass
class Decided:
    case: str
    decision: str


@dataclass
class Worked:
    case: str
    activity: str


@dataclass
class SendDecision:
    case: str
    decision: str


@dataclass
class RemindCustomer:
    case: str


@dataclass
class Application:
    amount: int = 0
    offers: int = 0
    reminders: int = 0
    work: int = 0
    decision: str = ""


class LoanSaga(Saga[Application]):
    name = "loan"

    @starts(Submitted, key="case")
    def submitted(self, state: Application, event: Submitted) -> None:
        state.amount = event.amount

    @on(OfferSent, key="case")
    def offer_sent(self, state: Application, event: OfferSent) -> Actions:
        state.offers += 1
        return SetTimer("offer", OfferUnanswered(event.case), after=REMIND_AFTER)  # a newer offer replaces the older

    @on(OfferAnswered, key="case")
    def offer_answered(self, state: Application, event: OfferAnswered) -> Actions:
        return CancelTimer("offer")

    @on(OfferUnanswered, key="case")
    def offer_unanswered(self, state: Application, event: OfferUnanswered) -> Actions:
        state.reminders += 1
        return Send(RemindCustomer(event.case))

    @on(Worked, key="case")
    def worked(self, state: Application, event: Worked) -> None:
        state.work += 1

    @on(Decided, key="case")
    def decided(self, state: Application, event: Decided) -> Iterator[Action]:
        state.decision = event.decision
        yield Send(SendDecision(event.case, event.decision))
        yield Complete()  # work items are still being closed after this: there is nobody left whom they concern


def carry_out(command: SendDecision | RemindCustomer) -> None:
    """Here a letter would be written; its receiver knows the command's id, should it come twice."""


DECISIONS = {"A_DECLINED": "declined", "A_CANCELLED": "cancelled", "A_APPROVED": "approved"}
ANSWERS = {"O_SENT_BACK", "O_ACCEPTED", "O_DECLINED", "O_CANCELLED"}

runner = SagaRunner(
    "sqlite:///loans.db",
    sagas=[LoanSaga],
    dispatch=carry_out,
    clock=EventClock(),
    # In the log's time months pass within a run, and a second run begins with the first event again: what is finished
    # must be remembered for longer than the log is long.
    settings=RunnerSettings(retention=timedelta(days=3650)),
)


@runner.reads
def read(line: dict[str, Any]) -> Incoming:
    """Turn a line of the log into an event."""
    case, activity = line["case"], line["activity"]
    event: Any
    if activity == "A_SUBMITTED":
        event = Submitted(case, line["amount_requested"])
    elif activity == "O_SENT":
        event = OfferSent(case)
    elif activity in ANSWERS:
        event = OfferAnswered(case, activity)
    elif activity in DECISIONS:
        event = Decided(case, DECISIONS[activity])
    else:
        event = Worked(case, activity)
    return Incoming(event, message_id=line["id"], at=datetime.fromisoformat(line["at"]))


@runner.reports
async def report(runner: SagaRunner) -> str:
    """Count the decisions in the journal: the finished applications and the open ones."""
    assert runner.journal is not None
    decisions: Counter[str] = Counter()
    reminders = 0
    saga = LoanSaga()
    async for view in instances(runner.journal, "loan", finished=True):
        assert view.record is not None
        state = saga.decode_state(view.record.state_bytes())
        decisions[state.decision or "open"] += 1
        reminders += state.reminders
    figures = ", ".join(f"{decisions[name]:,} {name}" for name in ("declined", "cancelled", "approved", "open"))
    return f"{figures}, of {decisions.total():,}; {reminders:,} reminders"
