"""Events from NATS JetStream and commands to it. Needs the extra `nats`."""

from ...errors import MissingExtraError

try:
    import nats as _nats  # noqa: F401
except ModuleNotFoundError as _error:
    raise MissingExtraError("NATS needs the package nats-py: pip install 'sagalog[nats]'") from _error

from .sink import NatsSink
from .source import NatsSource

__all__ = ["NatsSink", "NatsSource"]
