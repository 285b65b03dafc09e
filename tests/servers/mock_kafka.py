"""The mock cluster of librdkafka: several brokers in this process that fail as they are told to. From a wheel.

It speaks Kafka's protocol over sockets of its own threads, keeps what is produced, and knows groups; it cannot be asked to
make topics. Errors are pushed for the next requests of a kind. See `rdkafka_mock.h` of https://github.com/confluentinc/librdkafka.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec
from pathlib import Path
from typing import Any

PRODUCE, FETCH, LIST_OFFSETS, METADATA, OFFSET_COMMIT, OFFSET_FETCH = 0, 1, 2, 3, 8, 9  # kinds of requests
FIND_COORDINATOR, JOIN_GROUP, HEARTBEAT = 10, 11, 12
NOT_LEADER, NOT_ENOUGH_REPLICAS, REQUEST_TIMED_OUT = 6, 19, 7  # errors
COORDINATOR_LOADING, COORDINATOR_NOT_AVAILABLE, NOT_COORDINATOR = 14, 15, 16
NOT_ENOUGH_REPLICAS_AFTER_APPEND, ILLEGAL_GENERATION, UNKNOWN_MEMBER, REBALANCE_IN_PROGRESS = 20, 22, 25, 27
DISCONNECTED = -195  # the connection is closed instead of an answer
_PRODUCER = 0


def _library() -> ctypes.CDLL:
    spec = find_spec("confluent_kafka")
    assert spec is not None
    assert spec.origin is not None
    (path,) = (Path(spec.origin).parent.parent / "confluent_kafka.libs").glob("librdkafka-*.so*")
    library = ctypes.CDLL(str(path))
    for name, result, arguments in (
        ("rd_kafka_conf_new", ctypes.c_void_p, []),
        ("rd_kafka_new", ctypes.c_void_p, [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]),
        ("rd_kafka_destroy", None, [ctypes.c_void_p]),
        ("rd_kafka_mock_cluster_new", ctypes.c_void_p, [ctypes.c_void_p, ctypes.c_int]),
        ("rd_kafka_mock_cluster_destroy", None, [ctypes.c_void_p]),
        ("rd_kafka_mock_cluster_bootstraps", ctypes.c_char_p, [ctypes.c_void_p]),
        ("rd_kafka_mock_topic_create", ctypes.c_int, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int]),
        (
            "rd_kafka_mock_push_request_errors_array",
            None,
            [ctypes.c_void_p, ctypes.c_int16, ctypes.c_size_t, ctypes.POINTER(ctypes.c_int)],
        ),
        (
            "rd_kafka_mock_partition_set_leader",
            ctypes.c_int,
            [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int32, ctypes.c_int32],
        ),
        (
            "rd_kafka_mock_coordinator_set",
            ctypes.c_int,
            [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int32],
        ),
        ("rd_kafka_mock_group_initial_rebalance_delay_ms", None, [ctypes.c_void_p, ctypes.c_int32]),
        ("rd_kafka_mock_broker_set_down", ctypes.c_int, [ctypes.c_void_p, ctypes.c_int32]),
        ("rd_kafka_mock_broker_set_up", ctypes.c_int, [ctypes.c_void_p, ctypes.c_int32]),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


class MockKafka:
    """Brokers numbered from 1. `servers` is good for the client."""

    def __init__(self, brokers: int = 3) -> None:
        self._library = _library()
        told = ctypes.create_string_buffer(512)
        self._client = self._library.rd_kafka_new(_PRODUCER, self._library.rd_kafka_conf_new(), told, len(told))
        assert self._client, told.value
        self._cluster = self._library.rd_kafka_mock_cluster_new(self._client, brokers)
        self._library.rd_kafka_mock_group_initial_rebalance_delay_ms(self._cluster, 0)
        self.servers: str = self._library.rd_kafka_mock_cluster_bootstraps(self._cluster).decode()

    def _done(self, what: str, *arguments: Any) -> None:
        assert getattr(self._library, f"rd_kafka_mock_{what}")(self._cluster, *arguments) == 0, what

    def topic(self, name: str, partitions: int = 1) -> None:
        """Make a topic that each broker has."""
        self._done("topic_create", name.encode(), partitions, 3)

    def fail(self, kind: int, *errors: int) -> None:
        """Answer the next requests of a kind with these errors."""
        array = (ctypes.c_int * len(errors))(*errors)
        self._library.rd_kafka_mock_push_request_errors_array(self._cluster, kind, len(errors), array)

    def lead(self, topic: str, partition: int, broker: int) -> None:
        """Let a broker lead a partition; -1: nobody does."""
        self._done("partition_set_leader", topic.encode(), partition, broker)

    def coordinate(self, group: str, broker: int) -> None:
        """Let a broker be the coordinator of a group."""
        self._done("coordinator_set", b"group", group.encode(), broker)

    def down(self, broker: int) -> None:
        """Close a broker's connections, and take no more."""
        self._done("broker_set_down", broker)

    def up(self, broker: int) -> None:
        """Take connections again."""
        self._done("broker_set_up", broker)

    def stop(self) -> None:
        """End it."""
        self._library.rd_kafka_mock_cluster_destroy(self._cluster)
        self._library.rd_kafka_destroy(self._client)
