"""What the pages of the site show is run, and whatever is open to users has a page.

SAGALOG_WRITE_DOCS=1 writes anew what the programs print.
"""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from msgspec.structs import fields

import sagalog
from sagalog import MissingExtraError, RetryPolicy, RunnerSettings, Saga, SagalogError
from sagalog.cli.group import COMMANDS
from sagalog.logs import about
from sagalog.telemetry.metrics import table
from scripts.flowchart import Flowchart

from ..dashboard.serving import chromium
from .test_names import OPEN
from .test_readme import ROOT, run, run_program

DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
PROGRAM = re.compile(r"```python\n((?:(?!```).)*)```\n\n```text\n(.*?)```", re.S)
RUN = [page for folder in ("how-to", "explanation", "coming-from") for page in sorted((DOCS / folder).glob("*.md"))]
# Each program once: the pages of `coming-from` show the same one. What an outside library runs there was run by hand.
PROGRAMS = [
    pytest.param(page, number, id=f"{page.stem}-{number}")
    for page, number in {
        shown: (page, number)
        for page in RUN
        for number, shown in enumerate(PROGRAM.findall(page.read_text()))
        if page.parent.name != "coming-from" or "import sagalog" in shown[0] or "from sagalog" in shown[0]
    }.values()
]
CONTENTS = (DOCS / "README.md").read_text()
ERRORS = (REFERENCE / "errors.md").read_text()
NAMED = set(re.findall(r"^\| `([\w.]+)` \|", "\n".join(page.read_text() for page in REFERENCE.glob("*.md")), re.M))


@pytest.mark.parametrize(("page", "number"), PROGRAMS)
def test_a_program_prints_what_stands_below_it(page: Path, number: int, tmp_path: Path) -> None:
    code, expected = PROGRAM.findall(page.read_text())[number]
    (tmp_path / "shown.py").write_text(code)
    done = run_program(tmp_path, "shown.py")
    assert done.returncode == 0, done.stderr
    if os.environ.get("SAGALOG_WRITE_DOCS") and done.stdout != expected:
        found = list(PROGRAM.finditer(page.read_text()))[number]
        page.write_text(page.read_text()[: found.start(2)] + done.stdout + page.read_text()[found.end(2) :])
        expected = done.stdout
    assert done.stdout == expected


@pytest.mark.parametrize("page", RUN, ids=lambda page: page.stem)
def test_what_is_not_run_is_at_least_valid(page: Path) -> None:
    text = page.read_text()
    for code in re.findall(r"```python\n(.*?)```", text, re.S):
        compile(code, page.name, "exec")
    for code in re.findall(r"```yaml\n(.*?)```", text, re.S):
        yaml.safe_load(code)


def test_the_reference_is_what_the_code_has() -> None:
    done = run(ROOT, sys.executable, "scripts/reference_pages.py", "--check", PYTHONPATH=str(ROOT / "src"))
    assert done.returncode == 0, f"run scripts/reference_pages.py: {done.stdout}{done.stderr}"


@pytest.mark.parametrize("module", [name for name in OPEN if name != "sagalog.mypy"])
def test_each_public_name_is_in_the_reference(module: str) -> None:
    try:
        found = importlib.import_module(module)
    except MissingExtraError as error:
        pytest.skip(str(error))
    known = {name.rpartition(".")[2] for name in NAMED} | set(re.findall(r"^## (\w+)", ERRORS, re.M))
    missing = [name for name in found.__all__ if f"{module}.{name}" not in NAMED and name not in known]
    assert not missing, f"add them to a list of names in docs/reference: {', '.join(missing)}"


def _errors(cls: type[BaseException]) -> set[type[BaseException]]:
    return {cls}.union(*(_errors(one) for one in cls.__subclasses__()))


def test_each_error_says_what_it_means_and_what_to_do() -> None:
    sections = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", ERRORS, re.M | re.S))
    for error in _errors(SagalogError):
        public = error.__module__ == "sagalog.errors" or error.__name__ in sagalog.__all__
        if public and error is not SagalogError:
            section = sections.get(error.__name__, "")
            assert "**Means:**" in section, f"docs/reference/errors.md says nothing of {error.__name__}"
            assert "**Do:**" in section, f"docs/reference/errors.md says not what to do about {error.__name__}"


