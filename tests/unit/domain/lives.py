"""Lives of batches as the platform might tell them, the unusual ones above all: made of episodes, each from a seed.

A life is a list of messages in the order in which their producers sent them. The same episodes and seeds make the same
life; episodes may be left out or follow each other in any order.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from random import Random

from result_aggregator_service.contracts.enums import BatchStatus
from result_aggregator_service.domain.event import Event
from tests.unit.domain import messages as say
from tests.unit.domain.messages import CANCELLED, CRITICAL, FAILURES, SUCCESS

Maker = Callable[[float, int], Event]
"""Makes a message of a time (seconds after eight) and a number; its content may differ each time it is asked."""

REQUESTS: tuple[list[str] | None, ...] = (
    None,
    [],
    ["no phase"],
    ["spellcheck"],
    ["nlp", "cj_assessment", "no phase"],
    ["student_matching", "ai_feedback"],
)


class Life:
    """A batch's life so far, told from the dice."""

    def __init__(self, batch: str, neighbour: str, dice: Random, *, essays: int) -> None:
        self.batch = batch
        self.neighbour = neighbour
        self.dice = dice
        self.essays = [f"{batch}-e{number}" for number in range(1, essays + 1)]
        self.user = dice.choice(("u1", "u2"))
        self.requested = dice.choice(REQUESTS)
        self.events: list[Event] = []
        self.jobs = 1
        self._at = 0
        self._told: list[tuple[float, Maker]] = []

    def chance(self, of_a_hundred: int) -> bool:
        return self.dice.randrange(100) < of_a_hundred

    def some(self, essays: Iterable[str], of_a_hundred: int = 75) -> list[str]:
        """Some of the essays."""
        return [essay for essay in essays if self.chance(of_a_hundred)]

    def tell(self, make: Maker) -> None:
        """A message is sent, some seconds after the one before, or in the same second."""
        self._at += self.dice.choice((0, 1, 1, 5, 30))
        self._told.append((self._at, make))
        self._send(make, self._at)

    def tell_again(self, *, seconds_earlier: int) -> None:
        """Something that was told is told again: anew, but as of that time or a time before it."""
        if self._told:
            at, make = self.dice.choice(self._told)
            self._send(make, at - seconds_earlier)

    def _send(self, make: Maker, at: float) -> None:
        self.events.append(make(at, self.dice.getrandbits(64)))

    # What the services say.

    def register(
        self, essays: Sequence[str] | None = None, *, user: str | None = None, requested: list[str] | None = None
    ) -> None:
        listed = self.essays if essays is None else essays
        self.tell(
            lambda at, n: say.registered(
                listed,
                self.batch,
                user=user or self.user,
                requested=self.requested if requested is None else requested,
                at=at,
                number=n,
            )
        )

    def assign_slots(self, essays: Iterable[str]) -> None:
        for essay in essays:
            self.tell(partial(self._slot, essay))

    def _slot(self, essay: str, at: float, number: int) -> Event:
        return say.slot(essay, self.batch, text=f"text {number}", at=at, number=number)

    def check_spelling(self, essays: Iterable[str], *, ok: bool | None = None) -> None:
        """A result of one form or of both for each of the essays; `ok` None: it may turn out either way."""
        for essay in essays:
            forms = self.dice.choice(("older", "richer", "older and richer"))
            if "older" in forms:
                self.tell(partial(self._older_spellcheck, essay, ok))
            if "richer" in forms:
                self.tell(partial(self._richer_spellcheck, essay, ok))

    def _older_spellcheck(self, essay: str, ok: bool | None, at: float, number: int) -> Event:
        return say.spellcheck(
            essay,
            None if self.chance(10) else self.batch,
            ok=self.chance(85) if ok is None else ok,
            corrections=self.dice.randrange(9),
            error=self.dice.choice((None, "BROKEN")),
            at=at,
            number=number,
        )

    def _richer_spellcheck(self, essay: str, ok: bool | None, at: float, number: int) -> Event:
        return say.rich_spellcheck(
            essay,
            self.batch,
            ok=self.chance(85) if ok is None else ok,
            corrections=self.dice.randrange(9),
            words=self.dice.randrange(500),
            error=self.dice.choice((None, "BROKEN")),
            at=at,
            number=number,
        )

    def judge(self, essays: Sequence[str], unjudged: Sequence[str] = (), *, job: str | None = None) -> None:
        """CJ ranks essays, in the forms of one generation or of both."""
        if job is None:
            job = f"{self.batch} job {self.jobs}"
            self.jobs += 1
        forms = self.dice.choice(("older", "rich", "rich and thin", "older and rich"))
        if "older" in forms:
            self.tell(
                lambda at, n: say.rankings(
                    {**self._ranks(essays), f"{self.batch}-anchor": (9, 0.0)}, self.batch, job=job, at=at, number=n
                )
            )
        if "rich" in forms:
            self.tell(
                lambda at, n: say.assessment(
                    self._ranks(essays),
                    self.batch,
                    anchors=[f"{self.batch}-anchor"],
                    grade=self.dice.choice("ABC"),
                    job=job,
                    at=at,
                    number=n,
                )
            )
        if "thin" in forms or unjudged:
            self.tell(lambda at, n: say.thin(essays, unjudged, self.batch, job=job, at=at, number=n))

    def _ranks(self, essays: Sequence[str]) -> dict[str, tuple[int | None, float | None]]:
        places = self.dice.sample(range(1, len(essays) + 1), len(essays))
        return {
            essay: (place, self.dice.choice((None, -1.5, place / 8)))
            for essay, place in zip(essays, places, strict=True)
        }

    def analyse(self, essays: Iterable[str], *, naming_the_batch: int = 50) -> None:
        """An NLP result for each essay; so many of a hundred name the batch."""
        for essay in essays:
            self.tell(partial(self._nlp, essay, naming_the_batch))

    def _nlp(self, essay: str, naming_the_batch: int, at: float, number: int) -> Event:
        batch = self.batch if self.chance(naming_the_batch) else None
        return say.nlp(essay, batch, words=self.dice.randrange(500), at=at, number=number)

    def comment(self, essays: Iterable[str], *, naming_the_batch: int = 50) -> None:
        """AI feedback for each essay; so many of a hundred name the batch."""
        for essay in essays:
            self.tell(partial(self._feedback, essay, naming_the_batch))

    def _feedback(self, essay: str, naming_the_batch: int, at: float, number: int) -> Event:
        batch = self.batch if self.chance(naming_the_batch) else None
        return say.feedback(essay, batch, ok=self.chance(85), at=at, number=number)

    def conclude(
        self, phase: str, processed: Sequence[str], failed: Sequence[str] = (), status: BatchStatus | None = None
    ) -> None:
        """A phase's outcome."""
        self.tell(lambda at, n: say.outcome(phase, processed, failed, self.batch, status=status, at=at, number=n))

    def end(self, phases: Iterable[str], status: BatchStatus | None = None) -> None:
        """A pipeline's end."""
        named = list(phases)
        self.tell(
            lambda at, n: say.end(
                named,
                self.batch,
                status=status or self.dice.choice((SUCCESS, FAILURES)),
                successful=self.dice.choice((None, 1, len(self.essays))),
                at=at,
                number=n,
            )
        )


