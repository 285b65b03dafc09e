"""The subscription: months, dunning, an upgrade in mid-month, approval; and the same where everything goes wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from examples.subscription import (
    PRICES,
    Cancelled,
    CardChanged,
    Mail,
    Phase,
    Subscribed,
    Subscription,
    SubscriptionSaga,
    UpgradeApproved,
    UpgradeRejected,
    UpgradeRequested,
    main,
    share,
)
from sagalog import Call, CommandRefused
from sagalog.testing import Scenario
from sagalog.testing.simulation import Finished, World, simulate

JANUARY = datetime(2030, 1, 15, 12, tzinfo=UTC)


async def test_half_a_year_of_it_prints_six_invoices(capsys: pytest.CaptureFixture[str]) -> None:
    await main()
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "12 Feb mail to c-7: your plan is pro now",
        "01 Apr mail to c-7: your card was declined, and is tried again over two weeks",
        "invoice c-7/1: 5.48",
        "invoice c-7/2: 10.00",
        "invoice c-7/3: 9.10",
        "invoice c-7/4: 25.00",
        "invoice c-7/5: 25.00",
        "invoice c-7/6: 25.00",
        "completed 99.58",
    ]


def subscribed() -> Scenario[Subscription]:
    return Scenario(SubscriptionSaga, now=JANUARY).given(Subscribed("c-7")).given_done("charge")


def test_it_is_billed_at_nine_in_berlin_on_both_sides_of_the_change_of_the_clocks() -> None:
    year = subscribed()
    billed = []
    for _ in range(12):
        year.after(year.timers["month"] - year.now)
        billed.append(year.now)
        year.when_done("charge")
    assert [moment.hour for moment in billed] == [8, 8, 7, 7, 7, 7, 7, 7, 7, 8, 8, 8]
    assert {moment.day for moment in billed} == {1}
    assert year.state.paid == share(PRICES["basic"], date(2030, 1, 15)) + 12 * PRICES["basic"]


def test_a_card_that_stays_declined_ends_it_after_two_weeks_and_four_attempts() -> None:
    late = Scenario(SubscriptionSaga, now=JANUARY).given(Subscribed("c-7"))
    for days in (3, 4, 7):
        late.when_failed("charge", "declined").then(phase=Phase.PAST_DUE)
        late.after(timedelta(days=days)).then(running={"charge"})
    late.when_failed("charge", "declined").then(completed=True, result=0)
    assert late.sent == [Mail("c-7", "your subscription has ended, with an invoice that is not paid")]


def test_a_new_card_is_charged_at_once_and_what_came_meanwhile_is_billed_behind_it() -> None:
    late = Scenario(SubscriptionSaga, now=JANUARY + timedelta(days=14)).given(Subscribed("c-7"))
    late.when_failed("charge", "declined").when(UpgradeRequested("c-7", "pro")).then(
        kept=[UpgradeRequested("c-7", "pro")]
    )
    late.when(CardChanged("c-7")).then(running={"charge"}).when_done("charge")
    late.then(phase=Phase.ACTIVE, kept=[], activities={"approval": "waiting"})


@pytest.mark.parametrize("silent", [True, False])
def test_an_upgrade_that_nobody_approves_in_time_or_that_is_rejected_changes_nothing(silent: bool) -> None:
    asked = subscribed().when(UpgradeRequested("c-7", "pro"))
    ended = asked.after(timedelta(days=3)) if silent else asked.when(UpgradeRejected("c-7"))
    ended.then(sent=[Mail("c-7", "your plan stays basic")], state={"plan": "basic", "wanted": "", "unbilled": 0})
    ended.when(UpgradeRequested("c-7", "pro")).when(UpgradeApproved("c-7", "Ann", date(2030, 1, 20)))
    ended.then(state={"plan": "pro"}, running={"charge"})


def test_cancelling_stops_the_wait_for_approval_and_waits_for_the_last_charge() -> None:
    subscribed().when(UpgradeRequested("c-7", "pro")).when(Cancelled("c-7")).then(completed=True)
    leaving = Scenario(SubscriptionSaga, now=JANUARY).given(Subscribed("c-7")).when(Cancelled("c-7"))
    leaving.then(status="running", timers={}).when_done("charge").then(completed=True, result=548)


class Banks(World):
    sagas = (SubscriptionSaga,)

    def __init__(self) -> None:
        self.paid: dict[str, int] = {}

    def events(self, chance: random.Random) -> Iterator[Any]:
        for n in range(2):
            customer = f"c-{n}"
            yield Subscribed(customer)
            for _ in range(chance.choice([1, 4, 9])):
                yield chance.choice([3_600.0, 86_400.0 * 9, 86_400.0 * 33])
                yield chance.choice(
                    [
                        CardChanged(customer),
                        UpgradeRequested(customer, "pro"),
                        UpgradeApproved(customer, "Ann", date(2030, 2, 1)),
                        UpgradeRejected(customer),
                    ]
                )
            yield Cancelled(customer)

    def activity(self, saga: str, name: str, state: Subscription, call: Call, chance: random.Random) -> None:
        if name == "charge":
            assert state.invoice is not None
            key = f"{state.customer}/{state.invoice.number}"
            if key not in self.paid:
                if chance.random() < 0.3:
                    raise CommandRefused("declined")
                self.paid[key] = state.invoice.cents
            assert self.paid[key] == state.invoice.cents, "an invoice has changed after it was charged"

    def check(self, instance: Finished) -> None:
        state = instance.state
        charged = sum(cents for key, cents in self.paid.items() if key.startswith(f"{state.customer}/"))
        assert instance.status == "completed", f"it was cancelled, and is {instance.status}"
        assert state.paid == charged, f"{charged} were charged, and {state.paid} counted"


def test_what_was_charged_is_what_was_counted_whatever_fails() -> None:
    report = simulate([SubscriptionSaga()], Banks, seeds=range(12))
    assert report.sagas["subscription"]["ends completed"] >= 12
