"""Histories to try the read model with: anything at all (`soups`), lives of batches that the platform might tell
(`lives`), and pipelines as they ought to be (`orderly`); and the ways in which they may arrive (`in_polls`).

Hypothesis draws what a history is made of and one seed for each part; the details come from the seeds. To draw each
detail would take ten times as long as to fold it.
"""

from collections.abc import Callable, Sequence
from random import Random

from hypothesis import strategies as st

from result_aggregator_service.contracts.enums import Phase
from result_aggregator_service.domain.event import Event
from result_aggregator_service.domain.fold import fold
from tests.unit.domain import messages as say
from tests.unit.domain.lives import EPISODES, REQUESTS, Maker, life_of, orderly_life
from tests.unit.domain.messages import CANCELLED, CRITICAL, FAILURES, SUCCESS

PHASES = tuple(phase.value for phase in Phase)
FINAL = (SUCCESS, FAILURES, CRITICAL, CANCELLED)

seeds = st.integers(0, 2**32 - 1)


def soup_message(seed: int, number: int) -> Event:
    """A message of any kind about two batches and four essays, at one of ten seconds."""
    dice = Random(seed)
    one_of: Callable[[Sequence[str]], str] = dice.choice

    def essay() -> str:
        return one_of(("e1", "e2", "e3", "e4"))

    def essays(most: int = 4) -> list[str]:
        return dice.sample(("e1", "e2", "e3", "e4"), dice.randint(0, most))

    def batch() -> str:
        return one_of(("b1", "b1", "b1", "b2"))

    def ranks() -> dict[str, tuple[int | None, float | None]]:
        return {e: (dice.choice((None, 1, 2, 3)), dice.choice((None, -1.5, 0.0, 0.25))) for e in essays()}

    maybe_batch = dice.choice(("b1", "b2", None))
    ok = dice.random() < 0.5
    error = dice.choice((None, "BROKEN"))
    small = dice.choice((None, 0, 1, 2, 3))
    job = one_of(("j1", "j2"))
    makers: tuple[Maker, ...] = (
        lambda at, n: say.registered(
            essays(),
            batch(),
            user=one_of(("u1", "u2")),
            expected=dice.randint(0, 5),
            requested=dice.choice(REQUESTS),
            at=at,
            number=n,
        ),
        lambda at, n: say.slot(essay(), batch(), text=f"text {n}", at=at, number=n),
        lambda at, n: say.outcome(
            one_of((*PHASES, "spellcheck", "cj_assessment")),
            essays(),
            essays(2),
            batch(),
            status=dice.choice((None, None, None, *FINAL)),
            at=at,
            number=n,
        ),
        lambda at, n: say.spellcheck(essay(), maybe_batch, ok=ok, corrections=small, error=error, at=at, number=n),
        lambda at, n: say.rich_spellcheck(
            essay(), batch(), ok=ok, corrections=small, error=error, words=n, at=at, number=n
        ),
        lambda at, n: say.rankings(ranks(), batch(), job=job, at=at, number=n),
        lambda at, n: say.thin(essays(), essays(2), batch(), job=job, at=at, number=n),
        lambda at, n: say.cj_failed(batch(), error=error, at=at, number=n),
        lambda at, n: say.assessment(
            ranks(),
            batch(),
            anchors=dice.sample(("e4", "anchor"), dice.randint(0, 2)),
            grade=str(n),
            job=job,
            at=at,
            number=n,
        ),
        lambda at, n: say.end(
            dice.sample(PHASES, dice.randint(0, 3)),
            batch(),
            status=dice.choice(FINAL),
            successful=small,
            at=at,
            number=n,
        ),
        lambda at, n: say.nlp(essay(), maybe_batch, words=n, at=at, number=n),
        lambda at, n: say.feedback(essay(), maybe_batch, ok=ok, error=error, at=at, number=n),
    )
    # Outcomes decide most; few seconds, so that messages of one time are common.
    make = dice.choice((*makers, makers[2], makers[2]))
    return make(dice.randint(0, 9), number)


@st.composite
def soups(draw: st.DrawFn, *, max_size: int = 14) -> list[Event]:
    """Messages of every kind about two batches and four essays, with no sense in them; each with an id of its own."""
    size = draw(st.integers(1, max_size))
    drawn = draw(st.lists(seeds, min_size=size, max_size=size))
    numbers = Random(drawn[0]).sample(range(1, size + 1), size)
    return [soup_message(seed, number) for seed, number in zip(drawn, numbers, strict=True)]


_episodes = st.lists(st.sampled_from(sorted(EPISODES)), min_size=1, max_size=5)


@st.composite
def lives(draw: st.DrawFn) -> list[Event]:
    """The lives of one batch to three, told by turns as their producers sent them; see `EPISODES`."""
    batches = ("b1", "b2", "b3")[: draw(st.sampled_from((1, 1, 2, 2, 3)))]
    told: list[Event] = []
    for batch, neighbour in zip(batches, (*batches[1:], batches[0]), strict=True):
        told += life_of(batch, neighbour, draw(_episodes), draw(seeds))
    return told


@st.composite
def orderly(draw: st.DrawFn, batch: str = "b") -> list[Event]:
    """One pipeline of the expected phases over a batch: nothing critical, no conflict, every result comes in."""
    return orderly_life(batch, draw(seeds) << 32 | draw(seeds))


def in_polls(history: Sequence[Event]) -> st.SearchStrategy[list[list[Event]]]:
    """A history in any order, with any duplicates, in any grouping."""
    return seeds.map(lambda seed: arrival(history, seed))


def arrival(history: Sequence[Event], seed: int) -> list[list[Event]]:
    """The polls of one way in which a history may arrive; the simplest, 0, is in one poll as it was sent.

    An event's place depends on the seed and its own id only, so that the others keep theirs when one is left out.
    """
    if seed == 0:
        return [list(history)]
    dice = Random(seed)
    disorder = dice.choice((0.0, 3.0, 1000.0, 1000.0))  # how many places a message may be late
    backwards = dice.random() < 0.2
    again = dice.choice((0.0, 0.1, 0.5))
    cut = dice.choice((0.1, 0.3, 0.5, 1.0))
    placed: list[tuple[float, bool, Event]] = []
    for index, event in enumerate(reversed(history) if backwards else history):
        own = Random(seed ^ event.clock.event_id.int)
        placed.append((index + disorder * own.random(), own.random() < cut, event))
        while own.random() < again:
            placed.append((index + 1000.0 * own.random(), own.random() < cut, event))
    placed.sort(key=lambda item: item[0])
    polls: list[list[Event]] = [[]]
    for _, ends_poll, event in placed:
        polls[-1].append(event)
        if ends_poll:
            polls.append([])
    return [poll for poll in polls if poll]


def graces(seed: int, polls: Sequence[object]) -> list[bool]:
    """After which of the polls the grace of every batch that waits runs out; 0: after none of them."""
    dice = Random(seed)
    often = dice.choice((0.0, 0.3, 1.0)) if seed else 0.0
    return [dice.random() < often for _ in polls]


def a_form_of_each_job_once(history: Sequence[Event]) -> list[Event]:
    """The history without any second message of one form about one CJ job: of those the first to be folded is kept."""
    told: set[tuple[str, str, bool]] = set()
    kept: list[Event] = []
    for event in history:
        jobs = fold([event]).assessments.keys()
        if not jobs & told:
            told |= jobs
            kept.append(event)
    return kept
