"""What the pages call `sagalog.something` is there, and open to users."""

from __future__ import annotations

import importlib
import re
from inspect import ismodule
from pathlib import Path

import pytest

import sagalog
from sagalog import MissingExtraError

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMED = re.compile(r"`(sagalog(?:\.[A-Za-z_]+)+)")
OPEN = re.findall(r"`(sagalog[a-z.]*)`", (sagalog.__doc__ or "").partition("without notice:")[2])
PUBLIC = {name.split(".")[1] for name in OPEN if "." in name}
IMPORTED = re.compile(r"^ *from (sagalog[\w.]*) import (\([^)]*\)|[^\n]*)|^ *import (sagalog[\w.]*)", re.M)
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
            try:
                importlib.import_module(path)
            except MissingExtraError as error:
                pytest.skip(str(error))
        found = getattr(found, part)


def imports() -> list[tuple[str, str, str]]:
    found = []
    for page in [*PAGES, *sorted((ROOT / "docs").rglob("*.py"))]:
        text = page.read_text()
        code = text if page.suffix == ".py" else "\n".join(re.findall(r"```python\n(.*?)```", text, re.S))
        for module, names, alone in IMPORTED.findall(code):
            for name in re.findall(r"\w+", re.sub(r"#.*| as \w+", "", names)) or [""]:
                found.append((page.relative_to(ROOT).as_posix(), module or alone, name))
    return sorted(set(found))


@pytest.mark.parametrize(("page", "module", "name"), imports())
def test_a_page_imports_only_what_is_open_to_users(page: str, module: str, name: str) -> None:
    assert module in OPEN, f"{page} imports {module}"
    assert not name or name in importlib.import_module(module).__all__, f"{page} imports {name} from {module}"


@pytest.mark.parametrize("module", [name for name in OPEN if name != "sagalog.mypy"])
def test_what_a_public_module_names_is_there(module: str) -> None:
    try:
        found = importlib.import_module(module)
    except MissingExtraError as error:
        pytest.skip(str(error))
    for name in found.__all__:
        assert hasattr(found, name), f"{module} has no {name}"


@pytest.mark.parametrize("module", ["sagalog", "sagalog.journal", "sagalog.testing"])
def test_a_public_module_holds_no_name_that_it_does_not_name(module: str) -> None:
    found = importlib.import_module(module)
    names = {name for name, value in vars(found).items() if not name.startswith("_") and not ismodule(value)}
    assert names <= set(found.__all__)
