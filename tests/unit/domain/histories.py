"""Histories to try the read model with: anything at all (`soups`), and pipelines as they ought to be (`orderly`)."""

import itertools
from collections.abc import Callable, Sequence

from hypothesis import strategies as st

from result_aggregator_service.contracts.enums import Phase
from result_aggregator_service.domain.event import Event
from tests.unit.domain import messages as say
from tests.unit.domain.messages import CANCELLED, CRITICAL, FAILURES, SUCCESS

PHASES = tuple(phase.value for phase in Phase)
FINAL = (SUCCESS, FAILURES, CRITICAL, CANCELLED)
REQUESTS: tuple[list[str] | None, ...] = (
    None,
    [],
    ["no phase"],
    ["spellcheck"],
    ["nlp", "cj_assessment", "no phase"],
    ["student_matching", "ai_feedback"],
)

_essay = st.sampled_from(("e1", "e2", "e3", "e4"))
_essays = st.lists(_essay, max_size=4, unique=True)
_batch = st.sampled_from(("b1", "b1", "b1", "b2"))
_maybe_batch = st.sampled_from(("b1", "b2", None))
_time = st.integers(0, 9)  # few, so that messages of one time are common
_ranks = st.dictionaries(
    _essay, st.tuples(st.none() | st.integers(1, 4), st.none() | st.sampled_from((-1.5, 0.0, 0.25))), max_size=4
)
_ok = st.booleans()
_error = st.sampled_from((None, "BROKEN"))
_small = st.none() | st.integers(0, 3)
_job = st.sampled_from(("j1", "j2"))

_Maker = Callable[[int, int], Event]
_MAKERS: st.SearchStrategy[_Maker] = st.one_of(
    st.builds(
        lambda e, b, u, x, r: lambda at, n: say.registered(e, b, user=u, expected=x, requested=r, at=at, number=n),
        _essays,
        _batch,
        st.sampled_from(("u1", "u2")),
        st.integers(0, 5),
        st.sampled_from(REQUESTS),
    ),
    st.builds(lambda e, b: lambda at, n: say.slot(e, b, text=f"text {n}", at=at, number=n), _essay, _batch),
    st.builds(
        lambda p, e, f, b, s: lambda at, n: say.outcome(p, e, f, b, status=s, at=at, number=n),
        st.sampled_from((*PHASES, "spellcheck", "cj_assessment")),
        _essays,
        _essays,
        _batch,
        st.sampled_from((None, None, None, *FINAL)),
    ),
    st.builds(
        lambda e, b, ok, c, x: lambda at, n: say.spellcheck(e, b, ok=ok, corrections=c, error=x, at=at, number=n),
        _essay,
        _maybe_batch,
        _ok,
        _small,
        _error,
    ),
    st.builds(
        lambda e, b, ok, c, x: (
            lambda at, n: say.rich_spellcheck(e, b, ok=ok, corrections=c, error=x, words=n, at=at, number=n)
        ),
        _essay,
        _batch,
        _ok,
        _small,
        _error,
    ),
    st.builds(lambda r, b, j: lambda at, n: say.rankings(r, b, job=j, at=at, number=n), _ranks, _batch, _job),
    st.builds(
        lambda s, f, b, j: lambda at, n: say.thin(s, f, b, job=j, at=at, number=n), _essays, _essays, _batch, _job
    ),
    st.builds(lambda b, x: lambda at, n: say.cj_failed(b, error=x, at=at, number=n), _batch, _error),
    st.builds(
        lambda r, b, a, j: lambda at, n: say.assessment(r, b, anchors=a, grade=str(n), job=j, at=at, number=n),
        _ranks,
        _batch,
        st.lists(st.sampled_from(("e4", "anchor")), max_size=2, unique=True),
        _job,
    ),
    st.builds(
        lambda p, b, s, c: lambda at, n: say.end(p, b, status=s, successful=c, at=at, number=n),
        st.lists(st.sampled_from(PHASES), max_size=3, unique=True),
        _batch,
        st.sampled_from(FINAL),
        _small,
    ),
    st.builds(lambda e, b: lambda at, n: say.nlp(e, b, words=n, at=at, number=n), _essay, _maybe_batch),
    st.builds(
        lambda e, b, ok, x: lambda at, n: say.feedback(e, b, ok=ok, error=x, at=at, number=n),
        _essay,
        _maybe_batch,
        _ok,
        _error,
    ),
)


