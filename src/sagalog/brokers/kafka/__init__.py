"""Events from Kafka and commands to it. Needs the extra `kafka`."""

from ...errors import MissingExtraError

try:
    import aiokafka as _aiokafka  # noqa: F401
except ModuleNotFoundError as _error:
    raise MissingExtraError("Kafka needs the package aiokafka: pip install 'sagalog[kafka]'") from _error

from .sink import KafkaSink
from .source import KafkaSource

__all__ = ["KafkaSink", "KafkaSource"]