# --- the episodes


def registration(life: Life) -> None:
    life.register()


def slots(life: Life) -> None:
    life.assign_slots(life.essays)


def pipeline(life: Life) -> None:
    """Spell check and CJ, with or without an end; essays may fail on the way."""
    through = life.some(life.essays, 80)
    lost = [essay for essay in life.essays if essay not in through]
    life.check_spelling(through, ok=True)
    life.check_spelling(life.some(lost, 50), ok=False)
    life.conclude("spellcheck", through, lost)
    judged = life.some(through, 75)
    unjudged = [essay for essay in through if essay not in judged]
    if life.chance(15):
        life.tell(lambda at, n: say.cj_failed(life.batch, at=at, number=n))
    life.judge(judged, unjudged if life.chance(75) else ())
    if life.chance(20):
        life.judge(judged)
    life.conclude("cj_assessment", judged, unjudged)
    if life.chance(60):
        life.end(("spellcheck", "cj_assessment"))


def partial_pipeline(life: Life) -> None:
    life.check_spelling(life.essays)
    life.conclude("spellcheck", life.some(life.essays))
    life.end(["spellcheck"])


def second_pipeline(life: Life) -> None:
    life.analyse(life.essays)
    life.conclude("nlp", life.essays)
    if life.chance(50):
        life.comment(life.essays)
        life.conclude("ai_feedback", life.some(life.essays))
    life.end(("nlp", "ai_feedback") if life.chance(50) else ["nlp"])


def students_matched(life: Life) -> None:
    processed = life.some(life.essays)
    life.conclude("student_matching", processed, [essay for essay in life.essays if essay not in processed])
    if life.chance(50):
        life.end(["student_matching"])


def rerun(life: Life) -> None:
    """A phase is run again, over some of the essays."""
    essays = life.some(life.essays)
    if life.chance(50):
        life.check_spelling(essays)
        life.conclude("spellcheck", essays, life.some(life.essays, 15))
    else:
        life.judge(essays)
        life.conclude("cj_assessment", essays, life.some(life.essays, 15))


def critical_failure(life: Life) -> None:
    """A phase fails critically, with or without a pipeline that says the same."""
    phase = life.dice.choice(("spellcheck", "cj_assessment", "nlp"))
    if phase == "cj_assessment":
        life.tell(lambda at, n: say.cj_failed(life.batch, at=at, number=n))
    life.conclude(phase, life.some(life.essays, 30), life.some(life.essays, 30), CRITICAL)
    if life.chance(60):
        life.end([phase], CRITICAL)


