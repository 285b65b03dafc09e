"""Events from brokers, commands to brokers: sources and sinks for a runner, and what it takes to write one.

    from sagalog.brokers.nats import NatsSource, NatsSink

    SagaRunner(journal, sagas=[OrderSaga], sources=[NatsSource(...)], sinks={ShipOrder: NatsSink(...)})

The brokers themselves are in modules of their own, each with an extra: `sagalog.brokers.nats`, `sagalog.brokers.redis`,
`sagalog.brokers.kafka`, `sagalog.brokers.rabbitmq`.
"""

from .counts import SourceCounts, SourceGauges
from .message import Backlog, DeadLetter, SinkMessage, SourceMessage
from .protocol import KeepsDeadLetters, Sink, Source
from .publication import Publication
from .reading import Decoded
from .subscription import Policy, Subscription

__all__ = [
    "Backlog",
    "DeadLetter",
    "Decoded",
    "KeepsDeadLetters",
    "Policy",
    "Publication",
    "Sink",
    "SinkMessage",
    "Source",
    "SourceCounts",
    "SourceGauges",
    "SourceMessage",
    "Subscription",
]
