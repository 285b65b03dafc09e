"""The stream that holds a journal: made with the settings that it needs, and checked for them when it is opened."""

from __future__ import annotations

from typing import Any

from ...errors import JournalFormatError, JournalUnavailableError
from ...logs import about, log
from ...waiting import Attempts, Waiting
from ..protocol import Finding
from .connection import Connection
from .refusals import NO_PEERS, Rejected
from .requests import Requests

FORMAT = "1"
_PLACING = Waiting(first=0.1, most=0.5, seconds=5)  # while servers of a cluster have not heard of each other


class Stream:
    """A stream by its name. `keep`: how many messages of an id before the newest; None: all."""

    def __init__(self, connection: Connection, requests: Requests, *, replicas: int, keep: int | None) -> None:
        self._connection = connection
        self._requests = requests
        # How many messages of an id the server keeps, as it says; 0: all of them.
        self.kept: int = 1
        self._config: dict[str, Any] = {
            "name": requests.stream,
            "retention": "limits",
            "storage": "file",
            "discard": "new",
            "max_msgs_per_subject": -1 if keep is None else keep + 1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_consumers": -1,
            "num_replicas": replicas,
            "duplicate_window": 120_000_000_000,
            "allow_direct": False,  # a follower that is behind must not answer
            "metadata": {"sagalog": FORMAT},
            "subjects": requests.subjects.all,
        }

    async def make(self) -> bool:
        """Make the stream, unless it is there; say whether it was made. Raises as `check`."""
        try:
            await self._requests.ask(f"STREAM.INFO.{self._requests.stream}")
        except Rejected as error:
            if not isinstance(self._requests.refused(error), JournalFormatError):
                raise self._requests.refused(error) from None
            await self._create()
            await self.check()
            return True
        await self.check()
        return False

    async def _create(self) -> None:
        attempts = Attempts(_PLACING)
        while True:
            try:
                await self._requests.ask(f"STREAM.CREATE.{self._requests.stream}", **self._config)
            except Rejected as failed:
                if failed.code != NO_PEERS or not await attempts.wait():
                    raise self._not_made(failed) from None
            else:
                return

    def _not_made(self, error: Rejected) -> JournalUnavailableError:
        return JournalUnavailableError(
            f"{self._connection.where}: the stream {self._requests.stream!r} cannot be created: {error.description} "
            f"({error.code}). Are there as many servers as replicas, and does no other stream have its subjects?"
        )

    async def check(self) -> None:
        """Refuse a stream that is not ours, or a server that did not do what it was asked for."""
        config = (await self._requests.info())["config"]
        where = f"{self._connection.where}, stream {self._requests.stream!r}"
        version = config.get("metadata", {}).get("sagalog")
        if version is None:
            raise JournalFormatError(f"{where} belongs to another program; it was not touched. Choose another name.")
        if version != FORMAT:
            raise JournalFormatError(f"{where} has format {version}; this code knows {FORMAT}: upgrade sagalog")
        for name in ("subjects", "retention", "storage", "discard", "duplicate_window"):
            if config.get(name) != self._config[name]:
                raise JournalFormatError(
                    f"{where} has {name} {config.get(name)!r}, and {self._config[name]!r} is needed: the server ignored "
                    "it, or somebody changed it"
                )
        self.kept = max(0, config.get("max_msgs_per_subject", -1))  # other limits refuse what is new
        if config.get("max_age"):
            raise JournalFormatError(f"{where} has max_age, which deletes waiting sagas: remove it")
        if config.get("num_replicas", 1) == 1:
            log.warning(
                "%s has one replica: acknowledged steps survive a power failure only if the server runs with "
                "sync_interval: always",
                where,
                extra=about(),
            )

    async def examine(self) -> list[Finding]:
        """Say how durable the stream is now, and in which format."""
        info = await self._requests.info()
        replicas = info["config"].get("num_replicas", 1)
        version = (await self._connection.client()).connected_server_version
        where = f"nats-server {version}, stream {self._requests.stream}"
        schema = Finding("schema", "ok", f"format {FORMAT}, as this code has it")
        behind = [one["name"] for one in info.get("cluster", {}).get("replicas", []) if not one.get("current")]
        if replicas == 1:
            text = f"{where}: one replica; a step survives a power failure only with sync_interval: always"
            return [Finding("durable", "warn", text, "run three servers and ?replicas=3, or set sync_interval"), schema]
        if behind:
            text = f"{where}: of {replicas} replicas, {', '.join(behind)} is behind or unreachable"
            return [Finding("durable", "warn", text, "bring that server back before another one fails"), schema]
        return [Finding("durable", "ok", f"{where}, {replicas} replicas, all current"), schema]
