"""Errors as a sender is told of them: problem details (RFC 9457), without payloads, secrets, or how it looks inside.

| status | what the sender does |
| --- | --- |
| 400, 413, 415, 422 | mends the request |
| 401 | signs it |
| 404, 410 | asks for something else |
| 409 | nothing: as things stand, the event is refused |
| 408, 429, 503 | sends the same again, under the same id, after `Retry-After` |
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from ..errors import (
    AlreadyStartedError,
    ConflictError,
    InstanceFullError,
    InvalidEventError,
    JournalUnavailableError,
    KeyTakenError,
    NoInstanceError,
    NotAllReachedError,
    OutcomeGoneError,
    OutcomeTimeoutError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    RunnerStoppedError,
    SagalogError,
    SagaParkedError,
    TooManyKeptError,
    UnexpectedEventError,
)
from ..logs import about, log, trace_of
from .signatures import SignatureError

PROBLEM = "application/problem+json"
_AGAIN = "send it again under the same message id"


class Problem(msgspec.Struct, frozen=True, omit_defaults=True):
    """What is answered instead of a result. `error`: the class of the error; `retry_seconds`: when to try again.

    `events`: of a batch, what became of each event.
    """

    status: int
    detail: str
    error: str = ""
    retry_seconds: int | None = None
    headers: dict[str, str] = {}
    events: list[dict[str, Any]] | None = None

    def shown(self) -> dict[str, Any]:
        """Return what its body says."""
        return {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            **({"error": self.error} if self.error else {}),
            **({"events": self.events} if self.events is not None else {}),
        }

    def response(self) -> Response:
        """Return it as a response."""
        headers = {"cache-control": "no-store", **self.headers}
        if self.retry_seconds is not None:
            headers["retry-after"] = str(self.retry_seconds)
        return Response(msgspec.json.encode(self.shown()), self.status, headers, PROBLEM)


class ProblemError(Exception):
    """Ends a request with a problem."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.status, problem.detail)
        self.problem = problem


def refuse(status: int, detail: str, **more: Any) -> ProblemError:
    """Return what is raised to answer with a problem."""
    return ProblemError(Problem(status, detail, **more))


# The message of these errors names the saga, the id and what to do, and is told as it is.
_AS_THEY_ARE: Mapping[type[SagalogError], tuple[int, int | None]] = {
    PayloadTooLargeError: (413, None),
    InvalidEventError: (422, None),
    SignatureError: (401, None),
    NoInstanceError: (409, None),
    AlreadyStartedError: (409, None),
    UnexpectedEventError: (409, None),
    KeyTakenError: (409, None),
    TooManyKeptError: (503, 30),
    InstanceFullError: (503, 60),
    OutcomeGoneError: (410, None),
}
# The message of these tells of servers, operators or our own code, which is for the log.
_IN_OTHER_WORDS: Mapping[type[SagalogError], tuple[int, int, str]] = {
    JournalUnavailableError: (503, 5, f"the journal does not answer; nothing was stored: {_AGAIN}"),
    OutcomeUnknownError: (503, 5, f"the journal did not say whether it is stored: {_AGAIN}"),
    ConflictError: (503, 1, f"other writers were faster, and nothing was stored: {_AGAIN}"),
    RunnerStoppedError: (503, 5, f"this process is stopping, or is not ready yet; nothing was stored: {_AGAIN}"),
    SagaParkedError: (503, 60, f"this saga waits for an operator; nothing was stored: {_AGAIN} later"),
    OutcomeTimeoutError: (503, 5, "the saga has not ended yet; ask again later"),
}


def problem_of(error: Exception, *, asked: bool = False) -> Problem:
    """Return how an error is told. `asked`: something was asked for, and no event was sent."""
    if isinstance(error, ProblemError):
        return error.problem
    if isinstance(error, HTTPException):  # raised by a function of the application
        return Problem(error.status_code, error.detail, headers=dict(error.headers or {}))
    name = type(error).__name__
    if isinstance(error, NotAllReachedError):
        of = problem_of(error.why)
        words = f"{error.stored:,} of the instances that it is for have stored it, but others could not: {_AGAIN}"
        log.warning("a request was answered with %d: %s: %s", of.status, name, error, extra=about())
        return Problem(of.status, words, name, of.retry_seconds)
    for kind in type(error).__mro__:
        if kind in _AS_THEY_ARE:
            status, retry_seconds = _AS_THEY_ARE[kind]
            if asked and isinstance(error, NoInstanceError):
                status = 404
            return Problem(status, str(error), name, retry_seconds)
        if kind in _IN_OTHER_WORDS:
            status, retry_seconds, words = _IN_OTHER_WORDS[kind]
            log.warning("a request was answered with %d: %s: %s", status, name, error, extra=about())
            return Problem(status, words, name, retry_seconds)
    log.error("a request failed: %s", name, exc_info=trace_of(error), extra=about())
    shown = name if isinstance(error, SagalogError) else ""
    return Problem(500, "this failed; it is not known whether anything was stored, and the log says more", shown)


async def answer_error(_: Request, error: Exception) -> Response:
    """Answer a request whose endpoint raised an error of ours: a handler for `add_exception_handler`."""
    return problem_of(error).response()


def problem_handlers() -> dict[int | type[Exception], Callable[[Request, Any], Coroutine[Any, Any, Response]]]:
    """Return exception handlers for Starlette and FastAPI: Sagalog's errors become problem details.

    `app = FastAPI(exception_handlers=problem_handlers())`
    """
    return {SagalogError: answer_error, ProblemError: answer_error}
