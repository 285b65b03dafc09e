"""What happens to an order: the card is charged, then it is shipped; or it is cancelled."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

from django.conf import settings

from sagalog import (
    Action,
    CommandContext,
    Complete,
    Refused,
    RunnerSettings,
    Saga,
    SagaRunner,
    Send,
    on,
    on_refused,
    starts,
)
from sagalog.django import in_thread

from .payments import charge


@dataclass
class OrderPlaced:
    order_id: str
    cents: int
    card: str


@dataclass
class ChargeCard:
    order_id: str
    cents: int
    card: str


@dataclass
class CardCharged:
    order_id: str


@dataclass
class SetStatus:
    order_id: str
    status: str


@dataclass
class StatusSet:
    order_id: str
    status: str


@dataclass
class OrderState:
    paid: bool = False


class OrderSaga(Saga[OrderState]):
    name = "order"

    @starts(OrderPlaced, key="order_id")
    def placed(self, order: OrderState, event: OrderPlaced) -> Iterator[Action]:
        yield Send(ChargeCard(event.order_id, event.cents, event.card))

    @on(CardCharged, key="order_id")
    def charged(self, order: OrderState, event: CardCharged) -> Iterator[Action]:
        order.paid = True
        yield Send(SetStatus(event.order_id, "shipped"))

    @on_refused(ChargeCard)
    def declined(self, order: OrderState, refused: Refused[ChargeCard]) -> Iterator[Action]:
        yield Send(SetStatus(refused.command.order_id, "cancelled"))

    @on(StatusSet, key="order_id")
    def ended(self, order: OrderState, event: StatusSet) -> Iterator[Action]:
        yield Complete(event.status)


runner = SagaRunner(
    f"sqlite:///{settings.DATABASES['default']['NAME']}?beside=true",  # in the file of the shop's own tables
    sagas=[OrderSaga],
    # Workers look so often for what the web process has stored; and so long after one has died, another does its work.
    settings=RunnerSettings(due_poll=timedelta(milliseconds=200), lease=timedelta(seconds=2)),
)


@runner.command(ChargeCard)
@in_thread
def charge_card(command: ChargeCard, context: CommandContext) -> CardCharged:
    charge(command.card, command.cents, context.id)
    return CardCharged(command.order_id)


@runner.command(SetStatus)
@in_thread
def set_status(command: SetStatus) -> StatusSet:
    from .models import Order

    Order.objects.filter(order_id=command.order_id).update(status=command.status)
    return StatusSet(command.order_id, command.status)