def test_each_setting_has_a_line_and_so_has_each_attribute_of_a_saga() -> None:
    text = (REFERENCE / "settings.md").read_text()
    for field in (*fields(RunnerSettings), *fields(RetryPolicy)):
        assert re.search(rf"^\| `{field.name}` \| \S", text, re.M), field.name
    made = {"phase_table", "has_joins", "activities", "numberings", "key_table", "waits", "automatic"}  # with the class
    for name in Saga.__annotations__.keys() - made:
        assert name.startswith("_") or f"| `{name}` |" in text, f"scripts/reference_pages.py explains no {name}"


def test_each_variable_of_the_environment_has_a_line() -> None:
    text = (REFERENCE / "settings.md").read_text()
    read = {name for file in (ROOT / "src").rglob("*.py") for name in re.findall(r"SAGALOG_[A-Z_]+", file.read_text())}
    for name in read - {"SAGALOG_SUPERVISOR"}:  # between the processes of one worker
        assert re.search(rf"^\| `{name}` \| \S", text, re.M), name


def test_each_command_has_a_section() -> None:
    assert set(re.findall(r"^## ([\w-]+)", (REFERENCE / "command-line.md").read_text(), re.M)) == set(COMMANDS)


def test_each_metric_and_each_field_of_a_log_record_has_a_line() -> None:
    text = (DOCS / "operating" / "monitoring.md").read_text()
    for name, *_ in table():
        assert f"`{name}`" in text
    for field in about():
        assert f"`{field}`" in text.partition("## Logs")[2]


@pytest.mark.parametrize(
    "page", [page for page in sorted(DOCS.rglob("*.md")) if page.parent.name != "design"], ids=lambda page: page.stem
)
def test_a_page_stands_in_the_contents(page: Path) -> None:
    path = page.relative_to(DOCS).as_posix()
    assert path == "README.md" or f"]({path})" in CONTENTS, f"docs/README.md, the site's navigation, has no {path}"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocs", reason="requirements/docs.txt is not installed")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_the_site_is_built_without_a_warning(site: Path) -> None:
    assert "Durable sagas for Python" in (site / "index.html").read_text()
    assert "iframe-worker.js" in (site / "operating" / "monitoring.html").read_text()


@pytest.mark.filterwarnings("default::ResourceWarning")
async def test_search_works_on_files_without_a_network(site: Path) -> None:
    async with chromium() as browser:
        context = await browser.new_context(offline=True)
        page = await context.new_page()
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        await page.goto((site / "index.html").as_uri())
        await page.fill(".md-search__input", "compensation failed")
        result = page.locator(".md-search-result__item a").first
        await result.wait_for(timeout=20_000)
        assert (await result.get_attribute("href") or "").startswith("file:")
    assert not [url for url in asked if not url.startswith(("file:", "data:", "blob:"))]


@pytest.mark.parametrize(
    ("text", "boxes", "arrows"),
    [
        ("flowchart LR\n  a --> b & c --> d", {"a": 0, "b": 1, "c": 1, "d": 2}, 4),
        ('flowchart LR\n  a --> s((saga)) -- "0 9 1 * *" --> b --> s --> c', {"a": 0, "s": 1, "b": 2, "c": 2}, 4),
        ("flowchart LR\n  s -. 15 minutes .-> b --> s", {"s": 0, "b": 1}, 2),
        (
            'flowchart LR\n  a["A"]:::event\n  b[/"B"/]\n  a -->|"sends"| b\n  classDef event fill:#fff',
            {"a": 0, "b": 1},
            1,
        ),
        ("stateDiagram-v2\n  [*] --> A\n  A --> B: Paid", {"[*]": 0, "A": 1, "B": 2}, 2),
    ],
)
def test_a_flowchart_is_drawn(text: str, boxes: dict[str, int], arrows: int) -> None:
    chart = Flowchart(text)
    assert (chart.columns, len(chart.arrows)) == (boxes, arrows)
    assert chart.svg().count('class="box"') == len(boxes)
    assert chart.svg().count('class="arrow"') == arrows
