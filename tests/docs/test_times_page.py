"""The pages about recurring times, answers in time and joins are run, and print what they say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from .test_pages import blocks
from .test_readme import run


def test_the_subscription_comes_when_the_page_says(tmp_path: Path) -> None:
    pytest.importorskip("cronsim", reason="an environment from before it was pinned: make test brings it")
    (code,) = blocks("recurring-times.md", "python")
    (expected,) = blocks("recurring-times.md", "text")
    (tmp_path / "subscription.py").write_text(code)
    done = run(tmp_path, sys.executable, "subscription.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected


def test_the_supplier_is_answered_as_the_page_says(tmp_path: Path) -> None:
    (code,) = blocks("answers-in-time.md", "python")
    (expected,) = blocks("answers-in-time.md", "text")
    (tmp_path / "supplier.py").write_text(code)
    done = run(tmp_path, sys.executable, "supplier.py")
    assert done.returncode == 0, done.stderr
    assert done.stdout == expected


def test_the_order_is_ready_when_the_page_says(tmp_path: Path) -> None:
    for number, (code, expected) in enumerate(
        zip(blocks("joins.md", "python"), blocks("joins.md", "text"), strict=True)
    ):
        (tmp_path / f"joined{number}.py").write_text(code)
        done = run(tmp_path, sys.executable, f"joined{number}.py")
        assert done.returncode == 0, done.stderr
        assert done.stdout == expected
