"""What the monitoring page shows is run, and its tables are what the code has.

The tables of the page are made from the code: SAGALOG_WRITE_DOCS=1 writes them anew.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from sagalog.telemetry.metrics import table

from ..cli.test_health import address, wait_for
from ..cli.test_worker import worker
from .test_readme import DATE, ROOT, run, run_program

PAGE = ROOT / "docs" / "operating" / "monitoring.md"
TEXT = PAGE.read_text()
ALERTS = yaml.safe_load((PAGE.parent / "alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.S)
SCRIPTS = {code.partition("\n")[0].removeprefix("# "): code for language, code in BLOCKS if language == "python"}


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "shop.py"])
def test_the_snippet_prints_what_the_page_says(name: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SCRIPTS["shop.py"])
    (tmp_path / name).write_text(SCRIPTS[name])
    done = run_program(tmp_path, name)
    assert done.returncode == 0, done.stderr
    (expected,) = re.findall(rf"```python\n# {name}\n.*?```\n\n```(?:text|json)\n(.*?)```", TEXT, re.S)
    printed = re.sub(rf"{DATE},\d+", "DATE", done.stdout + done.stderr)
    assert printed == re.sub(rf"{DATE},\d+", "DATE", expected)


def test_a_worker_answers_as_the_page_says(tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SCRIPTS["shop.py"])
    (command,) = re.findall(r"```sh\nsagalog (worker shop.+)\n```", TEXT)
    (console,) = [code for language, code in BLOCKS if language == "console"]
    port = "127.0.0.1:8080"
    assert port in command

    def sagalog(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run(tmp_path, sys.executable, "-m", "sagalog", *arguments)

    with worker(tmp_path, *command.replace(port, "127.0.0.1:0").split()[1:]) as process:
        where = address(process)
        wait_for(sagalog, 0, where)
        for asked, expected in re.findall(r"\$ sagalog (.+)\n(.+\n)", console):
            assert sagalog(*asked.replace(port, where).split()).stdout == expected


def test_the_probes_for_kubernetes_ask_for_paths_that_there_are() -> None:
    (manifest,) = [yaml.safe_load(code) for language, code in BLOCKS if language == "yaml"]
    (container,) = manifest["containers"]
    assert container["command"][:2] == ["sagalog", "worker"]
    assert container["command"][-2] == "--http"
    paths = {name: container[name]["httpGet"]["path"] for name in container if name.endswith("Probe")}
    assert paths == {"startupProbe": "/ready", "livenessProbe": "/live", "readinessProbe": "/ready"}
    assert {container[name]["httpGet"]["port"] for name in paths} == {container["ports"][0]["name"]}


def _metrics() -> str:
    lines = ["| metric | labels | meaning |", "| --- | --- | --- |"]
    for name, kind, labels, meaning in table():
        lines.append(f"| `{name}` ({kind}) | {labels} | {meaning} |")
    return "\n".join(lines)


def _alerts() -> str:
    lines = ["| alert | severity | means | then |", "| --- | --- | --- | --- |"]
    for rule in RULES:
        summary = re.sub(r"{{ \$labels\.(\w+) }}", r"(\1)", rule["annotations"]["summary"])
        description = rule["annotations"]["description"]
        lines.append(f"| `{rule['alert']}` | {rule['labels']['severity']} | {summary} | {description} |")
    return "\n".join(lines)


@pytest.mark.parametrize(("name", "made"), [("metrics", _metrics()), ("alerts", _alerts())])
def test_the_table_on_the_page_is_what_the_code_has(name: str, made: str) -> None:
    block = re.compile(rf"(<!-- {name}: [^\n]*-->\n).*?(<!-- end of {name} -->)", re.S)
    text = PAGE.read_text()
    whole = block.sub(lambda found: f"{found[1]}{made}\n{found[2]}", text)
    if os.environ.get("SAGALOG_WRITE_DOCS"):
        PAGE.write_text(whole)
    assert block.search(text)
    assert text == whole, "write it anew with SAGALOG_WRITE_DOCS=1"
