"""What can happen to a batch: one story for each rule that is easy to get wrong, and some where nothing goes wrong."""

from collections.abc import Callable, Sequence

from demo.batch import MINUTE, SECOND, Batch


def _opening(batch: Batch, requested: Sequence[str] | None = None, *, late: int = 0) -> None:
    batch.register(requested, late=late)
    batch.slots()


def ordinary(batch: Batch) -> None:
    """Spell check and comparative judgment, nothing out of the way."""
    _opening(batch)
    batch.spellcheck()
    batch.comparative_judgment()
    batch.end("spellcheck", "cj_assessment")


def ordinary_with_failures(batch: Batch) -> None:
    """Some essays fail in spell check; the batch goes on without them."""
    _opening(batch, ("spellcheck", "cj_assessment"))
    batch.spellcheck(failing=batch.rng.randint(1, 4))
    batch.comparative_judgment()
    batch.end("spellcheck", "cj_assessment")


def spellcheck_only(batch: Batch) -> None:
    """A pipeline of one phase, of which the registration said nothing."""
    _opening(batch)
    batch.spellcheck()
    batch.end("spellcheck")


def spellcheck_requested(batch: Batch) -> None:
    """A pipeline of one phase, requested, with no end announced."""
    _opening(batch, ("spellcheck",))
    batch.spellcheck(failing=1)


def everything(batch: Batch) -> None:
    """All phases, requested."""
    _opening(batch, ("student_matching", "spellcheck", "nlp", "ai_feedback", "cj_assessment"))
    batch.student_matching()
    batch.spellcheck(failing=2)
    batch.nlp()
    batch.ai_feedback()
    batch.comparative_judgment()
    batch.end("student_matching", "spellcheck", "nlp", "ai_feedback", "cj_assessment")


def everything_unrequested(batch: Batch) -> None:
    """Four phases that the registration did not name: before the end, only the expected two matter."""
    _opening(batch)
    batch.spellcheck()
    batch.nlp()
    batch.ai_feedback(failing=2)
    batch.comparative_judgment()
    batch.end("spellcheck", "nlp", "ai_feedback", "cj_assessment", status="completed_with_failures")


def matching_fails_for_some(batch: Batch) -> None:
    """Student matching matters, and some students were not found."""
    _opening(batch, ("student_matching", "spellcheck"))
    batch.student_matching(failing=2)
    batch.spellcheck()
    batch.end("student_matching", "spellcheck", status="completed_with_failures")


def matching_aside(batch: Batch) -> None:
    """Student matching took place without being part of the pipeline."""
    batch.register()
    batch.student_matching(failing=1)
    batch.slots()
    batch.spellcheck()
    batch.comparative_judgment()
    batch.end("spellcheck", "cj_assessment")


def silent_failures(batch: Batch) -> None:
    """Essays that fail early and are never heard of again: only the outcome names them."""
    _opening(batch)
    batch.spellcheck(failing=1, silent=2)
    batch.comparative_judgment()
    batch.end("spellcheck", "cj_assessment")


def no_end(batch: Batch) -> None:
    """No pipeline end is ever announced; the expected phases decide."""
    _opening(batch)
    batch.spellcheck(failing=1)
    batch.comparative_judgment()


def critical(batch: Batch) -> None:
    """Comparative judgment fails as a whole; ELS says so; BOS announces no end."""
    _opening(batch, ("spellcheck", "cj_assessment"))
    batch.spellcheck()
    batch.cj_failed()
    batch.passes(SECOND, 9 * SECOND)
    batch.outcome("cj_assessment", [], batch.alive, status="failed_critically")


def critical_with_end(batch: Batch) -> None:
    """The same, with an end that says failed_critically too."""
    critical(batch)
    batch.end("spellcheck", "cj_assessment", status="failed_critically", successful=0)


