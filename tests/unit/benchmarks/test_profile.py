"""How stacks become kinds of work."""

import pytest

from benchmarks.profile import kind_of, shares, stacks_of

_LOOP = "run (asyncio/runners.py:118);_run_once (asyncio/base_events.py:1936);"
_POLL = f"{_LOOP}run (result_aggregator_service/consumer/consumer.py:10);"


@pytest.mark.parametrize(
    ("stack", "kind"),
    [
        (f"{_POLL}decode (result_aggregator_service/consumer/decoder.py:71);f (pydantic/main.py:1)", "decode"),
        (f"{_POLL}getmany (aiokafka/consumer/consumer.py:1);write (asyncio/selector_events.py:1)", "Kafka client"),
        (f"{_POLL}fold (result_aggregator_service/domain/fold.py:5)", "fold"),
        (f"{_POLL}to_row (result_aggregator_service/domain/facets.py:69);<listcomp> (x.py:1)", "SQL: rows"),
        (
            f"{_POLL}execute (result_aggregator_service/storage/session.py:1);f (asyncpg/connection.py:1)",
            "SQL: the d",
        ),
        (f"{_LOOP}send (result_aggregator_service/publishing/relay.py:1);str (uuid.py:1)", "relay"),
        (f"{_LOOP}publish (result_aggregator_service/publishing/event_publisher.py:1)", "announcements"),
        (f"{_LOOP}select (selectors.py:468)", "event loop"),
        ("worker (somewhere.py:1)", "other"),
    ],
)
def test_a_stack_is_what_its_innermost_telling_frame_is(stack: str, kind: str) -> None:
    assert kind_of(stack).startswith(kind)


def test_shares_are_of_all_samples_and_the_largest_comes_first() -> None:
    raw = f"{_LOOP}select (selectors.py:468) 1\n{_LOOP}f (aiokafka/client.py:1) 2\n{_LOOP}g (aiokafka/conn.py:1) 1\n"
    found = shares(stacks_of(raw))
    assert list(found.values()) == [0.75, 0.25]
    assert next(iter(found)) == "Kafka client"
