"""Every metric of the service. Label values are bounded: never an id, never a raw path.

Samples of counters with few possible labels are there from the start: an alert on a rate sees the first of each.
"""

import math
from collections.abc import Iterable
from itertools import product
from typing import Any

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

from result_aggregator_service import __version__
from result_aggregator_service.contracts.enums import Phase
from result_aggregator_service.contracts.topics import CONSUMED, PUBLISHED

# When each sample began is a third of a scrape's text, which the event loop has to write, and nothing reads it.
disable_created_metrics()  # type: ignore[no-untyped-call]

_FAST = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_SLOW = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_LAG = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)

_CACHE_TYPES = ("batch_status", "user_batches")
_CACHE_OPERATIONS = ("read", "store", "invalidate", "seen", "mark", "poison_pill")
_WRITES = ("project", "invalidate")
_READS = ("read_batch", "read_batch_version", "read_user_batches", "read_user_batches_versions")
_BREAKERS = ("kafka", "postgres", "redis")
_LOOPS = ("consumer", "grace", "relay", "housekeeping")
#: As `InvalidReason` of the consumer, which stands above this module, has them.
BAD_IN_THESE_WAYS = (
    "null_value",
    "too_large",
    "not_utf8",
    "not_json",
    "wrong_schema",
    "wrong_topic",
    "rejected_by_database",
    "unprocessable",
)


