"""The examples for Prometheus and Grafana: its own tool finds nothing wrong, and what they name is
really there."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from ..harness import EXAMPLE, ROOT, Master, get

MONITORING = ROOT / "examples" / "monitoring"
DASHBOARD: dict[str, Any] = json.loads((MONITORING / "grafana-dashboard.json").read_text())
ALERTS: dict[str, Any] = yaml.safe_load((MONITORING / "alerts.yml").read_text())
RULES = [rule for group in ALERTS["groups"] for rule in group["rules"]]
# What Prometheus itself adds to every scrape.
OWN = {"up"}


def promtool(*arguments: str, given: str | None = None) -> None:
    """Run promtool, which must have nothing to say against it."""
    result = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True,
                            cwd=MONITORING, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def panels() -> Iterator[dict[str, Any]]:
    yield from (panel for panel in DASHBOARD["panels"] if panel["type"] != "row")


def dashboard_queries() -> Iterator[str]:
    for panel in panels():
        yield from (target["expr"] for target in panel["targets"])
    yield from (annotation["expr"] for annotation in DASHBOARD["annotations"]["list"])


@pytest.fixture
def metrics(start: Callable[..., Master]) -> str:
    """The /metrics of a master with gunicorn workers that has done an upgrade and served a
    request."""
    master = start("-n", "2", "-b", "127.0.0.1:0", "-c", "shop", "--web", "127.0.0.1:0", "--labels",
                   "region=north", "--chdir", str(EXAMPLE), "--", "gunicorn", "app:wsgi")
    master.wait_ready()
    assert master.cli("upgrade", "--release", "3f2c1ab").returncode == 0
    assert get(master.address)[0] == 200
    status, text = get(master.web_address, "/metrics")
    assert status == 200
    return text


def test_the_rules_and_the_configuration_are_valid() -> None:
    promtool("check", "rules", "alerts.yml")
    promtool("check", "config", "prometheus.yml")


def test_every_alert_fires_when_it_should_and_not_before() -> None:
    promtool("test", "rules", "alerts_test.yml")
    tests = yaml.safe_load((MONITORING / "alerts_test.yml").read_text())["tests"]
    checks = [check for test in tests for check in test["alert_rule_test"]]
    for rule in RULES:
        outcomes = {
            bool(check["exp_alerts"]) for check in checks if check["alertname"] == rule["alert"]}
        assert outcomes == {True, False}, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_readme_names_every_alert() -> None:
    told = re.findall(r"^\| `(\w+)` \| (\w+) \|", (MONITORING / "README.md").read_text(),
                      re.MULTILINE)
    assert sorted(told) == sorted((rule["alert"], rule["labels"]["severity"]) for rule in RULES)


def test_the_queries_of_the_dashboard_are_promql(tmp_path: Path) -> None:
    rules = [{
        "record": f"query:{number}", "expr": re.sub(r"\$__rate_interval", "5m",
                                                    re.sub(r"\$(job|instance)\b", ".*", query))}
             for number, query in enumerate(dashboard_queries())]
    (tmp_path /
     "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(tmp_path / "rules.yml"))


def test_the_dashboard_can_be_imported_anywhere() -> None:
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    for each in [
            *panels(), *(target for panel in panels() for target in panel["targets"]),
            *DASHBOARD["annotations"]["list"], variables["job"], variables["instance"]]:
        assert each["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for query in dashboard_queries():
        assert set(re.findall(r"\$(\w+)", query)) <= {*variables, "__rate_interval"}
    assert "id" not in DASHBOARD
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    for one, other in combinations([panel["gridPos"] for panel in DASHBOARD["panels"]], 2):
        apart = (one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
                 or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"])
        assert apart, (one, other)
        assert one["x"] + one["w"] <= 24


def test_what_is_asked_for_exists(metrics: str) -> None:
    names = set(re.findall(r"^([a-z_]+)(?:\{.*\})? ", metrics, re.MULTILINE)) - {"#"}
    values: dict[str, set[str]] = {}
    for label, value in re.findall(r'([a-z_]+)="([^"]*)"', metrics):
        values.setdefault(label, set()).add(value)
    for query in [*dashboard_queries(), *(rule["expr"] for rule in RULES)]:
        asked = set(re.findall(r"\b(einhornpy_\w+|up)\b", query))
        assert asked, query
        assert asked - OWN <= names, query
        for label, wanted in re.findall(r'(\w+)=~?"([^"$]+)"', query):
            if label != "job":
                assert set(wanted.split("|")) <= values[label], query
        for label in re.findall(r"(?:by|without) \(([^)]*)\)", query):
            assert set(label.split(", ")) <= {*values, "instance", "job"}, query


def test_promtool_finds_nothing_to_say_of_our_metrics(metrics: str) -> None:
    promtool("check", "metrics", given=metrics)
