"""What callers may rely on, besides our own classes: the usual ones of Python."""

from __future__ import annotations

import pickle

import pytest

from sagalog import (
    DefinitionError,
    InstanceFullError,
    JournalUnavailableError,
    KeyTakenError,
    MissingExtraError,
    NotAllReachedError,
    OutcomeTimeoutError,
    OutcomeUnknownError,
    PayloadTooLargeError,
    RetryPolicy,
    SagalogError,
)
from sagalog.brokers import in_order
from sagalog.web.problems import problem_of


@pytest.mark.parametrize(
    ("ours", "usual"),
    [(DefinitionError, ValueError), (MissingExtraError, ImportError), (OutcomeTimeoutError, TimeoutError)],
)
def test_an_error_of_ours_is_the_usual_one_of_python_too(ours: type[Exception], usual: type[Exception]) -> None:
    assert issubclass(ours, usual)


@pytest.mark.parametrize("error", [DefinitionError("no name"), MissingExtraError("pip install 'sagalog[nats]'")])
def test_it_says_the_same_after_it_was_pickled(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.args) == (type(error), str(error), error.args)


def test_a_wrong_setting_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="at least 1 attempt"):
        RetryPolicy(attempts=0)


@pytest.mark.parametrize(
    ("why", "goes_away", "status"),
    [
        (JournalUnavailableError("away"), True, 503),
        (InstanceFullError("parcel", "B", "Blocked", 2_000, 1_000), True, 503),
        (PayloadTooLargeError("Blocked", 2_000, 1_000), False, 413),
        (KeyTakenError("parcel", "B", "seat", "A"), False, 409),
    ],
)
def test_where_some_have_an_event_the_error_of_the_others_says_whether_to_try_again(
    why: SagalogError, goes_away: bool, status: int
) -> None:
    error = NotAllReachedError("parcel", "customer", "Blocked", 2, ("B",), why)
    assert isinstance(error, OutcomeUnknownError)
    assert in_order._goes_away(in_order.Arrival(None, None), error) is goes_away  # type: ignore[arg-type]
    problem = problem_of(error)
    assert (problem.status, problem.error) == (status, "NotAllReachedError")
    assert problem.detail.startswith("2 of the instances that it is for have stored it")