def cancelled(life: Life) -> None:
    if life.chance(50):
        life.conclude(life.dice.choice(("spellcheck", "cj_assessment")), life.some(life.essays), (), CANCELLED)
    if life.chance(90):
        life.end(life.dice.choice(([], ["spellcheck"], ["spellcheck", "cj_assessment"])), CANCELLED)


def results_stay_away(life: Life) -> None:
    """The pipeline ends, but some results or outcomes never come: only the grace can finish the batch."""
    life.check_spelling(life.some(life.essays, 40))
    life.conclude("spellcheck", life.essays)
    if life.chance(50):
        life.conclude("cj_assessment", life.some(life.essays))
    life.end(("spellcheck", "cj_assessment"))


def equal_correction(life: Life) -> None:
    """Told again with the same time: the event ids decide."""
    for _ in range(life.dice.randint(1, 3)):
        life.tell_again(seconds_earlier=0)


def earlier_correction(life: Life) -> None:
    """Told again as of an earlier time: it loses, though it was sent last."""
    for _ in range(life.dice.randint(1, 3)):
        life.tell_again(seconds_earlier=life.dice.choice((1, 7, 100)))


def other_owner(life: Life) -> None:
    life.register(user="u3")


def other_list(life: Life) -> None:
    life.register([*life.essays[1:], f"{life.batch}-added"])


def other_request(life: Life) -> None:
    life.register(requested=life.dice.choice([request for request in REQUESTS if request != life.requested]))


def claimed_essay(life: Life) -> None:
    """An essay of the neighbour's is claimed, by a registration, a slot or a result."""
    essay = f"{life.neighbour}-e1"
    match life.dice.randrange(3):
        case 0:
            life.register([*life.essays, essay])
        case 1:
            life.assign_slots([essay])
        case _:
            life.check_spelling([essay])


def moves_on(life: Life) -> None:
    """One phase, of whose essays one goes over to the neighbour before its result is told."""
    moving = life.dice.choice(life.essays)
    life.register(requested=["spellcheck"])
    life.check_spelling([essay for essay in life.essays if essay != moving])
    life.conclude("spellcheck", life.essays)
    life.tell(lambda at, n: say.slot(moving, life.neighbour, at=at, number=n))
    life.tell(lambda at, n: say.spellcheck(moving, life.neighbour, at=at, number=n))


def nameless_results(life: Life) -> None:
    """NLP and AI feedback in which no batch is named."""
    life.analyse(life.some(life.essays), naming_the_batch=0)
    life.comment(life.some(life.essays), naming_the_batch=0)


def same_job_again(life: Life) -> None:
    life.judge(life.some(life.essays), job=f"{life.batch} job 1")


EPISODES: dict[str, Callable[[Life], None]] = {
    episode.__name__: episode
    for episode in (
        registration,
        slots,
        pipeline,
        partial_pipeline,
        second_pipeline,
        students_matched,
        rerun,
        critical_failure,
        cancelled,
        results_stay_away,
        equal_correction,
        earlier_correction,
        other_owner,
        other_list,
        other_request,
        claimed_essay,
        moves_on,
        nameless_results,
        same_job_again,
    )
}


def life_of(batch: str, neighbour: str, episodes: Sequence[str], seed: int) -> list[Event]:
    """A life of these episodes; most begin with the registration, some end with it, and some have none."""
    dice = Random(f"{batch} {seed}")
    life = Life(batch, neighbour, dice, essays=dice.randint(1, 4))
    registered = dice.choice(("first",) * 6 + ("last",) * 2 + ("never",) * 2)
    if registered == "first":
        registration(life)
    for episode in episodes:
        EPISODES[episode](life)
    if registered == "last":
        registration(life)
    return life.events


def orderly_life(batch: str, seed: int) -> list[Event]:
    """One pipeline of the expected phases: nothing critical, no conflict, no grace; every result comes in.

    Corrections change no essay's stage in a phase that matters, so that the batch has one final state from the moment
    at which all is in.
    """
    dice = Random(f"{batch} {seed}")
    life = Life(batch, batch, dice, essays=dice.randint(1, 4))
    life.requested = dice.choice((None, [], ["no phase"], ["cj_assessment", "spellcheck"]))
    life.register()
    life.assign_slots(life.essays)
    through = life.some(life.essays, 80)
    lost = [essay for essay in life.essays if essay not in through]
    life.check_spelling(through, ok=True)
    life.check_spelling(life.some(lost, 50), ok=False)
    if life.chance(30):
        life.analyse(life.some(life.essays))
        life.comment(life.some(life.essays))
    if life.chance(40):
        life.check_spelling(life.some(through, 40), ok=True)
    life.conclude("spellcheck", through, lost)
    judged = life.some(through, 85)
    unjudged = [essay for essay in through if essay not in judged]
    if life.chance(10):
        life.tell(lambda at, n: say.cj_failed(batch, at=at, number=n))
    life.judge(judged, unjudged if life.chance(50) else ())
    life.conclude("cj_assessment", judged, unjudged)
    if life.chance(50):
        life.end(("spellcheck", "cj_assessment"), FAILURES if lost or unjudged else SUCCESS)
    return life.events
