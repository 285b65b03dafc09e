"""Bearer tokens of a served runner: who may do what, and how often. Only their digests are kept.

A file of them, in TOML:

    [[token]]
    name = "billing"
    sha256 = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"
    scopes = ["events:write", "instances:read"]
    types = ["PaymentReceived"]
    per_second = 50
"""

from __future__ import annotations

import hmac
import re
import secrets
import time
import tomllib
from collections.abc import Callable, Iterable
from hashlib import sha256
from pathlib import Path

import msgspec

from ..errors import DefinitionError
from ..runner.arguments import check_type

WRITE_EVENTS = "events:write"
READ_INSTANCES = "instances:read"
READ_ENDS = "ends:read"
SCOPES = (WRITE_EVENTS, READ_INSTANCES, READ_ENDS)
SHORTEST_TOKEN = 16
_DIGEST = re.compile(r"[0-9a-f]{64}", re.ASCII)


class BearerToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one token allows. `types`: of events; empty: all. `per_second`: requests, in bursts of as many; 0: any."""

    name: str
    sha256: str
    scopes: tuple[str, ...] = SCOPES
    types: tuple[str, ...] = ()
    per_second: float = 0.0

    def __repr__(self) -> str:  # without the digest
        return f"<BearerToken {self.name!r}, {', '.join(self.scopes)}>"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name or not self.name.isprintable():
            raise DefinitionError("a token has a name, of printable characters")
        if not isinstance(self.sha256, str) or not _DIGEST.fullmatch(self.sha256):
            raise DefinitionError(f"sha256 of token {self.name!r} must be 64 lower-case hexadecimal digits")
        for field in ("scopes", "types"):  # within one text, any part of it would be found
            if not _are_texts(getattr(self, field)):
                raise DefinitionError(f"{field} of token {self.name!r} must be several strings: {field}=(...,)")
        if not self.scopes or not set(self.scopes) <= set(SCOPES):
            raise DefinitionError(f"scopes of token {self.name!r} must be some of {', '.join(SCOPES)}")
        given = self.per_second
        if isinstance(given, bool) or not isinstance(given, (int, float)) or not 0 <= given < 1_000_000:
            raise DefinitionError(f"per_second of token {self.name!r} must be a number that is not negative")


def _are_texts(given: object) -> bool:
    return isinstance(given, (tuple, list, set, frozenset)) and all(isinstance(one, str) for one in given)


class _TokenFile(msgspec.Struct, forbid_unknown_fields=True):
    token: tuple[BearerToken, ...] = ()


def read_tokens(path: str) -> list[BearerToken]:
    """Return the tokens of a file. Raises DefinitionError, which names the token and shows no digest."""
    try:
        written = tomllib.loads(Path(path).read_text("utf-8"))
        found = msgspec.convert(written, _TokenFile)
    except (OSError, UnicodeDecodeError) as error:
        raise DefinitionError(f"the tokens in {path} cannot be read: {type(error).__name__}") from error
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise DefinitionError(f"the tokens in {path} are not valid: {error}") from None
    if not found.token:
        raise DefinitionError(f"{path} has no [[token]]")
    for entry, token in zip(written["token"], found.token, strict=True):  # who writes it wants to allow nothing
        for field in ("types", "per_second"):
            if field in entry and not getattr(token, field):
                raise DefinitionError(
                    f"{field} of token {token.name!r} in {path} allows nothing: remove the token, or leave that line out"
                )
    return list(found.token)


def token_of(secret: str, *, name: str = "token") -> BearerToken:
    """Return what allows everything to who knows this secret. Raises DefinitionError for a short one."""
    if len(secret) < SHORTEST_TOKEN:
        raise DefinitionError(f"a token has at least {SHORTEST_TOKEN} characters; use a longer one")
    return BearerToken(name, digest_of(secret))


def new_token(name: str) -> tuple[str, str]:
    """Return a new secret, and its entry for the file. Raises DefinitionError for a name that no token may have."""
    secret = secrets.token_urlsafe(32)
    BearerToken(name, digest_of(secret))
    shown = msgspec.json.encode(name).decode()
    scopes = msgspec.json.encode(SCOPES).decode()
    return secret, f'[[token]]\nname = {shown}\nsha256 = "{digest_of(secret)}"\nscopes = {scopes}\n'


def digest_of(secret: str) -> str:
    """Return what is kept of a secret."""
    return sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()


class KnownTokens:
    """Finds the token of a request, and counts its requests."""

    def __init__(self, tokens: Iterable[BearerToken], *, clock: Callable[[], float] = time.monotonic) -> None:
        if isinstance(tokens, BearerToken) or not isinstance(tokens, Iterable):
            raise DefinitionError(f"tokens must be a list of BearerToken, not {type(tokens).__name__}")
        self._tokens = list(tokens)
        for one in self._tokens:
            check_type("each of the tokens", one, BearerToken, "a BearerToken")
        if not self._tokens:
            raise DefinitionError("a server needs at least one token: without one, anybody could send events")
        names = [token.name for token in self._tokens]
        if len(set(names)) < len(names):
            raise DefinitionError("two tokens have the same name")
        by_digest: dict[str, BearerToken] = {}
        for one in self._tokens:
            if (other := by_digest.setdefault(one.sha256, one)) is not one:
                raise DefinitionError(
                    f"tokens {other.name!r} and {one.name!r} have the same digest, so it is not clear which of their "
                    "rights "
                    "apply: remove one of them"
                )
        self._clock = clock
        self._left = {token.name: (max(1.0, token.per_second), clock()) for token in self._tokens}

    def of(self, authorization: str) -> BearerToken | None:
        """Return the token that a header names; None for none of ours. How long it takes tells nothing of ours."""
        kind, _, secret = authorization.partition(" ")
        given = digest_of(secret.strip())
        found: BearerToken | None = None
        for token in self._tokens:
            if hmac.compare_digest(given, token.sha256):
                found = token
        return found if kind.lower() == "bearer" else None

    def count(self, token: BearerToken, more: int) -> None:
        """Count so many requests more, which came with one that was counted: the next one may have to wait for them."""
        if token.per_second:
            left, at = self._left[token.name]
            self._left[token.name] = (left - more, at)

    def wait_seconds(self, token: BearerToken) -> float:
        """Count a request; return 0, or after how many seconds it may come again."""
        if not token.per_second:
            return 0.0
        left, at = self._left[token.name]
        now = self._clock()
        left = min(max(1.0, token.per_second), left + (now - at) * token.per_second)
        if left < 1.0:
            self._left[token.name] = (left, now)
            return (1.0 - left) / token.per_second
        self._left[token.name] = (left - 1.0, now)
        return 0.0
