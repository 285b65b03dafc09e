"""Subscription billing over months, in seconds: `python -m examples.subscription` (needs `sagalog[cron]`).

On every first of the month at nine in Berlin an invoice; a card that is declined is tried again over two weeks, then it
ends; an upgrade in mid-month, once a person has approved it within three days. The clock is turned by hand, so half a year
takes no time.
"""

from __future__ import annotations

import asyncio
from calendar import monthrange
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from enum import Enum
from typing import Any
from zoneinfo import ZoneInfo

from sagalog import (
    Call,
    CancelTimer,
    CommandRefused,
    Complete,
    Enter,
    InMemoryJournal,
    ManualClock,
    Run,
    Saga,
    SagaRunner,
    Send,
    SetTimer,
    StepContext,
    activity,
    on,
    on_enter,
    starts,
)

BERLIN = "Europe/Berlin"
PRICES = {"basic": 1_000, "pro": 2_500}  # cents a month
DUNNING = (timedelta(days=3), timedelta(days=4), timedelta(days=7))  # between attempts; after the last one it ends


class Phase(Enum):
    ACTIVE = "active"
    PAST_DUE = "past due"


@dataclass
class Subscribed:
    customer: str
    plan: str = "basic"


@dataclass
class MonthBegan:
    customer: str


@dataclass
class ChargeAgain:
    customer: str


@dataclass
class CardChanged:
    customer: str


@dataclass
class UpgradeRequested:
    customer: str
    plan: str


@dataclass
class UpgradeApproved:
    customer: str
    by: str
    day: date  # on which the new plan begins


@dataclass
class UpgradeRejected:
    customer: str


@dataclass
class Cancelled:
    customer: str


@dataclass
class Mail:
    customer: str
    text: str


@dataclass
class Invoice:
    number: int
    cents: int


@dataclass
class Subscription:
    customer: str = ""
    plan: str = ""
    wanted: str = ""  # a plan that waits for approval
    approval: UpgradeApproved | None = None
    unbilled: int = 0  # cents that no invoice has yet
    invoices: int = 0
    invoice: Invoice | None = None  # that is not paid
    declined: int = 0  # attempts to charge it
    paid: int = 0
    leaving: bool = False


class Bank:
    """What is outside: an invoice that comes again under its number is not charged again."""

    def __init__(self) -> None:
        self.paid: dict[str, int] = {}  # by invoice
        self.declines: set[str] = set()  # customers

    def charge(self, customer: str, cents: int, key: str) -> None:
        if key not in self.paid:
            if customer in self.declines:
                raise CommandRefused("the card was declined")
            self.paid[key] = cents

    def ask(self, customer: str, plan: str, reminder: int) -> None:
        """Ask sales whether the customer may have that plan."""


def share(cents: int, day: date) -> int:
    """Return what is due of a monthly price from that day to the end of its month."""
    days = monthrange(day.year, day.month)[1]
    return cents * (days - day.day + 1) // days


