"""The client of nats-py, with what it lets happen to its connections mended.

It takes the server's word for whether there is TLS, leaves a connection open whose server did not answer in time, and reads
nothing more from a connection once a message has come that it cannot decode.
"""

from __future__ import annotations

from typing import Any

from nats.aio.client import Client, Srv
from nats.aio.msg import Msg
from nats.aio.transport import TcpTransport
from nats.errors import Error


class NatsClient(Client):
    """A NATS client that encrypts where it was asked to, and has one connection at a time."""

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        """Begin TLS where it was asked for, whatever the server says.

        Its greeting, which nobody has encrypted yet, may not ask for it, or somebody on the way may have changed it. Then
        user, password and payloads would be sent as they are.
        """
        server = self._current_server
        wanted = self.options.get("tls") is not None or (server is not None and server.uri.scheme == "tls")
        if wanted and initial_connection and not info.get("tls_required"):
            if not info.get("tls_available"):
                raise Error("TLS is asked for, but the server has none")
            info["tls_required"] = True  # it leaves that to its clients
        await super()._process_info(info, initial_connection)

    async def _connect_to_server(self, s: Srv) -> None:
        """Connect, and end the connection of an attempt before: its server accepted it, and then did not answer in time."""
        if isinstance(self._transport, TcpTransport):
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        """Return the headers of a message; none where nobody can make them out."""
        try:
            return await super()._process_headers(headers)
        except (IndexError, ValueError):  # a block of a few bytes; a status that is no UTF-8
            return None

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg | None:
        """Return the message. Its subject may be no UTF-8: the server passes on what it is given."""
        message: Msg | None
        try:
            message = super()._build_message(sid, subject, reply, data, headers)
        except UnicodeDecodeError:
            readable = subject.decode(errors="replace").encode()
            message = super()._build_message(sid, readable, reply, data, headers)
        return message
