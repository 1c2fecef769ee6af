"""The last samples of some series, in memory that does not grow: numbers in arrays that are written round and round."""

import math
from array import array
from collections.abc import Mapping, Sequence

UNKNOWN = math.nan


class History:
    """Samples are numbered from 1 on; `size` of them are kept. What a sample does not name is unknown in it (NaN)."""

    def __init__(self, names: Sequence[str], *, size: int) -> None:
        self._size = size
        self._times = self._empty()
        self._series = {name: self._empty() for name in names}
        self.last = 0

    def add(self, at: float, values: Mapping[str, float]) -> None:
        """Keep a sample, taken at a Unix time in seconds, in the place of the oldest one."""
        place = self.last % self._size
        self._times[place] = at
        for name, kept in self._series.items():
            kept[place] = values.get(name, UNKNOWN)
        self.last += 1

    def times(self, *, after: int = 0) -> list[float]:
        """When the samples after that number were taken, the oldest first."""
        return self._since(self._times, after)

    def series(self, *, after: int = 0) -> dict[str, list[float]]:
        """The values of the samples after that number, by series, the oldest first."""
        return {name: self._since(kept, after) for name, kept in self._series.items()}

    def _since(self, kept: "array[float]", after: int) -> list[float]:
        first = max(after, self.last - self._size, 0)
        return [kept[number % self._size] for number in range(first, self.last)]

    def _empty(self) -> "array[float]":
        return array("d", [UNKNOWN]) * self._size