def critical_then_rerun(batch: Batch) -> None:
    """A batch that failed critically is run again and succeeds."""
    critical(batch)
    batch.end("spellcheck", status="failed_critically", successful=0)
    batch.passes(5 * MINUTE, 9 * MINUTE)
    batch.comparative_judgment()
    batch.end("cj_assessment")


def cancelled(batch: Batch) -> None:
    """Cancelled after spell check, with nothing said to be completed."""
    _opening(batch, ("spellcheck", "cj_assessment"))
    batch.spellcheck()
    batch.end(status="cancelled", successful=0)


def cancelled_later(batch: Batch) -> None:
    """Cancelled after spell check, which is said to be completed; ELS reports the other phase as cancelled."""
    _opening(batch, ("spellcheck", "cj_assessment"))
    batch.spellcheck()
    batch.passes(SECOND, 9 * SECOND)
    batch.outcome("cj_assessment", [], status="cancelled")
    batch.end("spellcheck", status="cancelled")


def rerun(batch: Batch) -> None:
    """A second pipeline runs both phases again and finds other results."""
    _opening(batch)
    batch.spellcheck()
    batch.comparative_judgment()
    batch.end("spellcheck", "cj_assessment")
    batch.passes(10 * MINUTE, 20 * MINUTE)
    batch.spellcheck(failing=1)
    batch.comparative_judgment()
    batch.end("spellcheck", "cj_assessment")


def rerun_of_spellcheck(batch: Batch) -> None:
    """A second pipeline of one phase, whose essays failed the first time."""
    _opening(batch, ("spellcheck",))
    batch.spellcheck(failing=3, silent=1)
    batch.end("spellcheck")
    batch.passes(10 * MINUTE, 20 * MINUTE)
    batch.alive = list(batch.essays)
    batch.spellcheck()
    batch.end("spellcheck")


def another_pipeline(batch: Batch) -> None:
    """A second pipeline adds a phase to a batch that was finished."""
    _opening(batch, ("spellcheck", "cj_assessment"))
    batch.spellcheck()
    batch.comparative_judgment()
    batch.end("spellcheck", "cj_assessment")
    batch.passes(10 * MINUTE, 20 * MINUTE)
    batch.nlp()
    batch.end("nlp")


def corrections(batch: Batch) -> None:
    """Later results replace earlier ones: other counts, another generation, a failure made good, a success undone."""
    _opening(batch)
    batch.spellcheck(failing=1)
    healed = next(essay for essay in batch.essays if essay not in batch.alive)
    batch.comparative_judgment()
    batch.end("spellcheck", "cj_assessment")
    batch.passes(5 * MINUTE, 9 * MINUTE)
    batch.spellchecked(batch.alive[0], form="rich")
    batch.now += SECOND
    batch.spellchecked(batch.alive[1], form="older")
    batch.now += SECOND
    batch.spellchecked(healed, form="older")
    batch.now += SECOND
    batch.spellchecked(batch.alive[2], form="rich", failed=True)
    batch.now += SECOND
    # The very same moment: the event id decides.
    for corrected in (3, 4, 5):
        batch.spellchecked(batch.alive[3], form="older", corrections=corrected)


def corrections_before_the_end(batch: Batch) -> None:
    """A failure made good, and places corrected under the same job, before the pipeline ends."""
    _opening(batch)
    batch.spellcheck(failing=1, outcome=False)
    healed = next(essay for essay in batch.essays if essay not in batch.alive)
    batch.spellchecked(healed)
    batch.passes(SECOND, 3 * SECOND)
    batch.alive = list(batch.essays)
    batch.outcome("spellcheck", batch.alive)
    job = batch.new_job()
    batch.comparative_judgment(form="rich", outcome=False, job=job)
    batch.comparative_judgment(form="rich", job=job)
    batch.end("spellcheck", "cj_assessment")


def registration_last(batch: Batch) -> None:
    """Everything else overtakes the registration."""
    _opening(batch, ("spellcheck", "cj_assessment") if batch.number % 2 else None, late=60 * MINUTE)
    batch.spellcheck(failing=1)
    batch.comparative_judgment()
    batch.end("spellcheck", "cj_assessment")


