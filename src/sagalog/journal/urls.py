"""What a server's URL holds, taken apart so that nothing secret is ever shown.

A password may hold anything, but `/`, `?`, `#`, `@` and `%` have to be percent-encoded in it. Where one is not, nobody can
say where the password ends, so that such a URL is refused without quoting any of it.
"""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import unquote

from ..errors import DefinitionError

_ENDS = re.compile(r"[/?#]")
_BROKEN = re.compile(r"%(?![0-9A-Fa-f]{2})")


class ServerAddress(NamedTuple):
    """A server of a URL; user and password are decoded, and None where none is given. `repr` shows neither."""

    host: str
    port: int | None
    user: str | None
    password: str | None

    def __repr__(self) -> str:
        return f"Address({self.place!r})"

    @property
    def place(self) -> str:
        """The host and port, for messages."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port is None else f"{host}:{self.port}"


class ServerUrl(NamedTuple):
    """The parts of a URL. `path` and `query` are as they were written."""

    addresses: tuple[ServerAddress, ...]
    path: str
    query: str

    @property
    def place(self) -> str:
        """The hosts and ports, without any user or password, for messages."""
        return ",".join(address.place for address in self.addresses)


def split_server_url(scheme: str, rest: str) -> ServerUrl:
    """Return the parts of `<scheme>://<rest>`: several servers are separated by commas, each with or without `scheme://`.

    Raises DefinitionError, which quotes nothing of the URL, for one that cannot be taken apart for sure: an `@` behind
    the servers, a `#`, a `%` that encodes nothing, a port that is none.
    """
    again = re.compile(r",[a-z+]+://")
    while match := again.search(rest):
        rest = f"{rest[: match.start()]},{rest[match.end() :]}"
    end = _ENDS.search(rest)
    servers, others = (rest, "") if end is None else (rest[: end.start()], rest[end.start() :])
    if "@" in others or "#" in others or _BROKEN.search(servers):
        raise _unclear(scheme)
    path, _, query = others.partition("?")
    return ServerUrl(tuple(_address(scheme, one) for one in servers.split(",")), path, query)


def _unclear(scheme: str) -> DefinitionError:
    return DefinitionError(
        f"this {scheme}:// URL cannot be parsed: in a user name or password write / as %2F, ? as %3F, # as %23, "
        "@ as %40, and % as %25; elsewhere @ as %40"
    )


def _address(scheme: str, server: str) -> ServerAddress:
    user_and_password, at, host_and_port = server.rpartition("@")
    if "@" in user_and_password:
        raise _unclear(scheme)
    user, colon, password = user_and_password.partition(":")
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.%a-z]+\]|[^:\[\]]*)(?::(.*))?", host_and_port)
    if match is None:
        raise DefinitionError(f"a host in this {scheme}:// URL is not valid: write an IPv6 address as [::1]")
    host, port = match.groups()
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise DefinitionError(
            f"the port in this {scheme}:// URL is not a number from 1 to 65535; in a password write : as %3A, / as %2F"
        )
    return ServerAddress(
        unquote(host.strip("[]")),
        int(port) if port else None,
        unquote(user) if at else None,
        unquote(password) if colon else None,
    )


__all__ = ["ServerAddress", "ServerUrl", "split_server_url"]
