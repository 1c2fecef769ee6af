"""Whether teachers get results now, in one sentence: the worst that is known decides it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

#: Announcements that wait for longer than this are told of. A relay that is replaced may take 11 s.
LONG_WAIT_SECONDS = 60.0

#: Stands in a sentence for the time that is told beside it: only the browser knows the reader's time zone.
SINCE = "{since}"


class Tone(StrEnum):
    """How bad it is."""

    WELL = "well"
    WATCH = "watch"
    BAD = "bad"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Verdict:
    """A sentence; where it holds `SINCE`, `since` is that moment as a Unix time in seconds."""

    tone: Tone
    text: str
    since: float | None = None


@dataclass(frozen=True, slots=True)
class Seen:
    """What a verdict rests on. Numbers that are not known are NaN.

    `away` says since when (Unix time) a server does not answer. `lag` is the group's, in messages, and `catching_up` by
    how many a second it shrank lately; at a `standstill` nobody handles what waits. Waiting announcements are rows of
    the outbox.
    """

    away: Mapping[str, float]
    stuck_loops: Sequence[str] = ()
    lag: float = math.nan
    catching_up: float = math.nan
    standstill: bool = False
    one_poll: int = 1000
    waiting: float = math.nan
    parked: float = math.nan
    oldest_seconds: float = math.nan


def judge(seen: Seen) -> Verdict:
    """The verdict on what was seen."""
    for server, text in _AWAY.items():
        if server in seen.away:
            return Verdict(Tone.BAD, text, seen.away[server])
    if seen.stuck_loops:
        loops = " and ".join(seen.stuck_loops)
        return Verdict(Tone.BAD, f"Not all work gets done here: {loops} does not get on. Nothing is lost.")
    if seen.standstill:
        return Verdict(
            Tone.WATCH, f"{seen.lag:,.0f} {_plural(seen.lag, 'message waits', 'messages wait')}, none is handled."
        )
    if seen.lag > seen.one_poll:
        return Verdict(Tone.WATCH, f"Behind by {seen.lag:,.0f} messages, {_pace(seen)}.")
    if seen.oldest_seconds > LONG_WAIT_SECONDS:
        parked = f"; {seen.parked:,.0f} of them are parked and need you" if seen.parked > 0 else ""
        many = _plural(seen.waiting, "announcement waits", "announcements wait")
        return Verdict(
            Tone.WATCH,
            f"Results can be read, but {seen.waiting:,.0f} {many} to be sent, the oldest for "
            f"{_duration(seen.oldest_seconds)}{parked}.",
        )
    if "redis" in seen.away:
        text = f"Teachers get results, only slower: Redis is away since {SINCE}."
        return Verdict(Tone.WATCH, text, seen.away["redis"])
    if math.isnan(seen.lag):
        return Verdict(Tone.UNKNOWN, "It is not known yet how far behind the service is.")
    return Verdict(Tone.WELL, "All is well: teachers get results as they come.")


_AWAY = {
    "postgres": f"PostgreSQL is away since {SINCE}: nothing is lost, polls wait, only what is cached can be read.",
    "migrations": "The database lacks migrations: run `alembic upgrade head`. Nothing is lost, polls wait.",
    "kafka": f"Kafka is away since {SINCE}: nothing is lost, what is known can be read, new results wait.",
}


def _pace(seen: Seen) -> str:
    if math.isnan(seen.catching_up):
        return "how fast that shrinks is not known yet"
    if seen.catching_up < 1:
        return "and not catching up" if seen.catching_up > -1 else f"and {-seen.catching_up:,.0f}/s more"
    return f"catching up at {seen.catching_up:,.0f}/s: about {_duration(seen.lag / seen.catching_up)} left"


def _plural(number: float, one: str, many: str) -> str:
    return one if number == 1 else many


def _duration(seconds: float) -> str:
    """In the largest unit of which there are at least two, or in seconds."""
    for unit, length in (("days", 86_400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.0f} {unit}"
    return f"{seconds:.0f} s"
