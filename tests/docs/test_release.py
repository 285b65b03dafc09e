"""The version stands in one place; what repeats it for people says the same."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import sagalog

ROOT = Path(__file__).parents[2]


def test_the_version_stands_in_one_place_and_all_pages_agree() -> None:
    version = sagalog.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert "version" not in project["project"]
    assert project["tool"]["hatch"]["version"]["path"] == "src/sagalog/__init__.py"
    assert f"version: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.M)[0].split()[0] == version
    assert f"\n## {version}\n" in (ROOT / "docs" / "upgrading.md").read_text()


def test_the_upgrade_notes_name_only_what_there_is_now() -> None:
    """Each argument in the right column is one of something public."""
    now = [
        row.split("|")[2] for row in (ROOT / "docs" / "upgrading.md").read_text().splitlines() if row.startswith("| `")
    ]
    named = {name for cell in now for name in re.findall(r"(\w+)=", cell)}
    reference = "".join(page.read_text() for page in (ROOT / "src" / "sagalog").rglob("*.py"))
    assert len(named) > 20
    assert {name for name in named if not re.search(rf"\b{name}: timedelta", reference)} == set()


def test_what_a_repository_shows_its_visitors_is_there() -> None:
    for name in (
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "CITATION.cff",
        "SECURITY.md",
        "CONTRIBUTING.md",
        "CODE_OF_CONDUCT.md",
    ):
        assert (ROOT / name).stat().st_size > 300, name
    for name in (
        "ISSUE_TEMPLATE/bug.yml",
        "ISSUE_TEMPLATE/idea.yml",
        "ISSUE_TEMPLATE/config.yml",
        "DISCUSSION_TEMPLATE/q-a.yml",
        "DISCUSSION_TEMPLATE/ideas.yml",
        "PULL_REQUEST_TEMPLATE.md",
    ):
        assert (ROOT / ".github" / name).is_file(), name


def test_each_cell_of_the_comparison_leads_to_what_says_so() -> None:
    """A page of the other project, or one of ours: those are there, and their code runs in the tests."""
    table = [row for row in (ROOT / "docs" / "comparison.md").read_text().splitlines() if row.startswith("| ")][2:]
    assert len(table) > 12
    for row in table:
        label, *cells = [cell.strip() for cell in row[1:-1].split("|")]
        assert len(cells) == 6, label
        for cell in cells:
            targets = re.findall(r"\]\(([^)]+)\)", cell)
            assert targets, f"{label}: {cell!r} has no link"
            for target in targets:
                if not target.startswith("https://"):
                    assert (ROOT / "docs" / target.partition("#")[0]).resolve().exists(), f"{label}: {target}"