class Metrics:
    """One registry with everything in it; made once for each process (or test)."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry = registry or CollectorRegistry()

        # the API
        self.api_requests = Counter(
            "ras_api_requests", "Requests answered.", ["endpoint", "method", "status_code"], registry=registry
        )
        self.api_request_duration = Histogram(
            "ras_api_request_duration_seconds",
            "Time to answer a request.",
            ["endpoint", "method"],
            buckets=_FAST,
            registry=registry,
        )
        self.api_errors = Counter(
            "ras_api_errors", "Requests answered with an error.", ["endpoint", "error_type"], registry=registry
        )
        self.api_requests_by_service = Counter(
            "ras_api_requests_by_service",
            "Requests under /internal, by the allowed service that asked, or `unauthenticated`.",
            ["service", "status_class"],
            registry=registry,
        )
        self.api_key_uses = Counter(
            "ras_api_key_uses", "Requests let in, by their key's place in INTERNAL_API_KEY.", ["key"], registry=registry
        )

        # the consumer
        self.messages_processed = Counter(
            "ras_messages_processed",
            "Messages handled: folded, duplicate or quarantined.",
            ["topic", "result"],
            registry=registry,
        )
        self.message_processing_duration = Histogram(
            "ras_message_processing_duration_seconds",
            "Time from a poll's arrival to its commit, for the whole poll.",
            buckets=_FAST,
            registry=registry,
        )
        self.poll_records = Histogram(
            "ras_poll_records", "Messages in a poll.", buckets=(1, 5, 10, 50, 100, 250, 500, 1000), registry=registry
        )
        self.invalid_messages = Counter(
            "ras_invalid_messages", "Messages put into quarantine.", ["topic", "error_type"], registry=registry
        )
        self.consumer_errors = Counter(
            "ras_consumer_errors", "Polls that have to be tried again, and rebalances that cost one.", registry=registry
        )
        self.consumer_lag = Gauge(
            "ras_consumer_lag",
            "Messages not yet folded, of assigned partitions.",
            ["topic", "partition"],
            registry=registry,
        )
        self.consumer_group_lag = Gauge(
            "ras_consumer_group_lag",
            "Messages not yet folded by the whole group; NaN while that is not known.",
            registry=registry,
        )
        self.consumer_group_lag.set(math.nan)
        self.group_caught_up = Gauge(
            "ras_consumer_group_caught_up",
            "1 while no partition of the group lags by more than a poll; the clock of grace runs only then.",
            registry=registry,
        )
        self.quarantine_size = Gauge("ras_quarantine_size", "Messages in quarantine.", registry=registry)
        self.quarantine_messages = Gauge(
            "ras_quarantine_messages",
            "Messages in quarantine, by what is bad with them.",
            ["error_type"],
            registry=registry,
        )

        # the read model
        self.batches_aggregated = Counter("ras_batches_aggregated", "Batches that became finished.", registry=registry)
        self.essays_aggregated = Counter(
            "ras_essays_aggregated", "Essay results folded, by phase.", ["phase"], registry=registry
        )
        self.db_operations = Counter(
            "ras_db_operations", "Units of work on PostgreSQL.", ["operation", "status"], registry=registry
        )
        self.db_operation_duration = Histogram(
            "ras_db_operation_duration_seconds",
            "Time of a unit of work on PostgreSQL.",
            ["operation"],
            buckets=_FAST,
            registry=registry,
        )

        # the cache
        self.cache_hits = Counter("ras_cache_hits", "Answers from the cache.", ["cache_type"], registry=registry)
        self.cache_misses = Counter(
            "ras_cache_misses", "Answers that had to be made.", ["cache_type"], registry=registry
        )
        self.cache_errors = Counter(
            "ras_cache_errors", "Calls to Redis that failed or took too long.", ["operation"], registry=registry
        )
        self.cache_refreshes = Counter(
            "ras_cache_refreshes",
            "Answers made anew before their time was over: stored, not_stored or failed.",
            ["cache_type", "result"],
            registry=registry,
        )
        self.cache_samples = Counter(
            "ras_cache_samples",
            "Answers from the cache compared with the database: match, overtaken, mismatch or failed.",
            ["cache_type", "result"],
            registry=registry,
        )
        self.pending_invalidations = Gauge(
            "ras_pending_invalidations", "Invalidations that Redis has not taken yet.", registry=registry
        )

        # the outbox
        self.events_published = Counter(
            "ras_events_published", "Sends of outbox rows.", ["topic", "result"], registry=registry
        )
        self.outbox_retries = Counter(
            "ras_outbox_retries", "Sends of rows that had failed before.", ["topic"], registry=registry
        )
        self.outbox_depth = Gauge(
            "ras_outbox_depth", "Outbox rows not yet published, parked ones included.", registry=registry
        )
        self.outbox_parked = Gauge("ras_outbox_parked", "Outbox rows given up after their attempts.", registry=registry)
        self.outbox_oldest_age = Gauge(
            "ras_outbox_oldest_unpublished_age_seconds", "Age of the oldest unpublished outbox row.", registry=registry
        )
        self.outbox_publish_delay = Histogram(
            "ras_outbox_commit_to_ack_seconds",
            "Time from an outbox row's making to Kafka's acknowledgement.",
            buckets=_SLOW,
            registry=registry,
        )
        self.relay_active = Gauge(
            "ras_outbox_relay_active",
            "1 on the replica whose relay publishes; where they take turns, where the last try was let in.",
            registry=registry,
        )
        self.notification_projections = Counter(
            "ras_notification_projections", "Notifications projected from announcements.", ["result"], registry=registry
        )

        # the process
        self.circuit_breaker_state = Gauge(
            "ras_circuit_breaker_state", "0 closed, 1 half open, 2 open.", ["breaker"], registry=registry
        )
        self.dependency_up = Gauge(
            "ras_dependency_up",
            "1 if it was there when it was last asked: every five seconds, and by each probe.",
            ["dependency"],
            registry=registry,
        )
        self.loop_ok = Gauge(
            "ras_loop_ok", "1 while a background loop lives and gets on with its work.", ["loop"], registry=registry
        )
        self.task_deaths = Counter(
            "ras_background_task_deaths", "Background tasks that died.", ["task"], registry=registry
        )
        self.event_loop_lag = Histogram(
            "ras_event_loop_lag_seconds",
            "How late the event loop came to what was due.",
            buckets=_LAG,
            registry=registry,
        )
        self.event_loop_lag_max = Gauge(
            "ras_event_loop_lag_max_seconds", "The longest of these lags since the last scrape.", registry=registry
        )
        self.event_loop_busy_max = Gauge(
            "ras_event_loop_busy_max_seconds",
            "The most CPU time of the loop's own thread in one of these lags since the last scrape.",
            registry=registry,
        )
        self.build_info = Gauge("ras_build_info", "Always 1, of the version that runs.", ["version"], registry=registry)
        self.build_info.labels(__version__).set(1)
        self._begin()

    def _begin(self) -> None:
        """Make the samples that have to be there before there is anything to count."""
        _all(self.messages_processed, CONSUMED, ("folded", "duplicate", "quarantined"))
        _all(self.quarantine_messages, BAD_IN_THESE_WAYS)
        _all(self.essays_aggregated, Phase)
        _all(self.db_operations, _WRITES, ("done", "failed"))
        _all(self.db_operations, _READS, ("success", "error"))
        _all(self.cache_hits, _CACHE_TYPES)
        _all(self.cache_misses, _CACHE_TYPES)
        _all(self.cache_errors, _CACHE_OPERATIONS)
        _all(self.cache_refreshes, _CACHE_TYPES, ("stored", "not_stored", "failed"))
        _all(self.cache_samples, _CACHE_TYPES, ("match", "overtaken", "mismatch", "failed"))
        _all(self.events_published, PUBLISHED, ("published", "refused", "parked"))
        _all(self.outbox_retries, PUBLISHED)
        _all(self.notification_projections, ("projected", "already_announced"))
        _all(self.circuit_breaker_state, _BREAKERS)
        _all(self.task_deaths, (*_LOOPS, "database gate", "event loop lag", "group members", "operator's page"))


def tell_of_process(metrics: Metrics) -> None:
    """Add what there is to know of any process: memory, CPU, open files, garbage collection. Once for each registry."""
    ProcessCollector(registry=metrics.registry)
    GCCollector(registry=metrics.registry)


def _all(metric: Counter | Gauge, *values: Iterable[Any]) -> None:
    for labels in product(*values):
        metric.labels(*labels)
