"""Odd values for every parameter of what users construct: our own errors, or a TypeError for a wrong call; nothing else."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Any

import pytest

import sagalog
import sagalog.conformance
import sagalog.testing
from sagalog import (
    Call,
    Circuit,
    DefinitionError,
    ItinerarySaga,
    RetryPolicy,
    RunnerSettings,
    SagalogError,
    SagaRunner,
    SqliteJournal,
    activity,
    leg,
)
from sagalog.blocking import BlockingRunner
from sagalog.brokers import Subscription
from sagalog.brokers.kafka import KafkaSource
from sagalog.brokers.nats import NatsSource
from sagalog.brokers.rabbitmq import RabbitSource
from sagalog.brokers.redis import RedisSink, RedisSource
from sagalog.web import (
    AwaitOutcome,
    BearerToken,
    HmacSignature,
    ServedRunner,
    SignedWebhook,
    StatusEndpoint,
    Webhook,
)

from ..orders import OrderSaga, Placed

ODD: dict[str, Any] = {
    "none": None,
    "nan": math.nan,
    "infinite": math.inf,
    "negative": -1,
    "huge": 10**30,
    "text": "5",
    "empty string": "",
    "surrogate": "\ud800",
    "float": 256.0,
    "bytes": b"x",
    "list": [],
    "class": int,
    "object": object(),
}
MODULES = (sagalog, sagalog.testing, sagalog.conformance)
NOT_CALLED = {  # protocols and abstract classes, enumerations, errors, and tests: nobody makes them from values
    *("Action", "Actions", "Clock", "Hook", "Journal", "SagaStateStore", "Saga", "SqliteJournal"),
    *("Capability", "JournalConformance", "StoreConformance"),
}


def targets() -> dict[str, Callable[..., Any]]:
    found = {}
    for module in MODULES:
        for name in module.__all__:
            one = getattr(module, name)
            if name in NOT_CALLED or not callable(one):
                continue
            if isinstance(one, type) and issubclass(one, (BaseException, Enum)):
                continue
            found[name] = one
    return found


def calls() -> list[Any]:
    cases = []
    for name, target in targets().items():
        try:
            parameters = inspect.signature(target).parameters
        except (TypeError, ValueError):
            continue
        for parameter in parameters.values():
            if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
                continue
            for odd in ODD:
                cases.append(pytest.param(target, parameter.name, odd, id=f"{name}({parameter.name}={odd})"))
    return cases


def fitting(target: Callable[..., Any], but: str) -> dict[str, Any]:
    """Return a text for each other parameter that has to be given."""
    return {
        one.name: "x"
        for one in inspect.signature(target).parameters.values()
        if one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL) and one.name != but
    }


@pytest.mark.timeout(10)
@pytest.mark.parametrize(("target", "parameter", "odd"), calls())
def test_an_odd_value_is_taken_or_refused_with_an_error_of_ours(
    target: Callable[..., Any], parameter: str, odd: str
) -> None:
    try:
        target(**fitting(target, parameter), **{parameter: ODD[odd]})
    except SagalogError as error:
        assert str(error), "an error says what is wrong"


SETTINGS = [
    pytest.param(kind, name, odd, id=f"{kind.__name__}({name}={odd})")
    for kind in (RunnerSettings, RetryPolicy)
    for name in inspect.signature(kind).parameters
    for odd in ("nan", "text", "bytes", "object", "list", "class")
]


@pytest.mark.parametrize(("kind", "name", "odd"), SETTINGS)
def test_a_setting_that_can_never_be_right_is_refused_by_its_name(
    kind: Callable[..., Any], name: str, odd: str
) -> None:
    with pytest.raises(DefinitionError, match=name):
        kind(**{name: ODD[odd]})


class Unsayable:
    """No words of its own, and nothing to compare it with."""

    def __repr__(self) -> str:
        raise RuntimeError("it is shown")

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("it is compared")

    __hash__ = None  # type: ignore[assignment]
    __lt__ = __le__ = __gt__ = __ge__ = __eq__


def handler(**policy: Any) -> Any:
    return SagaRunner("memory://", sagas=[OrderSaga]).command(Placed, **policy)(print)


def activity_of(**policy: Any) -> Any:
    @dataclass
    class State:
        request: Placed

    class Trip(ItinerarySaga[State]):
        name = "trip"
        starts_with, key = Placed, "order_id"

        @activity(**policy)
        async def flight(self, state: State, call: Call) -> None: ...

    return Trip


def subscription(**given: Any) -> Any:
    return Subscription(NatsSource("nats://x", stream="s", durable="d"), **given)


def endpoint(kind: Any, *more: Any, **fixed: Any) -> Callable[..., Any]:
    return lambda **given: kind(SagaRunner("memory://", sagas=[OrderSaga]), *more, **fixed, **given)


TOKEN = BearerToken("t", "0" * 64)
SECRET = b"a secret of some length"
NUMBERS: list[tuple[Callable[..., Any], str]] = [
    *((handler, name) for name in ("places", "rate", "shared_rate", "timeout", "retry", "circuit")),
    *((activity_of, name) for name in ("places", "rate", "shared_rate", "timeout", "within", "retry", "circuit")),
    *((RunnerSettings, name) for name in inspect.signature(RunnerSettings).parameters),
    *((RetryPolicy, name) for name in ("attempts", "base", "cap")),
    *((Circuit, name) for name in ("failures", "probe_after", "probe_cap")),
    *((subscription, name) for name in ("prefetch", "most_deliveries", "unreadable", "untaken", "types", "decode")),
    (lambda **given: BearerToken("t", "0" * 64, **given), "per_second"),
    *(
        (endpoint(Webhook, Placed, signature=None), name)
        for name in ("max_body_bytes", "body_timeout", "handle_timeout", "outcome")
    ),
    *((endpoint(StatusEndpoint, OrderSaga), name) for name in ("look_every", "stream_timeout", "max_streams")),
    *(
        (endpoint(ServedRunner, [TOKEN]), name)
        for name in ("max_body_bytes", "body_timeout", "handle_timeout", "most_in_flight", "max_wait")
    ),
    (lambda **given: AwaitOutcome(OrderSaga, status="/{id}", **given), "wait"),
    (lambda **given: HmacSignature(SECRET, header="x", **given), "tolerance"),
    (lambda **given: SignedWebhook("https://x", SECRET, **given), "timeout"),
    (endpoint(BlockingRunner), "timeout"),
    *((partial(NatsSource, "nats://x", stream="s", durable="d"), name) for name in ("ack_wait", "answer_timeout")),
    *((partial(KafkaSource, "x", topic="t", group="g"), name) for name in ("session_timeout", "revoke_timeout")),
    (partial(RabbitSource, "amqp://x", queue="q"), "prefetch"),
    (partial(RedisSource, "redis://x", stream="s", group="g"), "claim_after"),
    (partial(RedisSink, "redis://x", stream="s"), "most"),
    (partial(leg, "parcels"), "at_once"),
    (partial(SqliteJournal, "nowhere.db"), "history"),
]


@pytest.mark.parametrize(
    "odd", [10**400, -(10**400), 10**5000, -(10**5000), math.nan, Unsayable()], ids=lambda odd: type(odd).__name__
)
def test_a_number_that_no_limit_can_be_is_taken_or_refused_by_its_name(odd: Any) -> None:
    for make, name in NUMBERS:
        try:
            make(**{name: odd})
        except DefinitionError as error:
            assert name in str(error)
            assert len(str(error)) < 500
        else:
            assert odd in (10**400, 10**5000), f"{name} takes it"  # as many as that are never reached


REFUSED = [
    (sagalog.schema, {"version": True}, "version"),
    (sagalog.schema, {"version": 2.0}, "version"),
    (sagalog.schema, {"name": ""}, "name"),
    (sagalog.schema, {"name": b"x"}, "name"),
    (sagalog.schema, {"name": "\ud800"}, "name"),
    (sagalog.upcast, {"cls": int, "from_version": 1}, "@upcast"),
    (sagalog.upcast, {"cls": "Order", "from_version": 1}, "@upcast"),
    (sagalog.upcast, {"cls": RunnerSettings, "from_version": "1"}, "from_version"),
    (sagalog.testing.Scenario, {"saga": int}, "saga"),
    (sagalog.testing.Scenario, {"saga": None}, "saga"),
    (sagalog.InMemorySagaStateStore, {"saga_name": None}, "saga_name"),
    (sagalog.InMemorySagaStateStore, {"saga_name": "a b"}, "saga's name"),
    (sagalog.JournalSagaStateStore, {"journal": None, "saga_name": "a"}, "journal"),
    (sagalog.JournalSagaStateStore, {"journal": object, "saga_name": "a"}, "journal"),
]


@pytest.mark.parametrize(("target", "arguments", "told"), REFUSED)
def test_a_value_that_can_never_be_right_is_refused_where_it_is_given(
    target: Callable[..., Any], arguments: dict[str, Any], told: str
) -> None:
    with pytest.raises(DefinitionError, match=told):
        target(**arguments)


@pytest.mark.parametrize("odd", [int, "x", None])
def test_a_schema_is_of_a_class_of_ones_own(odd: Any) -> None:
    with pytest.raises(DefinitionError, match="@schema is for"):
        sagalog.schema(version=2)(odd)
