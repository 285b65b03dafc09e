"""What the monitoring page shows is run; the alerts and the dashboard ask for metrics that are really exported.

The tables of the page are made from the code: SAGALOG_WRITE_DOCS=1 writes them anew.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import Metric

from sagalog.telemetry.prometheus import READ, TOLD, table

from ..cli.test_health import address, wait_for
from ..cli.test_worker import worker
from ..telemetry.scraped import scraped
from .test_readme import DATE, ROOT, run

PAGE = ROOT / "docs" / "operating" / "monitoring.md"
TEXT = PAGE.read_text()
ALERTS = yaml.safe_load((PAGE.parent / "alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((PAGE.parent / "grafana.json").read_text())
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.S)
SCRIPTS = {code.partition("\n")[0].removeprefix("# "): code for language, code in BLOCKS if language == "python"}
# What Prometheus and the supervisor of several processes add to each series.
ADDED = {"job", "instance", "worker"}


@pytest.fixture(scope="module")
def families() -> dict[str, Metric]:
    return asyncio.run(scraped())


# The snippets.


@pytest.mark.parametrize("name", [name for name in SCRIPTS if name != "shop.py"])
def test_the_snippet_prints_what_the_page_says(name: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(SCRIPTS["shop.py"])
    (tmp_path / name).write_text(SCRIPTS[name])
    done = run(tmp_path, sys.executable, name)
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


# The tables, made from the code.


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


# Alerts and dashboard.


def _expressions() -> Iterator[tuple[str, str]]:
    for rule in RULES:
        yield rule["alert"], rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            yield panel["title"], target["expr"]


EXPRESSIONS = list(_expressions())


def _series(families: dict[str, Metric]) -> dict[str, set[str]]:
    """Return the labels of every series, by the name that an expression would use."""
    found: dict[str, set[str]] = {}
    for family in families.values():
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


@pytest.mark.parametrize("expression", [e for _, e in EXPRESSIONS], ids=[f"{n}: {e[:30]}" for n, e in EXPRESSIONS])
def test_an_expression_asks_for_series_and_labels_that_are_exported(
    families: dict[str, Metric], expression: str
) -> None:
    series = _series(families)
    assert expression.count("(") == expression.count(")")
    names = re.findall(r"\bsagalog_\w+", expression)
    assert names
    labels: set[str] = set()
    for name in names:
        assert name in series, f"{name} is not exported"
        labels = series[name] if not labels else labels & series[name]
    for grouped in re.findall(r"\bby \(([^)]*)\)", expression):
        for label in filter(None, (label.strip() for label in grouped.split(","))):
            assert label in labels | ADDED, f"{label} is no label of {', '.join(names)}"
    known = {metric.name: metric for metric in (*TOLD, *READ)}
    for name, matchers in re.findall(r"\b(sagalog_\w+){([^}]*)}", expression):
        for label, value in re.findall(r'(\w+)=~?"([^"]*)"', matchers):
            assert label in series[name] | ADDED
            if label == "outcome":
                for outcome in value.split("|"):
                    assert re.search(rf"\b{outcome}\b", known[name].help), f"{name} has no outcome {outcome}"
    for name in names:  # a counter is looked at through its rate, or a restart would be an event
        if known.get(name, READ[0]).kind == "counter":
            assert re.search(rf"(rate|increase)\({name}\b", expression), f"{name} is a counter"


def test_every_metric_is_on_the_dashboard_and_no_place_is_taken_twice() -> None:
    shown = " ".join(expression for panel in DASHBOARD["panels"] for expression in _targets(panel))
    for metric in (*TOLD, *READ):
        assert re.search(rf"\b{metric.name}(_bucket|_sum|_count)?\b", shown), f"{metric.name} is on no panel"
    places = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & places, panel["title"]
        assert max(x for x, _ in cells) < 24
        places |= cells
        assert panel["description"]
        assert panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "saga"]


def _targets(panel: dict[str, Any]) -> list[str]:
    return [target["expr"] for target in panel["targets"]]


def test_legends_and_annotations_name_labels_that_their_expression_leaves() -> None:
    for rule in RULES:
        left = set(re.findall(r"by \(([^)]*)\)", rule["expr"])[0].split(", ")) if "by (" in rule["expr"] else set()
        for text in rule["annotations"].values():
            assert set(re.findall(r"{{ \$labels\.(\w+) }}", text)) <= left, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["alert"].startswith("Sagalog")
    for panel in DASHBOARD["panels"]:
        for target in panel["targets"]:
            left = {label for labels in re.findall(r"by \(([^)]*)\)", target["expr"]) for label in labels.split(", ")}
            named = set(re.findall(r"{{(\w+)}}", target["legendFormat"]))
            assert named <= left | ADDED, panel["title"]


def test_commands_that_alerts_recommend_exist() -> None:
    from sagalog.cli.group import COMMANDS

    named = {command for rule in RULES for command in re.findall(r"sagalog (\w+)", rule["annotations"]["description"])}
    assert named
    assert named <= set(COMMANDS)
