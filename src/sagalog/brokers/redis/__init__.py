"""Events from Redis Streams and commands to them. Needs the extra `redis`."""

from ...errors import MissingExtraError

try:
    import redis as _redis  # noqa: F401
except ModuleNotFoundError as _error:
    raise MissingExtraError("Redis needs the package redis: pip install 'sagalog[redis]'") from _error

from .sink import RedisSink
from .source import RedisSource

__all__ = ["RedisSink", "RedisSource"]
