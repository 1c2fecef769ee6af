"""Alerts and dashboard: the rules fire when they should, and whoever is woken finds what to do."""

import re
import shutil
import subprocess
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.servers import leave_out_for
from tests.unit.observability.watched import ALERTS, CHECKOUT, alerts, dashboard, expressions, metrics_of

RUNBOOK = (CHECKOUT / "docs" / "runbook.md").read_text()
CASES = Path(__file__).with_name("alerts_test.yml")
PANELS = dashboard()["panels"]


def promtool(*arguments: str | Path) -> None:
    """Run promtool, which is to be content."""
    found = shutil.which("promtool")
    leave_out_for(None if found else "promtool is missing (apt-get install prometheus)")
    assert found is not None
    done = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_each_alert_fires_when_it_should_and_only_then() -> None:
    promtool("test", "rules", CASES)


def test_each_alert_is_tried_both_ways() -> None:
    tried: dict[str, set[bool]] = {}
    for test in yaml.safe_load(CASES.read_text())["tests"]:
        for case in test["alert_rule_test"]:
            tried.setdefault(case["alertname"], set()).add(bool(case["exp_alerts"]))
    assert tried == {rule["alert"]: {True, False} for rule in alerts()}


def test_prometheus_takes_its_configuration_with_the_rules() -> None:
    promtool("check", "config", CHECKOUT / "deploy" / "prometheus.yml")
    assert yaml.safe_load((CHECKOUT / "deploy" / "prometheus.yml").read_text())["rule_files"] == [ALERTS.name]


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    rules = [{"record": f"query_{number}", "expr": query} for number, (_, query) in enumerate(expressions())]
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]}))
    promtool("check", "rules", "--lint=none", tmp_path / "rules.yml")


@pytest.mark.parametrize("rule", alerts(), ids=lambda rule: rule["alert"])
def test_an_alert_says_how_bad_it_is_and_where_the_runbook_tells_of_it(rule: dict[str, Any]) -> None:
    assert rule["labels"]["severity"] in ("critical", "warning")
    assert rule["annotations"]["summary"]
    assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
    [section] = re.findall(rf"^### {rule['alert']}\n(.+?)(?=^##|\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    assert section.strip().startswith(f"`{rule['labels']['severity']}`.")
    assert "**Look at**" in section
    assert "**Do**" in section


def test_the_runbook_tells_of_no_alert_that_there_is_not() -> None:
    assert sorted(re.findall(r"^### (\w+)$", RUNBOOK, re.MULTILINE)) == sorted(rule["alert"] for rule in alerts())


def test_panels_lie_beside_each_other_and_have_ids_of_their_own() -> None:
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24, panel["title"]
    for one, other in combinations(PANELS, 2):
        assert not _overlap(one["gridPos"], other["gridPos"]), (one["title"], other["title"])


def _overlap(one: dict[str, int], other: dict[str, int]) -> bool:
    return all(
        one[start] < other[start] + other[size] and other[start] < one[start] + one[size]
        for start, size in (("x", "w"), ("y", "h"))
    )


@pytest.mark.parametrize("panel", [panel for panel in PANELS if panel["type"] != "row"], ids=lambda p: p["title"])
def test_a_panel_says_what_it_shows_of_the_replicas_that_are_chosen(panel: dict[str, Any]) -> None:
    datasources = yaml.safe_load((CHECKOUT / "deploy/grafana/provisioning/datasources/prometheus.yml").read_text())
    assert panel["description"].endswith(".")
    assert panel["datasource"]["uid"] in [source["uid"] for source in datasources["datasources"]]
    if panel["type"] in ("timeseries", "stat"):
        assert panel["fieldConfig"]["defaults"]["unit"]
    for target in panel["targets"]:
        assert target["datasource"] == panel["datasource"]
        if metrics_of(target["expr"]):
            assert target["expr"].count('instance=~"$instance"') == len(re.findall(r"\{", target["expr"]))


def test_what_a_query_asks_for_is_found_in_it() -> None:
    query = 'sum by (a, le) (rate(m_bucket{l="x"}[5m])) / m_count offset 5m > 1e3 and on (b) vector(0) or up'
    assert metrics_of(query) == {"m_bucket", "m_count"}
