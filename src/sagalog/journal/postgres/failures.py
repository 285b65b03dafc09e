"""What PostgreSQL's errors mean to a caller: what it is, whether it passes, and whether anything may be stored."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

import asyncpg

from ...errors import DefinitionError, InvalidEventError, JournalUnavailableError, OutcomeUnknownError, SagalogError

_REMEDIES: list[tuple[type[Exception], str]] = [
    (asyncpg.InvalidPasswordError, "the password is wrong: check the URL, or PGPASSWORD"),
    (asyncpg.InvalidAuthorizationSpecificationError, "this user may not log in: check the URL and pg_hba.conf"),
    (asyncpg.InvalidCatalogNameError, "the database does not exist: create it, or check the URL"),
    (asyncpg.InsufficientPrivilegeError, "this user lacks a right{}: grant it on the schema, its tables and sequences"),
    (asyncpg.UndefinedTableError, "the tables are gone: run `sagalog migrate --journal URL`"),
    (asyncpg.InvalidSchemaNameError, "the schema is gone: run `sagalog migrate --journal URL`"),
    (asyncpg.UndefinedColumnError, "the tables have another version: run `sagalog migrate --journal URL`"),
    (asyncpg.UndefinedFunctionError, "the tables have another version: run `sagalog migrate --journal URL`"),
    (asyncpg.OutOfMemoryError, "its table of locks is full: raise max_locks_per_transaction"),
    (asyncpg.DiskFullError, "the disk is full: free some space"),
    (asyncpg.TooManyConnectionsError, "all connections are taken: raise max_connections, or use a pooler"),
    (asyncpg.ReadOnlySQLTransactionError, "it is read-only, perhaps a replica: connect to the primary"),
    (asyncpg.LockNotAvailableError, "it could not get a lock within lock_timeout: end the transaction that holds it"),
    (asyncpg.InvalidSQLStatementNameError, "a pooler loses prepared statements: open the journal with ?pooler=true"),
    (
        asyncpg.DuplicatePreparedStatementError,
        "a pooler mixes up prepared statements: open the journal with ?pooler=true",
    ),
    (asyncpg.TargetServerAttributeNotMatched, "none of its servers is what target_session_attrs asks for"),
]
# What the server says about a statement means that it was rolled back, except when it ends the connection at the same
# time: that may happen right behind a commit. Every other error says nothing about what the server has done.
_ENDS = (asyncpg.PostgresConnectionError, asyncpg.OperatorInterventionError)
# Of these, a server says at login that it does not take a setting.
_OF_SETTINGS = (
    asyncpg.UndefinedObjectError,
    asyncpg.InvalidParameterValueError,
    asyncpg.CantChangeRuntimeParamError,
    asyncpg.FeatureNotSupportedError,
    asyncpg.ProtocolViolationError,  # PgBouncer's word for it
)
# What libpq itself does with a connection; asyncpg, which is used here, hands them to the server, which has none of them.
_ONLY_LIBPQ = {
    "channel_binding",
    "connect_timeout",
    "fallback_application_name",
    "gssencmode",
    "hostaddr",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "load_balance_hosts",
    "require_auth",
    "requirepeer",
    "sslcertmode",
    "sslcompression",
    "sslsni",
}
# Trying to connect again makes sense after these.
PASSING = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.InternalClientError,  # of a connection that broke off while it was made
    asyncpg.TargetServerAttributeNotMatched,  # while another server takes over
    asyncpg.InterfaceError,
    OSError,
    TimeoutError,
    EOFError,
)
# The statement was rolled back for sure, and does better on another connection, or another time: a connection from before
# a failover, or with a setting of then, can stay read-only as long as it lives.
AGAIN = (asyncpg.ReadOnlySQLTransactionError, asyncpg.SerializationError, asyncpg.DeadlockDetectedError)
_DENIED = re.compile(r"permission denied for (\w+ [\w.]+)")
_NO_TLS = "the server refuses TLS: turn it on there (ssl = on), or use another sslmode in the URL"


def passes(error: BaseException) -> bool:
    """Whether connecting again may help."""
    if isinstance(error, asyncpg.ClientConfigurationError) or _of_tls(error):
        return False
    if isinstance(error, asyncpg.ProtocolViolationError):
        return False
    return isinstance(error, PASSING)


def passes_for_reading(error: BaseException) -> bool:
    """Whether asking again may help: the question changes nothing."""
    return isinstance(error, AGAIN) or passes(error)


def _of_tls(error: BaseException) -> str:
    """Return what is wrong with TLS, for good; "" for every other error."""
    if isinstance(error, ssl.SSLError) and not isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError)):
        if isinstance(error, ssl.SSLCertVerificationError):
            return (
                f"the server's certificate is not accepted ({error.verify_message}): check sslrootcert and sslmode in "
                "the URL, and the host's name"
            )
        return f"TLS fails ({error.reason or type(error).__name__}): check the files and the sslmode in the URL"
    return ""


def refusal_of_tls(error: Exception, where: str) -> SagalogError | None:
    """Return the error of ours for a server that has no TLS.

    Only for those who ask for TLS: a server that starts, or is killed, answers the same to those who merely prefer it.
    """
    if type(error) is ConnectionError and "rejected SSL" in str(error):
        return JournalUnavailableError(f"{where}: {_NO_TLS}. Nothing was stored.")
    return None


def translate_login(error: Exception, where: str, settings: tuple[str, ...]) -> SagalogError:
    """Return the error of ours for a connection that could not be made. `settings`: names that went to the server."""
    if isinstance(error, SagalogError):
        return error
    name = type(error).__name__
    translated: SagalogError
    if isinstance(error, (asyncpg.ClientConfigurationError, ValueError)):
        # asyncpg's own words: of files, names and values of settings, never of what stands before the host.
        said = str(error) if isinstance(error, asyncpg.ClientConfigurationError) else name
        translated = DefinitionError(f"this is not a PostgreSQL URL: {said}")
    elif isinstance(error, _OF_SETTINGS):
        given = ", ".join(settings) or "none, so look for PGOPTIONS and the like"
        only_libpq = ", ".join(sorted(_ONLY_LIBPQ.intersection(settings)))
        hint = f". Only libpq has {only_libpq}: leave it out" if only_libpq else ""
        if "connect_timeout" in only_libpq:
            hint += " (connect_seconds says how long to wait)"
        translated = DefinitionError(
            f"{where} does not accept a setting in the URL ({name}): neither sagalog, nor its driver asyncpg, nor the "
            f"server has such a setting, or its value is wrong. Given: {given}{hint}"
        )
    else:
        return translate(error, where)
    translated.__cause__ = error
    return translated


def translate(error: Exception, where: str, *, sent: bool = False, reading: bool = False) -> SagalogError:
    """Return the error of ours that stands for PostgreSQL's.

    `sent`: a write was sent and its answer is missing. `reading`: nothing was to be stored, and what the error says must
    not be taken for the fate of a write that somebody wants to find out about.
    """
    if isinstance(error, SagalogError):
        return error
    translated = _translated(error, where, sent=sent, end="" if reading else " Nothing was stored.")
    translated.__cause__ = error
    return translated


_OF_CALLERS: list[tuple[type[Exception] | tuple[type[Exception], ...], str]] = [
    (asyncpg.QueryCanceledError, "a statement was cancelled, perhaps by the session's statement_timeout"),
    (asyncpg.LockNotAvailableError, "another transaction held the instance for longer than lock_timeout"),
    (asyncpg.ReadOnlySQLTransactionError, "its transaction is read-only: begin it READ WRITE, on the primary"),
    (
        (*_ENDS, asyncpg.InterfaceError, OSError),
        "it is lost, closed, or in use by another task: begin a new transaction on another connection",
    ),
]


def translate_callers(error: Exception, where: str) -> SagalogError:
    """Return the error of ours for what came of a caller's connection: the journal's own may be well."""
    translated: SagalogError | None = None
    name = type(error).__name__
    if isinstance(error, asyncpg.InFailedSQLTransactionError):  # for ever: nothing is done in it any more
        translated = DefinitionError(
            "the transaction on connection= has already failed, in a statement of yours: roll it back and begin another; "
            "nothing was stored"
        )
    for kind, what in _OF_CALLERS:
        if translated is None and isinstance(error, kind):
            translated = JournalUnavailableError(f"connection= to {where}: {what} ({name}). Nothing was stored.")
    if translated is None:
        return translate(error, where)
    translated.__cause__ = error
    return translated


@contextmanager
def on_callers_connection(where: str) -> Iterator[None]:
    """Tell what a caller's connection raises as `translate_callers` does."""
    try:
        yield
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        raise translate_callers(error, where) from error


