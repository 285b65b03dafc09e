"""The alerts and the Grafana dashboard ask for metrics and labels that are really exported."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from prometheus_client import Metric

from sagalog.telemetry.metrics import READ, TOLD

from ..telemetry.scraped import scraped
from .test_readme import ROOT

FOLDER = ROOT / "docs" / "operating"
ALERTS = yaml.safe_load((FOLDER / "alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
DASHBOARD = json.loads((FOLDER / "grafana.json").read_text())
# What Prometheus and the supervisor of several processes add to each series.
ADDED = {"job", "instance", "worker"}


@pytest.fixture(scope="module")
def families() -> dict[str, Metric]:
    return asyncio.run(scraped())


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
