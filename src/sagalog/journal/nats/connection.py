"""The connection to NATS: made at first use, and made again by the client when it is lost."""

from __future__ import annotations

import asyncio
import ssl
from typing import Any

import nats.errors
from nats.aio.client import Client

from ...errors import DefinitionError, JournalFormatError, JournalUnavailableError
from ...nats_client import NatsClient
from ...waiting import is_set_within
from ..owner import Owner
from .answers import Inbox
from .login import Login

# 2.9 lets several writers win one compare-and-set on a replicated stream, and ignores what it does not know.
OLDEST_SERVER = (2, 10, 0)
# Of answers under way: the server cuts off whoever has 64 MB waiting, and the client drops what is over 128 MB.
_ANSWERS_BYTES = 2**25
MAX_AT_ONCE = 64


class Connection:
    """One connection. `asking` lets in as many requests as may be under way at once, which are `at_once`."""

    def __init__(self, login: Login, *, connect_seconds: float, timeout_seconds: float) -> None:
        self._login = login
        self.where: str = f"NATS {login.place}"
        self.patience = connect_seconds
        self.timeout = timeout_seconds
        self.inbox: Inbox = Inbox(timeout_seconds)
        self.asking: asyncio.Semaphore = asyncio.Semaphore(1)
        self.at_once: int = 1
        self.closed: bool = False
        self._client: Client | None = None
        self._opening = asyncio.Lock()
        self._connected = asyncio.Event()
        self._owner: Owner | None = None

    async def client(self) -> Client:
        """Return the client, connected. Raises JournalUnavailableError when that takes too long."""
        if self.closed:
            raise JournalUnavailableError("the journal is closed; nothing was stored")
        if self._owner is None:
            self._owner = Owner()
        self._owner.check()
        if self._client is None:
            async with self._opening:
                if self._client is None:
                    self._client = await self._connect()
        if not self._client.is_connected and not await is_set_within(self._connected, self.patience):
            raise self.away("the connection is lost")
        return self._client

    def away(self, why: str) -> JournalUnavailableError:
        """Return our error for a server that does not answer."""
        return JournalUnavailableError(
            f"{self.where} cannot be reached ({why}): check that it runs, and the host and port. Nothing was stored."
        )

    async def _connect(self) -> Client:
        client = NatsClient()
        options = self._login.options(client)
        refused = asyncio.Event()
        untrusted: list[str] = []

        async def failed(error: Exception) -> None:
            said = str(error).lower()
            if "permissions violation" in said:
                self.inbox.denied(said)
                return
            if isinstance(error, ssl.SSLError) or "tls" in said or "certificate" in said:
                untrusted.append(getattr(error, "verify_message", "") or getattr(error, "reason", "") or "TLS")
                refused.set()
            if "authorization" in said or "authentication" in said:
                refused.set()  # the client would go on trying

        async def lost() -> None:
            self._connected.clear()

        async def back() -> None:
            self._connected.set()

        connecting = asyncio.ensure_future(
            client.connect(
                self._login.servers,
                **options,
                connect_timeout=2,
                reconnect_time_wait=0.05,  # type: ignore[arg-type]
                max_reconnect_attempts=-1,
                allow_reconnect=True,
                ping_interval=10,
                max_outstanding_pings=2,
                error_cb=failed,
                disconnected_cb=lost,
                reconnected_cb=back,
            )
        )
        waiting = asyncio.ensure_future(refused.wait())
        try:
            await asyncio.wait([connecting, waiting], timeout=self.patience, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:  # else the client would go on connecting, and stay connected, for nobody
            connecting.cancel()
            await asyncio.wait([connecting])
            await client.close()
            raise
        finally:
            waiting.cancel()
        try:
            if not connecting.done():
                connecting.cancel()
                raise TimeoutError
            connecting.result()
        except Exception as error:
            of_network = isinstance(error, (nats.errors.Error, OSError, TimeoutError))
            if of_network or client.is_connecting:  # else it read a file that is none, and had not begun
                await client.close()
            if untrusted or isinstance(error, ssl.SSLError):
                why = untrusted[0] if untrusted else type(error).__name__
                raise JournalUnavailableError(
                    f"{self.where}: the server and this client cannot agree on TLS ({why}): check tls_ca, tls_cert and "
                    "tls_key, and that the server wants TLS. Nothing was stored."
                ) from None
            if refused.is_set():
                raise JournalUnavailableError(
                    f"{self.where}: the user, password, token, credentials or nkey file is wrong: check the URL. "
                    "Nothing was stored."
                ) from None
            if not of_network:
                raise DefinitionError(
                    f"the client does not accept this URL, credentials or nkey file: {type(error).__name__}"
                ) from None
            raise self.away(type(error).__name__) from None
        try:
            check_version(client.connected_server_version, self.where)
            largest = client.max_payload * 3 // 2  # in base64, with its header
            self.at_once = max(1, min(MAX_AT_ONCE, _ANSWERS_BYTES // largest))
            self.asking = asyncio.Semaphore(self.at_once)
            self.inbox.subject = client.new_inbox()
            await client.subscribe(f"{self.inbox.subject}.*", cb=self.inbox.arrived)
        except BaseException:
            await client.close()
            raise
        self._connected.set()
        return client

    async def close(self) -> None:
        """Close the connection; what is not answered stays unknown."""
        self.closed = True
        if self._owner is not None:
            self._owner.check()
        if self._client is not None:
            await self._client.close()
        self.inbox.close()


def check_version(version: Any, where: str) -> None:
    """Raise JournalFormatError for a server on which compare-and-set does not hold."""
    found = (version.major, version.minor, version.patch)
    if found < OLDEST_SERVER:
        raise JournalFormatError(
            f"{where} runs nats-server {'.'.join(map(str, found))}, which lets several writers win one compare-and-set: "
            f"{'.'.join(map(str, OLDEST_SERVER))} or newer is needed"
        )