class SubscriptionSaga(Saga[Subscription]):
    name = "subscription"
    phases = Phase
    index = ("plan", "phase")

    def __init__(self, bank: Bank | None = None) -> None:
        self.bank = bank or Bank()

    @starts(Subscribed, key="customer", again="ignore")
    def subscribed(self, sub: Subscription, event: Subscribed, context: StepContext) -> Iterator[Any]:
        sub.customer, sub.plan = event.customer, event.plan
        sub.unbilled = share(PRICES[sub.plan], context.now.astimezone(ZoneInfo(BERLIN)).date())
        yield SetTimer("month", MonthBegan(event.customer), cron="0 9 1 * *", zone=BERLIN, missed="each")
        yield from self.bill(sub)

    @on(MonthBegan, key="customer")
    def month_began(self, sub: Subscription, event: MonthBegan) -> Iterator[Any]:
        sub.unbilled += PRICES[sub.plan]
        yield from self.bill(sub)

    def bill(self, sub: Subscription) -> Iterator[Any]:
        """Write the next invoice, once the one before is paid: what is charged must not change between two attempts."""
        if sub.invoice is None and sub.unbilled:
            sub.invoices += 1
            sub.invoice, sub.unbilled = Invoice(sub.invoices, sub.unbilled), 0
            yield Run("charge")

    @activity(optional=True, timeout=timedelta(seconds=30))
    async def charge(self, sub: Subscription, call: Call) -> None:
        assert sub.invoice is not None
        self.bank.charge(sub.customer, sub.invoice.cents, key=f"{sub.customer}/{sub.invoice.number}")

    @charge.then
    def charged(self, sub: Subscription) -> Iterator[Any]:
        assert sub.invoice is not None
        sub.paid += sub.invoice.cents
        sub.invoice, sub.declined = None, 0
        yield CancelTimer("dunning")
        yield Enter(Phase.ACTIVE)
        yield from [Complete(sub.paid)] if sub.leaving else self.bill(sub)

    @charge.failed
    def declined(self, sub: Subscription, reason: str) -> Iterator[Any]:
        if sub.leaving or sub.declined == len(DUNNING):
            yield Send(Mail(sub.customer, "your subscription has ended, with an invoice that is not paid"))
            yield Complete(sub.paid)
            return
        yield SetTimer("dunning", ChargeAgain(sub.customer), after=DUNNING[sub.declined])
        sub.declined += 1
        yield Enter(Phase.PAST_DUE)

    @on_enter(Phase.PAST_DUE)
    def past_due(self, sub: Subscription) -> Iterator[Any]:
        yield Send(Mail(sub.customer, "your card was declined, and is tried again over two weeks"))

    @on(ChargeAgain, key="customer", during=Phase.PAST_DUE)
    def charge_again(self, sub: Subscription, event: ChargeAgain) -> Run:
        return Run("charge")

    @on(CardChanged, key="customer", during=Phase.PAST_DUE, unexpected="ignore")
    def card_changed(self, sub: Subscription, event: CardChanged) -> Iterator[Any]:
        yield CancelTimer("dunning")
        yield Run("charge")

    @on(UpgradeRequested, key="customer", during=Phase.ACTIVE, unexpected="keep")
    def upgrade_requested(self, sub: Subscription, event: UpgradeRequested) -> Run:
        sub.wanted = event.plan
        return Run("approval")

    @activity(
        until=UpgradeApproved,
        unless=UpgradeRejected,
        key="customer",
        within=timedelta(days=3),
        remind=timedelta(days=1),
        optional=True,
    )
    async def approval(self, sub: Subscription, call: Call) -> None:
        self.bank.ask(sub.customer, sub.wanted, call.reminder)

    @approval.then
    def upgraded(self, sub: Subscription) -> Iterator[Any]:
        assert sub.approval is not None
        sub.unbilled += share(PRICES[sub.wanted] - PRICES[sub.plan], sub.approval.day)
        sub.plan, sub.wanted = sub.wanted, ""
        yield Send(Mail(sub.customer, f"your plan is {sub.plan} now"))
        yield from self.bill(sub)

    @approval.failed
    def not_upgraded(self, sub: Subscription, reason: str) -> Send:
        sub.wanted = ""
        return Send(Mail(sub.customer, f"your plan stays {sub.plan}"))

    @on(Cancelled, key="customer")
    def cancelled(self, sub: Subscription, event: Cancelled) -> Iterator[Any]:
        sub.leaving = True
        yield CancelTimer("month")
        yield Complete(sub.paid) if sub.invoice is None else Run("charge")


async def main() -> None:
    bank, clock = Bank(), ManualClock(datetime(2030, 1, 15, 12, tzinfo=UTC))
    days = {
        date(2030, 2, 10): UpgradeRequested("c-7", "pro"),
        date(2030, 2, 12): UpgradeApproved("c-7", by="Ann", day=date(2030, 2, 12)),
        date(2030, 4, 9): CardChanged("c-7"),
        date(2030, 5, 20): Cancelled("c-7"),
    }

    def send(mail: Mail) -> None:
        print(f"{clock.now():%d %b} mail to {mail.customer}: {mail.text}")

    async with SagaRunner(
        InMemoryJournal(), sagas=[SubscriptionSaga(bank)], dispatch={Mail: send}, clock=clock
    ) as runner:
        await runner.handle(Subscribed("c-7"))
        today = clock.now().date()
        while today < max(days):
            await runner.settle()
            clock.advance(timedelta(days=1))
            today = clock.now().date()
            if today == date(2030, 4, 1):
                bank.declines.add("c-7")
            elif today == date(2030, 4, 9):
                bank.declines.clear()
            if today in days:
                await runner.handle(days[today])
        ended = await runner.outcome(SubscriptionSaga, "c-7", timeout=timedelta(seconds=10))
    for invoice, cents in bank.paid.items():
        print(f"invoice {invoice}: {cents / 100:.2f}")
    print(ended.status, f"{ended.result / 100:.2f}")


if __name__ == "__main__":
    asyncio.run(main())
