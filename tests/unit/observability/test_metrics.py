"""The metrics by the names and labels that the platform's dashboards know."""

import re
from pathlib import Path

from prometheus_client import generate_latest

from result_aggregator_service.consumer.decoder import InvalidReason
from result_aggregator_service.observability.metrics import BAD_IN_THESE_WAYS, Metrics, tell_of_process
from tests.unit.observability.watched import documented, documented_values, read_scrape

# Specification, section 8.
PROMISED = {
    "ras_api_requests_total": ("endpoint", "method", "status_code"),
    "ras_api_request_duration_seconds": ("endpoint", "method"),
    "ras_api_errors_total": ("endpoint", "error_type"),
    "ras_messages_processed_total": ("topic", "result"),
    "ras_message_processing_duration_seconds": (),
    "ras_invalid_messages_total": ("topic", "error_type"),
    "ras_consumer_errors_total": (),
    "ras_cache_hits_total": ("cache_type",),
    "ras_cache_misses_total": ("cache_type",),
    "ras_db_operations_total": ("operation", "status"),
    "ras_db_operation_duration_seconds": ("operation",),
    "ras_batches_aggregated_total": (),
    "ras_essays_aggregated_total": ("phase",),
}
#: Labels whose values are few by their nature. A new label is to be judged before it is added here.
BOUNDED = {
    "endpoint", "method", "status_code", "error_type", "topic", "partition", "result", "cache_type", "operation",
    "status", "phase", "breaker", "task", "service", "status_class", "key", "dependency", "loop", "version",
}  # fmt: skip


def labels_by_name(metrics: Metrics) -> dict[str, tuple[str, ...]]:
    """Each metric's labels, by the name it is scraped under."""
    found: dict[str, tuple[str, ...]] = {}
    for metric in vars(metrics).values():
        if hasattr(metric, "_labelnames"):
            (family,) = metric.describe()
            found[family.name + ("_total" if family.type == "counter" else "")] = tuple(metric._labelnames)
    return found


def test_every_promised_metric_is_there_with_its_labels() -> None:
    found = labels_by_name(Metrics())
    assert {name: found.get(name) for name in PROMISED} == PROMISED


def test_the_rest_of_what_is_promised_can_be_seen_too() -> None:
    names = " ".join(labels_by_name(Metrics()))
    promised = ("consumer_lag", "events_published", "outbox_depth", "oldest_unpublished", "commit_to_ack")
    outbox = ("outbox_retries", "outbox_parked", "relay_active")
    for word in (*promised, *outbox, "notification_projections", "circuit_breaker_state", "quarantine_size"):
        assert word in names, word


def test_the_page_on_operating_tells_every_metric_of_the_outbox_with_its_labels() -> None:
    page = (Path(__file__).parents[3] / "docs" / "operating.md").read_text()
    for name, labels in labels_by_name(Metrics()).items():
        if "_outbox_" in name or name == "ras_events_published_total":
            told = f"`{name}{{{','.join(labels)}}}`" if labels else f"`{name}`"
            assert told in page


def test_no_label_could_hold_an_id_or_a_path() -> None:
    for name, labels in labels_by_name(Metrics()).items():
        assert set(labels) <= BOUNDED, name


def test_every_metric_has_the_services_prefix_and_says_what_it_is() -> None:
    for line in generate_latest(Metrics().registry).decode().splitlines():
        if line.startswith("# HELP"):
            assert re.fullmatch(r"# HELP ras_\w+ \S.*\.", line), line


def test_the_page_on_metrics_tells_all_of_them_and_no_others_with_their_types_and_labels() -> None:
    metrics = Metrics()
    found = {
        name: (family.type, family.labels)
        for name, family in documented().items()
        if not name.startswith(("process_", "python_"))
    }
    types = {
        name: family.type for name, family in read_scrape(generate_latest(metrics.registry).decode()).families.items()
    }
    assert found == {name: (types[name], labels) for name, labels in labels_by_name(metrics).items()}


def test_the_page_on_metrics_tells_the_values_of_every_label() -> None:
    labels = {(family.name, label) for family in documented().values() for label in family.labels}
    assert labels == documented_values(routes=()).keys()


def test_what_a_rate_has_to_see_from_the_start_is_there_with_every_value_that_is_told() -> None:
    values = documented_values(routes=())
    begun = read_scrape(generate_latest(Metrics().registry).decode()).values
    for metric in ("messages_processed", "essays_aggregated", "db_operations", "cache_hits", "cache_misses"):
        assert (f"ras_{metric}_total", *labels_by_name(Metrics())[f"ras_{metric}_total"][:1]) in begun
    for place in begun:
        assert begun[place] == values[place], place


def test_what_makes_a_message_bad_is_told_by_the_decoders_names() -> None:
    assert tuple(InvalidReason) == BAD_IN_THESE_WAYS


def test_memory_and_processor_time_are_told_once() -> None:
    metrics = Metrics()
    tell_of_process(metrics)
    for name in ("process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds"):
        assert (metrics.registry.get_sample_value(name) or 0) > 0


def test_two_sets_of_metrics_do_not_disturb_each_other() -> None:
    one, other = Metrics(), Metrics()
    one.batches_aggregated.inc()
    assert one.registry.get_sample_value("ras_batches_aggregated_total") == 1
    assert other.registry.get_sample_value("ras_batches_aggregated_total") == 0


def test_times_are_measured_in_seconds() -> None:
    for name in labels_by_name(Metrics()):
        assert not name.endswith(("_ms", "_minutes", "_milliseconds")), name
