from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sagalog.operating.json_diff import ABSENT, Change, changes

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(0, 3) | st.sampled_from("ab"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["a", "b", "c d"]), inner, max_size=3),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": 1, "b": 2}, {"b": 3, "c": 4}, [("a", 1, ABSENT), ("b", 2, 3), ("c", ABSENT, 4)]),
        ({"lines": [{"sku": "x", "n": 1}]}, {"lines": [{"sku": "x", "n": 2}]}, [("lines[0].n", 1, 2)]),
        ({"log": ["a", "b"]}, {"log": ["a", "b", "c"]}, [("log[2]", ABSENT, "c")]),
        ({"log": ["a", "b", "c"]}, {"log": ["b", "c"]}, [("log[0]", "a", ABSENT)]),
        ({"x": 1}, {"x": True}, [("x", 1, True)]),
        ([{"a": False}], [{"a": 0}], [("[0].a", False, 0)]),
        ({"x": []}, {"x": {}}, [("x", [], {})]),
        ({"a b": 1}, {"a b": 2}, [("['a b']", 1, 2)]),
        (ABSENT, {"a": 1}, [("", ABSENT, {"a": 1})]),
        (1, 2, [("", 1, 2)]),
    ],
)
def test_changes_name_the_path_and_both_values(before: Any, after: Any, expected: list[Any]) -> None:
    assert changes(before, after) == [Change(*one) for one in expected]


@given(JSON, JSON)
def test_there_are_changes_exactly_where_values_differ(before: Any, after: Any) -> None:
    assert bool(changes(before, after)) == (repr(before) != repr(after) and _unordered(before) != _unordered(after))
    assert changes(before, before) == []


def _unordered(value: Any) -> Any:
    if isinstance(value, dict):
        return ("dict", sorted((name, repr(_unordered(one))) for name, one in value.items()))
    if isinstance(value, list):
        return ("list", [_unordered(one) for one in value])
    return (type(value).__name__, value)


def test_a_value_nested_beyond_measure_is_one_change() -> None:
    def nested(leaf: int) -> Any:
        value: Any = leaf
        for _ in range(5000):
            value = [value]
        return value

    deep = nested(1)
    other = changes([deep, 1], [deep, 2])
    assert [change.path for change in other] == ["[1]"]
