"""What the pages call `sagalog.something` is there, and open to users."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = re.compile(r"`(sagalog(?:\.[A-Za-z_]+)+)")
PUBLIC = {"testing", "conformance", "dashboard", "telemetry", "mypy", "journal"}  # the last for authors of journals
NOT_PYTHON = {"sagalog.journals", "sagalog.saga", "sagalog.instance", "sagalog.record", "sagalog.sagas"}


def names() -> list[tuple[str, str]]:
    return sorted(
        {(page.relative_to(ROOT).as_posix(), name) for page in PAGES for name in NAMED.findall(page.read_text())}
    )


@pytest.mark.parametrize(("page", "name"), names())
def test_a_name_on_a_page_is_there_and_public(page: str, name: str) -> None:
    if name in NOT_PYTHON:
        return
    _, *parts = name.split(".")
    found, path = importlib.import_module("sagalog"), "sagalog"
    if parts[0] not in PUBLIC:
        assert parts[0] in found.__all__, f"{page} names {name}"
    for part in parts:
        path = f"{path}.{part}"
        if not hasattr(found, part):
            importlib.import_module(path)
        found = getattr(found, part)