def end_first(batch: Batch) -> None:
    """The outcomes come long after the pipeline's end, though they are older."""
    _opening(batch)
    batch.spellcheck(outcome=False)
    batch.outcome("spellcheck", batch.alive, late=3 * MINUTE)
    batch.comparative_judgment(outcome=False)
    batch.outcome("cj_assessment", batch.alive, late=3 * MINUTE)
    batch.end("spellcheck", "cj_assessment", late=-2 * MINUTE)


def grace_for_a_result(batch: Batch) -> None:
    """A processed essay's result never comes: only the grace finishes the batch."""
    _opening(batch)
    batch.spellcheck(missing=1)
    batch.comparative_judgment()
    batch.end("spellcheck", "cj_assessment")


def grace_for_an_outcome(batch: Batch) -> None:
    """A phase's outcome never comes: only the grace finishes the batch."""
    _opening(batch)
    batch.spellcheck()
    batch.comparative_judgment(outcome=False)
    batch.end("spellcheck", "cj_assessment")


def grace_for_scores(batch: Batch) -> None:
    """The thin form says who succeeded, and the scores never come."""
    _opening(batch)
    batch.spellcheck(failing=1)
    batch.comparative_judgment(form="thin")
    batch.end("spellcheck", "cj_assessment")


def unfinished(batch: Batch) -> None:
    """Comparative judgment is still under way."""
    _opening(batch)
    batch.spellcheck()
    batch.comparative_judgment(form="thin", outcome=False)


def only_registered(batch: Batch) -> None:
    """Registered, slots assigned, nothing else yet."""
    _opening(batch)


def never_registered(batch: Batch) -> None:
    """Nobody knows whose batch this is."""
    batch.slots()
    batch.spellcheck()
    batch.comparative_judgment()
    batch.end("spellcheck", "cj_assessment")


def registered_again(batch: Batch) -> None:
    """A second registration changes class, owner and list: one essay goes before it did anything, two come."""
    dropped, kept = batch.essays[0], batch.essays[1:]
    batch.register()
    batch.passes(20 * SECOND, 40 * SECOND)
    batch.class_id = None
    batch.user_id += "-vikarie"
    batch.essays = [*kept, *(f"{dropped}-{letter}" for letter in "xy")]
    batch.alive = list(batch.essays)
    batch.register(("spellcheck", "cj_assessment"))
    batch.slots()
    batch.spellcheck(failing=1)
    batch.comparative_judgment()
    batch.end("spellcheck", "cj_assessment")


def unlisted_essay(batch: Batch) -> None:
    """ELS puts an essay into the batch that the registration does not list."""
    batch.cj_form = "thin+rich"
    _opening(batch)
    extra = f"{batch.essays[0]}-extra"
    batch.essays.append(extra)
    batch.alive.append(extra)
    batch.slot(extra)
    batch.spellcheck()
    batch.comparative_judgment()
    batch.end("spellcheck", "cj_assessment")


def moved_essay(batch: Batch) -> None:
    """An essay turns out to belong to another batch, which has been registered and no more."""
    ordinary(batch)
    other = Batch(batch.number, batch.seed, f"{batch.run}/other")
    other.user_id, other.now, other.essays = batch.user_id, batch.now + MINUTE, other.essays[:5]
    other.register()
    other.slot(batch.essays[0])
    batch.said.extend(other.said)


def thin_failures(batch: Batch) -> None:
    """Comparative judgment fails for single essays."""
    _opening(batch)
    batch.spellcheck()
    batch.comparative_judgment(form="thin+rich", failing=2)
    batch.end("spellcheck", "cj_assessment", successful=len(batch.alive) - 2)


def recovered_judgment(batch: Batch) -> None:
    """CJ says that it failed, tries again by itself and succeeds for most."""
    _opening(batch, ("spellcheck", "cj_assessment"))
    batch.spellcheck()
    batch.cj_failed()
    batch.comparative_judgment()
    batch.end("spellcheck", "cj_assessment")


