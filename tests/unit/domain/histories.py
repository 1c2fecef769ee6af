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
from tests.unit.domain import messages as say
from tests.unit.domain.lives import EPISODES, REQUESTS, Maker, life_of, orderly_life
from tests.unit.domain.messages import CANCELLED, CRITICAL, FAILURES, SUCCESS

PHASES = tuple(phase.value for phase in Phase)
FINAL = (SUCCESS, FAILURES, CRITICAL, CANCELLED)

seeds = st.integers(0, 2**32 - 1)


def soup_message(seed: int, number: int, phase: str | None = None) -> Event:
    """A message of any kind about two batches and four essays, at one of ten seconds.

    `phase`, spellcheck or cj_assessment: only of the kinds that decide that phase or where essays belong, about two.
    """
    dice = Random(seed)
    all_essays = ("e1", "e2") if phase else ("e1", "e2", "e3", "e4")
    one_of: Callable[[Sequence[str]], str] = dice.choice

    def essay() -> str:
        return one_of(all_essays)

    def essays(most: int = 4) -> list[str]:
        return dice.sample(all_essays, dice.randint(0, min(most, len(all_essays))))

    def batch() -> str:
        return one_of(("b1", "b2") if phase else ("b1", "b1", "b1", "b2"))

    def ranks() -> dict[str, tuple[int | None, float | None]]:
        return {e: (dice.choice((None, 1, 2, 3)), dice.choice((None, -1.5, 0.0, 0.25))) for e in essays()}

    maybe_batch = dice.choice(("b1", "b2", None))
    ok = dice.random() < 0.5
    error = dice.choice((None, "BROKEN"))
    small = dice.choice((None, 0, 1, 2, 3))
    job = one_of(("j1", "j2"))
    of_membership: tuple[Maker, ...] = (
        lambda at, n: say.registered(
            essays(),
            batch(),
            user=one_of(("u1", "u2")),
            expected=dice.randint(0, 5),
            requested=[phase] if phase else dice.choice(REQUESTS),
            at=at,
            number=n,
        ),
        lambda at, n: say.slot(essay(), batch(), text=f"text {n}", at=at, number=n),
    )
    of_outcomes: tuple[Maker, ...] = (
        lambda at, n: say.outcome(
            phase or one_of((*PHASES, "spellcheck", "cj_assessment")),
            essays(),
            essays(2),
            batch(),
            status=dice.choice((None, None, None, *FINAL)),
            at=at,
            number=n,
        ),
    )
    of_spellcheck: tuple[Maker, ...] = (
        lambda at, n: say.spellcheck(essay(), maybe_batch, ok=ok, corrections=small, error=error, at=at, number=n),
        lambda at, n: say.rich_spellcheck(
            essay(), batch(), ok=ok, corrections=small, error=error, words=n, at=at, number=n
        ),
    )
    of_cj: tuple[Maker, ...] = (
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
    )
    others: tuple[Maker, ...] = (
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
    of_phases = {"spellcheck": of_spellcheck, "cj_assessment": of_cj}
    if phase is not None:
        makers = (*of_membership * 2, *of_outcomes * 2, *of_phases[phase])
    else:  # outcomes decide most
        makers = (*of_membership, *of_outcomes * 3, *of_spellcheck, *of_cj, *others)
    # Few seconds, so that messages of one time are common.
    return dice.choice(makers)(dice.randint(0, 9), number)


@st.composite
def soups(draw: st.DrawFn, *, max_size: int = 14) -> list[Event]:
    """Messages about two batches and four essays, with no sense in them; each with an id of its own.

    They are of every kind; or thicker: of one phase, so that a batch is often finished by its outcome and results.
    """
    phase = draw(st.sampled_from((None, "spellcheck", "cj_assessment")))
    size = draw(st.integers(1, max_size))
    drawn = draw(st.lists(seeds, min_size=size, max_size=size))
    numbers = Random(drawn[0]).sample(range(1, size + 1), size)
    return [soup_message(seed, number, phase) for seed, number in zip(drawn, numbers, strict=True)]


# An essay that moves on at the wrong moment is rarely seen by chance.
_episodes = st.lists(st.sampled_from([*sorted(EPISODES), *["moves_on"] * 3]), min_size=1, max_size=5)


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

    An event's place depends on the seed and its own id only, so that the others keep theirs when one is left out. In
    half of the ways one message comes only when all the others are settled.
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
    straggler = None
    if dice.random() < 0.5:
        straggler = min(history, key=lambda event: Random(~seed ^ event.clock.event_id.int).random(), default=None)
    polls: list[list[Event]] = [[]]
    for _, ends_poll, event in placed:
        if event is straggler:
            continue
        polls[-1].append(event)
        if ends_poll:
            polls.append([])
    if straggler is not None:
        polls.append([straggler])
    return [poll for poll in polls if poll]


def graces(seed: int, polls: Sequence[object]) -> list[bool]:
    """After which of the polls the grace of every batch that waits runs out; 0: after none of them."""
    dice = Random(seed)
    often = dice.choice((0.0, 0.3, 1.0)) if seed else 0.0
    return [dice.random() < often for _ in polls]
