"""What the documentation, the alerts and the dashboard say of the metrics, read from their files."""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from result_aggregator_service import __version__
from result_aggregator_service.contracts.topics import CONSUMED, PUBLISHED
from result_aggregator_service.settings import Settings

CHECKOUT = Path(__file__).resolve().parents[3]
ALERTS = CHECKOUT / "deploy" / "alerts.yml"
DASHBOARD = CHECKOUT / "deploy" / "grafana" / "dashboards" / "result-aggregator-service.json"

_PAGE = (CHECKOUT / "docs" / "metrics.md").read_text()
#: What stands in the table of values for values that are not listed one by one.
_NAMED_SETS: Mapping[str, frozenset[str]] = {
    "an HTTP status": frozenset(str(status.value) for status in HTTPStatus),
    "a status's name": frozenset(status.name.lower() for status in HTTPStatus),
    "an allowed service": frozenset(Settings.model_fields["allowed_service_ids"].default),
    "a consumed topic": frozenset(CONSUMED),
    "a published topic": frozenset(PUBLISHED),
    "a version": frozenset([__version__]),
    "a number": frozenset(map(str, range(100))),
}


@dataclass(frozen=True)
class Family:
    """A metric by the name it is scraped under, with the names of its labels."""

    name: str
    type: str
    labels: tuple[str, ...]


def documented() -> dict[str, Family]:
    """The metrics that docs/metrics.md names."""
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) ?\| ", _PAGE, re.MULTILINE)
    return {name: Family(name, kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


def documented_values(routes: Iterable[str]) -> dict[tuple[str, str], frozenset[str]]:
    """The values that labels may have by docs/metrics.md, by metric and label."""
    named = {**_NAMED_SETS, "a route's name": frozenset(routes)}
    values: dict[tuple[str, str], frozenset[str]] = {}
    for label, metrics, told in re.findall(r"^\| `(\w+)` \| (`ras_.+?|`python_.+?) \| (.+) \|$", _PAGE, re.MULTILINE):
        allowed = frozenset(
            value for part in told.split(", ") for value in ([part.strip("`")] if part.startswith("`") else named[part])
        )
        for metric in re.findall(r"`(\w+)`", metrics):
            assert (metric, label) not in values, f"{label} of {metric} is told twice"
            values[metric, label] = allowed
    return values


@dataclass(frozen=True)
class Scrape:
    """What Prometheus would get: the families, their labels' values, and the names of all samples."""

    families: Mapping[str, Family]
    values: Mapping[tuple[str, str], frozenset[str]]
    samples: frozenset[str]


def read_scrape(exposition: str) -> Scrape:
    """An exposition in Prometheus's text format. A family without any sample has no labels."""
    families: dict[str, Family] = {}
    values: dict[tuple[str, str], set[str]] = {}
    samples: set[str] = set()
    for metric in text_string_to_metric_families(exposition):
        name = metric.name + ("_total" if metric.type == "counter" else "")
        labels = {label: None for sample in metric.samples for label in sample.labels if label != "le"}
        families[name] = Family(name, metric.type, tuple(labels))
        for sample in metric.samples:
            samples.add(sample.name)
            for label in labels:
                values.setdefault((name, label), set()).add(sample.labels[label])
    return Scrape(families, {place: frozenset(found) for place, found in values.items()}, frozenset(samples))


def alerts() -> list[dict[str, Any]]:
    """The rules of deploy/alerts.yml."""
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    """The dashboard."""
    board: dict[str, Any] = json.loads(DASHBOARD.read_text())
    return board


def expressions() -> Iterator[tuple[str, str]]:
    """Every query of the alerts and the dashboard, with the name of what asks it; Grafana's variables are filled in."""
    for rule in alerts():
        yield rule["alert"], rule["expr"]
    board = dashboard()
    for asked in (*board["annotations"]["list"], *board["panels"]):
        for target in asked.get("targets", [asked] if "expr" in asked else []):
            query = target["expr"].replace("$__rate_interval", "1m").replace("$instance", ".*")
            yield asked.get("title", asked.get("name")), query
    for variable in board["templating"]["list"]:
        yield variable["name"], re.sub(r"^label_values\((\w+), \w+\)$", r"\1", variable["definition"])


def metrics_of(expression: str) -> set[str]:
    """The names of the metrics that a query asks for, but those that Prometheus makes itself."""
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]|\b(by|without|on|ignoring)\s*\([^)]*\)|\boffset \w+", " ", expression)
    names = set(re.findall(r"\b[a-zA-Z_:][a-zA-Z0-9_:]*\b(?!\s*\()", bare))
    return names - {"and", "or", "unless", "up", "ALERTS"}
