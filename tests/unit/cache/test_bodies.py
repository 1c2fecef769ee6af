"""Which bodies a process keeps: the last of each place, as far as there is room."""

from hypothesis import given
from hypothesis import strategies as st

from result_aggregator_service.cache.bodies import Bodies, Body


def of(etag: str, size: int = 1) -> Body:
    return Body(etag, etag[:1].encode() * size)


def test_the_last_body_of_a_place_is_kept() -> None:
    bodies = Bodies()
    assert bodies.get("place") is None
    bodies.keep("place", of("a"))
    bodies.keep("place", of("b"))
    bodies.keep("other", of("c"))
    assert (bodies.get("place"), bodies.get("other")) == (of("b"), of("c"))


def test_the_one_that_nobody_asked_for_longest_makes_room() -> None:
    bodies = Bodies(max_bytes=10)
    for name in "abc":
        bodies.keep(name, of(name, 3))
    bodies.get("a")
    bodies.keep("d", of("d", 3))
    assert [name for name in "abcd" if bodies.get(name)] == ["a", "c", "d"]
    bodies.keep("e", of("e", 11))
    assert not any(map(bodies.get, "abcde")), "what is larger than all the room is not kept, and nothing beside it"


@given(st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 12))))
def test_never_more_is_kept_than_there_is_room_for_and_what_was_kept_last_is_there(
    kept: list[tuple[str, int]],
) -> None:
    bodies, last = Bodies(max_bytes=20), dict[str, Body]()
    for name, size in kept:
        last[name] = of(name, size)
        bodies.keep(name, last[name])
        assert bodies.get(name) == last[name]
        there = [body for each in "abcd" if (body := bodies.get(each)) is not None]
        assert sum(len(body.content) for body in there) <= 20
        assert all(body == last[body.etag] for body in there)