def judgment_lost_halfway(batch: Batch) -> None:
    """CJ's failure comes after the places of all but one essay; ELS counts that one as failed."""
    _opening(batch)
    batch.spellcheck()
    *ranked, unranked = batch.alive
    batch.alive = ranked
    batch.comparative_judgment(form="rich", outcome=False)
    batch.cj_failed()
    batch.passes(SECOND, 9 * SECOND)
    batch.outcome("cj_assessment", ranked, [unranked])
    batch.end("spellcheck", "cj_assessment")


def outcome_overrules(batch: Batch) -> None:
    """ELS lists as failed what the spell checker called a success; for one of the two it is later found good."""
    _opening(batch)
    batch.spellcheck(outcome=False)
    first, second, *rest = batch.alive
    batch.outcome("spellcheck", rest, [first, second])
    batch.now += 2 * SECOND
    batch.spellchecked(second)
    batch.alive = [*rest, second]
    batch.comparative_judgment()
    batch.end("spellcheck", "cj_assessment")


def outcome_after_the_end(batch: Batch) -> None:
    """The clocks of ELS and BOS disagree: an outcome is later than the pipeline's end."""
    _opening(batch)
    batch.spellcheck(failing=1)
    batch.comparative_judgment(outcome=False)
    batch.end("spellcheck", "cj_assessment")
    batch.now += 2 * SECOND
    batch.outcome("cj_assessment", batch.alive)


def empty_judgment(batch: Batch) -> None:
    """Rankings that hold nobody announce nothing."""
    _opening(batch, ("spellcheck",))
    batch.spellcheck()
    batch.passes(SECOND, MINUTE)
    batch.cj_older(batch.new_job(), [], {})
    batch.end("spellcheck")


def odd_requests(batch: Batch) -> None:
    """The registration requests words that are no phases, beside one that is, or nothing else."""
    _opening(batch, ("grading", "nlp", "") if batch.number % 2 else ("grading",))
    batch.spellcheck()
    if batch.number % 2:
        batch.nlp()
    else:
        batch.comparative_judgment()


def end_of_nothing(batch: Batch) -> None:
    """A pipeline's end that names no phase gives none: the request decides."""
    _opening(batch, ("nlp", "spellcheck"))
    batch.spellcheck(failing=1)
    batch.nlp()
    batch.end()


def essays_as_anchors(batch: Batch) -> None:
    """One teacher's essays serve as anchors in another batch, and stay that teacher's essays."""
    ordinary(batch)
    other = Batch(batch.number, batch.seed, f"{batch.run}/other")
    other.user_id, other.now = batch.user_id, batch.now + MINUTE
    other.cj_form = "thin+rich"
    _opening(other)
    other.spellcheck()
    other.comparative_judgment(foreign_anchors=batch.essays[:2])
    other.end("spellcheck", "cj_assessment")
    batch.said.extend(other.said)


Story = Callable[[Batch], None]

STORIES: tuple[Story, ...] = (
    ordinary,
    ordinary_with_failures,
    everything,
    spellcheck_only,
    grace_for_a_result,
    registration_last,
    critical,
    rerun,
    corrections,
    cancelled,
    everything_unrequested,
    silent_failures,
    only_registered,
    never_registered,
    critical_with_end,
    thin_failures,
    unlisted_essay,
    end_first,
    unfinished,
    spellcheck_requested,
    matching_fails_for_some,
    registered_again,
    critical_then_rerun,
    no_end,
    grace_for_an_outcome,
    moved_essay,
    outcome_overrules,
    another_pipeline,
    recovered_judgment,
    cancelled_later,
    outcome_after_the_end,
    rerun_of_spellcheck,
    essays_as_anchors,
    judgment_lost_halfway,
    corrections_before_the_end,
    grace_for_scores,
    odd_requests,
    end_of_nothing,
    matching_aside,
    empty_judgment,
)
