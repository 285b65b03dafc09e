"""Signatures of webhooks: checked where one comes in, made where one goes out. HMAC with SHA-256.

A signature with a timestamp is refused when it is older, or further ahead, than `tolerance`. Within that time a
copy of a request is known by its message id; so the id must be signed, too, or stand in the signed body.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Literal, Protocol, runtime_checkable

from ..durations import seconds_of
from ..errors import DefinitionError, SagalogError
from ..text import given as shown

SHORTEST_SECRET = 16  # bytes
_MOST_SIGNATURES = 16  # in one header: each costs a comparison with each secret
_SECONDS = re.compile(r"[0-9]{1,15}", re.ASCII)
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)

Secrets = str | bytes | Iterable[str | bytes]


class SignatureError(SagalogError):
    """A webhook is not signed, is signed with an unknown secret, or is too old. Nothing was stored."""


@runtime_checkable
class Signature(Protocol):
    """Checks that the sender of a request knows the shared secret. `id_header`: a header that it signs, too; or empty."""

    id_header: str

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raise SignatureError unless `body` was signed in time, by any of the secrets. Header names are lower case."""


class HmacSignature:
    """A signature in a header, as most senders make it: over the body, after a timestamp and an id if there are any.

    What is signed is `<id>.<timestamp>.<body>`, each part followed by `separator`, without those that have no header.
    `prefix` stands before each signature (`sha256=`, `v1,`); several are separated by spaces or commas. `secrets`: one,
    or several while they are rotated; requests signed with any of them are taken, the first one signs.
    `timestamp_header`: holds seconds since 1970.

    Without a timestamp a copy of a request is good for ever: only its message id tells it from a new one, as long as
    that is remembered.
    """

    def __init__(
        self,
        secrets: Secrets,
        *,
        header: str,
        prefix: str = "",
        encoding: Literal["hex", "base64"] = "hex",
        timestamp_header: str = "",
        id_header: str = "",
        separator: str = ".",
        tolerance: timedelta = timedelta(minutes=5),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._secrets = secrets_of(secrets)
        for given in (header, *(name for name in (timestamp_header, id_header) if name != "")):
            _check_header(given)
        for what, text in (("prefix", prefix), ("separator", separator)):
            if not isinstance(text, str) or not text.isascii():
                raise DefinitionError(f"{what}= of a signature must be ASCII text, not {shown(text)}")
        if encoding not in ("hex", "base64"):
            raise DefinitionError(f"encoding= of a signature must be 'hex' or 'base64', not {encoding!r}")
        self.header: str = header.lower()
        self.timestamp_header: str = timestamp_header.lower()
        self.id_header: str = id_header.lower()
        self._prefix = prefix
        self._encoding = encoding
        self._separator = separator.encode()
        self._tolerance = seconds_of("tolerance", tolerance, most=timedelta(days=1))
        self._clock = _clock_of(clock)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} in {self.header}>"

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raise SignatureError unless `body` was signed in time, by any of the secrets."""
        given = headers.get(self.header, "")
        if not given:
            raise SignatureError(f"the header {self.header} is missing; nothing was stored")
        parts = [headers.get(name, "") for name in (self.id_header, self.timestamp_header) if name]
        if not all(parts):
            missing = next(name for name in (self.id_header, self.timestamp_header) if name and not headers.get(name))
            raise SignatureError(f"the header {missing} is missing; nothing was stored")
        if self.timestamp_header:
            _check_time(headers[self.timestamp_header], self._clock(), self._tolerance)
        self._compare(given, self._content(parts, body))

    def headers(self, message_id: str, body: bytes) -> dict[str, str]:
        """Return the headers that sign a request with this body: for webhooks that go out."""
        found: dict[str, str] = {}
        if self.id_header:
            found[self.id_header] = message_id
        if self.timestamp_header:
            found[self.timestamp_header] = str(int(self._clock()))
        content = self._content(list(found.values()), body)
        found[self.header] = self._prefix + self._text(hmac.digest(self._secrets[0], content, "sha256"))
        return found

    def _content(self, parts: list[str], body: bytes) -> bytes:
        return b"".join(part.encode("utf-8", "surrogatepass") + self._separator for part in parts) + body

    def _text(self, digest: bytes) -> str:
        return digest.hex() if self._encoding == "hex" else base64.b64encode(digest).decode()

    def _compare(self, given: str, content: bytes) -> None:
        signatures = [
            one[len(self._prefix) :]
            for one in self._each(given)
            if one.startswith(self._prefix) and one != self._prefix
        ]
        compare(signatures, [self._text(hmac.digest(secret, content, "sha256")) for secret in self._secrets])

    def _each(self, given: str) -> list[str]:
        return given.split() if "," in self._prefix else re.split(r"[\s,]+", given)


class StandardWebhooks(HmacSignature):
    """Signatures as standardwebhooks.com defines them and many senders make them.

    Secrets are as the sender shows them: `whsec_` and base64. The message id, `webhook-id`, is signed.
    """

    def __init__(
        self, secrets: Secrets, *, tolerance: timedelta = timedelta(minutes=5), clock: Callable[[], float] = time.time
    ) -> None:
        super().__init__(
            [_standard_secret(secret) for secret in _listed(secrets)],
            header="webhook-signature",
            prefix="v1,",
            encoding="base64",
            timestamp_header="webhook-timestamp",
            id_header="webhook-id",
            tolerance=tolerance,
            clock=clock,
        )


class StripeSignature:
    """Signatures as Stripe makes them: a header `t=<seconds>,v1=<hex>,v1=<hex>` over `<seconds>.<body>`.

    The message id is not in it: take it from the body, `message_id=lambda posted: posted.json["id"]`.
    """

    id_header = ""

    def __init__(
        self,
        secrets: Secrets,
        *,
        header: str = "stripe-signature",
        tolerance: timedelta = timedelta(minutes=5),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._secrets = secrets_of(secrets)
        _check_header(header)
        self._header = header.lower()
        self._tolerance = seconds_of("tolerance", tolerance, most=timedelta(days=1))
        self._clock = _clock_of(clock)

    def __repr__(self) -> str:
        return f"<StripeSignature in {self._header}>"

    def check(self, headers: Mapping[str, str], body: bytes) -> None:
        """Raise SignatureError unless `body` was signed in time, by any of the secrets."""
        given = headers.get(self._header, "")
        if not given:
            raise SignatureError(f"the header {self._header} is missing; nothing was stored")
        pairs = [part.strip().partition("=") for part in given.split(",")]
        times = [value for name, _, value in pairs if name == "t"]
        if len(times) != 1:
            raise SignatureError(f"the header {self._header} names no time; nothing was stored")
        _check_time(times[0], self._clock(), self._tolerance)
        content = times[0].encode() + b"." + body
        signatures = [value for name, _, value in pairs if name == "v1"]
        compare(signatures, [hmac.digest(secret, content, "sha256").hex() for secret in self._secrets])


def compare(given: list[str], expected: list[str]) -> None:
    """Raise SignatureError unless any of both are the same. Which it is cannot be told from how long it takes."""
    found = False
    for one in given[:_MOST_SIGNATURES]:
        for other in expected:
            found |= hmac.compare_digest(one.encode("utf-8", "replace"), other.encode())
    if not found:
        raise SignatureError("the signature does not match the body; nothing was stored")


def secrets_of(secrets: Any) -> list[bytes]:
    """Return the secrets as bytes. Raises DefinitionError for none, or one that is too short; it shows none."""
    try:
        made = [secret.encode() if isinstance(secret, str) else secret for secret in _listed(secrets)]
    except UnicodeEncodeError:  # its message quotes the secret
        raise DefinitionError("a secret of a signature is not well-formed text") from None
    if not made:
        raise DefinitionError("a signature needs a secret")
    if any(not isinstance(secret, bytes) or len(secret) < SHORTEST_SECRET for secret in made):
        raise DefinitionError(f"each secret of a signature needs at least {SHORTEST_SECRET} bytes; use a longer one")
    return made


def _check_header(name: Any) -> None:
    if not isinstance(name, str) or not _HEADER.fullmatch(name):
        raise DefinitionError(f"{shown(name)} is not the name of a header")


def _clock_of(clock: Any) -> Callable[[], float]:
    if not callable(clock):
        raise DefinitionError(f"clock= of a signature takes a function that returns seconds, not {shown(clock)}")
    return clock  # type: ignore[no-any-return]


def _listed(secrets: Any) -> list[Any]:
    if isinstance(secrets, (str, bytes)):
        return [secrets]
    if not isinstance(secrets, Iterable):
        raise DefinitionError(f"a secret must be a str or bytes, not {type(secrets).__name__}")
    return list(secrets)


def _standard_secret(secret: Any) -> bytes:
    if isinstance(secret, bytes):
        return secret
    text = secret if isinstance(secret, str) else ""
    try:
        return base64.b64decode(text.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        raise DefinitionError(
            "a secret of StandardWebhooks is base64, as the sender shows it: whsec_...; pass other secrets as bytes"
        ) from None


def _check_time(given: str, now: float, tolerance_seconds: float) -> None:
    if not _SECONDS.fullmatch(given):
        raise SignatureError("the time of the signature is not in seconds since 1970; nothing was stored")
    if abs(now - int(given)) > tolerance_seconds:
        raise SignatureError(
            f"the signature is not of the last {tolerance_seconds:g} s, by the clock here; nothing was stored"
        )
