"""How the source is laid out: one thing for each name, no headings in comments."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = sorted((ROOT / "src" / "sagalog").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def test_no_two_classes_have_one_name() -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for path in SOURCE:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name.lstrip("_")].append(path.relative_to(ROOT).as_posix())
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_no_comment_is_a_heading() -> None:
    """A comment between two empty lines, or one that is drawn with lines: there the file is to be cut."""
    found = []
    for path in [*SOURCE, *TESTS]:
        lines = ["", *path.read_text().splitlines(), ""]
        for number, (before, line, after) in enumerate(zip(lines, lines[1:], lines[2:], strict=False), 1):
            text = line.strip()
            alone = text.startswith("# ") and not before.strip() and not after.strip()
            if alone or re.match(r"#\s*[-=~─━*#]{3}", text):
                found.append(f"{path.relative_to(ROOT)}:{number}: {text}")
    assert found == []


@pytest.mark.parametrize("package", ["runner", "decision"])
def test_the_map_of_a_package_names_each_of_its_files_once(package: str) -> None:
    folder = ROOT / "src" / "sagalog" / package
    text = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    lines = re.findall(r"^ {4}([a-z_]+) {2,}([a-z_, ]+)$", text, re.MULTILINE)
    named = [name for first, others in lines for name in (first, *others.split(", "))]
    assert sorted(named) == sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")
