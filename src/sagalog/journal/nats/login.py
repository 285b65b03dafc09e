"""Where the servers are and who we are there: the URL, and the files it names. Nothing of a secret is ever shown."""

from __future__ import annotations

import ssl
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
from nats.aio.client import Client

from ...errors import DefinitionError, MissingExtraError
from ..urls import ServerAddress, split_server_url


class Files(msgspec.Struct, frozen=True):
    """What else identifies us: paths of files, each of which may be missing."""

    credentials: str | None = None
    nkey: str | None = None
    tls: bool = False
    tls_ca: str | None = None
    tls_cert: str | None = None
    tls_key: str | None = None


class Login:
    """The servers of a URL, decoded, and what the client needs to log in at each of them.

    Raises DefinitionError for a URL, or for files, that cannot be; MissingExtraError without the package `nkeys`.
    """

    def __init__(self, url: str, files: Files) -> None:
        if not isinstance(url, str):
            raise DefinitionError(f"url must be a string such as nats://host:4222, not {type(url).__name__}")
        scheme, separator, rest = url.partition("://")
        if not separator or scheme not in ("nats", "tls"):
            raise DefinitionError("url begins with nats:// or tls://")
        parts = split_server_url("nats", rest)
        if any(not one.host or any(c.isspace() for c in one.host) for one in parts.addresses):
            raise DefinitionError("url names a server without a host: write nats://host:4222, or nats://host1,host2")
        self.place: str = parts.place
        self._addresses = parts.addresses
        self._files = files
        encrypted = scheme == "tls" or ",tls://" in rest or files.tls or files.tls_ca or files.tls_cert
        self.servers: list[str] = [f"{'tls' if encrypted else 'nats'}://{one.place}" for one in parts.addresses]
        if bool(files.tls_cert) != bool(files.tls_key):
            raise DefinitionError("tls_cert and tls_key belong together: name both files, or none")
        if files.credentials and files.nkey:
            raise DefinitionError("credentials and nkey are two ways to log in: name one of these files")
        for name in ("credentials", "nkey", "tls_ca", "tls_cert", "tls_key"):
            path = getattr(files, name)
            if path is not None and not isinstance(path, str):
                raise DefinitionError(f"{name} is the path of a file, not {type(path).__name__}")
            if path is not None and not _readable(path):
                raise DefinitionError(f"{name} is a file that cannot be read: is the path right, and may this user?")
        self._context = self._tls() if encrypted else None

    def _tls(self) -> ssl.SSLContext:
        try:
            context = ssl.create_default_context(cafile=self._files.tls_ca)
        except (ssl.SSLError, OSError):
            raise DefinitionError("tls_ca is not a file of certificates in PEM") from None
        if self._files.tls_cert is not None:
            try:
                # A key that is encrypted would ask at the terminal.
                context.load_cert_chain(self._files.tls_cert, self._files.tls_key, password="")
            except (ssl.SSLError, OSError, ValueError):
                raise DefinitionError(
                    "tls_cert and tls_key are not a certificate and its key in PEM, without a passphrase"
                ) from None
        return context

    def options(self, client: Client) -> dict[str, Any]:
        """Return what `client.connect` has to be told."""
        found: dict[str, Any] = {}
        if self._context is not None:
            found["tls"] = self._context
        for name, file in (("user_credentials", self._files.credentials), ("nkeys_seed", self._files.nkey)):
            if file is not None:
                if find_spec("nkeys") is None:
                    raise MissingExtraError(
                        "a credentials or nkey file needs the package nkeys: pip install 'sagalog[nats]'"
                    )
                found[name] = file
        known = [one for one in self._addresses if one.user is not None]
        if any(one.password is not None for one in known):
            found["user"] = lambda: self._at(client, known).user
            found["password"] = lambda: self._at(client, known).password or ""
        elif known:
            found["token"] = lambda: self._at(client, known).user
        return found

    def _at(self, client: Client, known: list[ServerAddress]) -> ServerAddress:
        """Return whom the URL names for the server that is being connected to; the first for one that it does not name."""
        server = client._current_server
        if server is not None:
            for one in known:
                if (server.uri.hostname, server.uri.port) == (one.host.lower(), one.port or 4222):
                    return one
        return known[0]


def _readable(path: str) -> bool:
    try:
        with Path(path).open("rb"):
            return True
    except (OSError, ValueError):
        return False
