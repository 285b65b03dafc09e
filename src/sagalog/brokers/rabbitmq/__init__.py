"""Events from RabbitMQ and commands to it. Needs the extra `rabbitmq`."""

from ...errors import MissingExtraError

try:
    import aio_pika as _aio_pika  # noqa: F401
except ModuleNotFoundError as _error:
    raise MissingExtraError("RabbitMQ needs the package aio-pika: pip install 'sagalog[rabbitmq]'") from _error

from .lenient import read_anything
from .sink import RabbitSink
from .source import RabbitSource

read_anything()

__all__ = ["RabbitSink", "RabbitSource"]