def _translated(error: Exception, where: str, *, sent: bool, end: str) -> SagalogError:
    # The server's own words are left out: its details quote rows.
    name = type(error).__name__
    for kind, remedy in _REMEDIES:
        if isinstance(error, kind):
            denied = _DENIED.search(str(error))
            remedy = remedy.format(f" on {denied[1]}" if denied else "")
            return JournalUnavailableError(f"{where}: {remedy} ({name}).{end}")
    if isinstance(error, asyncpg.DataError):
        return InvalidEventError(f"{where} refuses a value ({name}).{end}")
    if isinstance(error, AGAIN):
        return JournalUnavailableError(f"{where}: other transactions were in the way ({name}): try again.{end}")
    if sent and (isinstance(error, _ENDS) or not isinstance(error, asyncpg.PostgresError)):
        return OutcomeUnknownError(f"{where}: the connection ended before the answer ({name}); it may be stored")
    if wrong := _of_tls(error):
        return JournalUnavailableError(f"{where}: {wrong}.{end}")
    if isinstance(error, TimeoutError):
        return JournalUnavailableError(f"{where} did not answer in time ({name}): check that it runs.{end}")
    if isinstance(error, asyncpg.QueryCanceledError):
        return JournalUnavailableError(
            f"{where} cancels statements ({name}): raise the statement_timeout of this user, database or server.{end}"
        )
    if isinstance(error, PASSING):
        return JournalUnavailableError(
            f"{where} cannot be reached ({name}): check that it runs, and the host and port.{end}"
        )
    return JournalUnavailableError(f"{where}: {name}.{end}")
