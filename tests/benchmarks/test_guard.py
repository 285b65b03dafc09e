"""The guard's verdict. That it finds a dearer step, `python -m benchmarks guard --plant` shows: no timing in tests."""

from __future__ import annotations

import pytest

from benchmarks.guard import verdict


@pytest.mark.parametrize(
    ("now", "known", "good"),
    [
        (1.2, 1.0, True),
        (1.3, 1.0, False),
        (0.5, 1.0, True),
        (1.0, 0.0, False),  # something appeared where nothing was: a driver that is imported
        (0.0, 0.0, True),
    ],
)
def test_the_guard_fails_on_what_is_more_than_a_quarter_worse(
    now: float, known: float, good: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert verdict({"step": now}, {"step": known}, 0.25) is good
    assert ("WORSE" in capsys.readouterr().out) is not good


def test_the_guard_lets_a_measure_pass_that_has_no_baseline_yet(capsys: pytest.CaptureFixture[str]) -> None:
    assert verdict({"step": 1.0}, {}, 0.25)
    assert "new" in capsys.readouterr().out
