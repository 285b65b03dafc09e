"""The world of a saga of events that runs activities now and then: again, twice at once, and compensated in the middle."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from sagalog import Action, Call, CommandRefused, Compensate, Run, Saga, Send, activity, on, starts
from sagalog.testing.simulation import Finished, World


@dataclass
class Opened:
    id: str


@dataclass
class Month:
    id: str
    number: int


@dataclass
class Disputed:
    id: str


@dataclass
class Tell:
    text: str


@dataclass
class Account:
    invoice: str | None = None
    invoices: list[str] = field(default_factory=list)
    mails: int = 0


class Accounts(Saga[Account]):
    name = "account"

    @starts(Opened, key="id")
    def opened(self, account: Account, event: Opened) -> Iterator[Action]:
        yield Run("invoice")
        yield Send(Tell("opened"), undo=Tell("withdrawn"))

    @on(Month, key="id")
    def month(self, account: Account, event: Month) -> Action:
        return Run(Accounts.invoice)

    @activity(optional=True)
    async def invoice(self, account: Account, call: Call) -> str: ...  # type: ignore[empty-body]

    @invoice.undo
    async def storno(self, account: Account, call: Call) -> None: ...

    @invoice.then
    def invoiced(self, account: Account) -> Action:
        account.invoices.append(str(account.invoice))
        return Send(Tell(str(account.invoice)))

    @invoice.failed
    def not_invoiced(self, account: Account, reason: str) -> None:
        account.invoices.append("failed")

    @activity(after=invoice)
    async def mail(self, account: Account, call: Call) -> None: ...

    @mail.then
    def mailed(self, account: Account) -> Iterator[Action]:
        account.mails += 1
        yield Run("archive")

    @activity
    async def archive(self, account: Account, call: Call) -> None: ...

    @archive.then
    def archived(self, account: Account) -> Iterator[Action]:
        yield from ()

    @on(Disputed, key="id")
    def disputed(self, account: Account, event: Disputed) -> Action:
        return Compensate()


class Books(World):
    sagas = (Accounts,)
    repairs = ("retry", "skip", "retry", "cancel")

    def events(self, chance: random.Random) -> Iterator[Any]:
        for n in range(2):
            yield Opened(f"a{n}")
            for number in range(chance.randrange(4)):
                yield chance.choice([0.0, 0.01, 1.0, 30.0])
                yield Month(f"a{n}", number)
            yield chance.choice([0.0, 0.02, 5.0])
            if chance.random() < 0.6:
                yield Disputed(f"a{n}")

    def activity(self, saga: str, name: str, state: Account, call: Call, chance: random.Random) -> Any:
        if chance.random() < 0.15:
            raise CommandRefused("no")
        return f"R {call.id}" if name == "invoice" else None

    def check(self, instance: Finished) -> None:
        invoices = [one for one in instance.state.invoices if one != "failed"]
        assert len(set(invoices)) == len(invoices), "an invoice was stored twice"
        told = [one.text for one in instance.commands if isinstance(one, Tell) and one.text.startswith("R ")]
        assert set(told) <= set(invoices), "an invoice was told of that is not in the state"
