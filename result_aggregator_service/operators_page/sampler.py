"""Takes a sample of the service every few seconds and keeps the last fifteen minutes of them for the operator's page.

Invariant: whoever reads them waits for no server, and what is not known now is shown as such, never as an old value.
"""

import asyncio
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

import structlog
from prometheus_client.metrics import MetricWrapperBase

from result_aggregator_service.api.health import DependencyHealth, HealthSource
from result_aggregator_service.observability.metrics import Metrics
from result_aggregator_service.operators_page.history import UNKNOWN, History
from result_aggregator_service.operators_page.members import GroupMembers
from result_aggregator_service.operators_page.verdict import Seen, Verdict, judge
from result_aggregator_service.resilience.circuit_breaker import BreakerState
from result_aggregator_service.settings import Settings

SECONDS_BETWEEN_SAMPLES = 5.0
SAMPLES_KEPT = 180
_SAMPLES_OF_A_PACE = 12  # one minute: polls come in jolts
_SAMPLES_OF_A_STANDSTILL = 3

SERIES = ("lag", "handled", "published", "reads", "hit_rate", "outbox_depth", "outbox_age", "quarantine")

_log = structlog.get_logger(__name__)


class Sampler:
    """Its `run` samples; `document` is what the page is made of."""

    def __init__(
        self,
        settings: Settings,
        metrics: Metrics,
        source: HealthSource,
        members: GroupMembers,
        *,
        seconds_between_samples: float = SECONDS_BETWEEN_SAMPLES,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._source = source
        self._members = members
        self._seconds = seconds_between_samples
        self._started = time.time()
        self._history = History(SERIES, size=SAMPLES_KEPT)
        self._counted: Mapping[str, float] = {}
        self._counted_at = 0.0
        self._servers: dict[str, tuple[bool, float]] = {}
        self._quarantined: Mapping[str, float] | None = None
        self._verdict = judge(Seen(away={}))

    async def run(self) -> None:
        """Sample until cancelled."""
        while True:
            self.take(await self._probe(), at=time.time(), monotonic=time.monotonic())
            await asyncio.sleep(self._seconds)

    async def _probe(self) -> Mapping[str, DependencyHealth]:
        try:
            return await self._source.dependencies()
        except Exception:  # noqa: BLE001 - an answer that a probe does not understand ends no service
            _log.warning("servers_not_probed", exc_info=True)
            return {}

    def take(self, probed: Mapping[str, DependencyHealth], *, at: float, monotonic: float) -> None:
        """Take one sample; the servers' states were just probed. `at` is a Unix time, both are in seconds."""
        before = self._servers
        self._servers = {
            name: before[name] if name in before and before[name][0] == state.ok else (state.ok, at)
            for name, state in probed.items()
        }
        rates = self._rates(monotonic)
        asked = rates["hits"] + rates["misses"]
        known_to_kafka = self._is_there("kafka")
        known_to_database = self._is_there("postgres") and self._is_there("migrations")
        metrics = self._metrics
        self._history.add(
            at,
            {
                "lag": _value(metrics.consumer_group_lag) if known_to_kafka else UNKNOWN,
                "handled": rates["handled"],
                "published": rates["published"],
                "reads": rates["reads"],
                "hit_rate": 100 * rates["hits"] / asked if asked > 0 else UNKNOWN,
                "outbox_depth": _value(metrics.outbox_depth) if known_to_database else UNKNOWN,
                "outbox_age": _value(metrics.outbox_oldest_age) if known_to_database else UNKNOWN,
                "quarantine": _value(metrics.quarantine_size) if known_to_database else UNKNOWN,
            },
        )
        self._quarantined = (
            {labels["error_type"]: value for labels, value in _samples(metrics.quarantine_messages) if value}
            if known_to_database
            else None
        )
        self._verdict = self._judge()

    def document(self, *, after: int = 0) -> dict[str, Any]:
        """The samples after that number, and how things are now. No ids, no addresses, no texts of errors."""
        metrics = self._metrics
        return {
            "started": self._started,
            "now": time.time(),
            "version": self._settings.service_version,
            "seconds_between_samples": self._seconds,
            "last": self._history.last,
            "times": self._history.times(after=after),
            "series": self._history.series(after=after),
            "verdict": {"tone": self._verdict.tone, "text": self._verdict.text, "since": self._verdict.since},
            "servers": {name: {"ok": ok, "since": since} for name, (ok, since) in self._servers.items()},
            "loops": {name: {"ok": loop.ok, "detail": loop.detail} for name, loop in self._source.loops().items()},
            "breakers": {
                labels["breaker"]: BreakerState(int(value)).name.lower().replace("_", " ")
                for labels, value in _samples(metrics.circuit_breaker_state)
            },
            "members": self._members.count if self._is_there("kafka") else None,
            "relay_active": _value(metrics.relay_active) == 1,
            "parked": _value(metrics.outbox_parked) if self._is_there("postgres") else None,
            "quarantined": self._quarantined,
        }

    def _is_there(self, server: str) -> bool:
        return self._servers.get(server, (False, 0.0))[0]

    def _rates(self, monotonic: float) -> Mapping[str, float]:
        """What was counted since the last sample, a second."""
        metrics = self._metrics
        counted = {
            "handled": _sum(metrics.messages_processed),
            "published": _sum(metrics.events_published, result="published"),
            "reads": _sum(metrics.api_requests_by_service),
            "hits": _sum(metrics.cache_hits),
            "misses": _sum(metrics.cache_misses),
        }
        before, seconds = self._counted, monotonic - self._counted_at
        self._counted, self._counted_at = counted, monotonic
        return {name: (now - before[name]) / seconds if before else UNKNOWN for name, now in counted.items()}

    def _judge(self) -> Verdict:
        after = self._history.last - _SAMPLES_OF_A_PACE - 1
        times, series = self._history.times(after=after), self._history.series(after=after)
        lags = [(at, lag) for at, lag in zip(times, series["lag"], strict=True) if not math.isnan(lag)]
        catching_up = UNKNOWN
        if len(lags) > 1:
            (begun, first), (ended, last) = lags[0], lags[-1]
            catching_up = (first - last) / max(ended - begun, 0.001)
        return judge(
            Seen(
                away={name: since for name, (ok, since) in self._servers.items() if not ok},
                stuck_loops=[name for name, loop in self._source.loops().items() if not loop.ok],
                lag=series["lag"][-1],
                catching_up=catching_up,
                standstill=stands_still(series["lag"], series["handled"]),
                one_poll=self._settings.kafka_max_poll_records,
                waiting=series["outbox_depth"][-1],
                parked=_value(self._metrics.outbox_parked),
                oldest_seconds=series["outbox_age"][-1],
            )
        )


def stands_still(lags: Sequence[float], handled: Sequence[float]) -> bool:
    """Whether messages wait and nobody handles any: none here, and the group's lag does not shrink either."""
    if len(lags) < _SAMPLES_OF_A_STANDSTILL:
        return False
    lags, handled = lags[-_SAMPLES_OF_A_STANDSTILL:], handled[-_SAMPLES_OF_A_STANDSTILL + 1 :]
    return lags[0] > 0 and all(after >= before for before, after in pairwise(lags)) and not any(handled)


def _samples(metric: MetricWrapperBase) -> Iterator[tuple[Mapping[str, str], float]]:
    """The labels and values of a counter or gauge."""
    for family in metric.collect():
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                yield sample.labels, sample.value


def _sum(metric: MetricWrapperBase, **labels: str) -> float:
    """Over all samples that have these labels."""
    return sum(value for has, value in _samples(metric) if labels.items() <= has.items())


def _value(metric: MetricWrapperBase) -> float:
    """Of a metric without labels."""
    return next(value for _, value in _samples(metric))