@st.composite
def soups(draw: st.DrawFn, *, max_size: int = 14) -> list[Event]:
    """Messages of every kind about two batches and four essays, with no sense in them; each with an id of its own."""
    makers = draw(st.lists(_MAKERS, min_size=1, max_size=max_size))
    times = draw(st.lists(_time, min_size=len(makers), max_size=len(makers)))
    numbers = draw(st.permutations(range(1, len(makers) + 1)))
    return [make(at, number) for make, at, number in zip(makers, times, numbers, strict=True)]


@st.composite
def orderly(draw: st.DrawFn, batch: str = "b") -> list[Event]:
    """One pipeline of the expected phases over a batch: nothing critical, no conflict, every result comes in."""
    essays = [f"{batch}-e{number}" for number in range(1, draw(st.integers(1, 4)) + 1)]
    user = draw(st.sampled_from(("u1", "u2")))
    requested = draw(st.sampled_from((None, ["spellcheck", "cj_assessment"])))
    events = [say.registered(essays, batch, user=user, requested=requested, at=0)]
    events += [say.slot(essay, batch, text=f"text of {essay}", at=10) for essay in essays]

    through: list[str] = []
    lost: list[str] = []
    for essay in essays:
        fate = draw(st.sampled_from(("older", "newer", "both", "fails", "fails in silence")))
        (lost if fate.startswith("fails") else through).append(essay)
        if fate in ("older", "both"):
            events.append(say.spellcheck(essay, batch, at=20))
        if fate in ("newer", "both"):
            events.append(say.rich_spellcheck(essay, batch, at=21))
        if fate == "fails":
            events.append(say.spellcheck(essay, batch, ok=False, error="BROKEN", at=22))
    events.append(say.outcome("spellcheck", through, lost, batch, at=100))

    unjudged = [essay for essay in through if draw(st.integers(0, 4)) == 0]
    judged = [essay for essay in through if essay not in unjudged]
    ranks: dict[str, tuple[int | None, float | None]] = {
        essay: (rank, rank / 8) for rank, essay in enumerate(judged, 1)
    }
    forms = draw(st.sampled_from(("older", "rich", "rich and thin", "older and rich")))
    if "older" in forms:
        events.append(say.rankings({**ranks, "anchor": (9, 0.0)}, batch, job=f"job of {batch}", at=200))
    if "rich" in forms:
        events.append(say.assessment(ranks, batch, anchors=["anchor"], job=f"job of {batch}", at=201))
    if "thin" in forms:
        events.append(say.thin(judged, unjudged, batch, job=f"job of {batch}", at=200))
    events.append(say.outcome("cj_assessment", judged, unjudged, batch, at=250))

    if draw(st.booleans()):
        status = FAILURES if lost or unjudged else SUCCESS
        events.append(say.end(batch=batch, status=status, successful=len(judged), at=300))
    return events


@st.composite
def in_polls(draw: st.DrawFn, history: Sequence[Event]) -> list[list[Event]]:
    """A history in any order, with any duplicates, in any grouping."""
    again = draw(st.lists(st.sampled_from(list(history)), max_size=5))
    arrivals = draw(st.permutations([*history, *again]))
    cuts = sorted(draw(st.sets(st.integers(1, len(arrivals)), max_size=6)) | {0, len(arrivals)})
    return [list(arrivals[start:stop]) for start, stop in itertools.pairwise(cuts)]
