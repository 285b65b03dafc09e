"""What callers may rely on, besides our own classes: the usual ones of Python."""

from __future__ import annotations

import pickle

import pytest

from sagalog import DefinitionError, MissingExtraError, OutcomeTimeoutError, RetryPolicy


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
