"""The arithmetic of a measurement: percentiles of one slice, and what several slices say together. Pure."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Self


@dataclass(frozen=True, slots=True)
class Slice:
    """What came of asking for a short while. Latencies are in seconds, from sending to the last byte of the answer."""

    requests: int
    seconds: float
    p50: float
    p99: float
    cpu_seconds: float

    @property
    def requests_per_second(self) -> float:
        """How fast the answers came."""
        return self.requests / self.seconds


@dataclass(frozen=True, slots=True)
class Spread:
    """The median of some values, with the least and the most of them."""

    median: float
    least: float
    most: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Self:
        """Of at least one value."""
        return cls(median(values), min(values), max(values))


@dataclass(frozen=True, slots=True)
class Figures:
    """What several slices of one thing say: each the median over the slices, so that one disturbed slice decides
    nothing. CPU is the server's own process only, background work included."""

    requests: int
    requests_per_second: Spread
    p50_ms: Spread
    p99_ms: Spread
    cpu_seconds_per_1000: float

    @classmethod
    def of(cls, slices: Sequence[Slice]) -> Self:
        """Of at least one slice in which something was answered."""
        requests = sum(each.requests for each in slices)
        return cls(
            requests=requests,
            requests_per_second=Spread.of([each.requests_per_second for each in slices]),
            p50_ms=Spread.of([each.p50 * 1000 for each in slices]),
            p99_ms=Spread.of([each.p99 * 1000 for each in slices]),
            cpu_seconds_per_1000=1000 * sum(each.cpu_seconds for each in slices) / requests,
        )


def percentile(ordered: Sequence[float], percent: float) -> float:
    """The smallest of the values (in ascending order) that at least `percent` of them do not exceed: nearest rank."""
    return ordered[max(math.ceil(len(ordered) * percent / 100), 1) - 1]


def ratio(slices: Sequence[Slice], beside: Sequence[Slice]) -> Spread:
    """How fast one was, as a share of the other, slice by slice: each pair was taken one right after the other."""
    pairs = zip(slices, beside, strict=True)
    return Spread.of([one.requests_per_second / other.requests_per_second for one, other in pairs])
