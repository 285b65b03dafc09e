"""A NATS client that encrypts where it was asked to, whatever the server says."""

from __future__ import annotations

from typing import Any

from nats.aio.client import Client
from nats.errors import Error


class TlsClient(Client):
    """The client of nats-py, which takes the server's word for whether there is TLS.

    It begins TLS only if the greeting of the server, which nobody has encrypted yet, asks for it. One that does not, or
    that somebody on the way has changed, would get user, password and payloads as they are.
    """

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        server = self._current_server
        wanted = self.options.get("tls") is not None or (server is not None and server.uri.scheme == "tls")
        if wanted and initial_connection and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise Error("TLS is asked for, but the server has none")
            info["tls_required"] = True  # it leaves that to its clients
        await super()._process_info(info, initial_connection)
