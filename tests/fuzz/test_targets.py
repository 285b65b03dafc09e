"""The decoders hold against a small corpus, against any bytes, and against changed bytes of what is valid."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .targets import TARGETS

CORPUS = {name: sorted((Path(__file__).parent / "corpus" / name).iterdir()) for name in TARGETS}
QUICK = settings(
    deadline=timedelta(seconds=5), print_blob=True, suppress_health_check=[HealthCheck.too_slow], max_examples=150
)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_withstands_its_corpus(name: str) -> None:
    assert CORPUS[name], f"there is nothing in tests/fuzz/corpus/{name}"
    for path in CORPUS[name]:
        TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_withstands_any_bytes(name: str) -> None:
    QUICK(given(st.binary(max_size=400))(TARGETS[name]))()


edits = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.binary(min_size=1, max_size=4)), max_size=4)


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_withstands_changes_of_what_is_valid(name: str) -> None:
    valid = st.sampled_from([path.read_bytes() for path in CORPUS[name]])

    @QUICK
    @given(valid, edits)
    def changed(data: bytes, changes: list[tuple[float, int, bytes]]) -> None:
        for place, removed, added in changes:
            at = int(place * len(data))
            data = data[:at] + added + data[at + removed :]
        TARGETS[name](data)

    changed()
