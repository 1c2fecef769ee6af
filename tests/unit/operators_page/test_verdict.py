"""The sentence on top of the operator's page: the worst that is known decides it."""

import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from result_aggregator_service.operators_page.verdict import SINCE, Seen, Tone, judge

WELL = Seen(away={}, lag=0.0, catching_up=0.0, waiting=0.0, parked=0.0, oldest_seconds=0.0)


@pytest.mark.parametrize(
    ("seen", "tone", "text"),
    [
        ({}, Tone.WELL, "All is well: teachers get results as they come."),
        ({"lag": 1000.0}, Tone.WELL, "All is well: teachers get results as they come."),
        (
            {"lag": 12_340.0, "catching_up": 50.0},
            Tone.WATCH,
            "Behind by 12,340 messages, catching up at 50/s: about 4 min left.",
        ),
        ({"lag": 172.0, "standstill": True}, Tone.WATCH, "172 messages wait, none is handled."),
        ({"lag": 1.0, "standstill": True}, Tone.WATCH, "1 message waits, none is handled."),
        ({"lag": 5000.0, "catching_up": 0.2}, Tone.WATCH, "Behind by 5,000 messages, and not catching up."),
        ({"lag": 5000.0, "catching_up": -40.0}, Tone.WATCH, "Behind by 5,000 messages, and 40/s more."),
        (
            {"lag": 5000.0, "catching_up": math.nan},
            Tone.WATCH,
            "Behind by 5,000 messages, how fast that shrinks is not known yet.",
        ),
        (
            {"waiting": 7.0, "parked": 2.0, "oldest_seconds": 7300.0},
            Tone.WATCH,
            "Results can be read, but 7 announcements wait to be sent, the oldest for 2 h; 2 of them are parked and "
            "need you.",
        ),
        (
            {"waiting": 1.0, "oldest_seconds": 61.0},
            Tone.WATCH,
            "Results can be read, but 1 announcement waits to be sent, the oldest for 61 s.",
        ),
        ({"lag": math.nan}, Tone.UNKNOWN, "It is not known yet how far behind the service is."),
        (
            {"stuck_loops": ["relay"]},
            Tone.BAD,
            "Not all work gets done here: relay does not get on. Nothing is lost.",
        ),
    ],
)
def test_what_is_seen_is_said_in_one_sentence(seen: dict[str, object], tone: Tone, text: str) -> None:
    verdict = judge(dataclasses.replace(WELL, **seen))  # type: ignore[arg-type]
    assert (verdict.tone, verdict.text, verdict.since) == (tone, text, None)


@pytest.mark.parametrize(
    ("server", "tone"),
    [("postgres", Tone.BAD), ("migrations", Tone.BAD), ("kafka", Tone.BAD), ("redis", Tone.WATCH)],
)
def test_a_server_that_is_away_is_named_with_the_time(server: str, tone: Tone) -> None:
    verdict = judge(dataclasses.replace(WELL, away={server: 1700.0}))
    assert (verdict.tone, verdict.since) == (tone, 1700.0)
    assert (SINCE in verdict.text) is (server != "migrations")


_NUMBERS = st.one_of(st.just(math.nan), st.floats(0, 1e9))


@given(
    away=st.dictionaries(st.sampled_from(["postgres", "migrations", "kafka", "redis"]), st.floats(0, 2e9)),
    stuck=st.lists(st.sampled_from(["consumer", "relay"]), unique=True),
    lag=_NUMBERS,
    catching_up=st.one_of(st.just(math.nan), st.floats(-1e9, 1e9)),
    standstill=st.booleans(),
    waiting=_NUMBERS,
    parked=_NUMBERS,
    oldest=_NUMBERS,
)
def test_there_is_always_a_verdict_and_all_is_well_only_where_nothing_is_wrong(
    away: dict[str, float],
    stuck: list[str],
    lag: float,
    catching_up: float,
    standstill: bool,
    waiting: float,
    parked: float,
    oldest: float,
) -> None:
    verdict = judge(
        Seen(
            away,
            stuck,
            lag=lag,
            catching_up=catching_up,
            standstill=standstill,
            waiting=waiting,
            parked=parked,
            oldest_seconds=oldest,
        )
    )
    assert verdict.text.endswith(".")
    if verdict.tone is Tone.WELL:
        assert not away
        assert not stuck
        assert not standstill
        assert lag <= 1000
        assert not oldest > 60
